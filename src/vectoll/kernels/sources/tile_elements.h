/* Products of elements, bf16 or f32: their left-hand sides are what attention and GELU store. */

typedef struct matrix inputs;

enum { IS_PREPARED = 0 };

static inline inputs take_inputs(char **next, int64_t rows, int64_t columns) { return take_matrix(next, rows, columns); }

static inline inputs inputs_from_row(inputs a, int64_t row) { return from_row(a, row); }

/* One row of f32 as inputs. */
static inline void store_inputs(const float *x, int64_t columns, const float *by, inputs to, int64_t row)
{
    (void)by;
    for (int64_t k = 0; k < columns; k += 16) store(to.at + row * to.stride + k, v_load(x + k));
}

/* Elements as inputs: they are. */
static inline inputs prepare(struct matrix from, int64_t first, int64_t last, int64_t columns, inputs to)
{
    (void)first, (void)last, (void)columns, (void)to;
    return from;
}

static inline int64_t panel_dwords(int64_t depth) { return depth / PER_DWORD * PANEL; }

/* One tile and what follows it. */
INLINE void tile(
    const enum after after, const int rows, int64_t depth, inputs a, const int32_t *b, const float *bias,
    const float *added, void *out, int64_t out_stride)
{
    floats sum[TILE_ROWS][BLOCKS], bias_of[BLOCKS];
    multiply(rows, BLOCKS, AHEAD, depth / PER_DWORD, a.at, a.stride, b, sum);
    UNROLL for (int j = 0; j < BLOCKS; j++) bias_of[j] = v_load(bias + 16 * j);
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < BLOCKS; j++)
            finish(after, v_add(sum[i][j], bias_of[j]), added, out, i * out_stride + 16 * j);
}

void PACK(int64_t columns, int64_t depth, const void *stored, int64_t type, const float *by, int32_t *packed)
{
    (void)by;
    const int64_t width = depth / PER_DWORD;
    for (int64_t first = 0; first < columns; first += 16)
        for (int64_t d = 0; d < width; d += 16) {
            dwords row[16];
            for (int i = 0; i < 16; i++) row[i] = elements_of(stored, type, (first + i) * depth + d * PER_DWORD);
            store_transposed(row, packed + (first / PANEL * width + d) * PANEL + first % PANEL, PANEL);
        }
}
