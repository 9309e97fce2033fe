/* Softmax attention over one sequence: nothing masked, because nothing else is there. */

struct attention_scratch {
    int32_t *keys, *values; /* one head's, packed as the right-hand side of a product */
    float *scores; /* [TILE_ROWS, keys] */
    struct matrix weights; /* [TILE_ROWS, keys] */
};

/* Keys as the right-hand side of a product: a panel for each PANEL keys, a row for each dword of a key. */
static inline void pack_keys(
    const element *key, int64_t stride, int64_t length, int64_t head_dim, int32_t *packed)
{
    const int64_t depth = head_dim / PER_DWORD;
    for (int64_t first = 0; first < length; first += 16)
        for (int64_t d = 0; d < depth; d += 16) {
            dwords row[16];
            UNROLL for (int i = 0; i < 16; i++)
                row[i] = first + i < length
                    ? d_load(key + (first + i) * stride + d * PER_DWORD)
                    : d_zero();
            store_turned(row, packed + (first / PANEL * depth + d) * PANEL + first % PANEL, PANEL);
        }
}

/* exp(scale * (scores - their largest)) as elements, zeros up to a multiple of 16; returns their sum.
   ``scale`` is to base 2. */
static __attribute__((noinline)) float soften(const float *scores, int64_t length, float scale, element *weights)
{
    const int64_t last = (length - 1) / 16 * 16;
    const int rest = (int)(length - last);
    floats largest = v_first(v_load(scores + last), rest, v_all(-__builtin_inff()));
    for (int64_t k = 0; k < last; k += 16) largest = v_max(largest, v_load(scores + k));
    const floats by = v_all(scale), top = v_all(v_top(largest) * scale);
    floats sum = v_zero();
    for (int64_t k = 0; k <= last; k += 16) {
        floats x = exp2_(v_fms(v_load(scores + k), by, top));
        if (k == last) x = v_first(x, rest, v_zero());
        sum = v_add(sum, x);
        store(weights + k, x);
    }
    return v_sum(sum);
}

/* One head's attention for ``rows`` queries. */
INLINE void attend_tile(
    const int rows, struct matrix query, int64_t length, int64_t head_dim, float scale, struct matrix seen,
    const struct attention_scratch *s)
{
    const int64_t depth = head_dim / PER_DWORD, keys = (length + 31) / 32 * 32;
    floats sum[TILE_ROWS][BLOCKS];
    for (int64_t key = 0; key < length; key += PANEL) {
        const int32_t *panel = s->keys + key * depth;
        if (BLOCKS > 1 && length - key <= 16) {
            multiply(rows, 1, 0, depth, query.at, query.stride, panel, sum);
            UNROLL for (int i = 0; i < rows; i++) v_store(s->scores + i * keys + key, sum[i][0]);
        } else {
            multiply(rows, BLOCKS, 0, depth, query.at, query.stride, panel, sum);
            UNROLL for (int i = 0; i < rows; i++)
                UNROLL for (int j = 0; j < BLOCKS; j++)
                    v_store(s->scores + i * keys + key + 16 * j, sum[i][j]);
        }
    }
    float total[TILE_ROWS];
    for (int i = 0; i < rows; i++) total[i] = soften(s->scores + i * keys, length, scale, s->weights.at + i * s->weights.stride);
    const int64_t pairs = (length + PER_DWORD - 1) / PER_DWORD;
    for (int64_t d = 0; d < head_dim; d += PANEL) {
        multiply(rows, BLOCKS, 0, pairs, s->weights.at, s->weights.stride, s->values + d * pairs, sum);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < BLOCKS; j++)
                store(seen.at + i * seen.stride + d + 16 * j, v_mul(sum[i][j], v_all(1 / total[i])));
    }
}

/* Heads ``first_head`` to ``last_head`` of [length, 3 * heads * head_dim] ``qkv`` → those of ``seen``, [queries, heads *
   head_dim], for the queries that the rows of ``asking`` begin with. */
static void attend(
    const struct encoder *m, int64_t length, struct matrix qkv, int64_t queries, struct matrix asking, struct matrix seen,
    int64_t first_head, int64_t last_head, const struct attention_scratch *s)
{
    const int64_t width = m->heads * m->head_dim, head_dim = m->head_dim;
    const int64_t tiles = (queries + TILE_ROWS - 1) / TILE_ROWS;
    const float scale = m->score_scale * 1.44269504f;
    for (int64_t head = first_head * head_dim; head < last_head * head_dim; head += head_dim) {
        pack_keys(qkv.at + width + head, qkv.stride, length, head_dim, s->keys);
        pack_values(qkv.at + 2 * width + head, qkv.stride, length, head_dim, s->values);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t first = queries * t / tiles;
            const struct matrix query = { asking.at + first * asking.stride + head, asking.stride };
            const struct matrix to = { seen.at + first * seen.stride + head, seen.stride };
#define DO(n) attend_tile(n, query, length, head_dim, scale, to, s)
            FOR_ROWS((int)(queries * (t + 1) / tiles - first), DO)
#undef DO
        }
    }
}
