"""vectoll models"""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from vectoll.cli.check import check
from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json, print_table
from vectoll.cli.pull import pull
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.ports.progress import no_progress
from vectoll.settings import Settings

if TYPE_CHECKING:
    from vectoll.loading import ModelState


@click.group()
def models() -> None:
    """List models, fetch their weights, check them."""


models.add_command(pull)
models.add_command(check)


@models.command("list")
@as_json
@with_settings
def list_models(settings: Settings, as_json: bool) -> None:
    """List every model. Shows its size, its price, and whether this server would serve it."""
    from vectoll.loading import model_states

    states = [_as_found(state) for state in model_states(settings)]
    if as_json:
        print_json(
            [
                {
                    "id": s.spec.id,
                    "name": s.spec.name,
                    "kind": s.spec.kind,
                    "dims": s.spec.dims,
                    "max_tokens": s.spec.max_tokens,
                    "pooling": s.spec.pooling,
                    "supports_dimensions": s.spec.supports_dimensions,
                    "token_ids": s.spec.token_ids,
                    "price_usd_per_million": s.spec.price.usd_per_million,
                    "pro_only": s.spec.pro_only,
                    "privacy": s.spec.privacy,
                    "licence": s.spec.licence,
                    "aliases": s.spec.aliases,
                    "offline": s.detail,
                }
                for s in states
            ]
        )
        return
    print_table(
        ("ID", "DIMS", "MAX TOKENS", "$/MILLION", "STATE", "LICENCE"),
        [
            (
                s.spec.id,
                str(s.spec.dims or "?"),
                str(s.spec.max_tokens or "?"),
                f"{s.spec.price.usd_per_million:f}",
                "off" if s.offline else "on",
                s.spec.licence,
            )
            for s in states
        ],
    )
    for s in states:
        if s.is_named and s.detail:
            click.echo(f"{s.spec.id} is off: {s.detail}", err=True)


def _as_found(state: "ModelState") -> "ModelState":
    """Off, too, is a model whose weights are not on this machine and may not be fetched."""
    spec = state.spec
    if state.offline or spec.upstream:
        return state
    from huggingface_hub import constants

    if spec.source.repo and not spec.source.path and not constants.HF_HUB_OFFLINE:
        return state
    from vectoll.adapters.checkpoints import locate

    try:
        locate(spec.id, spec.source, progress=no_progress)
    except (ModelOffline, ConfigurationError) as error:
        why = error.reason if isinstance(error, ModelOffline) else str(error)
        return replace(state, offline=why, detail=why)
    return state
