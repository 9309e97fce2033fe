"""vectoll embed, in this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.cli.conftest import Cli

from vectoll.adapters.checkpoints import DownloadBar
from vectoll.cli import embed as embed_command
from vectoll.cli.line_reader import LineReader

DIMS = 384
TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "Ä\tö ü\u2028x",
]


def vectors(lines: str) -> "np.ndarray[Any, Any]":
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return np.array([row["embedding"] for row in rows], np.float32)


def test_texts_become_json_lines_with_the_models_vectors(vectoll: Cli) -> None:
    found = vectors(vectoll.ok("embed", *TEXTS[:3]))
    assert found.shape == (3, DIMS)
    similarities = found @ found.T
    assert similarities[0, 1] == pytest.approx(0.666, abs=0.01)  # the model card's example
    assert similarities[0, 2] == pytest.approx(0.105, abs=0.01)
    assert not vectoll.data_dir.exists()


def test_file_standard_input_and_arguments_give_the_same(vectoll: Cli, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    from_file = vectoll.ok("embed", "--file", str(file))
    assert from_file == vectoll.ok("embed", *TEXTS)
    assert from_file == vectoll.ok("embed", "--file", "-", input="\r\n".join(TEXTS).encode())


def test_npy_holds_the_same_vectors_in_order_across_chunks(
    vectoll: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_command, "CHUNK_TEXTS", 7)
    texts = [f"{text} {i}" for i in range(25) for text in TEXTS[:2]]
    (tmp_path / "lines.txt").write_text("\n".join(texts))
    output = tmp_path / "out.npy"
    assert vectoll.ok("embed", "--file", "lines.txt", "--output", str(output)) == ""
    array = np.load(output)
    assert (array.shape, array.dtype) == ((50, DIMS), np.float32)
    # bf16 rounds differently in another batch
    assert (np.sum(array * vectors(vectoll.ok("embed", *texts)), axis=1) > 0.999).all()


def test_empty_file_is_an_empty_answer(vectoll: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    assert vectoll.ok("embed", "--file", "empty.txt") == ""
    vectoll.ok("embed", "--file", "empty.txt", "--output", "empty.npy")
    assert np.load(tmp_path / "empty.npy").shape == (0, 0)


@pytest.mark.parametrize("name", ["keep.npy", "keep.jsonl"])
def test_file_that_was_there_stays_when_embedding_fails(vectoll: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    (tmp_path / "late.txt").write_text("a\n" * 600 + "word " * 400 + "\n")
    for wrong in (("--file", "late.txt"), ("a", "--model", "nope")):
        assert vectoll("embed", *wrong, "--output", name).exit_code != 0
        assert vectoll("embed", *wrong, "--output", f"new-{name}").exit_code != 0
    assert (tmp_path / name).read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {name, "late.txt"}


def test_interrupted_embedding_leaves_nothing(
    vectoll: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "lines.txt").write_text("a\n")
    monkeypatch.setattr(LineReader, "show", interrupt)
    assert vectoll("embed", "--file", "lines.txt", "--output", "out.npy").exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["lines.txt"]


def test_output_takes_a_files_place_with_its_mode_and_behind_its_link(vectoll: Cli, tmp_path: Path) -> None:
    (tmp_path / "kept.jsonl").write_text("old")
    (tmp_path / "kept.jsonl").chmod(0o640)
    (tmp_path / "link.jsonl").symlink_to("kept.jsonl")
    vectoll.ok("embed", "a", "--output", "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(vectors((tmp_path / "kept.jsonl").read_text())) == 1
    assert (tmp_path / "kept.jsonl").stat().st_mode & 0o777 == 0o640


def test_device_is_written_to_and_a_full_one_is_one_line(vectoll: Cli) -> None:
    vectoll.ok("embed", "a", "--output", "/dev/null")
    for texts in (["a"], ["a"] * 60):
        result = vectoll("embed", *texts, "--output", "/dev/full")
        assert result.exit_code == 1, result.output
        assert "cannot write to /dev/full: No space left on device" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "Give texts, or --file"),
        (("a", "--file", "-"), 2, "Give texts or --file, not both"),
        (("a", "--model", "nope"), 2, "The model 'nope' is not served here"),
        (("a", "--model", "text-embedding-qwen3-8b"), 1, "HF_HUB_OFFLINE forbids"),
        (("a", "--dimensions", "100"), 1, "vectors of 384 dimensions"),
        (("a", "", "c"), 1, "text 2 is empty"),
        (("a", "caf\udce9"), 1, "text 2: is not valid Unicode"),
        (("a", "word " * 400), 1, "text 2: This model's maximum context length is 256 tokens"),
        (("a", "--output", "no/such/folder/x"), 1, "cannot write to no/such/folder/x"),
        (("a", "--url", "localhost:8787"), 2, "--url must start with http"),
        (("a", "--url", "http://[::1"), 2, "--url must start with http"),
        (
            ("a", "--url", "http://127.0.0.1:1"),
            1,
            "cannot reach http://127.0.0.1:1/api/v1/embeddings: connection refused\n",
        ),
    ],
)
def test_what_cannot_be_embedded_is_one_line(
    vectoll: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read only once
    result = vectoll("embed", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_position_of_a_bad_line_is_counted_over_the_whole_file(
    vectoll: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_command, "CHUNK_TEXTS", 4)
    (tmp_path / "lines.txt").write_text("a\n" * 9 + "word " * 400 + "\n")
    too_long = vectoll("embed", "--file", "lines.txt").stderr
    assert "text 10: This model's maximum context length is 256 tokens, this text has 402." in too_long
    assert "input" not in too_long
    (tmp_path / "bytes.txt").write_bytes(b"a\nb\n\xff\n")
    assert "line 3 is not UTF-8" in vectoll("embed", "--file", "bytes.txt").stderr


def test_chunks_are_bounded_in_texts_and_characters() -> None:
    texts = ["x" * 60_000, "y" * 60_000, *["z"] * 600]
    chunks = list(embed_command._chunks(texts))
    assert [first for first, _ in chunks] == [1, 2, 514]
    assert [text for _, chunk in chunks for text in chunk] == texts
    assert max(len(chunk) for _, chunk in chunks) <= embed_command.CHUNK_TEXTS


NOT_WRAPPED, WRAPPED = "\r\033[K\033[?7l", "\033[?7h"


class Screen:
    def __init__(self, is_terminal: bool) -> None:
        self.text = ""
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("is_terminal", "elapsed_s", "is_drawn"), [(True, 3, True), (True, 1, False), (False, 9, False)]
)
def test_bar_is_drawn_for_long_work_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, elapsed_s: float, is_drawn: bool
) -> None:
    now = 100.0
    screen = Screen(is_terminal)
    monkeypatch.setattr("vectoll.cli.line_reader.time.monotonic", lambda: now)
    monkeypatch.setattr("sys.stderr", screen)
    path = tmp_path / "lines.txt"
    path.write_text("ab\n" * 10)
    with path.open("rb") as file:
        progress = LineReader.reading(file)
        lines = iter(progress)
        for _ in range(5):
            next(lines)
        now += elapsed_s
        progress.show(5)
        progress.finish()
    assert (" 50%  5 texts  2/s" in screen.text) is is_drawn
    assert bool(screen.text) is is_drawn
    drawn, end = screen.text[:-1], screen.text[-1:]
    assert (drawn.startswith(NOT_WRAPPED), drawn.endswith(WRAPPED), end == "\n") == (is_drawn,) * 3


def test_bar_of_a_download_stays_on_one_line_and_says_the_most_important_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(is_terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("vectoll.adapters.checkpoints.progress.REDRAW_S", 0.0)
    bar = DownloadBar("text-embedding-multilingual-e5-large-instruct")
    bar(0, 1_120_000_000)
    bar(560_000_000, 1_120_000_000)
    last = screen.text.rpartition(NOT_WRAPPED)[2]
    assert last.startswith(f"[{'#' * 15}{' ' * 15}]  50%  560 of 1,120 MB")
    assert last.endswith(f"e5-large-instruct{WRAPPED}")
