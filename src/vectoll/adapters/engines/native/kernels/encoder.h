/* A BERT-like encoder: what the Python side passes in. Every pointer to weights is aligned to 64 bytes. */
#ifndef VECTOLL_ENCODER_H
#define VECTOLL_ENCODER_H

#include <stdint.h>

enum { STORED_F32, STORED_F16, STORED_BF16 };
enum { POOL_CLS, POOL_MEAN, POOL_LAST };

/* Matrices are packed: panels of 32 columns (16 for AVX2), each panel row a dword per column, which is one input in f32, two successive
   ones in bf16 and four in int8, where two rows of f32 end the panel (tile_bytes.h). */
struct layer {
    const int32_t *qkv, *out, *up, *down;
    const float *qkv_bias, *out_bias, *up_bias, *down_bias;
    const float *out_norm, *out_norm_bias, *down_norm, *down_norm_bias;
    const float *qkv_by, *up_by; /* in int8: what each input of the product is multiplied by before it is rounded */
};

struct team;

struct encoder {
    int64_t layers, hidden, heads, intermediate;
    int64_t head_dim; /* a multiple of 32: heads are padded with zeros */
    int64_t pooling, words_type;
    float norm_eps;
    float score_scale; /* 1 / sqrt of the head size before padding */
    const void *words; /* [vocab, hidden] as it lies in the checkpoint */
    const float *places; /* [positions, hidden]: position and token type embeddings, summed */
    const float *norm, *norm_bias;
    const struct layer *layer;
};

/* ``count`` sequences back to back in ``ids``, each of ``lengths[i]`` ids → [count, hidden], L2-normalised.
   ``scratch`` has what ``*_scratch_bytes`` says, aligned to 64 bytes. The calling thread computes alone, or
   with the team while no other call does; the vectors are the same, bit by bit. */
typedef void encode_fn(
    const struct encoder *, const int32_t *ids, const int32_t *lengths, int64_t count, float *out, char *scratch,
    struct team *);
typedef int64_t scratch_fn(const struct encoder *, int64_t tokens, int64_t longest, int members);

/* [rows, depth] times a packed matrix plus a bias of f32 → [rows, columns]: what the encoder spends its time in, for
   tests and benchmarks. Activations are bf16 or f32. */
typedef void product_fn(
    int64_t rows, int64_t columns, int64_t depth, const void *a, const int32_t *weights, const float *bias, void *out);

/* A matrix [columns, depth] as a checkpoint stores it → packed, rounded to the nearest, ties to even. ``columns`` and
   ``depth`` are multiples of 32. In int8, weights are first multiplied by what is ``by`` their input, if anything is. */
typedef void pack_fn(
    int64_t columns, int64_t depth, const void *stored, int64_t type, const float *by, int32_t *packed);

#define EXPORTED __attribute__((visibility("default")))

EXPORTED encode_fn vectoll_encode_bf16, vectoll_encode_f32, vectoll_encode_f32_avx2, vectoll_encode_int8;
EXPORTED scratch_fn vectoll_scratch_bytes_bf16, vectoll_scratch_bytes_f32, vectoll_scratch_bytes_f32_avx2,
    vectoll_scratch_bytes_int8;
EXPORTED product_fn vectoll_product_bf16, vectoll_product_f32, vectoll_product_f32_avx2;
EXPORTED pack_fn vectoll_pack_bf16, vectoll_pack_f32, vectoll_pack_f32_avx2, vectoll_pack_int8;

/* A team of ``size`` threads, the caller among them, whose others are ``niceness`` nicer than the thread that makes it;
   none when the system has no more threads. Free it when it is idle. */
EXPORTED struct team *vectoll_team_new(int size, int niceness);
EXPORTED void vectoll_team_free(struct team *);

/* Bit 0: this CPU can run the f32 kernels. Bit 1: and the bf16 ones. Bit 2: it has AMX, which computes products of bf16 and
   bytes several times faster than these do. Bit 3: it can run the int8 ones. Bit 4: the f32 ones for AVX2. */
EXPORTED int vectoll_capabilities(void);

/* CRC-32 of what this was built from: a library of other sources is not used. */
EXPORTED uint32_t vectoll_sources(void);

#endif
