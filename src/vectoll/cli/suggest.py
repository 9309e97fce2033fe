"""What a shell completes beyond options: the ids of models and keys. Where they cannot be read it completes nothing."""

import asyncio
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from vectoll.cli.output import printable
from vectoll.domain.errors import VectollError
from vectoll.domain.identity import ApiKey
from vectoll.settings import Settings, load_settings


def models(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The catalogue's ids, with the operator's own."""
    from vectoll.catalog_file import read_entries

    try:
        entries = read_entries(_settings(ctx))
    except VectollError:
        return []
    return [CompletionItem(entry.id) for entry in entries if entry.id.startswith(begun)]


def active_keys(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The ids of keys that are not revoked, each with its name."""
    try:
        found = asyncio.run(_keys(_settings(ctx)))
    except (VectollError, OSError):
        return []
    return [
        CompletionItem(key.id, help=printable(key.name))
        for key in found
        if key.revoked_at is None and key.id.startswith(begun)
    ]


def _settings(ctx: click.Context) -> Settings:
    return load_settings(ctx.params.get("config"), {"data_dir": ctx.params.get("data_dir")})


async def _keys(settings: Settings) -> Sequence[ApiKey]:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        return await store.keys.list()
