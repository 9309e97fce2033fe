/* What all products have in common: C = A * W^T + bias, a tile of C in registers at a time.

   A tile is 12 rows of 32 columns: 24 accumulators, two loads of weights and twelve broadcasts of inputs for 24
   multiply-adds. A panel of weights (depth * 64 * sizeof element bytes) stays near while all rows pass by. */

enum { TILE_ROWS = 12, PANEL = 32 };

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

/* What follows a product: sixteen of its sums go ``at`` in ``out``, which is elements, but f32 where ``added`` (f32, laid out
   as ``out``) is added. */
INLINE void finish(const enum after after, __m512 x, const float *added, void *out, int64_t at)
{
    if (after == ADDED)
        _mm512_storeu_ps((float *)out + at, _mm512_add_ps(x, _mm512_loadu_ps(added + at)));
    else
        store((element *)out + at, after == GELU ? gelu(x) : x);
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

/* Sixteen rows of sixteen dwords, turned over into a panel's columns. */
static inline void store_turned(__m512i row[16], int32_t *panel)
{
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        row[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
        a[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        row[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    }
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(panel + i * PANEL, row[i]);
}
