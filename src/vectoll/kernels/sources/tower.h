/* A text tower: what the Python side passes in. Every pointer to weights is aligned to 64 bytes.

   An encoder is BERT's: learned positions, layer norm after each block, GELU. A decoder is Llama's: rotary positions,
   grouped queries, RMS norm before each block, a gate of SiLU; it may be causal or not. */
#ifndef VECTOLL_TOWER_H
#define VECTOLL_TOWER_H

#include <stdint.h>

enum { STORED_F32, STORED_F16, STORED_BF16 };
enum { POOL_CLS, POOL_MEAN, POOL_LAST };
enum { ENCODER, DECODER };

/* Matrices are packed: panels of 32 columns (16 for AVX2), each panel row a dword per column, which is one input in f32, two successive
   ones in bf16 and four in int8, where two rows of f32 end the panel (tile_bytes.h). */
struct layer {
    const int32_t *qkv, *out, *up, *down;
    const int32_t *gate; /* a decoder's */
    const float *qkv_bias, *out_bias, *up_bias, *down_bias, *gate_bias;
    /* What follows attention and what follows the feed-forward block: of a decoder, the norms before the next block. Its
       last layer has no second one, and none has biases. */
    const float *out_norm, *out_norm_bias, *down_norm, *down_norm_bias;
    const float *query_norm, *key_norm; /* [head_dim], of a decoder that has them */
    const float *qkv_by, *up_by; /* in int8: what each input of the product is multiplied by before it is rounded */
};

struct team;

/* What a causal decoder need not compute of a sequence again, because another began with the same tokens: see ``encode_fn``.
   A block has the keys and values of PREFIX_BLOCK tokens, [layers, kv_heads, 2, PREFIX_BLOCK, head_dim] elements, keys
   as they are once they are rotated. */
enum { PREFIX_BLOCK = 4 };
struct prefix {
    int64_t known; /* tokens that precede the sequence's ids, whose blocks are filled */
    int64_t kept; /* tokens, those among them, whose blocks are filled when the call returns; 0 for none */
    void *const *blocks;
};

struct tower {
    int64_t kind, layers, hidden, heads, intermediate;
    int64_t kv_heads; /* each has the keys and values of heads / kv_heads heads in a row */
    int64_t head_size; /* of the checkpoint */
    int64_t head_dim; /* the same padded with zeros to a multiple of 32, of rotated queries and keys each half to 16 */
    int64_t pooling, words_type;
    int64_t padding; /* what XLM-RoBERTa does not count as a token, even where a text has it; negative: none */
    int64_t is_causal; /* a token sees itself and what came before */
    int64_t window; /* and no more than so many tokens with itself; 0: all */
    float norm_eps;
    float score_scale; /* 1 / sqrt of ``head_size`` */
    const void *words; /* [vocab, hidden] as it lies in the checkpoint */
    const float *position_embeddings; /* [positions, hidden]: an encoder's, with the token type's added; before them the
                                         padding's, if there is any */
    const float *cosines, *sines; /* [positions, head_dim / 2]: how far a decoder rotates its queries and keys */
    const float *norm, *norm_bias; /* of the embeddings; a decoder's first */
    const float *last_norm; /* a decoder's */
    const struct layer *layer;
};

/* ``count`` sequences back to back in ``ids``, each of ``lengths[i]`` ids → [count, hidden], L2-normalised.
   ``scratch`` has what ``*_scratch_bytes`` says for the longest with what precedes it, aligned to 64 bytes. The calling
   thread computes alone, or with the team while no other call does. ``prefixes``, one for each sequence, may be null;
   they are for causal decoders that pool the last token. The vectors are the same with and without, bit by bit. */
typedef void encode_fn(
    const struct tower *, const int32_t *ids, const int32_t *lengths, const struct prefix *prefixes, int64_t count,
    float *out, char *scratch, struct team *);
typedef int64_t scratch_fn(const struct tower *, int64_t count, int64_t tokens, int64_t longest, int members);

/* [rows, depth] times a packed matrix plus a bias of f32 → [rows, columns]: what a tower spends its time in, for tests
   and benchmarks. Activations are bf16 or f32. */
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
