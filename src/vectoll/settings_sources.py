"""Where settings come from, and how a wrong one is explained. What settings there are: ``vectoll.settings``."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from vectoll.domain.errors import ConfigurationError

ENV_PREFIX = "VECTOLL_"
NOT_SETTINGS = frozenset({"VECTOLL_CONFIG", "VECTOLL_API_KEY"})
"""Variables with the prefix that are for the command line: the settings file, and `vectoll embed --api-key`."""


def read_sources(config: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """What the file, the environment and the command line say, merged: the later wins.

    Raises ConfigurationError for a file that cannot be read, or variables that clash.
    """
    tree: dict[str, Any] = {}
    path = config or _config_path(environ)
    if path is not None:
        _merge(tree, _read_toml(path))
    _merge(tree, _from_environment(environ))
    _merge(tree, _without_none(flags))
    return tree


def explain(error: msgspec.ValidationError, settings: type) -> str:
    """``Expected `int`, got `str` - at `$.limits.x``` → ``setting limits.x: expected `int`, got `str```.

    Where one of a few words is meant, they are listed.
    """
    what, _, where = str(error).partition(" - at `$.")
    what, where = what[:1].lower() + what[1:], where.rstrip("`")
    if not where:
        return f"settings: {what}"
    choices = _choices(settings, where) if what.startswith("invalid enum value") else ()
    return f"setting {where}: {what}" + (f", must be one of {', '.join(choices)}" if choices else "")


def _choices(settings: type, where: str) -> Sequence[str]:
    """The words that the setting at a path like ``models[0].precision`` may be."""
    node: Any = inspect.type_info(settings)
    for name, item in re.findall(r"(\w+)(\[)?", re.sub(r"\[\d+\]", "[", where)):
        node = next(field.type for field in node.fields if field.encode_name == name)
        node = node.item_type if item else node
    words: list[str] = []
    for kind in getattr(node, "types", [node]):
        match kind:
            case inspect.LiteralType():
                words += map(str, kind.values)
            case inspect.EnumType():
                words += (str(member.value) for member in kind.cls)
    return words


def _config_path(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("VECTOLL_CONFIG"):
        return Path(named)
    default = Path("vectoll.toml")
    return default if default.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in NOT_SETTINGS:
            continue
        *tables, leaf = name.removeprefix(ENV_PREFIX).lower().split("__")
        node = tree
        for table in tables:
            node = node.setdefault(table, {})
            if not isinstance(node, dict):
                raise ConfigurationError(f"{name} clashes with another VECTOLL_ variable")
        node[leaf] = _parse_json(value) if value.startswith(("[", "{")) else value
    return tree


def _parse_json(value: str) -> Any:
    """A variable that starts with ``[`` or ``{`` is JSON; anything else stays the text it is."""
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
