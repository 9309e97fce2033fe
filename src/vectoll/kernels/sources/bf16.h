/* Elements of bf16 (AVX512_BF16), two to a dword. */
typedef uint16_t element;
enum { PER_DWORD = 2, AHEAD = 8192 };

static inline __m512 dot(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

static inline void store(element *at, __m512 x)
{
    _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh(x));
}

static inline __m512 load(const element *at) { return v_of_bf16(at); }

#include "arithmetic.h"

/* Sixteen dwords of elements from number ``i`` of a stored tensor on. */
static inline __m512i elements_of(const void *stored, int64_t type, int64_t i)
{
    return (__m512i)_mm512_cvtne2ps_pbh(widen(stored, type, i + 16), widen(stored, type, i));
}

/* x * (1/2 + z * polynomial(z * z)), z = x cut to ±4.2: off by 9e-5 at most, or by 2e-6 of x where that is more; bf16
   keeps 8 bits. */
static inline __m512 gelu(__m512 x)
{
    const __m512 end = _mm512_set1_ps(4.2f);
    __m512 z = _mm512_min_ps(_mm512_max_ps(x, _mm512_sub_ps(_mm512_setzero_ps(), end)), end);
    __m512 t = _mm512_mul_ps(z, z);
    __m512 p = _mm512_set1_ps(-9.01753172e-10f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(7.94133896e-08f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-3.03793149e-06f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(6.68906941e-05f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.000950657472f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.00929822959f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.0655281991f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.398465872f));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(z, p, _mm512_set1_ps(0.5f)));
}

/* Values as the right-hand side of a product: a row per pair of keys, an odd last key beside zeros. */
static inline void pack_values(
    const element *value, int64_t stride, int64_t length, int64_t head_dim, int32_t *packed)
{
    static const uint16_t interleaved[64] = {
        0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45,
        14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58,
        27, 59, 28, 60, 29, 61, 30, 62, 31, 63,
    };
    const __m512i low = _mm512_loadu_si512(interleaved), high = _mm512_loadu_si512(interleaved + 32);
    for (int64_t d = 0; d < head_dim; d += 32)
        for (int64_t key = 0; key < length; key += 2, packed += 32) {
            const element *at = value + key * stride + d;
            __m512i even = _mm512_loadu_si512(at);
            __m512i odd = key + 1 < length ? _mm512_loadu_si512(at + stride) : _mm512_setzero_si512();
            _mm512_storeu_si512(packed, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_storeu_si512(packed + 16, _mm512_permutex2var_epi16(even, high, odd));
        }
}
