"""Fetches models from the Hugging Face hub: only the files that are needed, checked, resumed where they broke off.

`huggingface_hub` speaks for us (endpoint, token, errors). The bytes are fetched here: from 2.0 on the library throws a
partial file away when its process ends, which for one of 5 GB is an evening on a slow line.
"""

import errno
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vectoll.adapters.checkpoints.hub_cache import RepoCache, cache_folder
from vectoll.adapters.checkpoints.transfer import Damaged, Pauses, fetch_blob, partial_of, patiently
from vectoll.domain.errors import ModelOffline
from vectoll.ports.progress import Progress, no_progress

INFO_TIMEOUT_S = 10.0
SPARE_BYTES = 50_000_000
"""What a download leaves free of the disk."""

Wanted = Callable[[list[str]], list[str]]
"""Of a repository's files, those to fetch; empty when it has nothing that can be served."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of one commit."""

    name: str
    size: int
    etag: str
    """Its SHA-256 where it is large, else the SHA-1 that git gives it."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A commit's needed files, in the cache."""

    folder: Path
    commit: str
    size_bytes: int
    fetched_bytes: int
    """How many of them came over the network just now."""


def fetch(
    model: str,
    repo: str,
    revision: str | None,
    wanted: Wanted,
    progress: Progress = no_progress,
    pauses: Pauses | None = None,
) -> Fetched:
    """Bring a repository's needed files into the cache. What is there already is not fetched again.

    ``revision`` is a commit, branch or tag; None is main. ``progress`` counts bytes; what it raises ends the download,
    which keeps what it has. Raises ModelOffline with the reason, which names no path,
    and ConfigurationError for what is no repository's id.
    """
    for library in ("httpx", "httpx2"):  # they log every URL, and those of large files carry signatures
        logging.getLogger(library).setLevel(logging.WARNING)
    cache = RepoCache(repo)
    pauses = pauses or Pauses()
    with _explaining(model, repo, revision):
        commit, files = patiently(lambda: _describe(repo, revision), pauses)
        names = set(wanted([file.name for file in files]))
        if not names:
            raise ModelOffline(
                model,
                f"the repository {repo} has no weights that can be read (safetensors, torch, OpenVINO, ONNX)",
            )
        needed = [file for file in files if file.name in names]
        total = sum(file.size for file in needed)
        missing = [file for file in needed if not cache.blob(file.etag).is_file()]
        _require_space(model, cache, missing)
        done = total - sum(file.size for file in missing)
        for file in missing:
            fetch_blob(
                _url(repo, commit, file.name),
                cache.blob(file.etag),
                file.size,
                partial(_show_file, progress, done, total),
                pauses,
            )
            done += file.size
        progress(total, total)
        folder = cache.link(commit, revision, ((file.name, file.etag) for file in needed))
    return Fetched(folder, commit, total, sum(file.size for file in missing))


def _show_file(progress: Progress, before: int, total: int, bytes_there: int) -> None:
    progress(before + bytes_there, total)


def _describe(repo: str, revision: str | None) -> tuple[str, list[HubFile]]:
    """The commit that a revision is, and its files."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - 0.2 s that only a download is worth

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=INFO_TIMEOUT_S)
    files = [
        HubFile(
            name=sibling.rfilename,
            size=(sibling.lfs.size if sibling.lfs else sibling.size) or 0,
            etag=(sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or "",
        )
        for sibling in info.siblings or ()
    ]
    return info.sha or "", files


def _url(repo: str, commit: str, name: str) -> str:
    from huggingface_hub import hf_hub_url  # noqa: PLC0415

    return hf_hub_url(repo, name, revision=commit)


def _require_space(model: str, cache: RepoCache, missing: list[HubFile]) -> None:
    """Refuse before the first byte what cannot fit."""
    needed = sum(file.size - _bytes_there(partial_of(cache.blob(file.etag))) for file in missing)
    folder = cache_folder()
    existing = next((f for f in (folder, *folder.parents) if f.is_dir()), None)
    free = shutil.disk_usage(existing).free if existing else needed + SPARE_BYTES
    if missing and needed + SPARE_BYTES > free:
        raise _no_space(model, needed, free)


def _bytes_there(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _no_space(model: str, needed: int, free: int) -> ModelOffline:
    return ModelOffline(
        model,
        f"its weights need {gigabytes(needed)} more disk space, and {gigabytes(free)} is free "
        "(set HF_HOME to keep them elsewhere)",
    )


@contextmanager
def _explaining(model: str, repo: str, revision: str | None) -> Iterator[None]:
    """Whatever goes wrong becomes ModelOffline, in a sentence that says what to do."""
    from huggingface_hub import errors  # noqa: PLC0415

    http_error: Any = errors.HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, by the library's release
    try:
        yield
    except errors.GatedRepoError:
        reason = f"the repository {repo} is gated: accept its terms on the hub and set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = f"the revision {revision} of {repo} does not exist"
    except errors.RepositoryNotFoundError:
        reason = f"the repository {repo} does not exist or is private (set HF_TOKEN)"
    except errors.EntryNotFoundError:
        reason = f"a file of {repo} is no longer there; try again"
    except errors.OfflineModeIsEnabled:
        reason = f"the weights of {repo} are not in the local cache, and HF_HUB_OFFLINE forbids fetching them"
    except errors.HfHubHTTPError as error:
        reason = _by_status(repo, error.response.status_code)
    except Damaged as error:
        reason = f"the download of {repo} was damaged ({error}) and has been discarded; try again"
    except (http_error, TimeoutError, ConnectionError) as error:
        reason = (
            f"the weights of {repo} are not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}); try again: what has been fetched is kept"
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"the disk is full; what has been fetched of {repo} is kept (set HF_HOME to keep it elsewhere)"
        else:
            reason = f"cannot write to the hub's cache: {error.strerror} (set HF_HOME to keep it elsewhere)"
    else:
        return
    raise ModelOffline(model, reason)


def _by_status(repo: str, status: int) -> str:
    if status == 429:
        return f"the hub's rate limit was reached while fetching {repo} (HTTP 429); try again later, or set HF_TOKEN"
    if status >= 500:
        return f"the hub failed while fetching {repo} (HTTP {status}); try again later"
    if status in (401, 403):
        return f"the hub refuses the repository {repo} (HTTP {status}); check HF_TOKEN"
    return f"the hub refuses the repository {repo} (HTTP {status})"


def gigabytes(size: int) -> str:
    """``2.27 GB``, ``90.9 MB``."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
