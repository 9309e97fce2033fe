/* What a tower computes with, sixteen numbers at a time. */
#include "tower.h"

/* 2^x for x up to 127, off by 1e-7 at most, and 0 for what is too small. Not a number stays none: of two, ``v_max`` returns
   the second where one is none. */
static inline floats exp2_(floats x)
{
    x = v_max(v_all(-150), x);
    floats whole = v_round(x);
    floats part = v_sub(x, whole);
    floats p = v_all(0.00132764678f);
    p = v_fma(p, part, v_all(0.00967554189f));
    p = v_fma(p, part, v_all(0.0555071346f));
    p = v_fma(p, part, v_all(0.240221202f));
    p = v_fma(p, part, v_all(0.693146944f));
    p = v_fma(p, part, v_all(1.00000012f));
    return v_scale(p, whole);
}

/* x / (1 + exp(-x)) */
static inline floats silu(floats x)
{
    const floats power = v_max(v_all(-126), v_mul(x, v_all(1.44269504f)));
    return v_div(x, v_add(v_all(1), exp2_(v_sub(v_zero(), power))));
}

/* Sixteen rows of sixteen dwords, transposed: columns become rows, ``stride`` dwords apart. */
static inline void store_transposed(dwords row[16], int32_t *to, int64_t stride)
{
    dwords a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = d_low_32(row[i], row[i + 1]);
        a[i + 1] = d_high_32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        row[i] = d_low_64(a[i], a[i + 2]);
        row[i + 1] = d_high_64(a[i], a[i + 2]);
        row[i + 2] = d_low_64(a[i + 1], a[i + 3]);
        row[i + 3] = d_high_64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++)
        store_quarters_transposed(row[i], row[i + 4], row[i + 8], row[i + 12], to + i * stride, 4 * stride);
}

/* Sixteen numbers of a checkpoint's tensor from number ``i`` on. */
static inline floats widen(const void *tensor, int64_t type, int64_t i)
{
    if (type == STORED_F32) return v_load((const float *)tensor + i);
    const uint16_t *half = (const uint16_t *)tensor + i;
    return type == STORED_F16 ? v_of_f16(half) : v_of_bf16(half);
}
