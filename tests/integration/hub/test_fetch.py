"""Fetching from a hub: only what is needed, whatever breaks off, and what an operator is told."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.hub_server import TOKEN, Cut, HubServer, Status

from vectoll.adapters.checkpoints import fetch, locate, read_checkpoint, wanted_files
from vectoll.adapters.checkpoints.hub import Fetched
from vectoll.adapters.checkpoints.transfer import Pauses
from vectoll.domain.catalog import ModelSource
from vectoll.domain.errors import ConfigurationError, ModelOffline

SHARD = "model-00001-of-00002.safetensors"
NEEDED = {
    "config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
}  # fmt: skip


def fetch_it(revision: str | None = None, **how: Any) -> Fetched:
    slept: list[float] = how.pop("slept", [])
    return fetch("m", "owner/name", revision, wanted_files, pauses=Pauses(sleep=slept.append), **how)


def refusal(repo: str = "owner/name", revision: str | None = None) -> str:
    with pytest.raises(ModelOffline) as caught:
        fetch("m", repo, revision, wanted_files, pauses=Pauses(sleep=lambda _: None))
    return caught.value.reason


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def asked_for(hub: HubServer, name: str) -> list[str | None]:
    """The ranges in which a file was asked for."""
    return [asked.range for asked in hub.files_asked if asked.path.endswith(f"/{name}")]


def test_what_serving_needs_is_fetched_and_nothing_else(hub: HubServer) -> None:
    fetched = fetch_it()
    assert contents(fetched.folder) == {
        name: raw for name, raw in contents(hub.folder).items() if name in NEEDED
    }
    assert fetched.commit == "a" * 40
    assert fetched.size_bytes == fetched.fetched_bytes == sum(map(len, contents(fetched.folder).values()))
    assert read_checkpoint(fetched.folder).dims == 32


def test_what_is_there_is_not_fetched_again_and_serving_it_asks_nobody(hub: HubServer) -> None:
    first = fetch_it()
    before = len(hub.asked)
    assert fetch_it() == Fetched(first.folder, first.commit, first.size_bytes, 0)
    assert [asked.path for asked in hub.asked[before:]] == ["/api/models/owner/name?blobs=true"]
    before = len(hub.asked)
    assert locate("m", ModelSource(repo="owner/name")) == first.folder
    assert len(hub.asked) == before


def test_the_hubs_own_library_finds_what_was_fetched(hub: HubServer) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    ours = fetch_it()
    for name in NEEDED:
        assert Path(hf_hub_download("owner/name", name, local_files_only=True)) == ours.folder / name
    assert Path(snapshot_download("owner/name", local_files_only=True)) == ours.folder


def test_a_cut_connection_is_gone_on_with_where_it_broke_off(hub: HubServer) -> None:
    hub.file_faults.extend([Cut(700), Cut(500)])
    slept: list[float] = []
    fetched = fetch_it(slept=slept)
    assert contents(fetched.folder)[SHARD] == (hub.folder / SHARD).read_bytes()
    assert asked_for(hub, SHARD) == [None, "bytes=700-", "bytes=1200-"]
    assert slept == [1.0, 1.0]


def test_a_process_that_ended_leaves_what_it_has_for_the_next(hub: HubServer) -> None:
    hub.file_faults.append(Cut(900))

    class Stop(Exception):
        pass

    def stop(_: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        fetch("m", "owner/name", None, wanted_files, pauses=Pauses(sleep=stop))
    seen: list[tuple[int, int]] = []
    fetched = fetch_it(progress=lambda done, total: seen.append((done, total)))
    assert asked_for(hub, SHARD) == [None, "bytes=900-"]
    assert contents(fetched.folder)[SHARD] == (hub.folder / SHARD).read_bytes()
    assert seen[-1] == (fetched.size_bytes, fetched.size_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_server_that_knows_no_ranges_sends_it_all_again(hub: HubServer) -> None:
    hub.honours_ranges = False
    hub.file_faults.append(Cut(900))
    fetched = fetch_it()
    assert contents(fetched.folder)[SHARD] == (hub.folder / SHARD).read_bytes()


def test_a_line_that_brings_nothing_more_is_given_up(hub: HubServer) -> None:
    hub.file_faults.extend([Cut(900)] + [Cut(0)] * 9)
    slept: list[float] = []
    with pytest.raises(ModelOffline, match=r"cannot be reached.*kept"):
        fetch_it(slept=slept)
    assert slept == [1.0, 2.0, 4.0, 8.0]
    assert len(asked_for(hub, SHARD)) == 5
    hub.file_faults.clear()
    fetch_it()
    assert asked_for(hub, SHARD)[-1] == "bytes=900-"


def test_what_is_not_what_was_announced_is_thrown_away(hub: HubServer) -> None:
    hub.corrupts = SHARD
    assert "damaged" in refusal()
    hub.corrupts = ""
    fetched = fetch_it()
    assert asked_for(hub, SHARD)[-1] is None
    assert hashlib.sha256(contents(fetched.folder)[SHARD]).hexdigest() in str(
        (fetched.folder / SHARD).resolve()
    )


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_hub_that_is_busy_is_asked_again(hub: HubServer, status: int) -> None:
    hub.info_faults.append(Status(status, {"retry-after": "7"}))
    hub.file_faults.append(Status(status))
    slept: list[float] = []
    fetch_it(slept=slept)
    assert slept == [7.0, 1.0]


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (lambda hub: hub.info_faults.extend([Status(429)] * 5), "rate limit"),
        (lambda hub: hub.info_faults.extend([Status(503)] * 5), r"failed .*HTTP 503"),
        (lambda hub: hub.file_faults.extend([Status(503)] * 5), r"failed .*HTTP 503"),
        (lambda hub: hub.info_faults.append(Status(403)), "refuses .*HF_TOKEN"),
        (lambda hub: hub.info_faults.append(Status(401)), "HF_TOKEN"),
        (
            lambda hub: hub.file_faults.append(Status(404, {"X-Error-Code": "EntryNotFound"})),
            "no longer there",
        ),
        (lambda hub: setattr(hub, "is_gated", True), "gated: accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: HubServer, arrange: Callable[[HubServer], None], said: str
) -> None:
    import re

    arrange(hub)
    assert re.search(said, refusal())


def test_repositories_and_revisions_that_are_not_there_are_named(hub: HubServer) -> None:
    assert refusal("owner/other") == "the repository owner/other does not exist or is private (set HF_TOKEN)"
    assert refusal(revision="v9") == "the revision v9 of owner/name does not exist"


def test_a_repository_without_weights_fetches_nothing(hub: HubServer) -> None:
    for file in hub.folder.rglob("*"):
        if file.suffix in {".safetensors", ".onnx", ".bin"} or file.name.endswith(".index.json"):
            file.unlink()
    assert "no weights that can be read" in refusal()
    assert not hub.files_asked


def test_nobody_there_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "hub cannot be reached (ConnectError)" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refusal()


def test_a_disk_that_is_too_small_is_known_before_the_first_byte(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 50_000_001

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    assert "50.0 MB is free" in refusal()
    assert not hub.files_asked


def test_a_disk_that_fills_up_keeps_what_came(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from vectoll.adapters.checkpoints import transfer

    def full(self: Any, piece: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(transfer._Part, "add", full)
        assert "the disk is full" in refusal()
    fetch_it()


def test_a_cache_that_cannot_be_written_is_said_without_its_path(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    said = refusal()
    assert "cannot write to the hub's cache: Not a directory (set HF_HOME" in said
    assert str(tmp_path) not in said


def test_a_revision_pins_and_does_not_move_main(hub: HubServer) -> None:
    hub.branches["v1"] = "b" * 40
    main, tagged, pinned = fetch_it(), fetch_it("v1"), fetch_it("b" * 40)
    assert (main.commit, tagged.commit, pinned.commit) == ("a" * 40, "b" * 40, "b" * 40)
    assert tagged.fetched_bytes == 0, "the same files, by their content"
    hub.branches["main"] = "c" * 40
    assert locate("m", ModelSource(repo="owner/name")) == main.folder
    assert locate("m", ModelSource(repo="owner/name", revision="v1")) == tagged.folder
    assert locate("m", ModelSource(repo="owner/name", revision="b" * 40)) == tagged.folder
    assert fetch_it().commit == "c" * 40
    with pytest.raises(ModelOffline, match="vectoll models pull m"):
        locate("m", ModelSource(repo="owner/name", revision="d" * 40))


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch_it()
    large = [asked for asked in hub.asked if asked.path.startswith("/large/")]
    assert large
    assert {asked.authorization for asked in large} == {None}
    assert {asked.authorization for asked in hub.asked if asked not in large} == {f"Bearer {TOKEN}"}


def test_names_that_lead_elsewhere_are_refused(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = hub._sibling("config.json")
    for name in ("../up_Pooling/config.json", "/etc/x_Pooling/config.json", "a\\..\\b.json"):
        info = {"id": "x", "sha": "a" * 40, "siblings": [hub._sibling(SHARD), {**sibling, "rfilename": name}]}
        monkeypatch.setattr(HubServer, "info", lambda self, revision, info=info: info)
        monkeypatch.setattr("vectoll.adapters.checkpoints.hub.fetch_blob", lambda *_: None)
        with pytest.raises(ConfigurationError, match="not a name"):
            fetch("m", "owner/name", None, lambda names: names)
    for revision in ("../../x", "/x", "a/../../b"):
        with pytest.raises(ConfigurationError, match="not a name"):
            locate("m", ModelSource(repo="owner/name", revision=revision))


def test_two_at_once_fetch_each_file_once(hub: HubServer) -> None:
    results: list[Fetched] = []
    threads = [threading.Thread(target=lambda: results.append(fetch_it())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.folder for result in results}) == 1
    assert len(asked_for(hub, SHARD)) == 1
    assert not list(hub.folder.parent.rglob("*.partial"))
