/* Embedding rows, layer norm, pooling. */

/* Sixteen components of a word's embedding, whatever its type in the checkpoint. */
static inline __m512 word(const struct encoder *m, int64_t id, int64_t at)
{
    return widen(m->words, m->words_type, id * m->hidden + at);
}

/* Layer norm of one row. */
static inline void normalise(
    const float *x, const float *weight, const float *bias, float eps, int64_t hidden, float *out)
{
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t h = 0; h < hidden; h += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + h));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)hidden);
    for (int64_t h = 0; h < hidden; h += 16) {
        const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(x + h), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)hidden;
    const __m512 scale = _mm512_set1_ps(1 / __builtin_sqrtf(variance + eps));
    for (int64_t h = 0; h < hidden; h += 16) {
        const __m512 off = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + h), mean), scale);
        _mm512_storeu_ps(out + h, _mm512_fmadd_ps(off, _mm512_loadu_ps(weight + h), _mm512_loadu_ps(bias + h)));
    }
}

/* One sequence's [length, hidden] → an L2-normalised vector. */
static void pool(const struct encoder *m, const float *states, int64_t length, float *out)
{
    const int64_t hidden = m->hidden;
    __m512 squares = _mm512_setzero_ps();
    for (int64_t h = 0; h < hidden; h += 16) {
        __m512 x;
        if (m->pooling == POOL_MEAN) {
            x = _mm512_setzero_ps();
            for (int64_t i = 0; i < length; i++) x = _mm512_add_ps(x, _mm512_loadu_ps(states + i * hidden + h));
            x = _mm512_mul_ps(x, _mm512_set1_ps(1 / (float)length));
        } else {
            const int64_t at = m->pooling == POOL_CLS ? 0 : length - 1;
            x = _mm512_loadu_ps(states + at * hidden + h);
        }
        squares = _mm512_fmadd_ps(x, x, squares);
        _mm512_storeu_ps(out + h, x);
    }
    const float norm = __builtin_sqrtf(_mm512_reduce_add_ps(squares));
    const __m512 scale = _mm512_set1_ps(1 / (norm > 1e-12f ? norm : 1e-12f));
    for (int64_t h = 0; h < hidden; h += 16)
        _mm512_storeu_ps(out + h, _mm512_mul_ps(_mm512_loadu_ps(out + h), scale));
}
