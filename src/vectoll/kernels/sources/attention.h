/* Softmax attention over one sequence: nothing else is there, so at most its own future and distant past are left out. */

struct attention_scratch {
    int32_t *keys, *values; /* one head's, packed as the right-hand side of a product */
    float *scores; /* [TILE_ROWS, keys] */
    struct matrix weights; /* [TILE_ROWS, keys] */
    element *joined; /* [2, keys, head_dim]: one head's keys and values, those of a prefix before a sequence's own */
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
            store_transposed(row, packed + (first / PANEL * depth + d) * PANEL + first % PANEL, PANEL);
        }
}

/* exp(scale * (scores - their largest)) as elements for keys ``from`` to ``until``, zeros for those before, and for those
   behind up to a multiple of 16 that covers ``end``; returns their sum. ``scale`` is to base 2. */
static __attribute__((noinline)) float soften(
    const float *scores, int64_t from, int64_t until, int64_t end, float scale, element *weights)
{
    const int64_t first = from / 16 * 16, last = (until - 1) / 16 * 16;
    const int before = (int)(from - first), rest = (int)(until - last);
    const floats least = v_all(-__builtin_inff());
    floats largest = v_first(v_load(scores + last), rest, least);
    if (first == last) largest = v_first(least, before, largest);
    else if (before) largest = v_max(v_first(least, before, v_load(scores + first)), largest);
    for (int64_t k = before ? first + 16 : first; k < last; k += 16) largest = v_max(largest, v_load(scores + k));
    const floats by = v_all(scale), top = v_all(v_top(largest) * scale);
    floats sum = v_zero();
    for (int64_t k = 0; k < first; k += 16) store(weights + k, v_zero());
    for (int64_t k = first; k <= last; k += 16) {
        floats x = exp2_(v_fms(v_load(scores + k), by, top));
        if (k == last) x = v_first(x, rest, v_zero());
        if (k == first && before) x = v_first(v_zero(), before, x);
        sum = v_add(sum, x);
        store(weights + k, x);
    }
    for (int64_t k = last + 16; k < end; k += 16) store(weights + k, v_zero());
    return v_sum(sum);
}

/* The keys that a query sees, [*from, return value), of ``length``. */
static inline int64_t sight(const struct tower *m, int64_t position, int64_t length, int64_t *from)
{
    const int64_t until = m->is_causal ? position + 1 : length;
    *from = m->window && until > m->window ? until - m->window : 0;
    return until;
}

/* One head's attention for ``rows`` queries, the first at ``position`` of a sequence of ``length``. */
INLINE void attend_tile(
    const struct tower *m, const int rows, struct matrix query, int64_t position, int64_t length, struct matrix seen,
    const struct attention_scratch *s)
{
    const int64_t head_dim = m->head_dim, depth = head_dim / PER_DWORD;
    int64_t start; /* of the panels of keys that any of the rows sees */
    sight(m, position, length, &start);
    start = start / PANEL * PANEL;
    const int64_t end = m->is_causal ? position + rows : length, keys = (end - start + 31) / 32 * 32;
    floats sum[TILE_ROWS][BLOCKS];
    for (int64_t key = start; key < end; key += PANEL) {
        const int32_t *panel = s->keys + key * depth;
        float *to = s->scores + (key - start);
        if (BLOCKS > 1 && end - key <= 16) {
            multiply(rows, 1, 0, depth, query.at, query.stride, panel, sum);
            UNROLL for (int i = 0; i < rows; i++) v_store(to + i * keys, sum[i][0]);
        } else {
            multiply(rows, BLOCKS, 0, depth, query.at, query.stride, panel, sum);
            UNROLL for (int i = 0; i < rows; i++)
                UNROLL for (int j = 0; j < BLOCKS; j++)
                    v_store(to + i * keys + 16 * j, sum[i][j]);
        }
    }
    const float scale = m->score_scale * 1.44269504f;
    float total[TILE_ROWS];
    for (int i = 0; i < rows; i++) {
        int64_t from;
        const int64_t until = sight(m, position + i, length, &from);
        element *weights = s->weights.at + i * s->weights.stride;
        total[i] = soften(s->scores + i * keys, from - start, until - start, end - start, scale, weights);
    }
    const int64_t all = (length + PER_DWORD - 1) / PER_DWORD, pairs = (end - start + PER_DWORD - 1) / PER_DWORD;
    const int32_t *values = s->values + start / PER_DWORD * PANEL;
    for (int64_t d = 0; d < head_dim; d += PANEL) {
        multiply(rows, BLOCKS, 0, pairs, s->weights.at, s->weights.stride, values + d * all, sum);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < BLOCKS; j++)
                store(seen.at + i * seen.stride + d + 16 * j, v_mul(sum[i][j], v_all(1 / total[i])));
    }
}

/* One head of one token in a rotary tower: normalised by its root mean square where there is a ``norm``, then the halves
   rotated against each other by the angles of its position (arXiv:2104.09864). */
static void rotate(const struct tower *m, const float *norm, int64_t position, element *head)
{
    const int64_t half = m->head_dim / 2;
    const float *cosines = m->cosines + position * half, *sines = m->sines + position * half;
    floats squares = v_zero(), scale = v_zero();
    if (norm) {
        for (int64_t h = 0; h < m->head_dim; h += 16) squares = v_fma(load(head + h), load(head + h), squares);
        scale = inverse_root(squares, m->head_size, m->norm_eps);
    }
    for (int64_t h = 0; h < half; h += 16) {
        floats first = load(head + h), second = load(head + half + h);
        if (norm) {
            first = v_mul(v_mul(first, scale), v_load(norm + h));
            second = v_mul(v_mul(second, scale), v_load(norm + half + h));
        }
        const floats cosine = v_load(cosines + h), sine = v_load(sines + h);
        store(head + h, v_fms(first, cosine, v_mul(second, sine)));
        store(head + half + h, v_fma(second, cosine, v_mul(first, sine)));
    }
}

static void rotate_rows(
    const struct tower *m, const float *norm, int64_t position, int64_t rows, struct matrix heads)
{
    if (m->kind == DECODER)
        for (int64_t i = 0; i < rows; i++) rotate(m, norm, position + i, heads.at + i * heads.stride);
}

/* Where one layer's head has its keys in a prefix's block; its values follow. */
static element *block_of(const struct tower *m, int64_t layer, int64_t head, const struct prefix *prefix, int64_t token)
{
    element *const block = prefix->blocks[token / PREFIX_BLOCK];
    return block + (layer * m->kv_heads + head) * 2 * PREFIX_BLOCK * m->head_dim;
}

/* One head's keys, rotated, and its values into the blocks that are to be kept. */
static void keep(
    const struct tower *m, int64_t layer, int64_t head, const struct prefix *prefix, struct matrix keys,
    struct matrix values)
{
    const size_t row_bytes = (size_t)m->head_dim * sizeof(element);
    for (int64_t token = prefix->known; token < prefix->kept; token++) {
        const int64_t own = token - prefix->known;
        element *to = block_of(m, layer, head, prefix, token) + token % PREFIX_BLOCK * m->head_dim;
        memcpy(to, keys.at + own * keys.stride, row_bytes);
        memcpy(to + PREFIX_BLOCK * m->head_dim, values.at + own * values.stride, row_bytes);
    }
}

/* One head's ``known`` keys and values of a prefix with a sequence's own behind them. */
static void join(
    const struct tower *m, int64_t layer, int64_t head, const struct prefix *prefix, int64_t own, struct matrix *keys,
    struct matrix *values, element *joined)
{
    const int64_t head_dim = m->head_dim, known = prefix->known;
    element *const joined_values = joined + (known + own) * head_dim;
    const size_t row_bytes = (size_t)head_dim * sizeof(element);
    for (int64_t token = 0; token < known; token += PREFIX_BLOCK) {
        const element *block = block_of(m, layer, head, prefix, token);
        memcpy(joined + token * head_dim, block, PREFIX_BLOCK * row_bytes);
        memcpy(joined_values + token * head_dim, block + PREFIX_BLOCK * head_dim, PREFIX_BLOCK * row_bytes);
    }
    for (int64_t row = 0; row < own; row++) {
        memcpy(joined + (known + row) * head_dim, keys->at + row * keys->stride, row_bytes);
        memcpy(joined_values + (known + row) * head_dim, values->at + row * values->stride, row_bytes);
    }
    *keys = (struct matrix) { joined, head_dim };
    *values = (struct matrix) { joined_values, head_dim };
}

/* One sequence's attention for the heads of keys and values ``first_head`` to ``last_head``. ``qkv`` has the queries,
   then keys, then values of all heads in each of its ``own`` rows. → ``seen``, [queries, heads * head_dim], for the
   queries that the rows of ``asking`` begin with, the first of which is at ``position``. */
static void attend(
    const struct tower *m, const struct layer *l, const struct prefix *prefix, int64_t own, struct matrix qkv,
    int64_t position, int64_t queries, struct matrix asking, struct matrix seen, int64_t first_head, int64_t last_head,
    const struct attention_scratch *s)
{
    const int64_t width = m->heads * m->head_dim, kv_width = m->kv_heads * m->head_dim, group = m->heads / m->kv_heads;
    const int64_t tiles = (queries + TILE_ROWS - 1) / TILE_ROWS, length = prefix->known + own;
    for (int64_t shared = first_head; shared < last_head; shared++) {
        struct matrix keys = from_column(qkv, width + shared * m->head_dim), values = from_column(keys, kv_width);
        rotate_rows(m, l->key_norm, prefix->known, own, keys);
        if (prefix->kept) keep(m, l - m->layer, shared, prefix, keys, values);
        if (prefix->known) join(m, l - m->layer, shared, prefix, own, &keys, &values, s->joined);
        pack_keys(keys.at, keys.stride, length, m->head_dim, s->keys);
        pack_values(values.at, values.stride, length, m->head_dim, s->values);
        for (int64_t head = shared * group; head < (shared + 1) * group; head++)
            for (int64_t t = 0; t < tiles; t++) {
                const int64_t first = queries * t / tiles, rows = queries * (t + 1) / tiles - first;
                const struct matrix query = from_column(from_row(asking, first), head * m->head_dim);
                const struct matrix to = from_column(from_row(seen, first), head * m->head_dim);
                rotate_rows(m, l->query_norm, position + first, rows, query);
#define DO(n) attend_tile(m, n, query, position + first, length, to, s)
                FOR_ROWS((int)rows, DO)
#undef DO
            }
    }
}
