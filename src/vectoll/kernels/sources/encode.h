/* A text tower, on one core or by a team of them. Included once per kind of product, after the element type and its
   arithmetic, and the tiles.

   Tokens of all sequences lie back to back and nothing is padded: products are over all tokens, attention is over each
   sequence alone. Attention and the feed-forward block's activations are elements; sums of products, the residual
   stream, softmax and norms are f32. */
#include <string.h>

#include "product.h"
#include "norm.h"
#include "attention.h"
#include "team.h"

/* Bytes of feed-forward activations computed at once: with a panel of weights they stay in a core's second-level cache. */
enum { INNER_BYTES = 400000, FEWEST_ROWS = 128 };

struct scratch {
    /* [tokens, hidden]. A block adds to the states; the sums are normalised to an encoder's states, and are a decoder's. */
    float *states, *sums;
    float *picked; /* [sequences, hidden]: the rows that the last layer needs, where it does not need all */
    inputs inputs; /* [tokens, hidden]: the states, normalised, as products read them */
    struct matrix qkv; /* [tokens, (heads + 2 * kv_heads) * head_dim] */
    struct matrix seen; /* [tokens, heads * head_dim]: what attention gives */
    struct matrix inner; /* [rows at once, intermediate] */
    inputs prepared; /* [rows at once, the wider of both]: what attention or GELU stored, as products read it */
    struct attention_scratch attention; /* a member's own, as ``inner`` and ``prepared`` are where rows are shared out */
    float *row; /* [hidden], a member's own */
};

struct call {
    const struct tower *m;
    const int32_t *ids, *lengths;
    const struct prefix *prefixes; /* or null */
    int64_t count, tokens;
    int64_t longest; /* with what precedes it */
    float *out;
    char *scratch;
};

static int64_t rows_at_once(const struct tower *m)
{
    int64_t rows = INNER_BYTES / (int64_t)sizeof(element) / m->intermediate;
    return rows < FEWEST_ROWS ? FEWEST_ROWS : rows;
}

/* Lays a member's scratch out from ``start``, behind what all share; returns the end. */
static char *lay_out(struct scratch *s, const struct call *c, int rank, char *start)
{
    const struct tower *m = c->m;
    const int64_t width = m->heads * m->head_dim, kv_width = m->kv_heads * m->head_dim;
    const int64_t item = sizeof(element), keys = (c->longest + 31) / 32 * 32;
    char *next = start;
    s->states = take(&next, c->tokens * m->hidden * 4);
    s->sums = m->kind == DECODER ? s->states : take(&next, c->tokens * m->hidden * 4);
    s->picked = m->kind == DECODER ? take(&next, c->count * m->hidden * 4) : s->sums;
    s->inputs = take_inputs(&next, c->tokens, m->hidden);
    s->qkv = take_matrix(&next, c->tokens, width + 2 * kv_width);
    s->seen = take_matrix(&next, c->tokens, width);
    for (int r = 0; r <= rank; r++) {
        s->inner = take_matrix(&next, rows_at_once(m), m->intermediate);
        const int64_t widest = width > m->intermediate ? width : m->intermediate;
        s->prepared = IS_PREPARED ? take_inputs(&next, rows_at_once(m), widest) : (inputs) { 0 };
        s->attention.keys = take(&next, keys * m->head_dim * item);
        s->attention.values = take(&next, keys * m->head_dim * item);
        s->attention.joined = m->is_causal ? take(&next, 2 * keys * m->head_dim * item) : 0;
        s->attention.scores = take(&next, TILE_ROWS * keys * 4);
        s->attention.weights = take_matrix(&next, TILE_ROWS, keys);
        s->row = take(&next, m->hidden * 4);
    }
    return next;
}

int64_t SCRATCH_BYTES(const struct tower *m, int64_t count, int64_t tokens, int64_t longest, int members)
{
    struct scratch s;
    const struct call call = { .m = m, .count = count, .tokens = tokens, .longest = longest };
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

/* A row's norm as inputs of the product that follows, for which ``by`` is; an encoder's as its state, too. */
static void norm_row(
    const struct tower *m, int64_t row, const float *weight, const float *bias, const float *by,
    const struct scratch *s)
{
    const int64_t at = row * m->hidden;
    float *const to = m->kind == DECODER ? s->row : s->states + at;
    if (m->kind == DECODER) rms_norm(s->sums + at, weight, m->norm_eps, m->hidden, to);
    else layer_norm(s->sums + at, weight, bias, m->norm_eps, m->hidden, to);
    store_inputs(to, m->hidden, by, s->inputs, row);
}

static void norm_rows(
    const struct tower *m, int64_t first, int64_t end, const float *weight, const float *bias, const float *by,
    const struct scratch *s)
{
    for (int64_t row = first; row < end; row++) norm_row(m, row, weight, bias, by, s);
}

static void embed(const struct member *me, const struct call *c, const struct scratch *s)
{
    const struct tower *m = c->m;
    int64_t token = 0, first;
    const int64_t end = share(me, c->tokens, 1, &first);
    for (int64_t i = 0; i < c->count; i++)
        for (int64_t left = c->lengths[i], counted = 0; left; left--, token++) {
            const int64_t position = c->ids[token] == m->padding ? -1 : counted++;
            if (token < first || token >= end) continue;
            float *sum = s->sums + token * m->hidden;
            const float *at = m->position_embeddings ? m->position_embeddings + position * m->hidden : 0;
            for (int64_t h = 0; h < m->hidden; h += 16) {
                const floats x = word(m, c->ids[token], h);
                v_store(sum + h, at ? v_add(x, v_load(at + h)) : x);
            }
            norm_row(m, token, m->norm, m->norm_bias, m->layer->qkv_by, s);
        }
}

/* Of the tokens of a sequence whose vector is read off one, that one's position. */
static int64_t picked_position(const struct tower *m, int64_t length) { return m->pooling == POOL_CLS ? 0 : length - 1; }

static const struct prefix nothing;

/* Every sequence's heads, shared out: of all tokens, or of those that were picked. */
static void attend_all(
    const struct member *me, const struct call *c, const struct layer *l, const struct scratch *s, int are_picked)
{
    int64_t first, token = 0;
    const int64_t end = share(me, c->m->kv_heads, 1, &first);
    for (int64_t i = 0; i < c->count; token += c->lengths[i++]) {
        const int64_t length = c->lengths[i], row = are_picked ? i : token, queries = are_picked ? 1 : length;
        const struct prefix *prefix = c->prefixes ? c->prefixes + i : &nothing;
        const int64_t position = prefix->known + (are_picked ? picked_position(c->m, length) : 0);
        const struct matrix qkv = from_row(s->qkv, token), asking = from_row(s->qkv, row), seen = from_row(s->seen, row);
        attend(c->m, l, prefix, length, qkv, position, queries, asking, seen, first, end, &s->attention);
    }
}

/* All that the last layer needs of a sequence whose vector is read off one token is that token's row: here, the rows of
   all sequences one after the other, as states in ``picked`` and as inputs. */
static void pick(const struct member *me, const struct call *c, const struct layer *l, const struct scratch *s)
{
    const struct tower *m = c->m;
    const int64_t hidden = m->hidden;
    int64_t first, token = 0;
    const int64_t end = share(me, c->count, 1, &first);
    for (int64_t i = 0; i < end; token += c->lengths[i++]) {
        if (i < first) continue;
        const float *state = s->states + (token + picked_position(m, c->lengths[i])) * hidden;
        memcpy(s->picked + i * hidden, state, (size_t)hidden * 4);
        if (m->kind == DECODER) {
            rms_norm(state, l > m->layer ? l[-1].down_norm : m->norm, m->norm_eps, hidden, s->row);
            state = s->row;
        }
        store_inputs(state, hidden, l->qkv_by, s->inputs, i);
    }
}

static const float *next_by(const struct tower *m, const struct layer *l)
{
    return l + 1 < m->layer + m->layers ? l[1].qkv_by : 0;
}

/* Columns ``first_column`` to ``last_column`` of the feed-forward block's activations. */
static void expand(
    const struct tower *m, const struct layer *l, int64_t rows, inputs a, struct matrix inner, int64_t first_column,
    int64_t last_column)
{
    if (m->kind == DECODER) {
        product_plain(rows, m->hidden, a, l->up, l->up_bias, inner, first_column, last_column);
        product_gate(rows, m->hidden, a, l->gate, l->gate_bias, inner, first_column, last_column);
    } else {
        product_gelu(rows, m->hidden, a, l->up, l->up_bias, inner, first_column, last_column);
    }
}

/* All of a layer that follows attention, for rows ``first`` to ``end``, on one core, a few at a time. */
static void feed_forward(
    const struct tower *m, const struct layer *l, int64_t first, int64_t end, const struct scratch *s)
{
    const int64_t hidden = m->hidden, width = m->heads * m->head_dim, most = rows_at_once(m);
    const int64_t parts = (end - first + most - 1) / most, all = end - first;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t row = first + all * part / parts, last = first + all * (part + 1) / parts, rows = last - row;
        float *states = s->states + row * hidden, *sums = s->sums + row * hidden;
        inputs a = prepare(from_row(s->seen, row), 0, rows, width, s->prepared);
        product_added(rows, width, a, l->out, l->out_bias, states, sums, hidden, 0, hidden);
        norm_rows(m, row, last, l->out_norm, l->out_norm_bias, l->up_by, s);
        const int64_t inner = m->intermediate;
        expand(m, l, rows, inputs_from_row(s->inputs, row), s->inner, 0, inner);
        a = prepare(s->inner, 0, rows, inner, s->prepared);
        product_added(rows, inner, a, l->down, l->down_bias, states, sums, hidden, 0, hidden);
        if (l->down_norm) norm_rows(m, row, last, l->down_norm, l->down_norm_bias, next_by(m, l), s);
    }
}

/* The same for rows too few to be shared out: each member computes some columns of all. ``of_first`` is the first
   member's. False where this member is told to go. */
static int feed_forward_together(
    struct member *me, const struct tower *m, const struct layer *l, int64_t rows, const struct scratch *s,
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
    norm_rows(m, first, last, l->out_norm, l->out_norm_bias, l->up_by, s);
    if (!team_meet(me)) return 0;
    last = share(me, m->intermediate, PANEL, &first);
    expand(m, l, rows, s->inputs, of_first->inner, first, last);
    if (!team_meet(me)) return 0;
    last = share(me, rows, 1, &first);
    a = prepare(of_first->inner, first, last, m->intermediate, of_first->prepared);
    if (IS_PREPARED && !team_meet(me)) return 0;
    last = share(me, hidden, PANEL, &first);
    product_added(rows, m->intermediate, a, l->down, l->down_bias, s->states, s->sums, hidden, first, last);
    if (!team_meet(me)) return 0;
    last = share(me, rows, 1, &first);
    if (l->down_norm) norm_rows(m, first, last, l->down_norm, l->down_norm_bias, next_by(m, l), s);
    return 1;
}

/* What follows attention, by whichever way suits. */
static int finish_layer(
    struct member *me, const struct tower *m, const struct layer *l, int64_t rows, const struct scratch *s,
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
    const struct tower *m = c->m;
    struct scratch s, of_first;
    lay_out(&of_first, c, 0, c->scratch);
    lay_out(&s, c, me->rank, c->scratch);
    const int64_t width = m->heads * m->head_dim, kv_width = m->kv_heads * m->head_dim, hidden = m->hidden;
    int64_t first, last, token = 0;
    embed(me, c, &s);
    for (const struct layer *l = m->layer; l < m->layer + m->layers - 1; l++) {
        if (!team_meet(me)) return;
        last = share(me, width + 2 * kv_width, PANEL, &first);
        product_plain(c->tokens, hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv, first, last);
        if (!team_meet(me)) return;
        attend_all(me, c, l, &s, 0);
        if (!team_meet(me) || !finish_layer(me, m, l, c->tokens, &s, &of_first)) return;
    }
    const struct layer *l = m->layer + m->layers - 1;
    const int are_picked = m->pooling != POOL_MEAN;
    const int64_t rows = are_picked ? c->count : c->tokens;
    if (!team_meet(me)) return;
    last = share(me, 2 * kv_width, PANEL, &first);
    product_plain(c->tokens, hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv, width + first, width + last);
    if (are_picked) {
        /* All have read ``inputs`` when they are overwritten, and all are written when they are read again. */
        if (!team_meet(me)) return;
        pick(me, c, l, &s);
        s.sums = m->kind == DECODER ? s.picked : s.states;
        s.states = s.picked;
        if (!team_meet(me)) return;
    }
    last = share(me, width, PANEL, &first);
    product_plain(rows, hidden, s.inputs, l->qkv, l->qkv_bias, s.qkv, first, last);
    if (!team_meet(me)) return;
    attend_all(me, c, l, &s, are_picked);
    if (!team_meet(me) || !finish_layer(me, m, l, rows, &s, &of_first) || !team_meet(me)) return;
    last = share(me, c->count, 1, &first);
    for (int64_t i = 0; i < last; token += c->lengths[i++]) {
        if (i < first) continue;
        float *states = s.states + (are_picked ? i : token) * hidden;
        const int64_t rows = are_picked ? 1 : c->lengths[i];
        if (m->kind == DECODER)
            for (float *row = states; row < states + rows * hidden; row += hidden)
                rms_norm(row, m->last_norm, m->norm_eps, hidden, row);
        pool(m, states, rows, c->out + i * hidden);
    }
}

void ENCODE(
    const struct tower *m, const int32_t *ids, const int32_t *lengths, const struct prefix *prefixes, int64_t count,
    float *out, char *scratch, struct team *team)
{
    struct call call = { m, ids, lengths, prefixes, count, 0, 0, out, scratch };
    for (int64_t i = 0; i < count; i++) {
        const int64_t whole = lengths[i] + (prefixes ? prefixes[i].known : 0);
        call.tokens += lengths[i];
        call.longest = whole > call.longest ? whole : call.longest;
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
