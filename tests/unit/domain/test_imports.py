"""The domain is pure: what it imports is the standard library and itself. import-linter can only forbid by name."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import vectoll.domain


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            yield node.module


def test_the_domain_imports_the_standard_library_and_itself() -> None:
    files = sorted(Path(vectoll.domain.__path__[0]).glob("**/*.py"))
    assert files
    foreign = {
        (file.name, name)
        for file in files
        for name in imported(file)
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("vectoll.domain")
    }
    assert not foreign
