/* Towers with products in bf16; sums, softmax, norms and residuals stay f32. */
#define ENCODE vectoll_encode_bf16
#define SCRATCH_BYTES vectoll_scratch_bytes_bf16
#define PRODUCT vectoll_product_bf16
#define PACK vectoll_pack_bf16

#include "avx512.h"
#include "bf16.h"
#include "multiply.h"
#include "tile_elements.h"
#include "encode.h"
