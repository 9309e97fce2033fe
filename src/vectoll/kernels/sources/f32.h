/* Elements of f32, one to a dword. */
typedef float element;
enum { PER_DWORD = 1, AHEAD = 0 };

static inline floats dot(floats sum, dwords a, dwords b)
{
    return v_fma(v_of(a), v_of(b), sum);
}

static inline void store(element *at, floats x) { v_store(at, x); }

static inline floats load(const element *at) { return v_load(at); }

#include "arithmetic.h"

/* Sixteen dwords of elements from number ``i`` of a stored tensor on. */
static inline dwords elements_of(const void *stored, int64_t type, int64_t i)
{
    return d_of(widen(stored, type, i));
}

/* erf by Abramowitz and Stegun 7.1.26: off by 1.5e-7 at most. */
static inline floats gelu(floats x)
{
    const floats one = v_all(1);
    floats z = v_mul(v_abs(x), v_all(0.70710678f));
    floats t = v_div(one, v_fma(z, v_all(0.3275911f), one));
    floats p = v_all(1.061405429f);
    p = v_fma(p, t, v_all(-1.453152027f));
    p = v_fma(p, t, v_all(1.421413741f));
    p = v_fma(p, t, v_all(-0.284496736f));
    p = v_fma(p, t, v_all(0.254829592f));
    floats e = exp2_(v_mul(v_mul(z, z), v_all(-1.44269504f)));
    floats erf = v_fnma(v_mul(p, t), e, one);
    floats half = v_mul(x, v_all(0.5f));
    return v_fma(v_abs(half), erf, half);
}

/* Values as the right-hand side of a product: a row per key. */
static inline void pack_values(
    const element *value, int64_t stride, int64_t length, int64_t head_dim, int32_t *packed)
{
    for (int64_t d = 0; d < head_dim; d += PANEL)
        for (int64_t key = 0; key < length; key++, packed += PANEL)
            for (int j = 0; j < PANEL; j += 16)
                d_store(packed + j, d_load(value + key * stride + d + j));
}
