/* Vectors as JSON: every number is the shortest text that reads back as the same float32, and of these the closest.

   Schubfach (Giulietti 2021, "The Schubfach way to render doubles"), without branches, so that the compiler computes
   many numbers at once. A number between a millionth and one is then a constant beginning, nine digits and a length. */
#include <string.h>

#include "tower.h"

enum { NUMBERS = 64 }; /* at once */
enum { FIRST_POWER = -45 }; /* of ``powers`` */
enum { PLAIN = 13 }; /* Numbers of more digits before the point are written with an exponent. */

static const uint32_t MILLIONTH = 0x358637bd, ONE = 0x3f800000, INFINITE = 0x7f800000;

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ``a * g`` / 2^63, where g has 63 bits; what is cut off sets the lowest bit. */
static inline uint64_t scaled(uint64_t a, uint64_t g)
{
    const uint64_t product = (g >> 32) * a + ((g & 0xffffffff) * a >> 32);
    return product >> 31 | ((product & 0x7fffffff) > 1);
}

/* |values[i]| = significands[i] · 10^exponents[i]. ``powers`` has 10^-k from k = FIRST_POWER on, each as the next
   integer above 10^-k · 2^n, with such an n that it has 63 bits. Nothing is said of infinities and NaN. */
static void shortest(const float *values, const uint64_t *powers, uint64_t *significands, int32_t *exponents)
{
    for (int i = 0; i < NUMBERS; i++) {
        const uint32_t bits = bits_of(values[i]), fraction = bits & 0x7fffff;
        const int32_t biased = bits >> 23 & 0xff, q = (biased ? biased : 1) - 150;
        const uint64_t c = biased ? fraction | 0x800000 : fraction;
        const int is_power = fraction == 0 && biased > 1; /* of two: the next number below is half as far */
        /* floor(log10(2^q)), or of three quarters of it */
        const int32_t k = (q * 1262611 - (is_power ? 524031 : 0)) >> 22;
        const int32_t h = q + ((-k * 1741647) >> 19) + 1; /* floor(log2(10^-k)) */
        const uint64_t g = powers[k - FIRST_POWER], is_odd = c & 1;
        const uint64_t value = scaled((4 * c) << h, g); /* quarters of 10^k; so are the ends of what reads back as it */
        const uint64_t low = scaled((4 * c - 2 + is_power) << h, g) + is_odd;
        const uint64_t high = scaled((4 * c + 2) << h, g) - is_odd;
        const uint64_t s = value >> 2, tens = (s * 0xcccccccd >> 35) * 10;
        const int is_low_ten = low <= 4 * tens, is_high_ten = 4 * (tens + 10) <= high;
        const int is_low = low <= 4 * s, is_high = 4 * (s + 1) <= high;
        const int is_nearer_low = value < 4 * s + 2 || (value == 4 * s + 2 && !(s & 1));
        const uint64_t unit = s + (is_low != is_high ? is_high : !is_nearer_low);
        const uint64_t ten = tens + (is_low_ten ? 0 : 10);
        significands[i] = s >= 10 && is_low_ten != is_high_ten ? ten : unit;
        exponents[i] = k;
    }
}

/* Nine digits of each: the first, the others as bytes, and how many of all lie before the point (none or fewer). For
   significands of seven to nine digits, as all numbers have but the smallest. */
static void spell(
    const uint64_t *significands, const int32_t *exponents, uint64_t *firsts, uint64_t *others, int32_t *points)
{
    for (int i = 0; i < NUMBERS; i++) {
        uint64_t s = significands[i];
        const int is_short = s < 100000000, is_shorter = s < 10000000;
        s = is_short ? s * 10 : s;
        s = is_shorter ? s * 10 : s;
        const uint64_t first = s * 0xabcc7712 >> 58, eight = s - first * 100000000;
        const uint64_t four = eight * 0xd1b71759 >> 45;
        uint64_t parts = four | (eight - four * 10000) << 32;
        const uint64_t two = (parts * 10486 >> 20) & 0x7f0000007f;
        parts = two | (parts - two * 100) << 16;
        const uint64_t one = (parts * 103 >> 10) & 0xf000f000f000f;
        firsts[i] = first;
        others[i] = one | (parts - one * 10) << 8;
        points[i] = exponents[i] + 9 - is_short - is_shorter;
    }
}

static char *write_integer(char *p, uint64_t value)
{
    char digits[20];
    int count = 0;
    do digits[count++] = '0' + value % 10;
    while (value /= 10);
    while (count) *p++ = digits[--count];
    return p;
}

/* A number that is not between a millionth and one. */
static char *write_other(char *p, uint64_t significand, int32_t exponent)
{
    if (significand == 0) return (char *)memcpy(p, "0.0", 3) + 3;
    while (significand % 10 == 0) significand /= 10, exponent++;
    char digits[20];
    const int count = write_integer(digits, significand) - digits, point = count + exponent;
    if (point > 0 && point <= PLAIN) {
        for (int i = 0; i < point; i++) *p++ = i < count ? digits[i] : '0';
        *p++ = '.';
        if (point >= count) *p++ = '0';
        for (int i = point; i < count; i++) *p++ = digits[i];
        return p;
    }
    *p++ = digits[0];
    if (count > 1) *p++ = '.';
    for (int i = 1; i < count; i++) *p++ = digits[i];
    *p++ = 'e';
    *p++ = point > 0 ? '+' : '-';
    return write_integer(p, point > 0 ? point - 1 : 1 - point);
}

static char *write_numbers(char *p, const float *values, int64_t count, const uint64_t *powers)
{
    uint64_t significands[NUMBERS], firsts[NUMBERS], others[NUMBERS];
    int32_t exponents[NUMBERS], points[NUMBERS];
    float last[NUMBERS];
    for (int64_t at = 0; at < count; at += NUMBERS) {
        const int64_t some = count - at < NUMBERS ? count - at : NUMBERS;
        const float *block = values + at;
        if (some < NUMBERS) {
            memset(last, 0, sizeof last);
            block = (const float *)memcpy(last, block, some * sizeof *block);
        }
        shortest(block, powers, significands, exponents);
        spell(significands, exponents, firsts, others, points);
        for (int64_t i = 0; i < some; i++) {
            const uint32_t bits = bits_of(block[i]), magnitude = bits & 0x7fffffff;
            *p = '-';
            p += bits >> 31;
            if (magnitude - MILLIONTH < ONE - MILLIONTH) {
                memcpy(p, "0.000000", 8);
                p += 2 - points[i];
                *p = '0' + firsts[i];
                const uint64_t eight = others[i] | 0x3030303030303030;
                memcpy(p + 1, &eight, sizeof eight);
                p += 1 + (others[i] ? 8 - __builtin_clzll(others[i]) / 8 : 0);
            } else if (magnitude >= INFINITE) {
                p = (char *)memcpy(p - (bits >> 31), "null", 4) + 4; /* JSON has no such numbers */
            } else {
                p = write_other(p, significands[i], exponents[i]);
            }
            *p++ = ',';
        }
    }
    return p - 1;
}

/* A JSON object with its index for each of ``count`` vectors of one number at least, and commas between them; returns
   how many bytes that is. ``out`` has room for NUMBER_BYTES of numbers.py per number and OBJECT_BYTES per vector. */
EXPORTED int64_t WRITE(
    const float *values, int64_t count, int64_t dims, int64_t index, const uint64_t *powers, char *out)
{
    static const char before_index[] = "{\"object\":\"embedding\",\"index\":", before_numbers[] = ",\"embedding\":[";
    char *p = out;
    for (int64_t i = 0; i < count; i++) {
        if (i) *p++ = ',';
        p = (char *)memcpy(p, before_index, sizeof before_index - 1) + sizeof before_index - 1;
        p = write_integer(p, index + i);
        p = (char *)memcpy(p, before_numbers, sizeof before_numbers - 1) + sizeof before_numbers - 1;
        p = write_numbers(p, values + i * dims, dims, powers);
        p = (char *)memcpy(p, "]}", 2) + 2;
    }
    return p - out;
}
