/* The encoder in f32: AVX-512 F, BW, VL, DQ. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef float element;
enum { PER_DWORD = 1 };

#define ENCODE vectoll_encode_f32
#define SCRATCH_BYTES vectoll_scratch_bytes_f32
#define PRODUCT vectoll_product_f32
#define PACK vectoll_pack_f32

static inline __m512 dot(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

static inline void store(element *at, __m512 x) { _mm512_storeu_ps(at, x); }

#include "arithmetic.h"

/* Sixteen dwords of elements from number ``i`` of a stored tensor on. */
static inline __m512i elements_of(const void *stored, int64_t type, int64_t i)
{
    return _mm512_castps_si512(widen(stored, type, i));
}

/* erf by Abramowitz and Stegun 7.1.26: off by 1.5e-7 at most. */
static inline __m512 gelu(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1);
    __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    __m512 e = exp2_(_mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-1.44269504f)));
    __m512 erf = _mm512_fnmadd_ps(_mm512_mul_ps(p, t), e, one);
    __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    return _mm512_fmadd_ps(_mm512_abs_ps(half), erf, half);
}

/* Values as the right-hand side of a product: a row per key. */
static inline void pack_values(
    const element *value, int64_t stride, int64_t length, int64_t head_dim, int32_t *packed)
{
    for (int64_t d = 0; d < head_dim; d += 32)
        for (int64_t key = 0; key < length; key++, packed += 32)
            for (int j = 0; j < 32; j += 16)
                _mm512_storeu_si512(packed + j, _mm512_loadu_si512(value + key * stride + d + j));
}

#include "multiply.h"
#include "tile_elements.h"
#include "encode.h"
