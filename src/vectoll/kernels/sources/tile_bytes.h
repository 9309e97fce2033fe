/* Products of bytes (AVX512_VNNI): rows of inputs are rounded to 256 steps between their least and largest number, columns of
   weights to 255 around zero. With a = low + step * q and w = scale * p:

       Σ a w = step * scale * Σ q p + low * scale * Σ p

   where the last sum is a constant of the column. A panel of weights ends with its columns' ``scale`` and ``scale * Σ p``. */

typedef struct {
    uint8_t *at;
    int64_t stride;
    float (*range)[2]; /* of each row: low, step */
} inputs;

/* As the instruction types them: GCC keeps an array of __m512i in memory. */
typedef int32_t sums __attribute__((vector_size(64)));

enum { IS_PREPARED = 1, PER_DWORD_OF_BYTES = 4 };

static inline inputs take_inputs(char **next, int64_t rows, int64_t columns)
{
    const int64_t stride = pitch(columns);
    uint8_t *at = take(next, rows * stride);
    return (inputs) { at, stride, take(next, rows * 8) };
}

static inline inputs inputs_from_row(inputs a, int64_t row)
{
    return (inputs) { a.at + row * a.stride, a.stride, a.range + row };
}

/* Sixteen numbers of a tensor, each multiplied by what is ``by`` its column, if anything is. */
INLINE __m512 scaled(const void *tensor, const int64_t type, int64_t i, const float *by, int64_t column)
{
    const __m512 x = widen(tensor, type, i);
    return by ? _mm512_mul_ps(x, _mm512_loadu_ps(by + column)) : x;
}

/* Rounds a row, whose numbers ``type`` says how to read. What is not finite makes the whole row so. */
INLINE void round_row(
    const void *row, const int64_t type, int64_t columns, const float *by, uint8_t *to, float range[2])
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 least = scaled(row, type, 0, by, 0), largest = least, nothing = zero;
    for (int64_t k = 0; k < columns; k += 16) {
        const __m512 x = scaled(row, type, k, by, k);
        least = _mm512_min_ps(least, x);
        largest = _mm512_max_ps(largest, x);
        nothing = _mm512_fmadd_ps(x, zero, nothing); /* zero, or not a number */
    }
    const float low = _mm512_reduce_min_ps(least), span = _mm512_reduce_max_ps(largest) - low;
    const __m512 steps_of = _mm512_set1_ps(span > 0 ? 255 / span : 0), from = _mm512_set1_ps(low);
    for (int64_t k = 0; k < columns; k += 16) {
        const __m512 steps = _mm512_mul_ps(_mm512_sub_ps(scaled(row, type, k, by, k), from), steps_of);
        _mm_storeu_si128((__m128i *)(to + k), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(steps)));
    }
    range[0] = low + _mm512_reduce_add_ps(nothing);
    range[1] = span / 255;
}

/* One row of f32 as inputs; where nothing is ``by``, no product follows. */
static inline void store_inputs(const float *x, int64_t columns, const float *by, inputs to, int64_t row)
{
    if (by) round_row(x, STORED_F32, columns, by, to.at + row * to.stride, to.range[row]);
}

/* Rows ``first`` to ``last`` of elements as inputs. */
static inline inputs prepare(struct matrix from, int64_t first, int64_t last, int64_t columns, inputs to)
{
    for (int64_t row = first; row < last; row++)
        round_row(from.at + row * from.stride, STORED_BF16, columns, 0, to.at + row * to.stride, to.range[row]);
    return to;
}

static inline int64_t panel_dwords(int64_t depth) { return (depth / PER_DWORD_OF_BYTES + 2) * PANEL; }

/* One tile and what follows it. */
INLINE void tile(
    const enum after after, const int rows, int64_t depth, inputs a, const int32_t *b, const float *bias,
    const float *added, void *out, int64_t out_stride)
{
    sums sum[TILE_ROWS][2];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < 2; j++) sum[i][j] = (sums)_mm512_setzero_si512();
    const uint8_t *row = a.at;
    for (int64_t k = 0; k < depth; k += PER_DWORD_OF_BYTES, b += PANEL, row += PER_DWORD_OF_BYTES) {
        const __m512i column[2] = { _mm512_loadu_si512(b), _mm512_loadu_si512(b + 16) };
        fetch(2, AHEAD, b);
        UNROLL for (int i = 0; i < rows; i++) {
            int32_t input;
            memcpy(&input, row + i * a.stride, 4);
            const __m512i four = _mm512_set1_epi32(input);
            UNROLL for (int j = 0; j < 2; j++) sum[i][j] = (sums)_mm512_dpbusd_epi32((__m512i)sum[i][j], four, column[j]);
        }
    }
    __m512 scale[2], total[2], bias_of[2];
    UNROLL for (int j = 0; j < 2; j++) {
        scale[j] = _mm512_loadu_ps(b + 16 * j);
        total[j] = _mm512_loadu_ps(b + PANEL + 16 * j);
        bias_of[j] = _mm512_loadu_ps(bias + 16 * j);
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < 2; j++) {
            const __m512 low = _mm512_set1_ps(a.range[i][0]), step = _mm512_set1_ps(a.range[i][1]);
            const __m512 x = _mm512_fmadd_ps(low, total[j], bias_of[j]);
            const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps((__m512i)sum[i][j]), _mm512_mul_ps(step, scale[j]), x);
            finish(after, y, added, out, i * out_stride + 16 * j);
        }
}

void PACK(int64_t columns, int64_t depth, const void *stored, int64_t type, const float *by, int32_t *packed)
{
    const __m512 zero = _mm512_setzero_ps();
    const int64_t dwords = depth / PER_DWORD_OF_BYTES;
    for (int64_t c = 0; c < columns; c++) {
        int32_t *column = packed + c / PANEL * panel_dwords(depth) + c % PANEL;
        __m512 largest = zero, nothing = zero;
        for (int64_t k = 0; k < depth; k += 16) {
            const __m512 x = scaled(stored, type, c * depth + k, by, k);
            largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
            nothing = _mm512_fmadd_ps(x, zero, nothing); /* zero, or not a number */
        }
        const float most = _mm512_reduce_max_ps(largest);
        const __m512 steps_of = _mm512_set1_ps(most > 0 ? 127 / most : 0);
        int64_t total = 0;
        for (int64_t k = 0; k < depth; k += 16) {
            const __m512 x = scaled(stored, type, c * depth + k, by, k);
            const __m512i steps = _mm512_cvtps_epi32(_mm512_mul_ps(x, steps_of));
            int32_t four[4];
            _mm_storeu_si128((__m128i *)four, _mm512_cvtsepi32_epi8(steps));
            total += _mm512_reduce_add_epi32(steps);
            for (int i = 0; i < 4; i++) column[(k / 4 + i) * PANEL] = four[i];
        }
        const float scale = most / 127 + _mm512_reduce_add_ps(nothing), scaled_total = scale * (float)total;
        memcpy(column + dwords * PANEL, &scale, 4);
        memcpy(column + (dwords + 1) * PANEL, &scaled_total, 4);
    }
}
