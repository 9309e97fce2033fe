"""vectoll config show"""

import re
from collections.abc import Iterator
from typing import Any

import click

from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json
from vectoll.settings import Settings

_SECRET = re.compile(r"(?:^|_)(?:secret|password|private_key|settlement_key|api_key|token)$|headers$")
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")
REDACTED = "(set, not shown)"


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@as_json
@with_settings
def show(settings: Settings, as_json: bool) -> None:
    """Print the settings in force, from every source, without secrets."""
    import msgspec

    tree = redact(msgspec.to_builtins(settings))
    if as_json:
        print_json(tree)
        return
    for name, value in flatten(tree):
        click.echo(f"{name} = {'(none)' if value is None else msgspec.json.encode(value).decode()}")


def redact(value: Any, name: str = "") -> Any:
    """The same tree, with secrets replaced by a word and passwords cut out of URLs."""
    if value and _SECRET.search(name):
        return REDACTED
    match value:
        case dict():
            return {key: redact(item, key) for key, item in value.items()}
        case list() | tuple():
            return [redact(item, name) for item in value]
        case str():
            return _URL_PASSWORD.sub("…", value)
        case _:
            return value


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("limits.block_s", 30)``, table by table."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
