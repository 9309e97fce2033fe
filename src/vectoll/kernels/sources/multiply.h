/* What all products have in common: C = A * W^T + bias, a tile of C in registers at a time.

   A tile is TILE_ROWS rows of PANEL columns. A panel of weights (depth * PANEL * sizeof element bytes) stays near while all
   rows pass by. */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Bytes from one row of a left-hand side to the next: an odd number of cache lines, so that a tile's rows do not all fall
   into the same few sets of the first-level cache, as 12 rows of 4,096 inputs would. */
static inline int64_t pitch(int64_t row_bytes)
{
    return ((row_bytes + 63) / 64 | 1) * 64;
}

static inline void *take(char **next, int64_t bytes)
{
    char *at = *next;
    *next = at + (bytes + 63) / 64 * 64;
    return at;
}

struct matrix {
    element *at;
    int64_t stride; /* elements from one row to the next */
};

static inline struct matrix take_matrix(char **next, int64_t rows, int64_t columns)
{
    const int64_t bytes = pitch(columns * (int64_t)sizeof(element));
    return (struct matrix) { take(next, rows * bytes), bytes / (int64_t)sizeof(element) };
}

static inline struct matrix from_row(struct matrix a, int64_t row)
{
    return (struct matrix) { a.at + row * a.stride, a.stride };
}

static inline struct matrix from_column(struct matrix a, int64_t column)
{
    return (struct matrix) { a.at + column, a.stride };
}

/* Weights are asked for ``ahead`` bytes before they are needed, 0 for not at all: where few rows pass by, a panel is read
   once, and comes from beyond the second-level cache. */
INLINE void fetch(const int blocks, const int ahead, const int32_t *b)
{
    if (ahead)
        UNROLL for (int j = 0; j < blocks; j++) __builtin_prefetch((const char *)(b + 16 * j) + ahead);
}

/* sum[i][j] = the product of row i of ``a`` with columns 16 j to 16 j + 15 of ``b``. ``rows``, ``blocks`` (1 to BLOCKS) and
   ``ahead`` are constants where this is inlined; ``depth`` counts dwords. */
INLINE void multiply(
    const int rows, const int blocks, const int ahead, int64_t depth, const element *a, int64_t stride,
    const int32_t *b, floats sum[TILE_ROWS][BLOCKS])
{
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < blocks; j++) sum[i][j] = v_zero();
    for (int64_t k = 0; k < depth; k++, b += PANEL, a += PER_DWORD) {
        dwords column[BLOCKS];
        UNROLL for (int j = 0; j < blocks; j++) column[j] = d_load(b + 16 * j);
        fetch(blocks, ahead, b);
        UNROLL for (int i = 0; i < rows; i++) {
            int32_t input;
            memcpy(&input, a + i * stride, 4);
            const dwords row = d_all(input);
            UNROLL for (int j = 0; j < blocks; j++) sum[i][j] = dot(sum[i][j], row, column[j]);
        }
    }
}

enum after { PLAIN, GELU, GATE, ADDED };

/* What follows a product: sixteen of its sums go ``at`` in ``out``, which is elements, but f32 where ``added`` (f32, laid out
   as ``out``) is added. A gate is for what is there. */
INLINE void finish(const enum after after, floats x, const float *added, void *out, int64_t at)
{
    if (after == ADDED)
        v_store((float *)out + at, v_add(x, v_load(added + at)));
    else if (after == GATE)
        store((element *)out + at, v_mul(silu(x), load((element *)out + at)));
    else
        store((element *)out + at, after == GELU ? gelu(x) : x);
}

#if TILE_ROWS == 12
#define FOR_MORE_ROWS(DO) \
    case 6: DO(6); break; \
    case 7: DO(7); break; \
    case 8: DO(8); break; \
    case 9: DO(9); break; \
    case 10: DO(10); break; \
    case 11: DO(11); break; \
    default: DO(12);
#elif TILE_ROWS == 6
#define FOR_MORE_ROWS(DO) \
    default: DO(6);
#else
#error "for other tiles other cases"
#endif

/* What is to be done for a number of rows, 1 to TILE_ROWS, as a constant. */
#define FOR_ROWS(rows, DO) \
    switch (rows) { \
    case 1: DO(1); break; \
    case 2: DO(2); break; \
    case 3: DO(3); break; \
    case 4: DO(4); break; \
    case 5: DO(5); break; \
    FOR_MORE_ROWS(DO) \
    }
