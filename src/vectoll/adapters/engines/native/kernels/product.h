/* Products of activations [rows, depth] and packed weights: C = A * W^T + bias, a tile of C in registers at a time.

   A tile is 12 rows of 32 columns: 24 accumulators, two loads of weights and twelve broadcasts of inputs for 24
   multiply-adds. A panel of weights (depth * 128 bytes) stays in the first-level cache while all rows pass by. */

enum { TILE_ROWS = 12, PANEL = 32 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* sum[i][j] = the product of row i of ``a`` with columns 16 j to 16 j + 15 of ``b``. ``rows`` and ``blocks`` (1 or 2) are
   constants where this is inlined; ``depth`` counts dwords. */
INLINE void multiply(
    const int rows, const int blocks, int64_t depth, const element *a, int64_t stride, const int32_t *b,
    __m512 sum[TILE_ROWS][2])
{
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < blocks; j++) sum[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k++, b += PANEL, a += PER_DWORD) {
        __m512i column[2];
        UNROLL for (int j = 0; j < blocks; j++) column[j] = _mm512_loadu_si512(b + 16 * j);
        UNROLL for (int i = 0; i < rows; i++) {
            int32_t input;
            memcpy(&input, a + i * stride, 4);
            __m512i row = _mm512_set1_epi32(input);
            UNROLL for (int j = 0; j < blocks; j++) sum[i][j] = dot(sum[i][j], row, column[j]);
        }
    }
}

enum after { PLAIN, GELU, ADDED };

/* One tile and what follows it: ``out`` is elements, but f32 where ``added`` (f32, laid out as ``out``) is added. */
INLINE void tile(
    const enum after after, const int rows, int64_t depth, const element *a, int64_t stride, const int32_t *b,
    const float *bias, const float *added, void *out, int64_t out_stride)
{
    __m512 sum[TILE_ROWS][2];
    multiply(rows, 2, depth / PER_DWORD, a, stride, b, sum);
    const __m512 bias_of[2] = { _mm512_loadu_ps(bias), _mm512_loadu_ps(bias + 16) };
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < 2; j++) {
            const int64_t at = i * out_stride + 16 * j;
            __m512 x = _mm512_add_ps(sum[i][j], bias_of[j]);
            if (after == ADDED)
                _mm512_storeu_ps((float *)out + at, _mm512_add_ps(x, _mm512_loadu_ps(added + at)));
            else
                store((element *)out + at, after == GELU ? gelu(x) : x);
        }
}

#define FOR_ROWS(rows, DO) \
    switch (rows) { \
    case 1: DO(1); break; \
    case 2: DO(2); break; \
    case 3: DO(3); break; \
    case 4: DO(4); break; \
    case 5: DO(5); break; \
    case 6: DO(6); break; \
    case 7: DO(7); break; \
    case 8: DO(8); break; \
    case 9: DO(9); break; \
    case 10: DO(10); break; \
    case 11: DO(11); break; \
    default: DO(12); \
    }

/* Columns ``first_column`` to ``last_column``, multiples of PANEL, of a product that has ``columns``. */
INLINE void product(
    const enum after after, int64_t rows, int64_t columns, int64_t depth, const element *a, const int32_t *weights,
    const float *bias, const float *added, void *out, int64_t first_column, int64_t last_column)
{
    const int64_t panel_size = depth / PER_DWORD * PANEL;
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    weights += first_column / PANEL * panel_size;
    for (int64_t column = first_column; column < last_column; column += PANEL, weights += panel_size)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t first = rows * t / tiles, at = first * columns + column;
            const float *residual = after == ADDED ? added + at : 0;
            void *to = after == ADDED ? (void *)((float *)out + at) : (void *)((element *)out + at);
#define DO(n) tile(after, n, depth, a + first * depth, depth, weights, bias + column, residual, to, columns)
            FOR_ROWS((int)(rows * (t + 1) / tiles - first), DO)
#undef DO
        }
}

static void product_plain(
    int64_t rows, int64_t columns, int64_t depth, const element *a, const int32_t *w, const float *bias, element *out,
    int64_t first_column, int64_t last_column)
{
    product(PLAIN, rows, columns, depth, a, w, bias, 0, out, first_column, last_column);
}

static void product_gelu(
    int64_t rows, int64_t columns, int64_t depth, const element *a, const int32_t *w, const float *bias, element *out,
    int64_t first_column, int64_t last_column)
{
    product(GELU, rows, columns, depth, a, w, bias, 0, out, first_column, last_column);
}

static void product_added(
    int64_t rows, int64_t columns, int64_t depth, const element *a, const int32_t *w, const float *bias,
    const float *added, float *out, int64_t first_column, int64_t last_column)
{
    product(ADDED, rows, columns, depth, a, w, bias, added, out, first_column, last_column);
}
