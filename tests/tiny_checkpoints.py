"""Tiny checkpoints of every family in the real on-disk format, so that the real loading code runs without a download.

Weights are pseudo-random and the same everywhere, for ever: golden vectors depend on them. Nothing here needs torch.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tests.golden.texts import TEXTS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

HIDDEN, LAYERS, HEADS, KV_HEADS, INNER = 32, 2, 4, 2, 48

ENCODER: Json = {
    "architectures": ["XLMRobertaModel"],
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 130,
    "model_type": "xlm-roberta",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "type_vocab_size": 1,
}
DECODER: Json = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "max_position_embeddings": 128,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE: Json = {
    "factor": 4.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
    "rope_type": "llama3",
}


def bge_m3(folder: Path) -> None:
    """XLM-RoBERTa, CLS pooling, float32 in one file."""
    tokenizer = _unigram()
    _write(folder, {**ENCODER, "vocab_size": _size(tokenizer)}, tokenizer, "cls")
    write_safetensors(folder / "model.safetensors", _encoder_weights("bge-m3", _size(tokenizer)), "F32")


def e5(folder: Path) -> None:
    """XLM-RoBERTa, mean pooling, float16, names prefixed as in a model with a head."""
    tokenizer = _unigram()
    _write(folder, {**ENCODER, "vocab_size": _size(tokenizer), "torch_dtype": "float16"}, tokenizer, "mean")
    weights = _prefixed("roberta.", _encoder_weights("e5", _size(tokenizer)))
    write_safetensors(folder / "model.safetensors", weights, "F16")


def qwen3(folder: Path) -> None:
    """Qwen3: query and key norms, heads wider than hidden / heads, bfloat16 in two shards, ends in padding."""
    tokenizer = _byte_pairs("$A <|endoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    end = tokenizer.token_to_id("<|endoftext|>")
    config = {
        **DECODER,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 16,
        "rope_theta": 1000000,
        "bos_token_id": end,
        "eos_token_id": end,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": _size(tokenizer),
    }
    _write(folder, config, tokenizer, "lasttoken", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    _write_shards(folder, _decoder_weights("qwen3", _size(tokenizer), head_dim=16, qk_norm=True), "BF16")


def qwen3_8b(folder: Path) -> None:
    """The larger Qwen3: heads as wide as hidden / heads, float16 in one file, names below ``model.``"""
    qwen3(folder)
    for shard in folder.glob("model-*.safetensors*"):
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {"head_dim": HIDDEN // HEADS, "max_position_embeddings": 160}
    _write_json(folder / "config.json", config)
    weights = _decoder_weights("qwen3-8b", config["vocab_size"], head_dim=HIDDEN // HEADS, qk_norm=True)
    write_safetensors(folder / "model.safetensors", _prefixed("model.", weights), "F16")


def bge_en_icl(folder: Path, *, template: str = "<s> $A </s>") -> None:
    """Mistral: a sliding window shorter than the texts, float32 in two shards, names below ``model.``"""
    tokenizer = _byte_pairs(template, "<unk>", "<s>", "</s>")
    config = {
        **DECODER,
        "architectures": ["MistralModel"],
        "model_type": "mistral",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": 12,
        "vocab_size": _size(tokenizer),
    }
    extra = {"add_bos_token": True, "add_eos_token": True}
    _write(folder, config, tokenizer, "lasttoken", eos_token="</s>", pad_token="<unk>", **extra)
    _write_shards(folder, _prefixed("model.", _decoder_weights("bge-en-icl", _size(tokenizer))), "F32")


def bge_en_icl_without_end(folder: Path) -> None:
    """The same, as saved by a library that forgot the end token in tokenizer.json."""
    bge_en_icl(folder, template="<s> $A")


def nemotron_vl(folder: Path) -> None:
    """A bidirectional Llama below ``language_model.``, bfloat16, beside a vision tower that is not read."""
    tokenizer = _byte_pairs("<|begin_of_text|> $A", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    tower = {
        **DECODER,
        "architectures": ["LlamaBidirectionalModel"],
        "model_type": "llama_bidirec",
        "head_dim": HIDDEN // HEADS,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "pooling": "avg",
        "rope_scaling": LLAMA3_ROPE,
        "rope_theta": 500000.0,
        "vocab_size": _size(tokenizer),
    }
    config = {
        "architectures": ["LlamaNemotronVLModel"],
        "auto_map": {"AutoModel": "modeling_llama_nemotron_vl.LlamaNemotronVLModel"},
        "llm_config": tower,
        "model_type": "llama_nemotron_vl",
        "vision_config": {"hidden_size": 16, "model_type": "siglip_vision_model", "num_hidden_layers": 1},
    }
    _write(folder, config, tokenizer, None, eos_token="<|end_of_text|>", pad_token="<|eot_id|>")
    weights = {
        **_prefixed("language_model.", _decoder_weights("nemotron-vl", _size(tokenizer))),
        "vision_model.vision_model.embeddings.patch_embedding.weight": _numbers("vision", (16, 3, 2, 2)),
        "mlp1.0.weight": _numbers("mlp1", (16,)),
        "mlp1.1.weight": _numbers("mlp1.1", (HIDDEN, 16)),
    }
    write_safetensors(folder / "model.safetensors", weights, "BF16")


MAKERS: Mapping[str, Callable[[Path], None]] = {
    "bge-m3": bge_m3,
    "e5": e5,
    "qwen3": qwen3,
    "qwen3-8b": qwen3_8b,
    "bge-en-icl": bge_en_icl,
    "bge-en-icl-without-end": bge_en_icl_without_end,
    "nemotron-vl": nemotron_vl,
}
PROMPTS: Mapping[str, str] = {
    "bge-m3": "",
    "e5": "Instruct: Find it\nQuery: ",
    "qwen3": "Instruct: Find it\nQuery:",
    "qwen3-8b": "Instruct: Find it\nQuery:",
    "bge-en-icl": "<instruct>Find it\n<query>",
    "bge-en-icl-without-end": "<instruct>Find it\n<query>",
    "nemotron-vl": "query: ",
}
"""What a user of the real model puts before a query."""


def _numbers(name: str, shape: tuple[int, ...], scale: float = 0.3, offset: float = 0.0) -> Array:
    """float32, uniform in ``offset ± scale``, a function of the name alone."""
    count = int(np.prod(shape))
    raw = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * count), "<u2")
    return ((raw.astype(np.float32) / 32767.5 - 1) * scale + offset).astype(np.float32).reshape(shape)


def _encoder_weights(seed: str, vocab: int) -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocab, HIDDEN),
        "embeddings.position_embeddings.weight": (ENCODER["max_position_embeddings"], HIDDEN),
        "embeddings.token_type_embeddings.weight": (1, HIDDEN),
    }
    blocks = {"attention.self.query": (HIDDEN, HIDDEN), "attention.self.key": (HIDDEN, HIDDEN)}
    blocks |= {"attention.self.value": (HIDDEN, HIDDEN), "attention.output.dense": (HIDDEN, HIDDEN)}
    blocks |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
        for name, shape in blocks.items():
            shapes[f"{prefix}{name}.weight"] = shape
            shapes[f"{prefix}{name}.bias"] = shape[:1]
    weights = {name: _numbers(seed + name, shape) for name, shape in shapes.items()}
    for norm in norms:
        weights[f"{norm}.weight"] = _numbers(f"{seed}{norm}.weight", (HIDDEN,), 0.2, 1.0)
        weights[f"{norm}.bias"] = _numbers(f"{seed}{norm}.bias", (HIDDEN,), 0.1)
    return weights


def _decoder_weights(
    seed: str, vocab: int, *, head_dim: int = HIDDEN // HEADS, qk_norm: bool = False
) -> dict[str, Array]:
    weights = {"embed_tokens.weight": _numbers(f"{seed}embed", (vocab, HIDDEN), 1.0)}
    norms = {"norm.weight": HIDDEN}
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        shapes = {
            "self_attn.q_proj": (HEADS * head_dim, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * head_dim, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * head_dim, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * head_dim),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }
        for name, shape in shapes.items():
            weights[f"{prefix}{name}.weight"] = _numbers(f"{seed}{prefix}{name}", shape)
        norms |= {
            f"{prefix}input_layernorm.weight": HIDDEN,
            f"{prefix}post_attention_layernorm.weight": HIDDEN,
        }
        if qk_norm:
            norms |= {f"{prefix}self_attn.{n}_norm.weight": head_dim for n in ("q", "k")}
    return weights | {name: _numbers(seed + name, (size,), 0.2, 1.0) for name, size in norms.items()}


def _prefixed(prefix: str, weights: Mapping[str, Array]) -> dict[str, Array]:
    return {prefix + name: values for name, values in weights.items()}


def _unigram() -> Tokenizer:
    """As XLM-RoBERTa's: ``<s> A </s>``, pieces that start with a lower one eighth block."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted({c for text in TEXTS for c in text.replace(" ", "\u2581")})
    pieces = [*letters, "\u2581the", "\u2581is", "er", "in", "\u2581s", "ing", "on"]
    scores = [(piece, 0.0) for piece in special] + [(piece, -2.0 - len(piece) / 8) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([*scores, ("<mask>", 0.0)], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _byte_pairs(template: str, *special: str) -> Tokenizer:
    """Byte-level pairs, special tokens first, so any text has ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("\u0120", "the"), ("o", "n"), ("a", "n")]
    names = [*special, *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    used = [token for token in special if token in template.split()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, special.index(token)) for token in used]
    )
    return tokenizer


def _size(tokenizer: Tokenizer) -> int:
    return int(tokenizer.get_vocab_size(with_added_tokens=True))


def _write(
    folder: Path, config: Json, tokenizer: Tokenizer, pooling: str | None, **tokenizer_config: Any
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 10**30, **tokenizer_config})
    if pooling is None:
        return
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", entries)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {
        f"pooling_mode_{mode}": False for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    chosen = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}[pooling]
    flags = {**modes, f"pooling_mode_{chosen}": True}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **flags})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def _write_shards(folder: Path, weights: Mapping[str, Array], dtype: str) -> None:
    """Every other tensor in the second of two files, under an index."""
    names = list(weights)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, inside in files.items():
        write_safetensors(folder / file, {name: weights[name] for name in inside}, dtype)
    index = {"metadata": {}, "weight_map": {name: file for file, inside in files.items() for name in inside}}
    _write_json(folder / "model.safetensors.index.json", index)


def write_safetensors(path: Path, weights: Mapping[str, Array], dtype: str) -> None:
    header: Json = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, values in weights.items():
        raw = _encode(values, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": values.shape,
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    raw_header = json.dumps(header).encode()
    raw_header += b" " * (-len(raw_header) % 8)
    path.write_bytes(struct.pack("<Q", len(raw_header)) + raw_header + body)


def _encode(values: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def make_all(root: Path, names: Iterable[str] = MAKERS) -> dict[str, Path]:
    """Write checkpoints below ``root``; their folders by name."""
    for name in names:
        MAKERS[name](root / name)
    return {name: root / name for name in names}
