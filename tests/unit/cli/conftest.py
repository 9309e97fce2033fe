"""The command line in this process, over a real ledger in a directory of the test's own."""

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vectoll.cli.root import cli


@dataclass(frozen=True)
class Cli:
    """Runs commands as a shell would, with --data-dir where a command takes it."""

    data_dir: Path

    def __call__(self, *arguments: str, input: bytes | str | None = None, **environ: str) -> Result:  # noqa: A002
        options = ["--data-dir", str(self.data_dir)] if takes_data(arguments) else []
        return CliRunner().invoke(cli, [*arguments, *options], input=input, env=environ, prog_name="vectoll")

    def ok(self, *arguments: str, **options: Any) -> str:
        """What is printed to standard output by a command that succeeds."""
        result = self(*arguments, **options)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"), parse_float=Decimal)


def takes_data(arguments: tuple[str, ...]) -> bool:
    return bool(arguments) and arguments[0] not in {"completion", "reference"} and "--help" not in arguments


@pytest.fixture
def vectoll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path / "data")
