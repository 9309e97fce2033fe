"""vectoll reference: the pages under docs/reference, written from the code itself."""

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from msgspec import inspect as types

from vectoll.settings import Settings


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting."""

    name: str
    values: str
    default: str
    meaning: str


@click.group(hidden=True)
def reference() -> None:
    """Print the reference pages of the documentation."""


@reference.command()
def configuration() -> None:
    """Print docs/reference/configuration.md."""
    click.echo("\n".join(_configuration_page()))


@reference.command("cli")
@click.pass_context
def command_line(ctx: click.Context) -> None:
    """Print docs/reference/cli.md."""
    click.echo("\n".join(_command_line_page(ctx.find_root().command)))


def _configuration_page() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "<!-- Written by `vectoll reference configuration`; a test checks that it is up to date. -->"
    yield ""
    yield (
        "Settings come from four places, and the later wins: the defaults below; `vectoll.toml` in the working "
        "directory, or the file that `--config` or `VECTOLL_CONFIG` names; environment variables; options. "
        "An environment variable is `VECTOLL_` and the setting's name in capitals, with `__` for each dot: "
        "`limits.requests_per_minute` is `VECTOLL_LIMITS__REQUESTS_PER_MINUTE`. A list or a table in a variable is "
        "JSON; a list of texts may be separated by commas instead. A wrong setting ends the program with one line that "
        "names it. `vectoll config show` prints the settings in force, and refuses what `vectoll serve` would."
    )
    for prefix, title, struct in _tables(Settings, ""):
        yield ""
        yield f"## {title}"
        yield ""
        yield "| setting | values | default | |"
        yield "|---|---|---|---|"
        for entry in _entries(struct, prefix):
            yield f"| `{entry.name}` | {entry.values} | {entry.default} | {entry.meaning} |"


def _tables(struct: type, prefix: str) -> Iterator[tuple[str, str, type]]:
    """Every table, outermost first: the prefix of its settings, its title, its class."""
    yield prefix, _title(struct, prefix), struct
    for field in _fields(struct):
        if isinstance(field.type, types.StructType):
            yield from _tables(field.type.cls, f"{prefix}{field.name}.")
        elif isinstance(field.type, types.VarTupleType) and isinstance(
            field.type.item_type, types.StructType
        ):
            yield from _tables(field.type.item_type.cls, f"{field.name}[].")


def _title(struct: type, prefix: str) -> str:
    doc = inspect.getdoc(struct) or ""
    return doc.splitlines()[0].replace("``", "`").rstrip(".") if prefix else "At the top level"


def _entries(struct: type, prefix: str) -> Iterator[Entry]:
    comments = _comments(struct)
    for field in _fields(struct):
        kind = field.type
        is_table = isinstance(kind, types.StructType) or (
            isinstance(kind, types.VarTupleType) and isinstance(kind.item_type, types.StructType)
        )
        if not is_table:
            yield Entry(prefix + field.name, _values(kind), _default(field), comments[field.name])


def _fields(struct: type) -> tuple[types.Field, ...]:
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    return info.fields


def _comments(struct: type) -> dict[str, str]:
    """The comment beside each field of a class, which the formatter may have put on a line of its own."""
    source = inspect.getsource(struct)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    comments = {}
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            comments[statement.target.id] = " ".join(by_line[line] for line in lines if line in by_line)
    return comments


def _values(kind: types.Type) -> str:
    match kind:
        case types.UnionType():
            return " or ".join(_values(t) for t in kind.types if not isinstance(t, types.NoneType))
        case types.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case types.EnumType():
            return ", ".join(f"`{member.value}`" for member in kind.cls)
        case types.IntType() | types.FloatType():
            return _range("number" if isinstance(kind, types.FloatType) else "integer", kind)
        case types.VarTupleType():
            return f"list of {_values(kind.item_type)}"
        case types.DictType():
            return "table of text"
        case types.BoolType():
            return "`true`, `false`"
        case _:
            return "text"


def _range(name: str, kind: types.IntType | types.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"{name}, {kind.ge} to {kind.le}"
    if kind.ge is not None:
        return f"{name}, at least {kind.ge}"
    return f"{name}, more than {kind.gt}" if kind.gt is not None else name


def _default(field: types.Field) -> str:
    if field.name == "data_dir":
        return "`~/.local/share/vectoll`"  # on a machine without $XDG_DATA_HOME
    if field.required:
        return "required"
    value: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _command_line_page(root: click.Command) -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "<!-- Written by `vectoll reference cli`; a test checks that it is up to date. -->"
    yield ""
    yield (
        "Every command that prints takes `--json`; every command that touches data takes `--data-dir` and "
        "`--config`. Commands write straight to the ledger, even while a server runs. Exit code 0 is success; 2 is a "
        "wrong option or setting; 1 is anything else that was refused or could not be done (in use, there already, "
        "full, out of reach); 130 is Ctrl+C, 143 a backup or restore that SIGTERM ended. There are no colours "
        "in a pipe or with `NO_COLOR`."
    )
    for path, command in _commands(root, "vectoll"):
        context = click.Context(
            command, info_name=path, terminal_width=100, help_option_names=["-h", "--help"]
        )
        yield ""
        yield f"## {path}"
        yield ""
        yield "```"
        yield command.get_help(context)
        yield "```"


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, child in sorted(command.commands.items()):
        if not child.hidden:
            yield from _commands(child, f"{path} {name}")
