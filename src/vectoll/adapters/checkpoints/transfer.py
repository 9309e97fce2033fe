"""Downloads one file from the hub: resumed however often the line breaks, and checked against its hash."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
READ_TIMEOUT_S = 10.0
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class Damaged(Exception):
    """The bytes are not those that the hub announced."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before asking the hub again. Progress starts the count anew."""

    max_attempts: int = 5
    base_s: float = 1.0
    cap_s: float = 8.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, asked_s: float | None) -> None:
        """After this many failures in a row, 1 upwards; as long as the hub asks for, within ``cap_s``."""
        wanted = asked_s if asked_s is not None else self.base_s * 2.0 ** (failures - 1)
        self.sleep(min(self.cap_s, wanted))


def patiently(ask: Callable[[], T], pauses: Pauses) -> T:
    """What ``ask`` returns, asked again while the line or the hub fails. Raises the last failure."""
    failures = 0
    while True:
        try:
            return ask()
        except _http_error() as failure:
            failures += 1
            if failures >= pauses.max_attempts or not _may_pass(failure):
                raise
            pauses.wait(failures, _asked_s(failure))


def fetch_blob(url: str, blob: Path, size: int, show: Callable[[int], None], pauses: Pauses) -> None:
    """Bring ``size`` bytes from ``url`` to ``blob``, which is named after their hash and appears only when complete.

    What an earlier call left, of this or another process, is resumed; two at once wait for each other. ``show`` is
    told how many bytes are there. Raises Damaged, the HTTP library's errors, and OSError.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(blob)
    with partial.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        if blob.is_file():  # another was quicker
            partial.unlink(missing_ok=True)
            return
        part = _Part(file, blob.name, size)
        _complete(url, part, show, pauses)
        if not part.is_right:
            partial.unlink()
            raise Damaged("its hash differs")
        os.fsync(file.fileno())
        partial.replace(blob)


def partial_of(blob: Path) -> Path:
    """Where a file lies until it is whole."""
    return blob.with_name(f"{blob.name}.partial")


class _Part:
    """What is there of one file."""

    def __init__(self, file: BinaryIO, etag: str, size: int) -> None:
        self._file = file
        self._etag = etag
        self._size = size
        self.restart_from(file.seek(0, os.SEEK_END))

    def restart_from(self, bytes_there: int) -> None:
        """Keep this many bytes, all or none."""
        if bytes_there > self._size:
            bytes_there = 0
        self._file.truncate(bytes_there)
        self.bytes_there = bytes_there
        self._digest = _digest(self._etag, self._size)
        self._file.seek(0)
        while piece := self._file.read(CHUNK_BYTES):
            self._digest.update(piece)

    def is_complete(self) -> bool:
        return self.bytes_there == self._size

    @property
    def is_right(self) -> bool:
        return bool(self._digest.hexdigest() == self._etag)

    def add(self, piece: bytes) -> None:
        """Raises Damaged for more than was announced."""
        if self.bytes_there + len(piece) > self._size:
            self.restart_from(0)
            raise Damaged("it is longer than announced")
        self._file.write(piece)
        self._file.flush()  # a process that is killed leaves it, too
        self._digest.update(piece)
        self.bytes_there += len(piece)


def _complete(url: str, part: _Part, show: Callable[[int], None], pauses: Pauses) -> None:
    """Ask for the missing bytes until there are none. Raises the last of several failures in a row without progress."""
    failures = 0
    while not part.is_complete():
        before = part.bytes_there
        show(before)  # who looks on may call it off
        failure: Exception | None = None
        try:
            _receive(url, part, show)
        except _http_error() as error:
            failure = error
        if part.is_complete():
            return
        failures = 1 if part.bytes_there > before else failures + 1
        if failure and not _may_pass(failure):
            raise failure
        if failures >= pauses.max_attempts:
            raise failure or Damaged("it ends early")
        pauses.wait(failures, _asked_s(failure) if failure else None)


def _receive(url: str, part: _Part, show: Callable[[int], None]) -> None:
    """One answer, written as it comes."""
    from huggingface_hub import get_session  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # noqa: PLC0415

    headers = {**build_hf_headers(), "accept-encoding": "identity"}
    if part.bytes_there:
        headers["range"] = f"bytes={part.bytes_there}-"
    with get_session().stream("GET", url, headers=headers, timeout=READ_TIMEOUT_S) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        said = response.headers.get("content-range", "")
        if part.bytes_there and not (
            response.status_code == 206 and said.startswith(f"bytes {part.bytes_there}-")
        ):
            part.restart_from(0)  # it sends the whole file, whatever was asked for
        for piece in response.iter_bytes():
            part.add(piece)
            show(part.bytes_there)


def _digest(etag: str, size: int) -> Any:
    """What a file is named after: its SHA-256, or, of a small one, the SHA-1 that git gives it."""
    if len(etag) == 64:
        return hashlib.sha256()
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    return digest


def _http_error() -> type[Exception]:
    """The root of the HTTP library's errors: httpx's or httpx2's, by the hub library's release."""
    from huggingface_hub import errors  # noqa: PLC0415

    root: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return root


def _may_pass(failure: Exception) -> bool:
    """Whether asking again later may help: after certain statuses, or where no answer came."""
    response = getattr(failure, "response", None)
    return response is None or response.status_code in _PASSING


def _asked_s(failure: Exception) -> float | None:
    """How long the hub asks to be left alone."""
    response = getattr(failure, "response", None)
    text = response.headers.get("retry-after", "") if response is not None else ""
    return float(text) if text.isascii() and text.isdigit() else None
