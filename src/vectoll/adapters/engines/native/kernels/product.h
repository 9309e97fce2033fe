/* Products of activations [rows, depth] and packed weights: C = A * W^T + bias, a tile of C in registers at a time.

   A tile is 12 rows of 32 columns: 24 accumulators, two loads of weights and twelve broadcasts of inputs for 24
   multiply-adds. A panel of weights (depth * 64 * sizeof element bytes) stays near while all rows pass by. */

enum { TILE_ROWS = 12, PANEL = 32 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Elements from one row of a left-hand side to the next: an odd number of cache lines, so that a tile's rows do not all
   fall into the same few sets of the first-level cache, as 12 rows of 4,096 inputs would. */
static inline int64_t pitch(int64_t columns)
{
    const int64_t line = 64 / sizeof(element);
    return ((columns + line - 1) / line | 1) * line;
}

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

struct matrix {
    element *at;
    int64_t stride; /* elements from one row to the next */
};

static inline struct matrix from_row(struct matrix a, int64_t row)
{
    return (struct matrix) { a.at + row * a.stride, a.stride };
}

/* Columns ``first_column`` to ``last_column``, multiples of PANEL, of a product. ``out`` and ``added`` have rows of
   ``out_stride``. */
INLINE void product(
    const enum after after, int64_t rows, int64_t depth, struct matrix a, const int32_t *weights, const float *bias,
    const float *added, void *out, int64_t out_stride, int64_t first_column, int64_t last_column)
{
    const int64_t panel_size = depth / PER_DWORD * PANEL;
    const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    weights += first_column / PANEL * panel_size;
    for (int64_t column = first_column; column < last_column; column += PANEL, weights += panel_size)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t first = rows * t / tiles, at = first * out_stride + column;
            const float *residual = after == ADDED ? added + at : 0;
            void *to = after == ADDED ? (void *)((float *)out + at) : (void *)((element *)out + at);
#define DO(n) tile(after, n, depth, a.at + first * a.stride, a.stride, weights, bias + column, residual, to, out_stride)
            FOR_ROWS((int)(rows * (t + 1) / tiles - first), DO)
#undef DO
        }
}

static void product_plain(
    int64_t rows, int64_t depth, struct matrix a, const int32_t *w, const float *bias, struct matrix out,
    int64_t first_column, int64_t last_column)
{
    product(PLAIN, rows, depth, a, w, bias, 0, out.at, out.stride, first_column, last_column);
}

static void product_gelu(
    int64_t rows, int64_t depth, struct matrix a, const int32_t *w, const float *bias, struct matrix out,
    int64_t first_column, int64_t last_column)
{
    product(GELU, rows, depth, a, w, bias, 0, out.at, out.stride, first_column, last_column);
}

static void product_added(
    int64_t rows, int64_t depth, struct matrix a, const int32_t *w, const float *bias, const float *added, float *out,
    int64_t out_stride, int64_t first_column, int64_t last_column)
{
    product(ADDED, rows, depth, a, w, bias, added, out, out_stride, first_column, last_column);
}
