/* Products of activations [rows, depth] and packed weights, all columns or some, over tiles of either kind. */

/* Columns ``first_column`` to ``last_column``, multiples of PANEL, of a product. ``out`` and ``added`` have rows of
   ``out_stride``. */
INLINE void product(
    const enum after after, int64_t rows, int64_t depth, inputs a, const int32_t *weights, const float *bias,
    const float *added, void *out, int64_t out_stride, int64_t first_column, int64_t last_column)
{
    const int64_t panel_size = panel_dwords(depth), tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    weights += first_column / PANEL * panel_size;
    for (int64_t column = first_column; column < last_column; column += PANEL, weights += panel_size)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t first = rows * t / tiles, at = first * out_stride + column;
            const float *residual = after == ADDED ? added + at : 0;
            void *to = after == ADDED ? (void *)((float *)out + at) : (void *)((element *)out + at);
#define DO(n) tile(after, n, depth, inputs_from_row(a, first), weights, bias + column, residual, to, out_stride)
            FOR_ROWS((int)(rows * (t + 1) / tiles - first), DO)
#undef DO
        }
}

static void product_plain(
    int64_t rows, int64_t depth, inputs a, const int32_t *w, const float *bias, struct matrix out,
    int64_t first_column, int64_t last_column)
{
    product(PLAIN, rows, depth, a, w, bias, 0, out.at, out.stride, first_column, last_column);
}

static void product_gelu(
    int64_t rows, int64_t depth, inputs a, const int32_t *w, const float *bias, struct matrix out,
    int64_t first_column, int64_t last_column)
{
    product(GELU, rows, depth, a, w, bias, 0, out.at, out.stride, first_column, last_column);
}

static void product_gate(
    int64_t rows, int64_t depth, inputs a, const int32_t *w, const float *bias, struct matrix out,
    int64_t first_column, int64_t last_column)
{
    product(GATE, rows, depth, a, w, bias, 0, out.at, out.stride, first_column, last_column);
}

static void product_added(
    int64_t rows, int64_t depth, inputs a, const int32_t *w, const float *bias, const float *added, float *out,
    int64_t out_stride, int64_t first_column, int64_t last_column)
{
    product(ADDED, rows, depth, a, w, bias, added, out, out_stride, first_column, last_column);
}
