"""vectoll config show"""

import re
from collections.abc import Iterator
from typing import Any

import click

from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json
from vectoll.settings import Settings

_SECRET = re.compile(r"(?:^|_)(?:secret|password|key|token)$|headers$")
_ADDRESS = re.compile("0x[0-9a-fA-F]{40}")
"""Of a token's contract: public, and too short for a private key."""
_SECRET_PATH = re.compile(r"^(?:rpc|facilitator)_url$")
_URL_PASSWORD = re.compile(r"(?<=://)\S+(?=@)|(?<=password=)[^&\s]+")
_URL_PATH = re.compile(r"(?<=://)([^/?#]+)[/?#].+")
REDACTED = "(set, not shown)"


@click.group()
def config() -> None:
    """Show the settings in force."""


@config.command()
@as_json
@with_settings
def show(settings: Settings, as_json: bool) -> None:
    """Print the settings in force, from every source, without secrets. Refuses what `vectoll serve` would refuse."""
    import msgspec

    from vectoll.bootstrap import check_settings

    check_settings(settings)
    tree = redact(msgspec.to_builtins(settings))
    if as_json:
        print_json(tree)
        return
    for name, value in flatten(tree):
        click.echo(f"{name} = {'(none)' if value is None else msgspec.json.encode(value).decode()}")


def redact(value: Any, name: str = "") -> Any:
    """The same tree without its secrets, nor those inside URLs: passwords, and the paths that name an RPC's key."""
    if value and _SECRET.search(name) and not _ADDRESS.fullmatch(str(value)):
        return REDACTED
    match value:
        case dict():
            return {key: redact(item, key) for key, item in value.items()}
        case list() | tuple():
            return [redact(item, name) for item in value]
        case str():
            shown = _URL_PASSWORD.sub("…", value)
            return _URL_PATH.sub(r"\1/…", shown) if _SECRET_PATH.search(name) else shown
        case _:
            return value


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("limits.block_s", 30)``, table by table; of the tables of a list what is set."""
    for name, value in tree.items():
        match value:
            case dict():
                yield from flatten(value, f"{prefix}{name}.")
            case [dict(), *_]:
                yield (
                    prefix + name,
                    [{key: said for key, said in each.items() if said is not None} for each in value],
                )
            case _:
                yield prefix + name, value
