/* What the encoder computes with, sixteen numbers at a time. */
#include "encoder.h"

/* 2^x, off by 1e-7 at most, and 0 for what is too small. */
static inline __m512 exp2_(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(0.00132764678f);
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.00967554189f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.0555071346f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.240221202f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.693146944f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(1.00000012f));
    return _mm512_scalef_ps(p, whole);
}

/* Sixteen numbers of a checkpoint's tensor from number ``i`` on. */
static inline __m512 widen(const void *tensor, int64_t type, int64_t i)
{
    if (type == STORED_F32) return _mm512_loadu_ps((const float *)tensor + i);
    const __m256i half = _mm256_loadu_si256((const __m256i *)((const uint16_t *)tensor + i));
    if (type == STORED_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
