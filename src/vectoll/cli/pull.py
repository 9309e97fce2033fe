"""vectoll models pull"""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from vectoll.cli import suggest
from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json, print_table
from vectoll.domain.errors import ConfigurationError, ModelOffline, UnknownModel
from vectoll.settings import ModelSettings, Settings


@dataclass(frozen=True, slots=True)
class _Pulled:
    """What became of one model."""

    id: str
    state: str
    """fetched, here (all of it was already), package, path or failed."""
    repo: str | None = None
    commit: str | None = None
    size_bytes: int | None = None
    fetched_bytes: int | None = None
    folder: str | None = None
    error: str | None = None


@click.command()
@click.argument("models", nargs=-1, metavar="[ID]...", shell_complete=suggest.models)
@click.option("--revision", help="Fetch this commit, branch or tag instead of the configured one.")
@as_json
@with_settings
def pull(settings: Settings, models: tuple[str, ...], revision: str | None, as_json: bool) -> None:
    """Fetch models' weights from the Hugging Face hub.

    So the first start need not wait for them. Without an ID, fetches those of every model that vectoll.toml names.
    Only the files that serving needs are fetched, and an interrupted download resumes with the next run. HF_TOKEN,
    HF_HOME and HF_ENDPOINT are respected.
    """
    if revision is not None and len(models) != 1:
        raise click.UsageError("--revision needs exactly one model ID.")
    done = [_pull(entry, revision) for entry in _chosen(settings, models)]
    if as_json:
        print_json(done)
    else:
        _print(done, settings)
    if any(one.state == "failed" for one in done):
        raise click.exceptions.Exit(1)


def _chosen(settings: Settings, names: Sequence[str]) -> Sequence[ModelSettings]:
    """Raises UnknownModel, and ClickException for a model without weights, or when there is nothing to do."""
    from vectoll.catalog_file import read_entries, source_of

    entries = read_entries(settings)
    by_name = {name: entry for entry in entries for name in (entry.id, *(entry.aliases or ()))}
    by_name |= {entry.id: entry for entry in entries}
    if not names:
        named = {entry.id for entry in settings.models}
        chosen = [entry for entry in entries if entry.id in named and source_of(entry)]
        if not chosen:
            pullable = [entry.id for entry in entries if entry.repo and source_of(entry)]
            raise click.ClickException(
                f"vectoll.toml names no model with weights to fetch. Give an ID: {', '.join(pullable)}."
            )
        return chosen
    for name in names:
        if name not in by_name:
            raise UnknownModel(name, sorted(entry.id for entry in entries), "Models of the catalogue")
        if source_of(by_name[name]) is None:
            raise click.BadParameter(
                f"{name} is served by an upstream and has no weights to fetch.", param_hint="ID"
            )
    return [by_name[name] for name in dict.fromkeys(names)]


def _pull(entry: ModelSettings, revision: str | None) -> _Pulled:
    from vectoll.adapters.checkpoints import DownloadBar, fetch, locate, wanted_files
    from vectoll.catalog_file import source_of
    from vectoll.domain.catalog import ModelSource

    source = source_of(entry)
    assert source is not None  # it was chosen for that
    bar = DownloadBar(entry.id)
    try:
        if source.path is not None:
            return _Pulled(entry.id, "path", folder=str(locate(entry.id, source)))
        if source.package is not None and revision is None and (folder := _in_package(source.package)):
            return _Pulled(entry.id, "package", folder=folder)
        if source.repo is None:
            return _Pulled(
                entry.id, "package", folder=str(locate(entry.id, ModelSource(package=source.package)))
            )
        fetched = fetch(entry.id, source.repo, revision or source.revision, wanted_files, bar)
    except (ModelOffline, ConfigurationError) as error:
        why = error.reason if isinstance(error, ModelOffline) else str(error)
        return _Pulled(entry.id, "failed", repo=source.repo, error=why)
    finally:
        bar.close()
    return _Pulled(
        id=entry.id,
        state="fetched" if fetched.fetched_bytes else "here",
        repo=source.repo,
        commit=fetched.commit,
        size_bytes=fetched.size_bytes,
        fetched_bytes=fetched.fetched_bytes,
        folder=str(fetched.folder),
    )


def _in_package(name: str) -> str | None:
    from vectoll.adapters.checkpoints import locate
    from vectoll.domain.catalog import ModelSource

    try:
        return str(locate("", ModelSource(package=name)))
    except ModelOffline:
        return None


def _print(done: Sequence[_Pulled], settings: Settings) -> None:
    from vectoll.adapters.checkpoints import gigabytes

    pinned = {entry.id: entry.revision for entry in settings.models}
    print_table(
        ("ID", "STATE", "SIZE", "COMMIT", "FOLDER"),
        [
            (
                one.id,
                one.state,
                "" if one.size_bytes is None else gigabytes(one.size_bytes),
                (one.commit or "")[:12],
                one.folder or "",
            )
            for one in done
        ],
    )
    for one in done:
        if one.error:
            click.echo(f"{one.id}: {one.error}", err=True)
        elif one.commit and pinned.get(one.id) != one.commit:
            click.echo(f'To pin {one.id} to this commit: revision = "{one.commit}" in vectoll.toml.')
