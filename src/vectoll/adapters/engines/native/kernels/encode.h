/* A BERT-like encoder on one core. Included once per element type, after ``element``, PER_DWORD, dot, store, gelu and
   pack_values.

   Tokens of all sequences lie back to back and nothing is padded: products are over all tokens, attention is over each
   sequence alone. Activations that go into products are elements; sums of products, the residual stream, softmax and
   norms are f32. */
#include <string.h>

#include "encoder.h"
#include "product.h"
#include "attention.h"
#include "norm.h"

/* Bytes of feed-forward activations computed at once: with a panel of weights they stay in a core's second-level cache. */
enum { INNER_BYTES = 400000, FEWEST_ROWS = 48 };

struct scratch {
    float *states, *sums; /* [tokens, hidden] */
    element *inputs; /* [tokens, hidden]: the states, as products read them */
    element *qkv; /* [tokens, 3 * heads * head_dim] */
    element *seen; /* [tokens, heads * head_dim]: what attention gives */
    element *inner; /* [rows at once, intermediate] */
    struct attention_scratch attention;
};

static int64_t rows_at_once(const struct encoder *m)
{
    int64_t rows = INNER_BYTES / (int64_t)sizeof(element) / m->intermediate;
    return rows < FEWEST_ROWS ? FEWEST_ROWS : rows;
}

static void *take(char **next, int64_t bytes)
{
    char *at = *next;
    if (at) *next = at + (bytes + 63) / 64 * 64;
    return at;
}

/* Lays scratch out from ``start``; returns its end. */
static char *lay_out(struct scratch *s, const struct encoder *m, int64_t tokens, int64_t longest, char *start)
{
    const int64_t width = m->heads * m->head_dim, item = sizeof(element);
    char *next = start;
    s->states = take(&next, tokens * m->hidden * 4);
    s->sums = take(&next, tokens * m->hidden * 4);
    s->inputs = take(&next, tokens * m->hidden * item);
    s->qkv = take(&next, tokens * 3 * width * item);
    s->seen = take(&next, tokens * width * item);
    s->inner = take(&next, rows_at_once(m) * m->intermediate * item);
    const int64_t keys = (longest + 31) / 32 * 32;
    s->attention.keys = take(&next, keys * m->head_dim * item);
    s->attention.values = take(&next, keys * m->head_dim * item);
    s->attention.scores = take(&next, TILE_ROWS * keys * 4);
    s->attention.weights = take(&next, TILE_ROWS * keys * item);
    return next;
}

int64_t SCRATCH_BYTES(const struct encoder *m, int64_t tokens, int64_t longest)
{
    struct scratch s;
    char *const somewhere = (char *)64;
    return lay_out(&s, m, tokens, longest, somewhere) - somewhere;
}

static void embed(const struct encoder *m, const int32_t *ids, const int32_t *lengths, int64_t count, struct scratch *s)
{
    int64_t token = 0;
    for (int64_t i = 0; i < count; i++)
        for (int64_t place = 0; place < lengths[i]; place++, token++) {
            float *sum = s->sums + token * m->hidden;
            const float *at = m->places + place * m->hidden;
            for (int64_t h = 0; h < m->hidden; h += 16)
                _mm512_storeu_ps(sum + h, _mm512_add_ps(word(m, ids[token], h), _mm512_loadu_ps(at + h)));
            normalise(sum, m->norm, m->norm_bias, m->norm_eps, m->hidden,
                s->states + token * m->hidden, s->inputs + token * m->hidden);
        }
}

/* All of a layer that follows attention, for some rows, while they are in the cache. */
static void feed_forward(const struct encoder *m, const struct layer *l, int64_t first, int64_t rows, struct scratch *s)
{
    const int64_t hidden = m->hidden, width = m->heads * m->head_dim;
    float *states = s->states + first * hidden, *sums = s->sums + first * hidden;
    element *inputs = s->inputs + first * hidden;
    product_added(rows, hidden, width, s->seen + first * width, l->out, l->out_bias, states, sums);
    for (int64_t i = 0; i < rows * hidden; i += hidden)
        normalise(sums + i, l->out_norm, l->out_norm_bias, m->norm_eps, hidden, states + i, inputs + i);
    product_gelu(rows, m->intermediate, hidden, inputs, l->up, l->up_bias, s->inner);
    product_added(rows, hidden, m->intermediate, s->inner, l->down, l->down_bias, states, sums);
    for (int64_t i = 0; i < rows * hidden; i += hidden)
        normalise(sums + i, l->down_norm, l->down_norm_bias, m->norm_eps, hidden, states + i, inputs + i);
}

void ENCODE(
    const struct encoder *m, const int32_t *ids, const int32_t *lengths, int64_t count, float *out, char *scratch)
{
    const int64_t width = m->heads * m->head_dim, most = rows_at_once(m);
    int64_t tokens = 0, longest = 0;
    for (int64_t i = 0; i < count; i++) {
        tokens += lengths[i];
        longest = lengths[i] > longest ? lengths[i] : longest;
    }
    struct scratch s;
    lay_out(&s, m, tokens, longest, scratch);
    embed(m, ids, lengths, count, &s);
    const int64_t parts = (tokens + most - 1) / most;
    for (const struct layer *l = m->layer; l < m->layer + m->layers; l++) {
        product_plain(tokens, 3 * width, m->hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv);
        int64_t first = 0;
        for (int64_t i = 0; i < count; first += lengths[i++])
            attend(m, lengths[i], s.qkv + first * 3 * width, s.seen + first * width, &s.attention);
        for (int64_t part = 0; part < parts; part++) {
            first = tokens * part / parts;
            feed_forward(m, l, first, tokens * (part + 1) / parts - first, &s);
        }
    }
    int64_t first = 0;
    for (int64_t i = 0; i < count; first += lengths[i++])
        pool(m, s.states + first * m->hidden, lengths[i], out + i * m->hidden);
}

void PRODUCT(
    int64_t rows, int64_t columns, int64_t depth, const void *a, const int32_t *weights, const float *bias, void *out)
{
    product_plain(rows, columns, depth, a, weights, bias, out);
}
