"""A Hugging Face hub over a real socket: model information, files behind a redirect to another host, ranges, faults."""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGE_BYTES = 2000
"""Files from this size on are stored as the hub stores large ones: by SHA-256, on another host."""
TOKEN = "hf_operators_token"


@dataclass(frozen=True)
class Cut:
    """Close the connection after this many bytes of a file."""

    after: int


@dataclass(frozen=True)
class Hold:
    """Send this many bytes of a file and no more until told."""

    after: int
    held: threading.Event
    until: threading.Event


@dataclass(frozen=True)
class Status:
    """Answer with this instead."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    range: str | None
    authorization: str | None


@dataclass
class HubServer:
    """Serves one repository, ``owner/name``, from a folder."""

    folder: Path
    url: str = ""
    branches: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    asked: list[Asked] = field(default_factory=list)
    info_faults: deque[Status] = field(default_factory=deque)
    file_faults: deque[Cut | Hold | Status] = field(default_factory=deque)
    honours_ranges: bool = True
    is_gated: bool = False
    corrupts: str = ""
    """A file whose bytes are not those that were announced."""

    @property
    def files_asked(self) -> list[Asked]:
        return [asked for asked in self.asked if "/resolve/" in asked.path]

    def names(self) -> list[str]:
        return sorted(str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file())

    def info(self, revision: str) -> dict[str, Any] | None:
        """What the API says of a revision."""
        commit = self.branches.get(revision, revision if revision in self.branches.values() else None)
        if commit is None:
            return None
        return {"id": "owner/name", "sha": commit, "siblings": [self._sibling(name) for name in self.names()]}

    def _sibling(self, name: str) -> dict[str, Any]:
        raw = (self.folder / name).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        sibling = {"rfilename": name, "size": len(raw), "blobId": git}
        if len(raw) >= LARGE_BYTES:
            sibling["lfs"] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 134}
        return sibling


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.hub.asked.append(Asked(self.path, self.headers["range"], self.headers["authorization"]))
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        elif path.startswith("/owner/name/resolve/"):
            self._resolve(path.removeprefix("/owner/name/resolve/").partition("/")[2])
        elif path.startswith("/large/"):
            self._file(path.removeprefix("/large/"))
        else:
            self._end(404, {"X-Error-Code": "EntryNotFound"})

    def _api(self, rest: str) -> None:
        if self.hub.info_faults:
            fault = self.hub.info_faults.popleft()
            return self._end(fault.status, fault.headers)
        repo, _, revision = rest.partition("/revision/")
        if repo != "owner/name":
            return self._end(401, {"X-Error-Code": "RepoNotFound"})
        info = self.hub.info(revision or "main")
        if info is None:
            return self._end(404, {"X-Error-Code": "RevisionNotFound"})
        return self._end(200, {"content-type": "application/json"}, json.dumps(info).encode())

    def _resolve(self, name: str) -> None:
        if self.hub.is_gated:
            return self._end(403, {"X-Error-Code": "GatedRepo"})
        if self.hub.file_faults and isinstance(fault := self.hub.file_faults[0], Status):
            self.hub.file_faults.popleft()
            return self._end(fault.status, fault.headers)
        if (self.hub.folder / name).stat().st_size < LARGE_BYTES:
            return self._file(name)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        return self._end(302, {"location": f"{elsewhere}/large/{name}"})

    def _file(self, name: str) -> None:
        raw = (self.hub.folder / name).read_bytes()
        if name == self.hub.corrupts:
            raw = bytes(len(raw))
        start, headers, status = 0, {}, 200
        if self.hub.honours_ranges and (asked := self.headers["range"]):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers, status = {"content-range": f"bytes {start}-{len(raw) - 1}/{len(raw)}"}, 206
        body = raw[start:]
        cut = len(body)
        fault = self.hub.file_faults[0] if self.hub.file_faults and len(raw) >= LARGE_BYTES else None
        if isinstance(fault, Cut | Hold):
            self.hub.file_faults.popleft()
            cut = fault.after
        self._end(status, headers, body, cut)
        if isinstance(fault, Hold):
            self.wfile.flush()
            fault.held.set()
            fault.until.wait(60)

    def _end(self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body)), "connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = True


@contextmanager
def hub_server(folder: Path) -> Iterator[HubServer]:
    """A hub on a free port of this machine."""
    hub = HubServer(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
