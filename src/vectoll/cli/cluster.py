"""vectoll cluster deploy, status, delete"""

from typing import TYPE_CHECKING

import click

from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json, print_table
from vectoll.domain.errors import ConfigurationError
from vectoll.settings import Settings

if TYPE_CHECKING:
    from vectoll.cluster.deploy import ModelStatus
    from vectoll.domain.catalog import ModelSpec


@click.group()
def cluster() -> None:
    """Run models on a Ray cluster (needs the extra `ray`)."""


@cluster.command()
@click.argument("models", nargs=-1)
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600.0, help="Seconds to wait for replicas [600]."
)
@as_json
@with_settings
def deploy(settings: Settings, models: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Deploy MODELS, or all that are served.

    The settings in force apply; replicas that run are replaced one by one.
    Nothing in flight is lost: old replicas go once new ones answer.
    """
    specs = _specs(settings, models)
    _join(settings)
    from vectoll.cluster import deploy as on_cluster
    from vectoll.cluster.placement import needs_of
    from vectoll.engines import weights_size

    on_gpu = settings.engine.device == "cuda"
    for spec in specs:
        wanted = needs_of(spec.id, weights_size(spec), settings.cluster, on_gpu=on_gpu)
        if not on_cluster.fits_some_node(wanted):
            click.secho(
                f"{spec.id}: no node has {wanted.cpus:g} CPUs, {wanted.gpus:g} GPUs and "
                f"{wanted.memory_bytes / 2**30:.1f} GiB of memory for a replica; waiting for one that has",
                fg="yellow",
                err=True,
            )
        on_cluster.deploy(spec, wanted, settings)
    names = [spec.id for spec in specs]
    on_cluster.wait(names, timeout, lambda found: _tell(found, err=as_json))
    if as_json:
        print_json([found for found in on_cluster.status(names) if found.name in names])


@cluster.command()
@as_json
@with_settings
def status(settings: Settings, as_json: bool) -> None:
    """Show what is deployed, and the state of its replicas."""
    _join(settings)
    from vectoll.cluster import deploy as on_cluster

    found = on_cluster.status([spec.id for spec in _specs(settings, ())])
    if as_json:
        print_json(found)
    else:
        rows = [(each.name, each.state, _counts(each), each.message.partition("\n")[0]) for each in found]
        print_table(("MODEL", "STATE", "REPLICAS", "MESSAGE"), rows)


@cluster.command()
@click.argument("models", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Delete everything that vectoll has deployed.")
@as_json
@with_settings
def delete(settings: Settings, models: tuple[str, ...], is_all: bool, as_json: bool) -> None:
    """Take MODELS off the cluster. Their requests in flight are finished first."""
    if bool(models) == is_all:
        raise click.UsageError("Give MODELS or --all.")
    _join(settings)
    from vectoll.cluster import deploy as on_cluster

    names = [each.name for each in on_cluster.status([])] if is_all else list(models)
    for name in names:
        if not on_cluster.delete(name):
            raise click.BadParameter(f"{name} is not deployed", param_hint="MODELS")
        if not as_json:
            click.echo(f"deleted {name}")
    if as_json:
        print_json({"deleted": names})


def _join(settings: Settings) -> None:
    try:
        from vectoll.cluster.deploy import join
    except ImportError:
        raise ConfigurationError(
            'this command needs Ray: pip install ".[ray]" in vectoll\'s checkout'
        ) from None
    join(settings.cluster)


def _specs(settings: Settings, names: tuple[str, ...]) -> "list[ModelSpec]":
    """The models of these names, else all that are switched on. Upstreams stay in the gateways."""
    from vectoll.loading import model_states, read_served_models

    if not names:
        return [s.spec for s in model_states(settings) if s.offline is None and s.spec.upstream is None]
    catalog = read_served_models(settings).catalog
    specs = [catalog.resolve(name) for name in names]
    for spec in specs:
        if spec.upstream is not None:
            raise click.BadParameter(
                f"{spec.id} is served by an upstream, which gateways ask themselves", param_hint="MODELS"
            )
    return specs


def _tell(found: "ModelStatus", *, err: bool) -> None:
    click.echo(f"{found.name}: {found.state.lower()} ({_counts(found) or 'no replicas yet'})", err=err)


def _counts(found: "ModelStatus") -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in found.replicas.items() if count)
