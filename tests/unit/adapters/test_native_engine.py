"""The kernels of our own: that every remainder of every loop is right, that they write where they may, and when they
are not what computes.
"""

import ctypes
import ctypes.util
import gc
import json
import os
import random
import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cpu import HAS_AVX512_BF16, needs_avx2, needs_avx512
from tests.minilm import minilm
from tests.tiny_checkpoints import MAKERS, write_safetensors

from vectoll import engines
from vectoll.adapters.checkpoints import Activation, Checkpoint, DType, TensorView, read_checkpoint
from vectoll.adapters.engines import openvino
from vectoll.adapters.engines.native import NativeEngine, load_engine, missing_for_native
from vectoll.adapters.engines.native import engine as engine_module
from vectoll.adapters.engines.native.engine import _Team
from vectoll.adapters.engines.native.packing import aligned, pack
from vectoll.adapters.engines.tensors import as_float32
from vectoll.catalog_file import read_models
from vectoll.domain.catalog import CheckpointFacts, Pooling, Precision
from vectoll.domain.errors import ConfigurationError
from vectoll.kernels import library
from vectoll.kernels.library import (
    AMX_BF16,
    BF16,
    F32,
    F32_AVX2,
    INT8,
    PREFIX_BLOCK,
    PRODUCTS,
    Prefix,
    Products,
    capabilities,
)
from vectoll.settings import EngineSettings, ModelSettings, Settings

Array = np.ndarray[Any, Any]
MODELS = ["bge-m3", "qwen3", "bge-en-icl", "nemotron-vl"]
"""An encoder, and decoders: causal with norms of queries and keys, with a sliding window, and with full attention."""
EACH = [pytest.param(p, marks=[] if p == "f32_avx2" else [needs_avx512]) for p in PRODUCTS]
OF_ELEMENTS = [p for p in EACH if p.values != ("int8",)]
"""What there are decoders in."""
GUARD = 4096
POOLINGS = [Pooling.MEAN, Pooling.CLS, Pooling.LAST]


pytestmark = needs_avx2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Heads of 8 and a feed-forward block of 48: both are padded."""
    folder = tmp_path_factory.mktemp("tiny")
    MAKERS["bge-m3"](folder)
    return read_checkpoint(folder)


def kernels(checkpoint: Checkpoint, products: str, **how: Any) -> NativeEngine:
    """Those for ``products``, one stream, whatever this CPU would choose."""
    has = F32_AVX2 if products == "f32_avx2" else capabilities()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "capabilities", lambda: has)
        return load_engine(checkpoint, precision=products.removesuffix("_avx2"), streams=1, **how)


def vectors(engine: Any, batch: Sequence[Sequence[int]]) -> Array:
    return np.array(engine.embed(batch, 0), np.float32)


def sequence(checkpoint: Checkpoint, length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed * 1000 + length)
    return [rng.randrange(checkpoint.architecture.vocab) for _ in range(length)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("model", [*MODELS, "qwen3-8b"])
def test_every_length_gives_what_openvino_gives_in_f32(
    tiny_of: Callable[[str], Checkpoint], model: str, pooling: Pooling
) -> None:
    checkpoint = tiny_of(model)
    exact = openvino.load_engine(checkpoint, pooling=pooling, precision="f32", streams=1)
    least_cosine = {"f32_avx2": 0.999999}
    if HAS_AVX512_BF16:
        least_cosine |= {"f32": 0.999999, "bf16": 0.999}
        least_cosine |= {"int8": 0.995} if checkpoint.architecture.family.is_encoder else {}
    engines = {products: kernels(checkpoint, products, pooling=pooling) for products in least_cosine}
    for length in range(1, checkpoint.architecture.positions + 1):
        other = vectors(exact, [sequence(checkpoint, length)])
        for products, engine in engines.items():
            one = vectors(engine, [sequence(checkpoint, length)])
            assert (one * other).sum() > least_cosine[products], (products, length)
            if products.startswith("f32"):
                assert np.abs(one - other).max() < 1e-5, (products, length)


@pytest.mark.parametrize("products", EACH)
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=12),
    pooling=st.sampled_from(POOLINGS),
    model=st.sampled_from(MODELS),
)
def test_a_vector_is_the_same_bit_by_bit_beside_any_others(
    tiny_of: Callable[[str], Checkpoint], products: str, lengths: list[int], pooling: Pooling, model: str
) -> None:
    checkpoint = tiny_of(model if products != "int8" else "bge-m3")
    engine = kernels(checkpoint, products, pooling=pooling)
    batch = [sequence(checkpoint, length, seed) for seed, length in enumerate(lengths)]
    together = engine.embed(batch, 0)
    assert [v.tobytes() for v in together] == [engine.embed([ids], 0)[0].tobytes() for ids in batch]


@pytest.mark.parametrize("products", EACH)
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 128) | st.integers(1, 4), min_size=1, max_size=6),
    members=st.integers(1, 3),
    pooling=st.sampled_from(POOLINGS),
    model=st.sampled_from(["minilm", *MODELS]),
)
def test_nothing_is_written_beyond_what_is_asked_for(
    tiny_of: Callable[[str], Checkpoint],
    products: str,
    lengths: list[int],
    members: int,
    pooling: Pooling,
    model: str,
) -> None:
    model = "minilm" if products == "int8" else model
    checkpoint = minilm() if model == "minilm" else tiny_of(model)
    engine = kernels(checkpoint, products, pooling=pooling)
    assert engine._packed
    team, tower, longest = _Team.create(engine_library(), members), engine._packed.tower, max(lengths)
    sequences = [np.array(sequence(checkpoint, length), np.int32) for length in lengths]

    def encode(sequences: Sequence[Array], prefixes: Any) -> Array:
        ids, sizes = np.concatenate(sequences), np.array(list(map(len, sequences)), np.int32)
        scratch = Guarded(engine._scratch_bytes(ctypes.byref(tower), len(sizes), len(ids), longest, members))
        out = Guarded(len(sizes) * engine.dims * 4)
        read = [ids.ctypes.data, sizes.ctypes.data, prefixes]
        written = [out.pointer, scratch.pointer]
        engine._encode(ctypes.byref(tower), *read, len(sizes), *written, team.pointer if team else None)
        assert scratch.is_intact()
        assert out.is_intact()
        vectors: Array = out.inside.view(np.float32).copy()
        assert np.isfinite(vectors).all()
        return vectors

    vectors = encode(sequences, None)
    if not engine._packed.block_bytes:
        return
    counts = [(length - 1) // PREFIX_BLOCK for length in lengths]
    blocks = [[Guarded(engine._packed.block_bytes) for _ in range(count)] for count in counts]
    pointers = [np.array([block.pointer for block in each], np.uint64) for each in blocks]
    for known in (False, True):
        prefixes = (Prefix * len(lengths))(
            *(
                Prefix(PREFIX_BLOCK * n * known, PREFIX_BLOCK * n * (not known), found.ctypes.data)
                for n, found in zip(counts, pointers, strict=True)
            )
        )
        cut = [ids[PREFIX_BLOCK * n * known :] for ids, n in zip(sequences, counts, strict=True)]
        assert np.array_equal(encode(cut, ctypes.addressof(prefixes)), vectors)
        assert all(block.is_intact() for each in blocks for block in each)


class Guarded:
    """Memory between bytes that nobody may touch."""

    def __init__(self, size: int) -> None:
        self._all = aligned(2 * GUARD + size)
        self._all[:] = 0xA5
        self.inside = self._all[GUARD : GUARD + size]
        self.pointer = self.inside.ctypes.data

    def is_intact(self) -> bool:
        return bool(
            (self._all[:GUARD] == 0xA5).all() and (self._all[GUARD + len(self.inside) :] == 0xA5).all()
        )


@pytest.mark.parametrize("products", [pytest.param("f32", marks=needs_avx512), "f32_avx2"])
@pytest.mark.parametrize("rows", [1, 5, 6, 7, 11, 12, 13, 25, 100])
@pytest.mark.parametrize(("columns", "depth"), [(32, 32), (96, 64), (64, 192)])
def test_a_product_is_the_product(products: Products, rows: int, columns: int, depth: int) -> None:
    rng = np.random.default_rng(rows)
    left, weight = (
        rng.standard_normal((rows, depth), np.float32),
        rng.standard_normal((columns, depth), np.float32),
    )
    bias, out = rng.standard_normal(columns, np.float32), np.empty((rows, columns), np.float32)
    packed = pack([stored(weight, DType.F32)], products)
    pointers = [array.ctypes.data for array in (left, packed, bias, out)]
    getattr(engine_library(), f"vectoll_product_{products}")(rows, columns, depth, *pointers)
    np.testing.assert_allclose(out, left @ weight.T + bias, rtol=1e-4, atol=1e-4)


@needs_avx512
def test_f32_is_the_same_bit_by_bit_by_avx2_and_by_avx512(tiny_of: Callable[[str], Checkpoint]) -> None:
    for checkpoint in (minilm(), *map(tiny_of, MODELS)):
        narrow, wide = kernels(checkpoint, "f32_avx2"), kernels(checkpoint, "f32")
        assert narrow._encode is not wide._encode
        for length in (1, 2, 5, 6, 7, 15, 16, 17, 33, 64, checkpoint.architecture.positions):
            ids = sequence(checkpoint, length)
            assert narrow.embed([ids], 0)[0].tobytes() == wide.embed([ids], 0)[0].tobytes(), length


def with_number(
    checkpoint: Checkpoint, folder: Path, number: float, names: Callable[[str], bool], at: int = 0
) -> Checkpoint:
    """A copy with another number ``at`` this place of the f32 tensors of these names."""
    shutil.copytree(checkpoint.folder, folder, dirs_exist_ok=True)
    for file in folder.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if names(name):
                start = 8 + size + entry["data_offsets"][0] + 4 * at
                data[start : start + 4] = np.float32(number).tobytes()
        file.write_bytes(data)
    return read_checkpoint(folder)


@pytest.mark.parametrize("products", EACH)
@pytest.mark.parametrize("number", [3e19, -3e19])
def test_gelu_of_a_number_whose_square_is_infinite_is_a_number(
    tiny: Checkpoint, tmp_path: Path, products: str, number: float
) -> None:
    checkpoint = with_number(tiny, tmp_path, number, "encoder.layer.1.intermediate.dense.bias".__eq__)
    assert np.isfinite(vectors(kernels(checkpoint, products), [[5, 6, 7]])).all()


@pytest.mark.parametrize(
    ("has", "precision", "products"),
    [
        (F32_AVX2, "auto", "f32_avx2"),
        (F32_AVX2, "f32", "f32_avx2"),
        (F32_AVX2 | F32, "auto", "f32"),
        (F32_AVX2 | F32 | BF16, "auto", "bf16"),
        (F32_AVX2 | F32 | BF16, "f32", "f32"),
        (F32_AVX2 | F32 | BF16 | INT8, "int8", "int8"),
    ],
)
def test_products_are_the_fastest_that_this_cpu_has(
    monkeypatch: pytest.MonkeyPatch, has: int, precision: str, products: str
) -> None:
    monkeypatch.setattr(engine_module, "capabilities", lambda: has)
    assert engine_module.products_of(Precision(precision)) == products


@pytest.mark.parametrize("products", EACH)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_team_of_any_size_gives_the_same_bits(products: str, pooling: Pooling) -> None:
    """From fewer tokens than members to more rows than are computed at once, one sequence and several."""
    several = [(1, 1), (3, 1, 2), (20,) * 12, (130, 1, 64)]
    batches = [(length,) for length in (1, 2, 3, 12, 13, 31, 64, 130, 131, 256, 512)] + several
    compare_teams(kernels(minilm(), products, pooling=pooling), minilm(), (2, 3, 8), batches)


@pytest.mark.parametrize("products", OF_ELEMENTS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("model", ["qwen3", "nemotron-vl"])
def test_a_team_gives_the_same_bits_of_a_decoder(
    tiny_of: Callable[[str], Checkpoint], model: str, products: str, pooling: Pooling
) -> None:
    """More members than heads of keys, and more rows than are computed at once."""
    batches = [(1,), (2,), (13,), (128,), (1, 1), (3, 1, 2), (128, 1, 60), (128,) * 80]
    checkpoint = tiny_of(model)
    compare_teams(kernels(checkpoint, products, pooling=pooling), checkpoint, (2, 3), batches)


def compare_teams(
    engine: NativeEngine, checkpoint: Checkpoint, sizes: Sequence[int], batches: Sequence[Sequence[int]]
) -> None:
    def computed() -> list[bytes]:
        return [
            vector.tobytes()
            for lengths in batches
            for vector in engine.embed([sequence(checkpoint, length) for length in lengths], 0)
        ]

    alone = computed()
    for size in sizes:
        engine._teams[0] = _Team.create(engine_library(), size)
        assert computed() == alone, size


_batches = st.one_of(
    st.lists(st.integers(1, 200), min_size=1, max_size=4),
    st.lists(st.integers(1, 3), min_size=20, max_size=60),
)


@settings(max_examples=10, deadline=None)
@given(
    batches=st.lists(_batches, min_size=3, max_size=4),
    pooling=st.sampled_from(POOLINGS),
    precision=st.sampled_from(["auto", "int8"] if HAS_AVX512_BF16 else ["auto"]),
)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_calls_side_by_side_give_the_same_bits(
    size: int, batches: list[list[int]], pooling: Pooling, precision: str
) -> None:
    """Whichever call has the team loses members at any of its meetings, to calls that come and go. The last is the one
    more than there are streams.
    """
    engine = load_engine(minilm(), streams=len(batches) - 1, pooling=pooling, precision=precision)
    batch_of = [[sequence(minilm(), length) for length in lengths] for lengths in batches]
    engine._teams[0] = None
    alone = [vectors(engine, batch).tobytes() for batch in batch_of]
    engine._teams[0] = _Team.create(engine_library(), size)

    def repeat(stream: int) -> set[bytes]:
        return {np.array(engine.embed(batch_of[stream], stream)).tobytes() for _ in range(8)}

    with ThreadPoolExecutor(len(batches)) as threads:
        assert list(threads.map(repeat, range(len(batches)))) == [{one} for one in alone]


def test_a_team_gives_its_cores_to_a_call_that_comes_later() -> None:
    before = threads_of_this_process()
    engine = load_engine(minilm(), precision="f32", streams=2)
    engine._teams[0] = _Team.create(engine_library(), 2)
    (helper,) = threads_of_this_process() - before
    batch = [sequence(minilm(), 512)] * 8
    engine.embed(batch, 0)
    half = cpu_ticks(helper)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(engine.embed, batch, 0)
        while cpu_ticks(helper) == half:
            assert not first.done(), "the helper was not asked"
        threads.submit(engine.embed, batch * 2, 1).result()
    assert cpu_ticks(helper) - half < half / 2, (
        "it computed less than half of what is its own when nothing else comes"
    )


def test_helpers_wake_on_other_cores_than_their_caller() -> None:
    """Put beside it, they compute in its pauses until the system moves them: 7 ms for a query of 1."""
    before, cores = threads_of_this_process(), os.sched_getaffinity(0)
    engine = load_engine(minilm(), streams=1)
    engine._teams[0] = _Team.create(engine_library(), 3)
    helpers = threads_of_this_process() - before
    assert len(helpers) == 2
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})
            engine.embed([[101]], 0)
            for helper in helpers:
                assert os.sched_getaffinity(helper) == (cores - {core} or cores)
    finally:
        os.sched_setaffinity(0, cores)


def test_a_team_helps_only_with_what_is_alone() -> None:
    before = threads_of_this_process()
    engine = load_engine(minilm(), precision="f32", streams=2)
    engine._teams[0] = _Team.create(engine_library(), 2)
    (helper,) = threads_of_this_process() - before
    batch = [sequence(minilm(), 512)] * 8
    engine.embed(batch, 0, is_alone=False)
    assert cpu_ticks(helper) == 0
    engine.embed(batch, 0)
    assert cpu_ticks(helper) > 0


def test_each_stream_of_a_large_model_has_several_cores_whatever_else_runs(
    monkeypatch: pytest.MonkeyPatch, tiny_of: Callable[[str], Checkpoint]
) -> None:
    monkeypatch.setattr("vectoll.adapters.engines.cores.LARGE_PARAMETERS", 1)
    for cores in (4, 12):
        monkeypatch.setattr("vectoll.adapters.engines.cores.available_cores", lambda: cores)  # noqa: B023
        monkeypatch.setattr(engine_module, "available_cores", lambda: cores)  # noqa: B023
        before = threads_of_this_process()
        engine = load_engine(tiny_of("qwen3"), streams=0, precision="f32")
        assert engine.streams == cores // 4
        helpers = threads_of_this_process() - before
        assert len(helpers) == 3 * engine.streams
        ran = {helper: nanoseconds_run(helper) for helper in helpers}
        for stream in range(engine.streams):
            engine.embed([sequence(tiny_of("qwen3"), 128)] * 20, stream, is_alone=False)
        assert all(nanoseconds_run(helper) > ran[helper] for helper in helpers)
        assert len(engine.embed([sequence(tiny_of("qwen3"), 16)], engine.streams)) == 1  # by no team
        engine.close()


def test_a_team_ends_with_its_engine() -> None:
    before = threads_of_this_process()
    engine = load_engine(minilm(), streams=4)
    engine._teams[0] = _Team.create(engine_library(), 4)
    engine.embed([[101]], 0)
    assert len(threads_of_this_process() - before) == 3
    engine.close()
    gc.collect()
    assert threads_of_this_process() == before


@pytest.mark.parametrize(("streams", "cores", "size"), [(1, 4, None), (4, 2, 2), (2, 4, 2), (20, 20, 8)])
def test_a_team_is_no_larger_than_the_machine(
    monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint, streams: int, cores: int, size: int | None
) -> None:
    monkeypatch.setattr(engine_module, "available_cores", lambda: cores)
    team = load_engine(tiny, streams=streams)._teams[0]
    assert (team and team.size) == size


def test_without_threads_left_a_lone_query_has_one_core(
    monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint
) -> None:
    monkeypatch.setattr(engine_library(), "vectoll_team_new", lambda *_: None)
    engine = load_engine(tiny, streams=2)
    assert engine._teams == [None]
    assert np.isfinite(vectors(engine, [[5, 6]])).all()


def threads_of_this_process() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def nanoseconds_run(thread: int) -> int:
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])


def cpu_ticks(thread: int) -> int:
    """CPU time in user mode; a tick is 10 ms."""
    return int(Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[11])


def engine_library() -> ctypes.CDLL:
    kernels = library.load_library()
    assert kernels
    return kernels


def stored(values: Array, dtype: DType) -> TensorView:
    """A float32 array as a checkpoint of that type has it."""
    if dtype is DType.F16:
        values = values.astype(np.float16)
    elif dtype is DType.BF16:
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    return TensorView(dtype, values.shape, values.data.cast("B"))


@needs_avx512
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16])
def test_matrices_are_packed_into_panels_one_below_the_other(dtype: DType) -> None:
    """Every number of these is exact in each of the types."""
    rng = np.random.default_rng(1)
    parts = [rng.integers(-128, 128, (columns, 96)).astype(np.float32) for columns in (32, 96)]
    views = [stored(part, dtype) for part in parts]
    rows = np.concatenate(parts)
    in_f32 = pack(views, "f32").view(np.float32).reshape(4, 96, 32)
    assert (in_f32 == rows.reshape(4, 32, 96).transpose(0, 2, 1)).all()
    in_f32 = pack(views, "f32_avx2").view(np.float32).reshape(8, 96, 16)
    assert (in_f32 == rows.reshape(8, 16, 96).transpose(0, 2, 1)).all()
    in_bf16 = pack(views, "bf16").view(np.uint16).reshape(4, 48, 32, 2)
    assert (from_bf16(in_bf16) == rows.reshape(4, 32, 48, 2).transpose(0, 2, 1, 3)).all()


@needs_avx512
def test_bytes_are_packed_into_panels_that_end_with_their_scales() -> None:
    """Columns of whole numbers up to ±127 times a power of two are exact."""
    rng = np.random.default_rng(1)
    whole = rng.integers(-126, 127, (64, 96)).astype(np.float32)
    whole[:, 5] = 127
    scales = np.exp2(rng.integers(-8, 8, 64)).astype(np.float32)
    packed = pack([stored(whole * scales[:, None], DType.F32)], "int8").reshape(2, (96 // 4 + 2) * 128)
    weights, behind = packed[:, : 96 * 32].view(np.int8), packed[:, 96 * 32 :].copy().view(np.float32)
    assert (weights.reshape(2, 24, 32, 4) == whole.reshape(2, 32, 24, 4).transpose(0, 2, 1, 3)).all()
    assert (behind.reshape(2, 2, 32)[:, 0].ravel() == scales).all()
    assert (behind.reshape(2, 2, 32)[:, 1].ravel() == scales * whole.sum(1)).all()


@needs_avx512
def test_layer_norms_that_make_some_inputs_large_do_not_spoil_int8(tiny: Checkpoint, tmp_path: Path) -> None:
    """As those of XLM-RoBERTa do (arXiv:2105.06990): one step for a whole row would be too coarse for the rest."""

    def is_inner_norm(name: str) -> bool:
        return name.endswith("LayerNorm.weight") and name != "encoder.layer.1.output.LayerNorm.weight"

    checkpoint = with_number(tiny, tmp_path, 60, is_inner_norm, at=7)
    batch = [sequence(checkpoint, length) for length in (3, 10, 30)]
    exact, int8 = (vectors(load_engine(checkpoint, precision=p, streams=1), batch) for p in ("f32", "int8"))
    assert (exact * int8).sum(1).min() > 0.99999, "0.99997 without"


def from_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@needs_avx512
def test_bf16_is_the_nearest_and_ties_go_to_even() -> None:
    values = np.zeros((32, 32), np.float32)
    values[0, :6] = [1, 1.00390625, 1.01171875, -1.0039064, 3.4e38, np.nan]
    first = from_bf16(pack([stored(values, DType.F32)], "bf16").view(np.uint16).reshape(16, 32, 2))[
        :3, 0
    ].ravel()
    assert first[:5].tolist() == [1, 1, 1.015625, -1.0078125, np.float32(np.inf)]
    assert np.isnan(first[5]), "still not a number"


@pytest.mark.parametrize("products", EACH)
@pytest.mark.parametrize(
    "name",
    [
        "attention.self.value.weight",
        "attention.self.value.bias",
        "attention.output.dense.weight",
        "intermediate.dense.weight",
        "intermediate.dense.bias",
        "output.dense.weight",
    ],
)
def test_a_weight_that_is_not_finite_is_not_hidden(
    tiny: Checkpoint, tmp_path: Path, products: str, name: str
) -> None:
    checkpoint = with_number(tiny, tmp_path, np.nan, f"encoder.layer.1.{name}".__eq__)
    engine = kernels(checkpoint, products)
    assert not np.isfinite(vectors(engine, [[5, 6, 7]])).all()


@pytest.mark.parametrize("products", OF_ELEMENTS)
@pytest.mark.parametrize(
    "name",
    [
        "self_attn.q_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
        "post_attention_layernorm.weight",
    ],
)
def test_a_decoders_weight_that_is_not_finite_is_not_hidden(
    tiny_of: Callable[[str], Checkpoint], tmp_path: Path, products: str, name: str
) -> None:
    checkpoint = with_number(tiny_of("bge-en-icl"), tmp_path, np.nan, f"model.layers.1.{name}".__eq__)
    assert not np.isfinite(vectors(kernels(checkpoint, products), [[5, 6, 7]])).all()


@pytest.mark.parametrize("products", OF_ELEMENTS)
@pytest.mark.parametrize("number", [3e4, -3e4])
def test_a_gate_far_from_zero_is_open_or_shut(
    tiny_of: Callable[[str], Checkpoint], tmp_path: Path, products: str, number: float
) -> None:
    """Beyond what an exponential in f32 can be."""
    checkpoint = with_number(
        tiny_of("bge-en-icl"), tmp_path, number, "model.layers.1.mlp.gate_proj.weight".__eq__
    )
    batch = [sequence(checkpoint, length) for length in (1, 5, 30)]
    exact = vectors(openvino.load_engine(checkpoint, precision="f32", streams=1), batch)
    assert (vectors(kernels(checkpoint, products), batch) * exact).sum(1).min() > 0.999


def test_biases_of_a_decoder_count(tiny_of: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    """The catalogue's have none; a Llama may have them."""
    checkpoint = tiny_of("nemotron-vl")
    rng = np.random.default_rng(3)
    sizes = {"self_attn.q_proj": 32, "self_attn.k_proj": 16, "self_attn.v_proj": 16, "self_attn.o_proj": 32}
    sizes |= {"mlp.gate_proj": 48, "mlp.up_proj": 48, "mlp.down_proj": 32}
    weights = {name: as_float32(view) for name, view in checkpoint.open_weights().items()}
    weights |= {
        f"layers.{layer}.{name}.bias": rng.standard_normal(size, np.float32)
        for layer in range(2)
        for name, size in sizes.items()
    }
    shutil.copytree(checkpoint.folder, tmp_path, dirs_exist_ok=True)
    write_safetensors(tmp_path / "model.safetensors", weights, "F32")
    with pytest.raises(ConfigurationError, match=r"q_proj\.bias, but config\.json says nothing of it"):
        read_checkpoint(tmp_path).open_weights()
    config = json.loads((tmp_path / "config.json").read_text())
    config["llm_config"] |= {"attention_bias": True, "mlp_bias": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    biased = read_checkpoint(tmp_path)
    ids = [sequence(checkpoint, 20)]
    exact = vectors(openvino.load_engine(biased, precision="f32", streams=1), ids)
    assert np.abs(vectors(kernels(biased, "f32_avx2"), ids) - exact).max() < 1e-5
    assert np.abs(vectors(kernels(checkpoint, "f32_avx2"), ids) - exact).max() > 1e-3


def test_what_a_long_batch_needs_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(minilm(), streams=1)
    engine.embed([[101] * 64], 0)
    kept = len(engine._scratch[0])
    assert kept
    engine.embed([[101] * 8], 0)
    assert len(engine._scratch[0]) == kept
    monkeypatch.setattr(engine_module, "KEPT_SCRATCH_BYTES", kept)
    engine.embed([[101] * 512], 0)
    assert len(engine._scratch[0]) == kept


def test_a_closed_engine_holds_no_weights() -> None:
    engine = load_engine(minilm(), streams=2)
    packed = weakref.ref(engine._packed)
    assert packed() is not None
    engine.close()
    gc.collect()
    assert packed() is None


def test_weights_outlive_a_call_that_is_running_when_the_engine_is_closed() -> None:
    engine = load_engine(minilm(), streams=1)
    packed, encode = weakref.ref(engine._packed), engine._encode
    alive: list[bool] = []

    def close_first(*arguments: object) -> None:
        engine.close()
        gc.collect()
        alive.append(packed() is not None)
        encode(*arguments)

    engine._encode = close_first
    assert np.isfinite(vectors(engine, [[101, 102]])).all()
    assert alive == [True]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"vocab_size": 10_000},
            r"word_embeddings.weight has the shape \[.*, 32\] where config.json asks for \[10000, 32\]",
        ),
        ({"max_position_embeddings": 131}, r"position_embeddings"),
        ({"intermediate_size": 32}, r"intermediate\.dense\.weight has the shape \[48, 32\]"),
        ({"intermediate_size": 64}, r"intermediate\.dense\.weight has the shape \[48, 32\]"),
        ({"intermediate_size": 0}, r"must be positive"),
        ({"hidden_size": 64}, r"has the shape \[.*, 32\] where config.json asks for \[.*, 64\]"),
        ({"num_hidden_layers": 0}, r"must be positive"),
    ],
)
def test_a_checkpoint_whose_weights_are_not_what_its_config_says_is_refused(
    tiny: Checkpoint, tmp_path: Path, change: dict[str, int], why: str
) -> None:
    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigurationError, match=why):
        load_engine(read_checkpoint(tmp_path), streams=1)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.LayerNorm.bias",
        "encoder.layer.1.output.dense.bias",
        "encoder.layer.0.attention.self.key.bias",
    ],
)
def test_a_vector_of_another_size_is_refused(tiny: Checkpoint, tmp_path: Path, name: str) -> None:
    """As if it were a matrix: the bytes stay as they are."""
    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    data = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header[name]["shape"] = [2, 16]
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(ConfigurationError, match=r"the weight .*bias has the shape \[2, 16\]"):
        load_engine(read_checkpoint(tmp_path), streams=1)


@needs_avx512
def test_a_cpu_with_amx_keeps_openvino_unless_the_operator_insists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_module, "capabilities", lambda: F32 | BF16 | AMX_BF16)
    assert load_tiny(tmp_path).runtime == "openvino"
    assert load_tiny(tmp_path, precision="f32").runtime == "native"
    assert load_tiny(tmp_path, cpu_engine="native").runtime == "native"


def test_threads_that_compute_step_back_but_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: list[str] = []
    monkeypatch.setattr(engine_module, "step_back", lambda: stepped.append(threading.current_thread().name))
    engine = load_engine(minilm(), streams=1)

    def work() -> None:
        for _ in range(3):
            engine.embed([[101]], 0)

    work()
    thread = threading.Thread(target=work, name="computes")
    thread.start()
    thread.join()
    assert stepped == ["computes"]


@pytest.mark.parametrize(
    ("has", "precision", "change", "why"),
    [
        (0, "auto", {}, "kernels were not built"),
        (AMX_BF16, "auto", {}, "neither AVX-512 nor AVX2"),
        (F32_AVX2, "bf16", {}, "no bf16"),
        (F32_AVX2, "int8", {}, "AVX512_VNNI"),
        (F32_AVX2, "auto", {}, None),
        (F32_AVX2, "f32", {}, None),
        (F32, "bf16", {}, "no bf16"),
        (F32 | BF16, "int8", {}, "AVX512_VNNI"),
        (F32 | BF16 | INT8, "int8", {}, None),
        (F32 | BF16, "auto", {"layers": 0}, "must be positive"),
        (F32 | BF16, "auto", {"intermediate": 0}, "must be positive"),
        (F32 | BF16, "auto", {"heads": 7}, "do not share"),
        (F32 | BF16 | AMX_BF16, "auto", {}, None),
        (F32 | BF16, "auto", {"activation": Activation.RELU}, "relu"),
        (F32 | BF16, "auto", {"hidden": 100}, "hidden size 100"),
        (F32 | BF16 | AMX_BF16, "f32", {}, None),
        (F32, "auto", {}, None),
        (F32 | BF16, "bf16", {}, None),
    ],
)
def test_where_the_kernels_cannot_compute_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, has: int, precision: str, change: dict[str, Any], why: str | None
) -> None:
    monkeypatch.setattr(engine_module, "capabilities", lambda: has)
    checkpoint = replace(minilm(), architecture=replace(minilm().architecture, **change))
    said = missing_for_native(checkpoint, None, Precision(precision))
    assert said == why if why is None else said is not None and why in said
    if why is not None:
        with pytest.raises(ConfigurationError, match=why):
            load_engine(checkpoint, precision=precision)


def test_a_decoder_in_bytes_and_a_pooling_that_nothing_says_are_not_for_the_kernels(
    monkeypatch: pytest.MonkeyPatch, tiny_of: Callable[[str], Checkpoint]
) -> None:
    monkeypatch.setattr(engine_module, "capabilities", lambda: F32 | BF16 | INT8)
    decoder = tiny_of("qwen3")
    assert "products of bytes are for encoders" in str(missing_for_native(decoder, None, Precision.INT8))
    gelu = replace(decoder, architecture=replace(decoder.architecture, activation=Activation.GELU_TANH))
    assert "gelu_tanh is not silu" in str(missing_for_native(gelu, None, Precision.AUTO))
    odd = replace(decoder, architecture=replace(decoder.architecture, head_dim=15))
    assert "no halves" in str(missing_for_native(odd, None, Precision.AUTO))
    assert missing_for_native(decoder, None, Precision.AUTO) is None
    assert "pooling" in str(missing_for_native(replace(minilm(), pooling=None), None, Precision.AUTO))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m: m.setattr(library, "LIBRARY", Path("/nowhere/_kernels.so")),
        lambda m: m.setattr(library, "LIBRARY", Path(ctypes.util.find_library("m") or "libm.so.6")),
        lambda m: m.setattr(library, "checksum", lambda: 1),
    ],
)
def test_without_kernels_of_this_version_openvino_computes(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    break_it(monkeypatch)
    library.load_library.cache_clear()
    try:
        assert library.capabilities() == 0
        assert isinstance(load_tiny(tmp_path).engine, openvino.OpenVinoEngine)
        with pytest.raises(ConfigurationError, match=r"not built.*engine\.cpu_engine is native"):
            load_tiny(tmp_path, cpu_engine="native")
    finally:
        library.load_library.cache_clear()


def test_an_encoder_is_computed_by_the_kernels_unless_the_operator_says_openvino(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    assert isinstance(loaded.engine, NativeEngine)
    assert (loaded.shape.padded, loaded.shape.alike, loaded.runtime) == (False, False, "native")
    assert loaded.engine.computed_tokens([3, 4]) == 7
    assert isinstance(load_tiny(tmp_path, cpu_engine="openvino").engine, openvino.OpenVinoEngine)


def load_tiny(folder: Path, **how: str) -> engines.LoadedEngine:
    """The tiny XLM-RoBERTa as it would be served."""
    if not (folder / "config.json").exists():
        MAKERS["bge-m3"](folder)
    entry = ModelSettings(id="tiny", path=str(folder))
    facts = CheckpointFacts("", Pooling.CLS, 32, 128)
    spec = read_models(Settings(models=(entry,)), lambda *_: facts).catalog["tiny"]
    return engines.load_engine(spec, EngineSettings(device="cpu", **how))  # type: ignore[arg-type]
