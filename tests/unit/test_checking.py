"""`vectoll models check`: what passes, and what it catches."""

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from click.testing import CliRunner, Result
from tests import tiny_checkpoints
from tests.cpu import HAS_AVX512_BF16
from tests.integration.upstreams.provider_server import KEY, Fault, ProviderServer, provider_server
from tests.minilm import PACKAGE
from tests.tiny_checkpoints import MAKERS, bge_en_icl

from vectoll import checking
from vectoll.cli import check as command
from vectoll.cli.root import cli
from vectoll.domain.embedding import Vector
from vectoll.domain.identity import Caller
from vectoll.engines import LoadedEngine


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checking, "MEASURE_S", 0.005)


def configure(**fields: str) -> None:
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    Path("vectoll.toml").write_text(f"[[models]]\n{lines}\n")


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, ["models", "check", *arguments], env=environ, prog_name="vectoll")


def checked(*arguments: str) -> dict[str, Any]:
    """The report on one model that passes."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)
    return report  # type: ignore[no-any-return]


def failures(*arguments: str, **environ: str) -> dict[str, str]:
    """What of one model failed, and why."""
    result = run(*arguments, "--json", **environ)
    assert result.exit_code == 1, result.output
    (report,) = json.loads(result.stdout)
    assert report["passed"] is False
    return {check["name"]: check["detail"] for check in report["checks"] if check["passed"] is False}


SPECIAL = {
    "bge-m3": "<s> (0) A </s> (2)",
    "e5": "<s> (0) A </s> (2)",
    "qwen3": "A <|endoftext|> (0)",
    "qwen3-8b": "A <|endoftext|> (0)",
    "bge-en-icl": "<s> (1) A </s> (2)",
    "bge-en-icl-without-end": "<s> (1) A </s> (2)",
    "nemotron-vl": "<|begin_of_text|> (0) A",
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_family_passes_with_what_was_measured(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "model")
    configure(id=name, path=str(tmp_path / "model"))
    report = checked(name)
    passed = {check["name"]: check["detail"] for check in report["checks"] if check["passed"]}
    assert set(passed) == {"special tokens", "pooling", "loads", "finite", "norm", "batch"}
    assert passed["special tokens"] == SPECIAL[name]
    assert report["disk_bytes"] > 10_000
    assert report["memory_bytes"] is not None
    assert report["short_tokens_per_s"] > 0
    assert report["long_tokens_per_s"] > 0
    assert report["long_tokens"] == (160 if name == "qwen3-8b" else 128)


def test_for_people_it_is_a_page(tmp_path: Path) -> None:
    MAKERS["qwen3"](tmp_path / "model")
    configure(id="mine", path=str(tmp_path / "model"))
    out = run("mine").stdout
    assert out.startswith("mine: ok\n  ok      special tokens  A <|endoftext|> (0)\n")
    assert "on disk" in out
    assert "tokens/s in short texts" in out


def test_a_dropped_end_token_is_caught(tmp_path: Path) -> None:
    bge_en_icl(tmp_path / "model", template="<s> $A")
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"add_eos_token": true', '"add_eos_token": false'))
    configure(id="mine", path=str(tmp_path / "model"))
    assert "no end token last" in failures("mine")["special tokens"]


def test_an_encoder_without_its_special_tokens_is_caught(tmp_path: Path) -> None:
    MAKERS["e5"](tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    del tokenizer["post_processor"]
    file.write_text(json.dumps(tokenizer))
    configure(id="mine", path=str(tmp_path / "model"))
    assert failures("mine") == {"special tokens": "A: an encoder needs one at each end"}


@pytest.mark.parametrize(("name", "pooling"), [("e5", "cls"), ("bge-m3", "mean"), ("bge-en-icl", "mean")])
def test_another_pooling_than_the_checkpoints_is_caught(name: str, pooling: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "model")
    configure(id="mine", path=str(tmp_path / "model"), pooling=pooling)
    assert f"{pooling}, but the checkpoint says" in failures("mine")["pooling"]


def test_weights_that_are_not_finite_are_caught(tmp_path: Path) -> None:
    MAKERS["bge-m3"](tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    start = (
        8 + int.from_bytes(raw[:8], "little") + header["encoder.layer.0.output.dense.bias"]["data_offsets"][0]
    )
    raw[start : start + 4] = np.float32("nan").tobytes()
    file.write_bytes(raw)
    configure(id="mine", path=str(tmp_path / "model"))
    assert "finite" in failures("mine")


class Broken:
    """An engine with one thing wrong."""

    streams, dims, packed = 1, 32, True

    def __init__(self, change: Callable[[Any, int], Any]) -> None:
        self._change = change

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths)

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        rng = np.random.default_rng(1)
        rows = [self._change(rng.standard_normal(32) + sum(ids) % 7, len(batch)) for ids in batch]
        return [memoryview((row / np.linalg.norm(row)).astype(np.float32)) for row in rows]

    def close(self) -> None:
        pass


def test_a_vector_that_depends_on_its_batch_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["qwen3"](tmp_path / "model")
    configure(id="mine", path=str(tmp_path / "model"))

    def load(*arguments: Any) -> LoadedEngine:
        from vectoll.core.batching.queue import BatchShape

        return LoadedEngine(
            Broken(lambda row, size: row + size * np.arange(32)), BatchShape(384), 100, "broken"
        )

    monkeypatch.setattr(checking, "load_engine", load)
    assert set(failures("mine")) == {"batch"}


def test_int8_shows_the_accuracy_that_it_costs() -> None:
    configure(id="small", package=PACKAGE, precision="int8", dims=384)  # type: ignore[arg-type]
    report = checked("small")
    assert 0.95 < report["int8_cosine_min"] <= report["int8_cosine_mean"] < 0.99999
    assert report["engine"] == f"cpu, {'native' if HAS_AVX512_BF16 else 'openvino'}, int8"
    assert "cosine to full precision 0.99" in run("small").stdout


def test_int8_that_costs_too_much_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "INT8_COSINE", 0.99999)
    configure(id="small", package=PACKAGE, precision="int8", dims=384)  # type: ignore[arg-type]
    assert set(failures("small")) == {"int8"}


def test_weights_that_are_not_here_are_not_fetched_but_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "`vectoll models pull text-embedding-bge-m3`" in failures("text-embedding-bge-m3")["weights"]


def test_a_broken_checkpoint_is_a_failed_check_and_no_traceback(tmp_path: Path) -> None:
    MAKERS["bge-m3"](tmp_path / "model")
    configure(id="mine", path=str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"rubbish, and more of it")
    assert "cut short or not a safetensors" in failures("mine")["loads"]


def test_without_an_id_it_is_every_model_that_is_on_or_ought_to_be(tmp_path: Path) -> None:
    result = run("--json")
    assert [report["id"] for report in json.loads(result.stdout)] == ["all-MiniLM-L6-v2"]
    configure(id="gone", path=str(tmp_path / "nowhere"))
    result = run("--json")
    assert result.exit_code == 1
    passed = {report["id"]: report["passed"] for report in json.loads(result.stdout)}
    assert passed == {"all-MiniLM-L6-v2": True, "gone": False}


@pytest.mark.parametrize("file", ["config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json"])
def test_a_description_that_cannot_be_read_fails_its_check_and_is_named(file: str, tmp_path: Path) -> None:
    MAKERS["qwen3"](tmp_path / "model")
    (tmp_path / "model" / file).write_text("{")
    configure(id="mine", path=str(tmp_path / "model"))
    (why,) = failures("mine").values()
    assert f"model/{file}" in why


def test_more_tokens_than_the_checkpoint_has_positions_for_are_a_failed_check(tmp_path: Path) -> None:
    MAKERS["qwen3"](tmp_path / "model")
    Path("vectoll.toml").write_text(
        f'[[models]]\nid = "mine"\npath = "{tmp_path / "model"}"\nmax_tokens = 129\n'
    )
    assert "setting max_tokens: 129 is more than its checkpoint's 128 positions" in failures("mine")["loads"]


def test_other_dims_than_the_checkpoints_are_a_failed_check(tmp_path: Path) -> None:
    MAKERS["qwen3"](tmp_path / "model")
    Path("vectoll.toml").write_text(f'[[models]]\nid = "mine"\npath = "{tmp_path / "model"}"\ndims = 64\n')
    assert failures("mine")["loads"] == "model 'mine', setting dims: its vectors have 32, not 64"


def test_bf16_weights_stay_bf16_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without bf16 arithmetic they are widened, and take twice that. One stream: more may hold a copy each."""
    sizes = {"HIDDEN": 512, "INNER": 2048, "LAYERS": 8}
    names = {"HIDDEN": "hidden_size", "INNER": "intermediate_size", "LAYERS": "num_hidden_layers"}
    for name, size in sizes.items():
        monkeypatch.setattr(tiny_checkpoints, name, size)
        monkeypatch.setitem(tiny_checkpoints.DECODER, names[name], size)
    MAKERS["qwen3"](tmp_path / "model")
    configure(id="mine", path=str(tmp_path / "model"))
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    result = run("mine", "--json", VECTOLL_ENGINE__STREAMS="1")
    (report,) = json.loads(result.stdout)
    assert report["disk_bytes"] > 50_000_000
    assert report["memory_bytes"] < (1.5 if has_bf16 else 2.5) * report["disk_bytes"], report


def test_a_pooling_that_a_checkpoint_does_not_say_is_all_that_must_be_set(tmp_path: Path) -> None:
    MAKERS["qwen3"](tmp_path / "model")
    (tmp_path / "model" / "modules.json").unlink()
    configure(id="mine", path=str(tmp_path / "model"))
    result = run("mine")
    assert (result.exit_code, "setting pooling: set it" in result.stderr) == (2, True)
    configure(id="mine", path=str(tmp_path / "model"), pooling="last")
    assert checked("mine")["passed"]


def test_a_model_that_is_not_in_the_catalogue_is_refused_with_those_that_are() -> None:
    result = run("nonesuch")
    assert result.exit_code == 2
    assert "'nonesuch' is not served here. Models of the catalogue: all-MiniLM-L6-v2, gemini" in result.stderr


def with_provider(use: Callable[[ProviderServer], None], **options: Any) -> None:
    """A provider in a loop of its own, for commands that run theirs."""

    async def serve() -> None:
        async with provider_server(**options) as provider:
            await asyncio.to_thread(use, provider)

    asyncio.run(serve())


def bought(provider: ProviderServer, dims: str = "8") -> None:
    Path("vectoll.toml").write_text(
        f'[[models]]\nid = "bought"\nkind = "openai"\nbase_url = "{provider.url}"\napi_key_env = "THEIR_KEY"\n'
        f"dims = {dims}\nmax_tokens = 100\n[[models]]\nid = 'all-MiniLM-L6-v2'\nenabled = false\n"
    )


def test_an_upstream_is_asked_for_real() -> None:
    def use(provider: ProviderServer) -> None:
        bought(provider)
        result = run("--json", THEIR_KEY=KEY)
        assert result.exit_code == 0, result.output
        (report,) = json.loads(result.stdout)
        assert [check["name"] for check in report["checks"]] == ["answers"]
        assert "vectors of 8" in report["checks"][0]["detail"]
        assert "tokens were bought" in report["checks"][0]["detail"]
        assert len(provider.seen) == 1
        assert failures("bought", THEIR_KEY="sk-wrong") == {
            "answers": "The provider of the model 'bought' refuses this server; its operator must act. "
            "Nothing was charged."
        }

    with_provider(use)


def test_an_upstream_without_its_key_or_with_other_vectors_fails() -> None:
    def use(provider: ProviderServer) -> None:
        bought(provider)
        assert failures("bought", THEIR_KEY="") == {
            "answers": "the environment variable THEIR_KEY, which setting api_key_env names, is not set"
        }
        bought(provider, dims="9")
        assert set(failures("bought", THEIR_KEY=KEY)) == {"answers"}

    with_provider(use)


def test_offline_leaves_upstreams_out() -> None:
    def use(provider: ProviderServer) -> None:
        bought(provider)
        result = run("bought", "--offline", THEIR_KEY=KEY)
        assert result.exit_code == 0
        assert "-       answers         left out: --offline" in result.stdout
        assert not provider.seen

    with_provider(use, always=Fault(500))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_what_takes_long_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "QUIET_S", 0.0)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    async with command._telling("a-model") as tell:
        tell("loading")
        async with asyncio.timeout(10):
            while "loading" not in screen.getvalue():  # noqa: ASYNC110 - a terminal has no event
                await asyncio.sleep(0.01)
    assert "a-model: loading (0 s)" in screen.getvalue()
    assert screen.getvalue().endswith("\r\033[K")
