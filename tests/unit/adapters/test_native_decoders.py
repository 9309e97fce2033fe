"""Decoders of any shape on the kernels of our own, against forty lines of numpy in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.cpu import HAS_AVX512_BF16, needs_avx2

from vectoll.adapters.checkpoints import (
    Activation,
    Architecture,
    Attention,
    Family,
    Rope,
    Weights,
    inverse_frequencies,
)
from vectoll.adapters.checkpoints.safetensors import Entry
from vectoll.adapters.engines.native import NativeEngine
from vectoll.domain.catalog import Pooling
from vectoll.domain.identity import NOBODY
from vectoll.kernels.library import Products

Array = np.ndarray[Any, Any]
VOCABULARY, POSITIONS = 50, 128

pytestmark = needs_avx2


@dataclass(frozen=True)
class Case:
    """A decoder, and how its random weights are made."""

    architecture: Architecture
    has_biases: bool
    sharpness: float
    """By how much queries and keys are larger than usual: what attention prefers, and by how much."""


def architecture_of(**sizes: Any) -> Architecture:
    usual: dict[str, Any] = {"family": Family.LLAMA, "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2}
    usual |= {"head_dim": 16, "intermediate": 70, "vocab": VOCABULARY, "positions": POSITIONS}
    usual |= {"norm_eps": 1e-5, "activation": Activation.SILU, "attention": Attention.CAUSAL}
    return Architecture(**(usual | {"rope": Rope(1e4)} | sizes))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv_heads = draw(st.integers(1, 3))
    attention = draw(st.sampled_from(Attention))
    is_causal = attention is Attention.CAUSAL
    return Case(
        architecture_of(
            family=draw(st.sampled_from([Family.LLAMA, Family.QWEN3])),
            layers=draw(st.integers(1, 3)),
            hidden=draw(st.sampled_from([32, 64, 96])),
            heads=kv_heads * draw(st.integers(1, 4)),
            kv_heads=kv_heads,
            head_dim=draw(st.sampled_from([2, 8, 30, 32, 34, 64, 80, 96, 100, 128])),
            intermediate=draw(st.integers(1, 96)),
            norm_eps=draw(st.sampled_from([1e-6, 1e-2])),
            attention=attention,
            sliding_window=draw(st.none() | st.integers(1, 70)) if is_causal else None,
        ),
        draw(st.booleans()),
        draw(st.sampled_from([1.0, 12.0])),
    )


def tensors_of(case: Case) -> dict[str, Array]:
    a, rng = case.architecture, np.random.default_rng(1)
    width, kv_width = a.heads * a.head_dim, a.kv_heads * a.head_dim
    found = {"embed_tokens.weight": rng.standard_normal((a.vocab, a.hidden))}
    norms = {"norm": a.hidden}
    for layer in range(a.layers):
        at = f"layers.{layer}."
        attention, mlp = f"{at}self_attn.", f"{at}mlp."
        shapes = {f"{attention}q_proj": (width, a.hidden), f"{attention}k_proj": (kv_width, a.hidden)}
        shapes |= {f"{attention}v_proj": (kv_width, a.hidden), f"{attention}o_proj": (a.hidden, width)}
        shapes |= {f"{mlp}{name}_proj": (a.intermediate, a.hidden) for name in ("gate", "up")}
        shapes |= {f"{mlp}down_proj": (a.hidden, a.intermediate)}
        for name, shape in shapes.items():
            scale = case.sharpness if name.endswith(("q_proj", "k_proj")) else 1
            found[f"{name}.weight"] = rng.standard_normal(shape) * shape[1] ** -0.5 * scale
            if case.has_biases:
                found[f"{name}.bias"] = rng.standard_normal(shape[0]) * 0.3
        norms |= {f"{at}input_layernorm": a.hidden, f"{at}post_attention_layernorm": a.hidden}
        if a.family is Family.QWEN3:
            norms |= {f"{attention}{name}_norm": a.head_dim for name in ("q", "k")}
    found |= {f"{name}.weight": 1 + 0.3 * rng.standard_normal(size) for name, size in norms.items()}
    return {name: values.astype(np.float32) for name, values in found.items()}


def weights_of(tensors: Mapping[str, Array]) -> Weights:
    return Weights({
        name: (memoryview(bytearray(x.tobytes())), Entry("F32", x.shape, 0, x.nbytes))
        for name, x in tensors.items()
    })  # fmt: skip


def exact(case: Case, tensors: Mapping[str, Array], ids: Sequence[int], pooling: Pooling) -> Any:
    """As transformers' modelling files of Llama, Mistral and Qwen3 define it, in float64."""
    a, count = case.architecture, len(ids)
    w = {name: values.astype(np.float64) for name, values in tensors.items()}
    assert a.rope
    angles = np.outer(np.arange(count), inverse_frequencies(a.rope, a.head_dim))
    cosines, sines = (np.concatenate([f(angles), f(angles)], 1) for f in (np.cos, np.sin))
    query, key = np.arange(count)[:, None], np.arange(count)[None]
    is_seen = (key <= query) & (key > query - (a.sliding_window or count))
    is_seen |= a.attention is Attention.FULL

    def rms(x: Array, name: str) -> Any:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + a.norm_eps) * w[f"{name}.weight"]

    def linear(x: Array, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def heads(x: Array, number: int) -> Any:
        return x.reshape(count, number, a.head_dim).transpose(1, 0, 2)

    def turn(x: Array) -> Any:
        half = a.head_dim // 2
        return x * cosines + np.concatenate([-x[..., half:], x[..., :half]], -1) * sines

    x = w["embed_tokens.weight"][list(ids)]
    for layer in range(a.layers):
        at, attention = f"layers.{layer}.", f"layers.{layer}.self_attn."
        normed = rms(x, f"{at}input_layernorm")
        q = heads(linear(normed, f"{attention}q_proj"), a.heads)
        k, v = (heads(linear(normed, f"{attention}{n}_proj"), a.kv_heads) for n in ("k", "v"))
        if a.family is Family.QWEN3:
            q, k = rms(q, f"{attention}q_norm"), rms(k, f"{attention}k_norm")
        k, v = (np.repeat(each, a.heads // a.kv_heads, 0) for each in (turn(k), v))
        scores = np.where(is_seen, turn(q) @ k.transpose(0, 2, 1) * a.head_dim**-0.5, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + linear(seen.transpose(1, 0, 2).reshape(count, -1), f"{attention}o_proj")
        normed = rms(x, f"{at}post_attention_layernorm")
        gate = linear(normed, f"{at}mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")
    states = rms(x, "norm")
    vector = {Pooling.CLS: states[0], Pooling.LAST: states[-1], Pooling.MEAN: states.mean(0)}[pooling]
    return vector / np.linalg.norm(vector)


PRODUCTS: dict[Products, float] = {"f32_avx2": 0.999999}
if HAS_AVX512_BF16:
    PRODUCTS |= {"f32": 0.999999, "bf16": 0.99}
NARROW = Case(architecture_of(sliding_window=3), has_biases=False, sharpness=12)
"""A window within one block of 16 keys, before which lie keys that score far more than all in it."""


@settings(max_examples=150, deadline=None)
@given(
    case=cases(),
    lengths=st.lists(st.integers(1, POSITIONS), min_size=1, max_size=4),
    pooling=st.sampled_from([Pooling.CLS, Pooling.MEAN, Pooling.LAST]),
)
@example(NARROW, [40, 100], Pooling.LAST)
@example(replace(NARROW, architecture=architecture_of(sliding_window=1)), [5, 20], Pooling.MEAN)
def test_a_decoder_of_any_shape_gives_what_numpy_gives_in_float64(
    case: Case, lengths: list[int], pooling: Pooling
) -> None:
    tensors, rng = tensors_of(case), np.random.default_rng(2)
    batch = [rng.integers(VOCABULARY, size=length).tolist() for length in lengths]
    wanted = [exact(case, tensors, ids, pooling) for ids in batch]
    for products, least in PRODUCTS.items():
        engine = NativeEngine(
            case.architecture, weights_of(tensors), pooling, products=products, streams=1, prefix_bytes=2**24
        )
        vectors = np.array(engine.embed(batch, 0))
        for _ in range(3):  # the last time, all but what the last tokens need is known
            assert np.array_equal(np.array(engine.embed(batch, 0, callers=[NOBODY] * len(batch))), vectors)
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
        if (
            case.sharpness == 1 or products != "bf16"
        ):  # what bf16 rounds away may be what sharp attention chooses by
            assert (vectors * wanted).sum(1).min() > least, products


@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
def test_a_qwen3_without_the_norms_of_its_heads_is_refused(name: str) -> None:
    case = Case(architecture_of(family=Family.QWEN3), has_biases=False, sharpness=1)
    tensors = tensors_of(case)
    del tensors[f"layers.1.self_attn.{name}.weight"]
    with pytest.raises(KeyError, match=f"{name}.weight"):
        NativeEngine(case.architecture, weights_of(tensors), Pooling.LAST, products="f32_avx2", streams=1)
