/* What the encoder computes with, sixteen floats at a time. */

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
