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

/* Sixteen rows of sixteen dwords, turned over. */
static inline void transpose(__m512i row[16])
{
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        row[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
        a[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        row[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    }
}
