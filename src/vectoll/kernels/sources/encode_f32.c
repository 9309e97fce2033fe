/* Towers in f32. */
#define ENCODE vectoll_encode_f32
#define SCRATCH_BYTES vectoll_scratch_bytes_f32
#define PRODUCT vectoll_product_f32
#define PACK vectoll_pack_f32

#include "avx512.h"
#include "f32.h"
#include "multiply.h"
#include "tile_elements.h"
#include "encode.h"
