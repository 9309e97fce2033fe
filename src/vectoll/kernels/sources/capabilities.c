/* Built without AVX-512, so that it runs on every CPU. */
#include <cpuid.h>

#include "tower.h"

enum { F32 = 1, BF16 = 2, AMX_BF16 = 4, INT8 = 8, F32_AVX2 = 16 };

static int has_amx_bf16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
}

static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}

int vectoll_capabilities(void)
{
    __builtin_cpu_init();
    const int f32 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const int bf16 = f32 && __builtin_cpu_supports("avx512bf16");
    const int int8 = bf16 && __builtin_cpu_supports("avx512vnni");
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    return (avx2 ? F32_AVX2 : 0) | (int8 ? INT8 : 0) | (f32 ? F32 : 0) | (bf16 ? BF16 : 0) | (has_amx_bf16() ? AMX_BF16 : 0);
}

uint32_t vectoll_sources(void) { return SOURCES; }
