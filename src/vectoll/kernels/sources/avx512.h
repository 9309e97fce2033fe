/* Sixteen numbers in a register: AVX-512 F, BW, VL, DQ. ``avx2.h`` has the same names. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TILE_ROWS 12
enum { BLOCKS = 2, PANEL = 16 * BLOCKS }; /* columns: 24 accumulators, for two loads of weights and twelve of inputs */

typedef __m512 floats;
typedef __m512i dwords;

static inline floats v_zero(void) { return _mm512_setzero_ps(); }
static inline floats v_all(float x) { return _mm512_set1_ps(x); }
static inline floats v_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void v_store(float *at, floats x) { _mm512_storeu_ps(at, x); }
static inline floats v_add(floats a, floats b) { return _mm512_add_ps(a, b); }
static inline floats v_sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
static inline floats v_mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
static inline floats v_div(floats a, floats b) { return _mm512_div_ps(a, b); }
/* The second, where one is not a number. */
static inline floats v_max(floats a, floats b) { return _mm512_max_ps(a, b); }
static inline floats v_abs(floats x) { return _mm512_abs_ps(x); }
static inline floats v_fma(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
static inline floats v_fms(floats a, floats b, floats c) { return _mm512_fmsub_ps(a, b, c); }
static inline floats v_fnma(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); }
static inline float v_sum(floats x) { return _mm512_reduce_add_ps(x); }
static inline float v_top(floats x) { return _mm512_reduce_max_ps(x); }

/* To the nearest whole number. */
static inline floats v_round(floats x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^whole, for whole numbers up to 127; 0 for what is too small. */
static inline floats v_scale(floats x, floats whole) { return _mm512_scalef_ps(x, whole); }

/* The first ``count`` numbers of ``x``, 1 to 16, and the others of ``rest``. */
static inline floats v_first(floats x, int count, floats rest)
{
    return _mm512_mask_mov_ps(rest, (__mmask16)((1u << count) - 1), x);
}

static inline floats v_of_f16(const void *at) { return _mm512_cvtph_ps(_mm256_loadu_si256(at)); }

static inline floats v_of_bf16(const void *at)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at)), 16));
}

static inline dwords d_zero(void) { return _mm512_setzero_si512(); }
static inline dwords d_all(int32_t x) { return _mm512_set1_epi32(x); }
static inline dwords d_load(const void *at) { return _mm512_loadu_si512(at); }
static inline void d_store(void *at, dwords x) { _mm512_storeu_si512(at, x); }
static inline dwords d_of(floats x) { return _mm512_castps_si512(x); }
static inline floats v_of(dwords x) { return _mm512_castsi512_ps(x); }

static inline dwords d_low_32(dwords a, dwords b) { return _mm512_unpacklo_epi32(a, b); }
static inline dwords d_high_32(dwords a, dwords b) { return _mm512_unpackhi_epi32(a, b); }
static inline dwords d_low_64(dwords a, dwords b) { return _mm512_unpacklo_epi64(a, b); }
static inline dwords d_high_64(dwords a, dwords b) { return _mm512_unpackhi_epi64(a, b); }

/* Four rows of four quarters, transposed: columns become rows, ``stride`` dwords apart. */
static inline void store_quarters_transposed(dwords a, dwords b, dwords c, dwords d, int32_t *to, int64_t stride)
{
    const dwords even = _mm512_shuffle_i32x4(a, b, 0x88), even_below = _mm512_shuffle_i32x4(c, d, 0x88);
    const dwords odd = _mm512_shuffle_i32x4(a, b, 0xdd), odd_below = _mm512_shuffle_i32x4(c, d, 0xdd);
    d_store(to, _mm512_shuffle_i32x4(even, even_below, 0x88));
    d_store(to + stride, _mm512_shuffle_i32x4(odd, odd_below, 0x88));
    d_store(to + 2 * stride, _mm512_shuffle_i32x4(even, even_below, 0xdd));
    d_store(to + 3 * stride, _mm512_shuffle_i32x4(odd, odd_below, 0xdd));
}
