/* A BERT-like encoder, on one core or by a team of them. Included once per kind of product, after the element type and its
   arithmetic, and the tiles.

   Tokens of all sequences lie back to back and nothing is padded: products are over all tokens, attention is over each
   sequence alone. Attention and the feed-forward block's activations are elements; sums of products, the residual
   stream, softmax and norms are f32. */
#include <string.h>

#include "product.h"
#include "attention.h"
#include "norm.h"
#include "team.h"

/* Bytes of feed-forward activations computed at once: with a panel of weights they stay in a core's second-level cache. */
enum { INNER_BYTES = 400000, FEWEST_ROWS = 128 };

struct scratch {
    float *states, *sums; /* [tokens, hidden] */
    inputs inputs; /* [tokens, hidden]: the states, as products read them */
    struct matrix qkv; /* [tokens, 3 * heads * head_dim] */
    struct matrix seen; /* [tokens, heads * head_dim]: what attention gives */
    struct matrix inner; /* [rows at once, intermediate] */
    inputs prepared; /* [rows at once, the wider of both]: what attention or GELU stored, as products read it */
    struct attention_scratch attention; /* a member's own, as ``inner`` and ``prepared`` are where rows are shared out */
};

struct call {
    const struct encoder *m;
    const int32_t *ids, *lengths;
    int64_t count, tokens, longest;
    float *out;
    char *scratch;
};

static int64_t rows_at_once(const struct encoder *m)
{
    int64_t rows = INNER_BYTES / (int64_t)sizeof(element) / m->intermediate;
    return rows < FEWEST_ROWS ? FEWEST_ROWS : rows;
}

/* Lays a member's scratch out from ``start``, behind what all share; returns the end. */
static char *lay_out(struct scratch *s, const struct call *c, int rank, char *start)
{
    const struct encoder *m = c->m;
    const int64_t width = m->heads * m->head_dim, item = sizeof(element), keys = (c->longest + 31) / 32 * 32;
    char *next = start;
    s->states = take(&next, c->tokens * m->hidden * 4);
    s->sums = take(&next, c->tokens * m->hidden * 4);
    s->inputs = take_inputs(&next, c->tokens, m->hidden);
    s->qkv = take_matrix(&next, c->tokens, 3 * width);
    s->seen = take_matrix(&next, c->tokens, width);
    for (int r = 0; r <= rank; r++) {
        s->inner = take_matrix(&next, rows_at_once(m), m->intermediate);
        const int64_t widest = width > m->intermediate ? width : m->intermediate;
        s->prepared = IS_PREPARED ? take_inputs(&next, rows_at_once(m), widest) : (inputs) { 0 };
        s->attention.keys = take(&next, keys * m->head_dim * item);
        s->attention.values = take(&next, keys * m->head_dim * item);
        s->attention.scores = take(&next, TILE_ROWS * keys * 4);
        s->attention.weights = take_matrix(&next, TILE_ROWS, keys);
    }
    return next;
}

int64_t SCRATCH_BYTES(const struct encoder *m, int64_t tokens, int64_t longest, int members)
{
    struct scratch s;
    const struct call call = { .m = m, .tokens = tokens, .longest = longest };
    char *const somewhere = (char *)64;
    return lay_out(&s, &call, members - 1, somewhere) - somewhere;
}

/* A member's share of ``size`` things, as [*first, return value). Shares are multiples of ``step``. */
static inline int64_t share(const struct member *me, int64_t size, int64_t step, int64_t *first)
{
    const int64_t steps = (size + step - 1) / step, next = steps * (me->rank + 1) / me->size * step;
    *first = steps * me->rank / me->size * step;
    return next < size ? next : size;
}

/* A row's layer norm, as f32 and as inputs of the product that follows, for which ``by`` is. */
static void normalise_row(
    const struct encoder *m, int64_t row, const float *weight, const float *bias, const float *by,
    const struct scratch *s)
{
    const int64_t at = row * m->hidden;
    normalise(s->sums + at, weight, bias, m->norm_eps, m->hidden, s->states + at);
    store_inputs(s->states + at, m->hidden, by, s->inputs, row);
}

static void normalise_rows(
    const struct encoder *m, int64_t first, int64_t end, const float *weight, const float *bias, const float *by,
    const struct scratch *s)
{
    for (int64_t row = first; row < end; row++) normalise_row(m, row, weight, bias, by, s);
}

static void embed(const struct member *me, const struct call *c, const struct scratch *s)
{
    const struct encoder *m = c->m;
    int64_t token = 0, first;
    const int64_t end = share(me, c->tokens, 1, &first);
    for (int64_t i = 0; i < c->count; i++)
        for (int64_t place = 0; place < c->lengths[i]; place++, token++) {
            if (token < first || token >= end) continue;
            float *sum = s->sums + token * m->hidden;
            const float *at = m->places + place * m->hidden;
            for (int64_t h = 0; h < m->hidden; h += 16)
                v_store(sum + h, v_add(word(m, c->ids[token], h), v_load(at + h)));
            normalise_row(m, token, m->norm, m->norm_bias, m->layer->qkv_by, s);
        }
}

/* Every sequence's heads, shared out: of all tokens, or of those that were picked. */
static void attend_all(const struct member *me, const struct call *c, const struct scratch *s, int are_picked)
{
    int64_t first, token = 0;
    const int64_t end = share(me, c->m->heads, 1, &first);
    for (int64_t i = 0; i < c->count; token += c->lengths[i++]) {
        const int64_t length = c->lengths[i], row = are_picked ? i : token, queries = are_picked ? 1 : length;
        const struct matrix qkv = from_row(s->qkv, token), asking = from_row(s->qkv, row), seen = from_row(s->seen, row);
        attend(c->m, length, qkv, queries, asking, seen, first, end, &s->attention);
    }
}

/* All that the last layer needs of a sequence whose vector is read off one token is that token's row: here, the rows of
   all sequences one after the other, as f32 in ``sums`` and as inputs. */
static void pick(const struct member *me, const struct call *c, const struct layer *l, const struct scratch *s)
{
    const int64_t hidden = c->m->hidden;
    int64_t first, token = 0;
    const int64_t end = share(me, c->count, 1, &first);
    for (int64_t i = 0; i < end; token += c->lengths[i++]) {
        if (i < first) continue;
        const int64_t at = c->m->pooling == POOL_CLS ? token : token + c->lengths[i] - 1;
        memcpy(s->sums + i * hidden, s->states + at * hidden, (size_t)hidden * 4);
        store_inputs(s->sums + i * hidden, hidden, l->qkv_by, s->inputs, i);
    }
}

static const float *next_by(const struct encoder *m, const struct layer *l)
{
    return l + 1 < m->layer + m->layers ? l[1].qkv_by : 0;
}

/* All of a layer that follows attention, for rows ``first`` to ``end``, on one core, a few at a time. */
static void feed_forward(
    const struct encoder *m, const struct layer *l, int64_t first, int64_t end, const struct scratch *s)
{
    const int64_t hidden = m->hidden, width = m->heads * m->head_dim, most = rows_at_once(m);
    const int64_t parts = (end - first + most - 1) / most, all = end - first;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t row = first + all * part / parts, last = first + all * (part + 1) / parts, rows = last - row;
        float *states = s->states + row * hidden, *sums = s->sums + row * hidden;
        inputs a = prepare(from_row(s->seen, row), 0, rows, width, s->prepared);
        product_added(rows, width, a, l->out, l->out_bias, states, sums, hidden, 0, hidden);
        normalise_rows(m, row, last, l->out_norm, l->out_norm_bias, l->up_by, s);
        const int64_t inner = m->intermediate;
        product_gelu(rows, hidden, inputs_from_row(s->inputs, row), l->up, l->up_bias, s->inner, 0, inner);
        a = prepare(s->inner, 0, rows, inner, s->prepared);
        product_added(rows, inner, a, l->down, l->down_bias, states, sums, hidden, 0, hidden);
        normalise_rows(m, row, last, l->down_norm, l->down_norm_bias, next_by(m, l), s);
    }
}

/* The same for rows too few to be shared out: each member computes some columns of all. ``of_first`` is the first
   member's. False where this member is told to go. */
static int feed_forward_together(
    struct member *me, const struct encoder *m, const struct layer *l, int64_t rows, const struct scratch *s,
    const struct scratch *of_first)
{
    const int64_t hidden = m->hidden, width = m->heads * m->head_dim;
    int64_t first, last = share(me, rows, 1, &first);
    inputs a = prepare(s->seen, first, last, width, of_first->prepared);
    if (IS_PREPARED && !team_meet(me)) return 0;
    last = share(me, hidden, PANEL, &first);
    product_added(rows, width, a, l->out, l->out_bias, s->states, s->sums, hidden, first, last);
    if (!team_meet(me)) return 0;
    last = share(me, rows, 1, &first);
    normalise_rows(m, first, last, l->out_norm, l->out_norm_bias, l->up_by, s);
    if (!team_meet(me)) return 0;
    last = share(me, m->intermediate, PANEL, &first);
    product_gelu(rows, hidden, s->inputs, l->up, l->up_bias, of_first->inner, first, last);
    if (!team_meet(me)) return 0;
    last = share(me, rows, 1, &first);
    a = prepare(of_first->inner, first, last, m->intermediate, of_first->prepared);
    if (IS_PREPARED && !team_meet(me)) return 0;
    last = share(me, hidden, PANEL, &first);
    product_added(rows, m->intermediate, a, l->down, l->down_bias, s->states, s->sums, hidden, first, last);
    if (!team_meet(me)) return 0;
    last = share(me, rows, 1, &first);
    normalise_rows(m, first, last, l->down_norm, l->down_norm_bias, next_by(m, l), s);
    return 1;
}

/* What follows attention, by whichever way suits. */
static int finish_layer(
    struct member *me, const struct encoder *m, const struct layer *l, int64_t rows, const struct scratch *s,
    const struct scratch *of_first)
{
    int64_t first;
    if (me->size > 1 && rows <= rows_at_once(m)) return feed_forward_together(me, m, l, rows, s, of_first);
    const int64_t last = share(me, rows, 1, &first);
    feed_forward(m, l, first, last, s);
    return 1;
}

static void encode(struct member *me, void *argument)
{
    const struct call *c = argument;
    const struct encoder *m = c->m;
    struct scratch s, of_first;
    lay_out(&of_first, c, 0, c->scratch);
    lay_out(&s, c, me->rank, c->scratch);
    const int64_t width = m->heads * m->head_dim, hidden = m->hidden;
    int64_t first, last, token = 0;
    embed(me, c, &s);
    for (const struct layer *l = m->layer; l < m->layer + m->layers - 1; l++) {
        if (!team_meet(me)) return;
        last = share(me, 3 * width, PANEL, &first);
        product_plain(c->tokens, hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv, first, last);
        if (!team_meet(me)) return;
        attend_all(me, c, &s, 0);
        if (!team_meet(me) || !finish_layer(me, m, l, c->tokens, &s, &of_first)) return;
    }
    const struct layer *l = m->layer + m->layers - 1;
    const int are_picked = m->pooling != POOL_MEAN;
    const int64_t rows = are_picked ? c->count : c->tokens;
    if (!team_meet(me)) return;
    last = share(me, 2 * width, PANEL, &first);
    product_plain(c->tokens, hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv, width + first, width + last);
    if (are_picked) {
        /* All have read ``inputs`` when they are overwritten, and all are written when they are read again. */
        if (!team_meet(me)) return;
        pick(me, c, l, &s);
        float *const picked = s.sums;
        s.sums = s.states;
        s.states = picked;
        if (!team_meet(me)) return;
    }
    last = share(me, width, PANEL, &first);
    product_plain(rows, hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv, first, last);
    if (!team_meet(me)) return;
    attend_all(me, c, &s, are_picked);
    if (!team_meet(me) || !finish_layer(me, m, l, rows, &s, &of_first) || !team_meet(me)) return;
    last = share(me, c->count, 1, &first);
    for (int64_t i = 0; i < last; token += c->lengths[i++]) {
        if (i < first) continue;
        const float *states = s.states + (are_picked ? i : token) * hidden;
        pool(m, states, are_picked ? 1 : c->lengths[i], c->out + i * hidden);
    }
}

void ENCODE(
    const struct encoder *m, const int32_t *ids, const int32_t *lengths, int64_t count, float *out, char *scratch,
    struct team *team)
{
    struct call call = { m, ids, lengths, count, 0, 0, out, scratch };
    for (int64_t i = 0; i < count; i++) {
        call.tokens += lengths[i];
        call.longest = lengths[i] > call.longest ? lengths[i] : call.longest;
    }
    team_run(team, encode, &call);
}

#ifdef PRODUCT
void PRODUCT(
    int64_t rows, int64_t columns, int64_t depth, const void *a, const int32_t *weights, const float *bias, void *out)
{
    product_plain(
        rows, depth, (struct matrix) { (element *)a, depth }, weights, bias, (struct matrix) { out, columns }, 0, columns);
}
#endif
