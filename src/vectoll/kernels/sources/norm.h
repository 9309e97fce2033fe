/* Embedding rows, norms, pooling. */

/* Sixteen components of a word's embedding, whatever its type in the checkpoint. */
static inline floats word(const struct tower *m, int64_t id, int64_t at)
{
    return widen(m->words, m->words_type, id * m->hidden + at);
}

/* Layer norm of one row. */
static inline void layer_norm(
    const float *x, const float *weight, const float *bias, float eps, int64_t hidden, float *out)
{
    floats sum = v_zero(), squares = v_zero();
    for (int64_t h = 0; h < hidden; h += 16) sum = v_add(sum, v_load(x + h));
    const floats mean = v_all(v_sum(sum) / (float)hidden);
    for (int64_t h = 0; h < hidden; h += 16) {
        const floats off = v_sub(v_load(x + h), mean);
        squares = v_fma(off, off, squares);
    }
    const float variance = v_sum(squares) / (float)hidden;
    const floats scale = v_all(1 / __builtin_sqrtf(variance + eps));
    for (int64_t h = 0; h < hidden; h += 16) {
        const floats off = v_mul(v_sub(v_load(x + h), mean), scale);
        v_store(out + h, v_fma(off, v_load(weight + h), v_load(bias + h)));
    }
}

/* 1 / the root of a mean of ``size`` squares. */
static inline floats inverse_root(floats squares, int64_t size, float eps)
{
    return v_all(1 / __builtin_sqrtf(v_sum(squares) / (float)size + eps));
}

/* RMS norm of one row (arXiv:1910.07467). ``out`` may be ``x``. */
static inline void rms_norm(const float *x, const float *weight, float eps, int64_t hidden, float *out)
{
    floats squares = v_zero();
    for (int64_t h = 0; h < hidden; h += 16) squares = v_fma(v_load(x + h), v_load(x + h), squares);
    const floats scale = inverse_root(squares, hidden, eps);
    for (int64_t h = 0; h < hidden; h += 16) v_store(out + h, v_mul(v_mul(v_load(x + h), scale), v_load(weight + h)));
}

/* One sequence's [length, hidden] → an L2-normalised vector. */
static void pool(const struct tower *m, const float *states, int64_t length, float *out)
{
    const int64_t hidden = m->hidden;
    floats squares = v_zero();
    for (int64_t h = 0; h < hidden; h += 16) {
        floats x;
        if (m->pooling == POOL_MEAN) {
            x = v_zero();
            for (int64_t i = 0; i < length; i++) x = v_add(x, v_load(states + i * hidden + h));
            x = v_mul(x, v_all(1 / (float)length));
        } else {
            const int64_t at = m->pooling == POOL_CLS ? 0 : length - 1;
            x = v_load(states + at * hidden + h);
        }
        squares = v_fma(x, x, squares);
        v_store(out + h, x);
    }
    const float norm = __builtin_sqrtf(v_sum(squares));
    const floats scale = v_all(1 / (norm > 1e-12f ? norm : 1e-12f));
    for (int64_t h = 0; h < hidden; h += 16)
        v_store(out + h, v_mul(v_load(out + h), scale));
}
