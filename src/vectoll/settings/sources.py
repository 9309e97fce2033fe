"""Where settings come from, and how a wrong one is explained. What settings there are: ``tree``."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from vectoll.domain.errors import ConfigurationError, shorten

ENV_PREFIX = "VECTOLL_"
NOT_SETTINGS = frozenset({"VECTOLL_CONFIG", "VECTOLL_API_KEY"})
"""Variables with the prefix that are for the command line: the settings file, and `vectoll embed --api-key`."""

SettingPath = tuple[str, ...]
"""``("limits", "block_s")``"""


@dataclass(frozen=True, slots=True)
class Sources:
    """What the file, the environment and the command line say, merged: the later wins."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[SettingPath, str] = field(default_factory=dict)
    """The source of what is at a path: ``vectoll.toml``, ``VECTOLL_PORT``, ``--port``."""

    def origin_of(self, path: SettingPath) -> str:
        """The source of a setting; else that of the table or list around it, else that of something inside it."""
        around = (self.origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.origins)
        inside = (origin for said, origin in self.origins.items() if said[: len(path)] == path)
        return next(around, "") or next(inside, "")

    def suffix_of(self, where: str) -> str:
        """How a message about ``models[0].id`` ends: `` (VECTOLL_MODELS)``, its source; "" where it has none."""
        origin = self.origin_of(_path_of(where))
        return f" ({origin})" if origin else ""

    def add(self, tree: Mapping[str, Any], origin: str) -> None:
        """Merge one source's settings over those of the sources before it."""
        _merge(self.tree, tree)
        self.origins.update(dict.fromkeys(_paths(tree), origin))


def read_sources(
    config: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str], settings: type
) -> Sources:
    """All sources, merged. Raises ConfigurationError for a file that cannot be read, or variables that clash."""
    sources = Sources()
    path = config or _config_path(environ)
    if path is not None:
        sources.add(_read_toml(path), str(path))
    _add_environment(sources, environ, inspect.type_info(settings))
    given = _without_none(flags)
    for steps in _paths(given):
        sources.origins[steps] = "--" + "-".join(steps).replace("_", "-")
    _merge(sources.tree, given)
    return sources


def explain(error: msgspec.ValidationError, sources: Sources, settings: type) -> str:
    """A validation error in an operator's words: ``setting port: must be an integer, not text (VECTOLL_PORT=eighty)``.

    Lists the choices where there are few, and suggests the nearest name for an unknown one. Repeats the value only of
    a number or a switch, which cannot be a secret.
    """
    what, _, where = str(error).partition(" - at `$.")
    where = where.rstrip("`")
    path = _path_of(where)
    if unknown := re.search(r"unknown field `(.+?)`", what):
        return _explain_unknown((*path, unknown[1]), sources, settings)
    if not where:
        return f"settings: {_in_words(what)}"
    kind = _kind_at(settings, where)
    if wrong := re.fullmatch(r"Invalid enum value ('.*')", what):
        why = f"{wrong[1]} is not one of {', '.join(_choices(kind))}"
    else:
        is_bare = re.match(r"Expected `str.*, got `(int|float)`", what)
        hint = "; write it in quotes" if is_bare else _hint(where, kind, sources.origin_of(path))
        why = _in_words(what) + hint
    return f"setting {where}: {why}{_suffix_with_value(sources, where, kind)}"


_WORDS = {
    "int": "an integer", "float": "a number", "str": "text", "bool": "true or false",
    "array": "a list", "object": "a table",
}  # fmt: skip


def _in_words(what: str) -> str:
    """``Expected `int`, got `str``` → ``must be an integer, not text``."""
    told = re.sub(r"^Object missing required field `(\w+)`", r"must have \1", what)
    told = re.sub(r"^Expected ", "must be ", told).replace(", got ", ", not ")
    return re.sub(r"`([a-z| ]+)`", lambda types: _type_in_words(types[1]), told)


def _type_in_words(types: str) -> str:
    names = [name for name in types.split(" | ") if name != "null"]
    return " or ".join(_WORDS.get(name, name) for name in names)


def variable_of(path: SettingPath) -> str:
    """The environment variable that sets what is at a path."""
    return ENV_PREFIX + "__".join(path).upper()


def _explain_unknown(path: SettingPath, sources: Sources, settings: type) -> str:
    path = next((said for said in sources.origins if said[: len(path)] == path), path)  # of an unknown table
    origin, name = sources.origin_of(path), ".".join(path)
    known = [".".join(each) for each in _known(inspect.type_info(settings))]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if origin.startswith(ENV_PREFIX) and origin == variable_of(path):
        meant = f"; did you mean {variable_of(tuple(near[0].split('.')))}?" if near else ""
        return f"{origin}: unknown setting{meant}"
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"{origin}: unknown setting {shorten(name)}{meant}"


def _suffix_with_value(sources: Sources, where: str, kind: Any) -> str:
    """`` (VECTOLL_PORT=eighty)``: with the value, but only of a number or a switch."""
    value: Any = sources.tree
    for name in _path_of(where):
        value = value.get(name) if isinstance(value, Mapping) else None
    suffix = sources.suffix_of(where)
    is_plain = isinstance(kind, inspect.IntType | inspect.FloatType | inspect.BoolType)
    if suffix and is_plain and isinstance(value, str | int | float):
        return f"{suffix[:-1]}={shorten(str(value), 40)})"
    return suffix


def _hint(where: str, kind: Any, origin: str) -> str:
    """How to write a list."""
    if not isinstance(kind, inspect.VarTupleType):
        return ""
    is_of_tables = isinstance(kind.item_type, inspect.StructType)
    if origin.startswith(ENV_PREFIX):
        example = '[{"id": "m"}]' if is_of_tables else '["a", "b"]'
        return f"; a list in a variable is JSON, e.g. {example}"
    written = f"[[{where}]]" if is_of_tables else '["a", "b"]'
    return f"; it is written {written}"


def _path_of(where: str) -> SettingPath:
    """``models[0].pooling`` → ``("models", "pooling")``"""
    return tuple(name for name in re.sub(r"\[[^\]]*\]", "", where).split(".") if name)


def _kind_at(settings: type, where: str) -> Any:
    """The type of the setting at a path like ``models[0].precision``; None where there is none."""
    node: Any = inspect.type_info(settings)
    for name, item in re.findall(r"(\w+)(\[)?", re.sub(r"\[[^\]]*\]", "[", where)):
        node = next(
            (each.type for each in getattr(node, "fields", ()) if each.encode_name == name),
            None,
        )
        node = getattr(node, "item_type", None) if item else node
    return node


def _choices(kind: Any) -> Sequence[str]:
    """The values of a setting that takes one of a few; none for any other."""
    words: list[str] = []
    for each in getattr(kind, "types", [kind]):
        match each:
            case inspect.LiteralType():
                words += map(str, each.values)
            case inspect.EnumType():
                words += (str(member.value) for member in each.cls)
    return words


def _known(node: Any, path: SettingPath = ()) -> Iterator[SettingPath]:
    """The path of every setting, those of ``[[models]]`` included."""
    for each in node.fields:
        kind = getattr(each.type, "item_type", each.type)
        here = (*path, each.encode_name)
        yield here
        if isinstance(kind, inspect.StructType):
            yield from _known(kind, here)


def _config_path(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("VECTOLL_CONFIG"):
        return Path(named)
    default = Path("vectoll.toml")
    return default if default.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None


def _add_environment(sources: Sources, environ: Mapping[str, str], kinds: Any) -> None:
    tree: dict[str, Any] = {}
    lists = frozenset(_text_lists(kinds))
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in NOT_SETTINGS:
            continue
        path = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
        node = tree
        for table in path[:-1]:
            node = node.setdefault(table, {})
            if not isinstance(node, dict):
                raise ConfigurationError(f"{name} clashes with another VECTOLL_ variable")
        node[path[-1]] = _parse(value, is_list=path in lists)
        within = _paths(node[path[-1]], path) if isinstance(node[path[-1]], dict) else ()
        sources.origins.update(dict.fromkeys((path, *within), name))
    _merge(sources.tree, tree)


def _parse(value: str, *, is_list: bool) -> Any:
    """A variable that starts with ``[`` or ``{`` is JSON; anything else is the text it is, or texts with commas."""
    if value.startswith(("[", "{")):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return [part.strip() for part in value.split(",") if part.strip()] if is_list else value


def _text_lists(node: Any, path: SettingPath = ()) -> Iterator[SettingPath]:
    """The path of every setting that is a list of texts, those of ``[[models]]`` left out."""
    for each in node.fields:
        here = (*path, each.encode_name)
        if isinstance(each.type, inspect.StructType):
            yield from _text_lists(each.type, here)
        elif isinstance(each.type, inspect.VarTupleType) and isinstance(each.type.item_type, inspect.StrType):
            yield here


def _paths(tree: Mapping[str, Any], path: SettingPath = ()) -> Iterator[SettingPath]:
    """The path of everything that is no table."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, (*path, name))
        else:
            yield (*path, name)


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
