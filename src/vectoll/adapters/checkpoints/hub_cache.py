"""The Hugging Face hub's cache on this machine, in its documented layout, shared with every other program that uses it.

``models--owner--name/`` holds ``blobs/`` (files by content), ``snapshots/<commit>/`` (links to them by name) and
``refs/`` (which commit a branch or tag was). Found by its paths alone: `huggingface_hub` takes a snapshot of which only
the needed files were fetched for a broken one, and its import costs a good part of the start.
"""

import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vectoll.domain.errors import ConfigurationError

DEFAULT_REVISION = "main"

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class RepoCache:
    """What of one repository lies in the cache."""

    def __init__(self, repo: str) -> None:
        """Raises ConfigurationError for what is no repository's id."""
        if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
            raise ConfigurationError(f"{repo!r} is not a repository id, owner/name")
        self._root = cache_folder() / f"models--{repo.replace('/', '--')}"

    def snapshot(self, revision: str | None) -> Path | None:
        """The folder of a commit, branch or tag as it was last fetched; None when it never was."""
        revision = revision or DEFAULT_REVISION
        _require_plain(revision)
        commit = revision
        if not _COMMIT.fullmatch(revision):
            ref = self._root / "refs" / revision
            commit = ref.read_text().strip() if ref.is_file() else ""
        folder = self._root / "snapshots" / commit
        return folder if _COMMIT.fullmatch(commit) and folder.is_dir() else None

    def blob(self, etag: str) -> Path:
        """Where the file of this content belongs. Raises ConfigurationError for what is no hash."""
        if not _ETAG.fullmatch(etag):
            raise ConfigurationError("the hub names a file by what is no hash")
        return self._root / "blobs" / etag

    def link(self, commit: str, revision: str | None, files: Iterable[tuple[str, str]]) -> Path:
        """Make the snapshot of a commit from (name, etag) pairs whose blobs are there; its folder.

        The branch or tag points to it from now on. Raises ConfigurationError for a name that leads elsewhere.
        """
        if not _COMMIT.fullmatch(commit):
            raise ConfigurationError("the hub names a commit by what is no hash")
        folder = self._root / "snapshots" / commit
        for name, etag in files:
            _require_plain(name)
            pointer = folder / name
            pointer.parent.mkdir(parents=True, exist_ok=True)
            _replace_link(pointer, Path(os.path.relpath(self.blob(etag), pointer.parent)))
        if revision is None or not _COMMIT.fullmatch(revision):
            ref = self._root / "refs" / (revision or DEFAULT_REVISION)
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
        return folder


def cache_folder() -> Path:
    """``HF_HUB_CACHE``, else ``hub`` in ``HF_HOME``, else ``~/.cache/huggingface/hub``."""
    from huggingface_hub import constants  # noqa: PLC0415 - light, but not for those who serve no repository

    return Path(constants.HF_HUB_CACHE)


def _require_plain(path: str) -> None:
    """Names come from the hub and from settings; none may lead out of its folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or "\0" in path or ".." in parts:
        raise ConfigurationError(f"{path[:200]!r} is not a name within a repository")


def _replace_link(pointer: Path, target: Path) -> None:
    if pointer.is_symlink() and pointer.readlink() == target:
        return
    fresh = pointer.with_name(f"{pointer.name}.{secrets.token_hex(8)}")
    fresh.symlink_to(target)
    fresh.replace(pointer)
