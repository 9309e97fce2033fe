/* Sixteen numbers in two registers: AVX2, FMA, F16C. ``avx512.h`` has the same names. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TILE_ROWS 6
enum { BLOCKS = 1, PANEL = 16 * BLOCKS }; /* columns: 12 accumulators, for two loads of weights and six of inputs */

typedef struct {
    __m256 low, high;
} floats;

typedef struct {
    __m256i low, high;
} dwords;

#define EACH(do, x) ((floats) { do((x).low), do((x).high) })
#define EACH_OF_2(do, a, b) ((floats) { do((a).low, (b).low), do((a).high, (b).high) })
#define EACH_OF_3(do, a, b, c) ((floats) { do((a).low, (b).low, (c).low), do((a).high, (b).high, (c).high) })

static inline floats v_all(float x) { return (floats) { _mm256_set1_ps(x), _mm256_set1_ps(x) }; }
static inline floats v_zero(void) { return v_all(0); }
static inline floats v_load(const float *at) { return (floats) { _mm256_loadu_ps(at), _mm256_loadu_ps(at + 8) }; }
static inline floats v_add(floats a, floats b) { return EACH_OF_2(_mm256_add_ps, a, b); }
static inline floats v_sub(floats a, floats b) { return EACH_OF_2(_mm256_sub_ps, a, b); }
static inline floats v_mul(floats a, floats b) { return EACH_OF_2(_mm256_mul_ps, a, b); }
static inline floats v_div(floats a, floats b) { return EACH_OF_2(_mm256_div_ps, a, b); }
static inline floats v_max(floats a, floats b) { return EACH_OF_2(_mm256_max_ps, a, b); }
static inline floats v_fma(floats a, floats b, floats c) { return EACH_OF_3(_mm256_fmadd_ps, a, b, c); }
static inline floats v_fms(floats a, floats b, floats c) { return EACH_OF_3(_mm256_fmsub_ps, a, b, c); }
static inline floats v_fnma(floats a, floats b, floats c) { return EACH_OF_3(_mm256_fnmadd_ps, a, b, c); }
static inline floats v_abs(floats x) { return EACH_OF_2(_mm256_andnot_ps, v_all(-0.0f), x); }

static inline void v_store(float *at, floats x)
{
    _mm256_storeu_ps(at, x.low);
    _mm256_storeu_ps(at + 8, x.high);
}

static inline float v_sum(floats x)
{
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float v_top(floats x)
{
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* To the nearest whole number. */
static inline floats v_round(floats x)
{
#define ROUND(half) _mm256_round_ps(half, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
    return EACH(ROUND, x);
#undef ROUND
}

/* x * 2^whole, for whole numbers up to 127; 0 for what is too small, where AVX-512 has the last denormals. */
static inline floats v_scale(floats x, floats whole)
{
    const floats exponent = v_add(v_max(whole, v_all(-127)), v_all(127));
#define POWER(half) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtps_epi32(half), 23))
    return v_mul(x, EACH(POWER, exponent));
#undef POWER
}

/* The first ``count`` numbers of ``x``, 1 to 16, and the others of ``rest``. */
static inline floats v_first(floats x, int count, floats rest)
{
    const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), low = _mm256_set1_epi32(count);
    const __m256i high = _mm256_set1_epi32(count - 8);
    return (floats) {
        _mm256_blendv_ps(rest.low, x.low, _mm256_castsi256_ps(_mm256_cmpgt_epi32(low, number))),
        _mm256_blendv_ps(rest.high, x.high, _mm256_castsi256_ps(_mm256_cmpgt_epi32(high, number))),
    };
}

static inline floats v_of_f16(const void *at)
{
    const __m128i *half = at;
    return (floats) { _mm256_cvtph_ps(_mm_loadu_si128(half)), _mm256_cvtph_ps(_mm_loadu_si128(half + 1)) };
}

static inline floats v_of_bf16(const void *at)
{
    const __m128i *half = at;
#define WIDEN(eight) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(eight)), 16))
    return (floats) { WIDEN(half), WIDEN(half + 1) };
#undef WIDEN
}

static inline dwords d_all(int32_t x) { return (dwords) { _mm256_set1_epi32(x), _mm256_set1_epi32(x) }; }
static inline dwords d_zero(void) { return d_all(0); }
static inline dwords d_of(floats x) { return (dwords) { _mm256_castps_si256(x.low), _mm256_castps_si256(x.high) }; }
static inline floats v_of(dwords x) { return (floats) { _mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high) }; }

static inline dwords d_load(const void *at)
{
    const __m256i *half = at;
    return (dwords) { _mm256_loadu_si256(half), _mm256_loadu_si256(half + 1) };
}

static inline void d_store(void *at, dwords x)
{
    __m256i *half = at;
    _mm256_storeu_si256(half, x.low);
    _mm256_storeu_si256(half + 1, x.high);
}

#define D_EACH_OF_2(do, a, b) ((dwords) { do((a).low, (b).low), do((a).high, (b).high) })

static inline dwords d_low_32(dwords a, dwords b) { return D_EACH_OF_2(_mm256_unpacklo_epi32, a, b); }
static inline dwords d_high_32(dwords a, dwords b) { return D_EACH_OF_2(_mm256_unpackhi_epi32, a, b); }
static inline dwords d_low_64(dwords a, dwords b) { return D_EACH_OF_2(_mm256_unpacklo_epi64, a, b); }
static inline dwords d_high_64(dwords a, dwords b) { return D_EACH_OF_2(_mm256_unpackhi_epi64, a, b); }

/* Four rows of four quarters, transposed: columns become rows, ``stride`` dwords apart. */
static inline void store_quarters_transposed(dwords a, dwords b, dwords c, dwords d, int32_t *to, int64_t stride)
{
#define QUARTER(half, which) \
    ((dwords) { _mm256_permute2x128_si256(a.half, b.half, which), _mm256_permute2x128_si256(c.half, d.half, which) })
    d_store(to, QUARTER(low, 0x20));
    d_store(to + stride, QUARTER(low, 0x31));
    d_store(to + 2 * stride, QUARTER(high, 0x20));
    d_store(to + 3 * stride, QUARTER(high, 0x31));
#undef QUARTER
}
