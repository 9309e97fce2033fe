"""The parts of the torch engine that a whole vector does not show."""

import math
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_checkpoints import MAKERS
from torch._subclasses.fake_tensor import FakeTensorMode

from vectoll.adapters.checkpoints import Activation, Architecture, Attention, Family, read_checkpoint
from vectoll.adapters.engines.torch import engine as engine_module
from vectoll.adapters.engines.torch.attention import flash_attention, segmented_attention
from vectoll.adapters.engines.torch.engine import (
    MAX_BATCH_TOKENS,
    MIN_BATCH_TOKENS,
    TorchEngine,
    _batch_tokens,
)
from vectoll.adapters.engines.torch.kernels import Kernels, can_run, compiled_kernels, set_compiler
from vectoll.adapters.engines.torch.packing import Packer, Segments
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError


def shape(**changes: Any) -> Architecture:
    """BERT-base unless told otherwise."""
    sizes: dict[str, Any] = {
        "family": Family.BERT,
        "layers": 12,
        "hidden": 768,
        "heads": 12,
        "kv_heads": 12,
        "head_dim": 64,
        "intermediate": 3072,
        "vocab": 30522,
        "positions": 512,
        "norm_eps": 1e-12,
        "activation": Activation.GELU,
        "attention": Attention.FULL,
    }
    return Architecture(**(sizes | changes))


QWEN3_8B = shape(
    family=Family.QWEN3, layers=36, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=12288
)


def segments(*lengths: int) -> Segments:
    return Segments(torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32), max(lengths))


def naive_attention(q: Any, k: Any, v: Any, behind: int, ahead: int) -> Any:
    """One sequence, term by term, in float64; queries are aligned with the end of the keys."""
    group = q.shape[1] // k.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for i in range(len(q)):
        at = len(k) - len(q) + i
        low = 0 if behind < 0 else max(0, at - behind)
        high = len(k) if ahead < 0 else min(len(k), at + ahead + 1)
        for head in range(q.shape[1]):
            keys, values = k[low:high, head // group].double(), v[low:high, head // group].double()
            weights = torch.softmax(keys @ q[i, head].double() / math.sqrt(q.shape[2]), 0)
            out[i, head] = weights @ values
    return out


@pytest.mark.parametrize(("behind", "ahead"), [(-1, -1), (-1, 0), (2, 0)])
@pytest.mark.parametrize("q_lengths", [(5, 1, 9), (1, 1, 1)])
def test_segmented_attention_is_attention_within_each_sequence(
    q_lengths: tuple[int, ...], behind: int, ahead: int
) -> None:
    torch.manual_seed(1)
    k_lengths = (5, 1, 9)
    q, k, v = torch.randn(sum(q_lengths), 4, 8), torch.randn(15, 2, 8), torch.randn(15, 2, 8)
    ours = segmented_attention(
        q, k, v, segments(*q_lengths), segments(*k_lengths), behind=behind, ahead=ahead
    )
    parts = zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths), strict=True)
    theirs = torch.cat([naive_attention(*part, behind, ahead) for part in parts])
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("behind", "ahead"), [(-1, -1), (-1, 0), (6, 0)])
@pytest.mark.parametrize("q_tokens", [10, 2])
def test_flash_attention_is_a_call_that_torch_accepts(q_tokens: int, behind: int, ahead: int) -> None:
    """Shapes and arguments only: the kernel itself needs a GPU, where test_torch_engine.py compares its vectors."""
    with FakeTensorMode():
        fused = torch.empty(10, 8, 64, dtype=torch.bfloat16)
        q, k, v = fused[:q_tokens, :4], fused[:, 4:6], fused[:, 6:]
        starts = torch.empty(3, dtype=torch.int32)
        out = flash_attention(q, k, v, Segments(starts, 1), Segments(starts, 7), behind=behind, ahead=ahead)
        assert (out.shape, out.dtype) == ((q_tokens, 4, 64), torch.bfloat16)


def test_a_batch_is_staged_as_ids_positions_starts_and_rows() -> None:
    batch = [[7, 8, 9], [4], [5, 6]]
    packer = Packer(shape(), 10, Pooling.LAST, torch.device("cpu"))
    packed = packer.upload(packer.pack(batch), sequences=3, longest=3)
    assert packed.ids.tolist() == [7, 8, 9, 4, 5, 6]
    assert packed.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert (packed.segments.starts.tolist(), packed.segments.longest) == ([0, 3, 4, 6], 3)
    assert packed.rows is not None
    assert packed.rows.tolist() == [2, 3, 5]
    assert packed.row_segments.starts.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("pooling", "rows"), [(Pooling.CLS, [0, 3, 4]), (Pooling.MEAN, None)])
def test_pooling_chooses_the_rows(pooling: Pooling, rows: list[int] | None) -> None:
    packer = Packer(shape(), 10, pooling, torch.device("cpu"))
    packed = packer.upload(packer.pack([[7, 8, 9], [4], [5, 6]]), sequences=3, longest=3)
    assert (None if packed.rows is None else packed.rows.tolist()) == rows


def test_robertas_positions_start_after_the_padding_id_and_skip_padding() -> None:
    roberta = shape(family=Family.XLM_ROBERTA, position_offset=2)
    packer = Packer(roberta, 10, Pooling.CLS, torch.device("cpu"))
    packed = packer.upload(packer.pack([[5, 6], [1, 5, 1, 1, 6], [1]]), sequences=3, longest=5)
    assert packed.positions.tolist() == [2, 3, 1, 2, 1, 1, 3, 1]


@pytest.mark.parametrize("ids", [(5, 6), np.array([5, 6]), [5, 6]])
def test_any_sequence_of_ids_packs(ids: Sequence[int]) -> None:
    packer = Packer(shape(), 10, Pooling.CLS, torch.device("cpu"))
    assert packer.pack([ids]).tolist() == [5, 6, 0, 1, 0, 2, 0]


def test_a_refusal_repeats_no_ids() -> None:
    packer = Packer(shape(), 10, Pooling.CLS, torch.device("cpu"))
    with pytest.raises(ValueError, match="outside") as refusal:
        packer.pack([[3, 87654]])
    assert "87654" not in str(refusal.value)


def test_compiled_steps_equal_eager_steps_and_leave_only_the_number_of_tokens_open() -> None:
    torch.manual_seed(2)
    torch._dynamo.reset()
    compiled: list[list[Any]] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        compiled.append([tuple(i.shape) for i in inputs if isinstance(i, torch.Tensor)])
        return graph.forward

    set_compiler()
    eager, fused = Kernels(), compiled_kernels(backend)
    hidden, heads, dim = 32, 4, 8
    weight, bias = (torch.nn.Parameter(torch.randn(hidden), requires_grad=False) for _ in range(2))
    head_weight = torch.nn.Parameter(torch.randn(dim), requires_grad=False)
    with torch.inference_mode():
        for tokens in (7, 19, 64, 3):
            x, residual = torch.randn(tokens, hidden), torch.randn(tokens, hidden)
            by_head = torch.randn(tokens, 2 * heads, dim)[:, :heads]
            angles = torch.randn(tokens, dim // 2)
            turns = angles.cos(), angles.sin()
            calls: list[tuple[str, tuple[Any, ...]]] = [
                ("add_layer_norm", (x, residual, weight, bias, 1e-12)),
                ("rms_norm", (x, weight, 1e-6)),
                ("add_rms_norm", (x, residual, weight, 1e-6)),
                ("rotate", (by_head, *turns)),
                ("norm_rotate", (by_head, head_weight, 1e-6, *turns)),
                ("swiglu", (x,)),
            ]
            for name, arguments in calls:
                expected = getattr(eager, name)(*arguments)
                torch.testing.assert_close(getattr(fused, name)(*arguments), expected, atol=1e-5, rtol=1e-5)
    assert len(compiled) == len(calls)
    assert all(() not in shapes for shapes in compiled)  # eps is a constant
    widths = [shapes[0][1] for shapes in compiled[:3]]
    assert widths == [hidden] * 3
    assert all(isinstance(width, int) for width in widths)


def test_models_of_many_widths_stay_compiled_whichever_threads_load_and_run_them() -> None:
    """torch keeps the compiler's settings per thread, and gives a step up that was compiled too often."""
    torch._dynamo.reset()
    inputs: list[int] = []

    def backend(graph: Any, example: list[Any]) -> Any:
        inputs.append(sum(isinstance(i, torch.Tensor) for i in example))
        return graph.forward

    def run(width: int, tokens: int) -> int:
        set_compiler()
        weight = torch.nn.Parameter(torch.randn(width), requires_grad=False)
        before = len(inputs)
        with torch.inference_mode():
            compiled_kernels(backend).add_rms_norm(
                torch.randn(tokens, width), torch.randn(tokens, width), weight, 1e-6
            )
        return len(inputs) - before

    widths = range(8, 8 + 12 * 4, 4)  # more than torch compiles unless it is told otherwise
    for width in widths:
        with ThreadPoolExecutor(1) as loading:
            assert loading.submit(run, width, 64).result() == 1, f"{width} is compiled when it is loaded"
        with ThreadPoolExecutor(1) as serving:
            assert serving.submit(run, width, 7).result() == 0, f"{width} is compiled already"
    assert set(inputs) == {3}, "eps is a constant"


def test_an_engine_runs_its_compiled_steps_with_the_settings_of_its_own_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    compiled: list[str] = []

    def backend(graph: Any, _: list[Any]) -> Any:
        compiled.append(threading.current_thread().name)
        assert torch._dynamo.config.specialize_float
        return graph.forward

    monkeypatch.setattr(engine_module, "compiled_kernels", lambda: compiled_kernels(backend))
    MAKERS["qwen3"](tmp_path)
    how: dict[str, Any] = {"device": "cpu", "compile_kernels": True}
    with ThreadPoolExecutor(1) as loading:
        engine = loading.submit(TorchEngine, read_checkpoint(tmp_path), Pooling.LAST, **how).result()
    plain = TorchEngine(read_checkpoint(tmp_path), Pooling.LAST, device="cpu", compile_kernels=False)
    assert compiled, "at load"
    del compiled[:]
    batches = [[[5, 6, 7]], [[5] * 40, [6]], [[5] * 128], [[5]], [[5, 6], [7, 8]], [[5]] * 20]
    with ThreadPoolExecutor(2, thread_name_prefix="engine") as threads:
        fused = list(threads.map(lambda batch: np.array(engine.embed(batch, 0)), batches))
    for batch, vectors in zip(batches, fused, strict=True):
        np.testing.assert_allclose(vectors, np.array(plain.embed(batch, 0)), atol=1e-5)
    assert not compiled, "nothing is compiled in somebody's request"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("InductorError: CalledProcessError\nand pages more"),
        subprocess.CalledProcessError(1, "gcc"),
        ImportError("no launcher"),
        FileNotFoundError("cc"),
    ],
)
def test_a_compiler_that_fails_leaves_the_steps_unfused_and_says_so(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise error

    assert can_run(Kernels(), torch.device("cpu"))
    assert not can_run(Kernels(swiglu=fail), torch.device("cpu"))
    (record,) = caplog.records
    assert record.msg == "kernels_not_fused"
    assert "pages" not in record.reason  # type: ignore[attr-defined]


def test_the_budget_follows_the_cost_of_a_token() -> None:
    cpu = torch.device("cpu")
    assert shape().matrix_parameters == 84_934_656
    assert QWEN3_8B.matrix_parameters == pytest.approx(6.95e9, rel=0.01)
    assert _batch_tokens(shape(), torch.bfloat16, cpu) == MAX_BATCH_TOKENS
    assert _batch_tokens(QWEN3_8B, torch.bfloat16, cpu) == MIN_BATCH_TOKENS
    bge_m3 = shape(layers=24, hidden=1024, heads=16, kv_heads=16, intermediate=4096)
    assert MIN_BATCH_TOKENS < _batch_tokens(bge_m3, torch.bfloat16, cpu) < MAX_BATCH_TOKENS


def test_a_pooling_that_no_engine_does_is_refused() -> None:
    checkpoint: Any = SimpleNamespace(architecture=shape())
    with pytest.raises(ConfigurationError, match="upstream"):
        TorchEngine(checkpoint, Pooling.UPSTREAM, device="cpu")
