/* Encoders with products of bytes (AVX512_VNNI), whose inputs are rounded row by row as they come; attention and what
   activations are stored in is bf16; sums, softmax, norms and residuals stay f32. */
#define ENCODE vectoll_encode_int8
#define SCRATCH_BYTES vectoll_scratch_bytes_int8
#define PACK vectoll_pack_int8

#include "avx512.h"
#include "bf16.h"
#include "multiply.h"
#include "tile_bytes.h"
#include "encode.h"
