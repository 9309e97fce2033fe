/* Towers in f32, for CPUs without AVX-512: AVX2, FMA, F16C. */
#define ENCODE vectoll_encode_f32_avx2
#define SCRATCH_BYTES vectoll_scratch_bytes_f32_avx2
#define PRODUCT vectoll_product_f32_avx2
#define PACK vectoll_pack_f32_avx2

#include "avx2.h"
#include "f32.h"
#include "multiply.h"
#include "tile_elements.h"
#include "encode.h"
