"""The command as a whole: help, exit codes, what it shows and what it does not."""

import json
import os
import re
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from tests.unit.cli.conftest import Cli

from vectoll import __version__
from vectoll.cli.config import REDACTED, redact
from vectoll.cli.root import cli
from vectoll.settings.tree import DIEM, AllowanceSettings

DOCS = Path(__file__).parents[3] / "docs" / "reference"


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    return [found for name, child in command.commands.items() for found in commands(child, (*path, name))]


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_explains_itself(vectoll: Cli, path: tuple[str, ...]) -> None:
    assert vectoll.ok(*path, "--help").startswith(f"Usage: vectoll {' '.join(path)}")


def test_commands_that_touch_data_take_data_dir_and_those_that_print_take_json() -> None:
    silent, without_data = (
        {"serve", "embed", "completion", "configuration", "cli"},
        {"completion", "configuration", "cli"},
    )
    for path in commands(cli):
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert path[-1] in without_data or {"--data-dir", "--config"} <= options, path
        assert path[-1] in silent or "--json" in options, path


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys; import vectoll.cli.root as m; m.cli(['--version'], standalone_mode=False); "
        "heavy = {'numpy', 'openvino', 'starlette', 'uvicorn', 'tokenizers', 'aiohttp', 'limits'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"vectoll {__version__}\n"


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vectoll", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"vectoll {__version__}\n"


def test_wrong_setting_is_one_line_and_exit_code_2(vectoll: Cli) -> None:
    result = vectoll("keys", "list", VECTOLL_PORT="x")
    assert result.exit_code == 2
    assert result.stderr == "Error: setting port: must be an integer, not text (VECTOLL_PORT=x)\n"


@pytest.mark.parametrize("command", [("keys", "list"), ("usage",), ("ledger", "verify"), ("backup", "x")])
def test_data_directory_that_cannot_be_looked_into_is_one_line(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    result = Cli(tmp_path / ("x" * 300))(*command)
    assert "cannot read the data directory" in result.stderr
    assert "File name too long" in result.stderr
    assert result.stderr.count("\n") == 1


def test_unknown_model_is_a_wrong_option(vectoll: Cli) -> None:
    for command in (
        ("models", "check", "nope"),
        ("models", "pull", "nope"),
        ("embed", "a", "--model", "nope"),
    ):
        result = vectoll(*command)
        assert (result.exit_code, "The model 'nope' is not served here" in result.stderr) == (2, True)


def run(*arguments: str, code: str = "from vectoll.cli import main; main()", stdout: Any = None) -> Any:
    """A process of its own, as a shell would run it."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [("models", "list"), ("--version",), ("embed", "--help"), ("embed", "a"), ("completion", "bash")],
)
def test_full_output_is_one_line(vectoll: Cli, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*command, stdout=full)
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def shell(command: str, **environ: str) -> Any:
    """A command as a shell runs it, streams that are closed and all; VECTOLL is the program."""
    program = f"{sys.executable} -c 'from vectoll.cli import main; main()'"
    return subprocess.run(
        command.replace("VECTOLL", program),
        shell=True,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["--help", "models list", "models list --json", "embed a"])
def test_closed_output_is_one_line(vectoll: Cli, command: str) -> None:
    done = shell(f"VECTOLL {command} >&-")
    assert (done.returncode, done.stderr) == (1, "Error: Bad file descriptor\n")


@pytest.mark.parametrize("command", ["--help", "nonsense", "models list"])
def test_closed_input_and_errors_change_nothing_else(vectoll: Cli, command: str) -> None:
    done, closed = shell(f"VECTOLL {command}"), shell(f"VECTOLL {command} <&- 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (done.returncode, done.stdout, "")


@pytest.mark.parametrize("command", ["keys list", "backup copy"])
def test_disk_without_room_is_named_where_sqlite_speaks_of_an_error(vectoll: Cli, command: str) -> None:
    vectoll.ok("keys", "create", "--name", "a")
    done = shell(f"ulimit -f 20; VECTOLL {command} --data-dir {vectoll.data_dir}")
    assert done.returncode == 1
    assert "vectoll.sqlite3: disk I/O error; there is no room: is the disk full?\n" in done.stderr


@pytest.mark.parametrize("command", ["restore --help", "keys list"])
def test_what_a_terminals_encoding_lacks_is_spelled_out(vectoll: Cli, command: str) -> None:
    vectoll.ok("keys", "create", "--name", "a")
    done = shell(f"VECTOLL {command}", PYTHONIOENCODING="latin-1", VECTOLL_DATA_DIR=str(vectoll.data_dir))
    assert (done.returncode, done.stderr, "\\u2026" in done.stdout) == (0, "", True)


def test_json_is_utf_8_whatever_the_locale(vectoll: Cli) -> None:
    vectoll.ok("keys", "create", "--name", "🔑")
    program = [sys.executable, "-c", "from vectoll.cli import main; main()"]
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1", "VECTOLL_DATA_DIR": str(vectoll.data_dir)}
    done = subprocess.run([*program, "keys", "list", "--json"], env=environ, capture_output=True, check=True)
    assert json.loads(done.stdout)[0]["name"] == "🔑"


def test_output_that_nobody_reads_ends_without_a_word(vectoll: Cli) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("models", "list", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_secret_that_could_not_be_printed_is_named_by_its_keys_id(vectoll: Cli) -> None:
    data = ("--data-dir", str(vectoll.data_dir))
    for form in ((), ("--json",)):
        with Path("/dev/full").open("w") as full:
            done = run("keys", "create", "--name", "a", *form, *data, stdout=full)
        assert done.returncode == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert "cannot print the key (No space left on device)" in line
        assert vectoll.json("keys", "list")[-1]["id"] in line


def test_ctrl_c_while_the_program_is_read_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from vectoll.cli import main; main()"
    )
    done = run("keys", "list", code=code)
    assert (done.returncode, done.stderr) == (130, "Aborted!\n")


def test_ctrl_c_in_a_command_that_waits_for_a_line_is_one_line() -> None:
    code = (
        "import io, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a job in the background may lack
        "class Terminal(io.RawIOBase):\n"
        "    def readable(self): return True\n"
        "    def readinto(self, buffer): signal.raise_signal(signal.SIGINT); print('goes on', file=sys.stderr)\n"
        "sys.stdin = io.TextIOWrapper(io.BufferedReader(Terminal()))\n"
        "from vectoll.cli import main; main()"
    )
    done = run("embed", "--file", "-", code=code)
    assert (done.returncode, done.stderr) == (130, "\nAborted!\n")


def test_ctrl_c_while_the_server_is_read_ends_it_also_where_an_exception_would_be_forgotten() -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a job in the background may lack
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        try:\n"
        "            if name == 'vectoll.logging': signal.raise_signal(signal.SIGINT)\n"
        "        except KeyboardInterrupt: pass\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from vectoll.cli import main; main()"
    )
    done = run("serve", "--data-dir", "/dev/null/none", code=code)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_models_are_listed_with_prices_and_states(vectoll: Cli, tmp_path: Path) -> None:
    (tmp_path / "vectoll.toml").write_text('[[models]]\nid = "text-embedding-bge-m3"\nenabled = false\n')
    models = {model["id"]: model for model in vectoll.json("models", "list")}
    assert models["all-MiniLM-L6-v2"]["price_usd_per_million"] == Decimal("0.0125")
    assert models["all-MiniLM-L6-v2"]["offline"] is None
    assert "switched" in models["text-embedding-qwen3-8b"]["offline"]
    assert "text-embedding-bge-m3" not in models
    assert "0.0125" in vectoll.ok("models", "list").splitlines()[1]


def test_model_that_serve_will_not_find_is_off_and_why_is_said(
    vectoll: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = 'pooling = "cls"\ndims = 8\nmax_tokens = 8\n'
    (tmp_path / "vectoll.toml").write_text(
        f'[[models]]\nid = "text-embedding-bge-m3"\n[[models]]\nid = "gone"\npath = "nowhere"\n{facts}'
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def offline() -> dict[str, str | None]:
        return {model["id"]: model["offline"] for model in vectoll.json("models", "list")}

    assert offline()["text-embedding-bge-m3"] is None, "it will be fetched"
    assert "no config.json in nowhere" in str(offline()["gone"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in str(offline()["text-embedding-bge-m3"])
    assert offline()["all-MiniLM-L6-v2"] is None
    shown = vectoll("models", "list")
    assert "text-embedding-bge-m3 is off: " in shown.stderr
    assert not re.search("text-embedding-bge-m3 .* on ", shown.stdout)


def test_titles_are_bold_on_a_terminal_only_and_not_with_no_color(
    vectoll: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; sys.stdout.isatty = lambda: True; from vectoll.cli import main; main()"
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown(**environ: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, "models", "list"],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert shown().startswith("\033[1mID")
    assert shown(NO_COLOR="1").startswith("ID")
    assert vectoll.ok("models", "list").startswith("ID")


def test_config_shows_of_each_model_what_is_set(vectoll: Cli) -> None:
    shown = vectoll.ok("config", "show", VECTOLL_MODELS='[{"id": "all-MiniLM-L6-v2", "precision": "int8"}]')
    assert 'models = [{"id":"all-MiniLM-L6-v2","precision":"int8","enabled":true}]' in shown.splitlines()


def test_config_shows_what_is_in_force_without_secrets(vectoll: Cli) -> None:
    environ = {
        "VECTOLL_LIMITS__BLOCK_S": "77",
        "VECTOLL_X402__BASE__SETTLEMENT_KEY": "0xSECRET",
        "VECTOLL_X402__BASE__RPC_URL": "https://rpc.example/v2/SECRET",
        "VECTOLL_X402__BASE__FACILITATOR_HEADERS": '{"Authorization": "SECRET"}',
        "VECTOLL_TRACING__ENDPOINT": "https://user:SECRET@otlp.example/",
    }
    for form in ((), ("--json",)):
        shown = vectoll.ok("config", "show", *form, **environ)
        assert "77" in shown
        assert "rpc.example/…" in shown
        assert "SECRET" not in shown
    assert f'data_dir = "{vectoll.data_dir}"' in vectoll.ok("config", "show")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VECTOLL_DEFAULT_PRICE_USD_PER_MILLION", "cheap", "not a decimal number"),
        ("VECTOLL_ALLOWANCE__ENABLED", "true", "allowance.enabled needs x402.enabled"),
        ("VECTOLL_X402__ENABLED", "true", "x402.enabled needs public_url"),
        ("VECTOLL_JWT__JWKS_FILE", "/nope", "setting jwt.jwks_file: cannot read"),
    ],
)
def test_config_show_refuses_what_serve_refuses(vectoll: Cli, name: str, value: str, says: str) -> None:
    result = vectoll("config", "show", **{name: value})
    assert result.exit_code == 2
    assert says in result.stderr


def test_redaction_goes_by_name_and_leaves_what_is_not_set() -> None:
    tree = {
        "api_key": "x",
        "password": None,
        "key_file": "k.pem",
        "api_key_env": "NAME",
        "list": [{"token": "x"}],
    }
    assert redact(tree) == {
        "api_key": REDACTED,
        "password": None,
        "key_file": "k.pem",
        "api_key_env": "NAME",
        "list": [{"token": REDACTED}],
    }


def test_redaction_leaves_the_contract_of_the_staked_token() -> None:
    assert redact(msgspec.to_builtins(AllowanceSettings()))["token"] == DIEM


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgresql://user:SECRET@host/name", "postgresql://…@host/name"),
        ("postgresql://user:SE@CRET@host/name", "postgresql://…@host/name"),
        ("postgresql://user:SE/CRET@host/name", "postgresql://…@host/name"),
        ("postgresql://user@host/name?sslpassword=SECRET", "postgresql://…@host/name?sslpassword=…"),
        ("host=host password=SECRET", "host=host password=…"),
        ("https://api.example/v1", "https://api.example/v1"),
    ],
)
def test_redaction_leaves_nothing_of_a_password_also_where_it_is_not_encoded(value: str, shown: str) -> None:
    assert redact({"url": value}) == {"url": shown}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_command(vectoll: Cli, shell: str) -> None:
    script = vectoll.ok("completion", shell)
    assert "_VECTOLL_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_ids_of_models_and_keys_are_completed(vectoll: Cli, tmp_path: Path) -> None:
    kept = vectoll.json("keys", "create", "--name", "a")
    gone = vectoll.json("keys", "create", "--name", "gone")
    vectoll.ok("keys", "revoke", gone["id"])

    def completed(*words: str) -> list[str]:
        environ = {"COMP_WORDS": " ".join(("vectoll", *words)), "COMP_CWORD": str(len(words))}
        environ |= {"_VECTOLL_COMPLETE": "bash_complete", "VECTOLL_DATA_DIR": str(vectoll.data_dir)}
        result = CliRunner().invoke(cli, [], env=environ, prog_name="vectoll")
        return [line.partition(",")[2] for line in result.stdout.splitlines() if line]

    assert completed("keys", "revoke", "key_") == [kept["id"]]
    assert completed("credit", "add", "--key", "key_") == [kept["id"]]
    assert completed("embed", "--model", "all-") == ["all-MiniLM-L6-v2"]
    assert completed("models", "check", "all-") == ["all-MiniLM-L6-v2"]
    (tmp_path / "vectoll.toml").write_text("broken")
    assert completed("embed", "--model", "all-") == completed("keys", "revoke", "key_") == []


@pytest.mark.parametrize(("page", "file"), [("configuration", "configuration.md"), ("cli", "cli.md")])
def test_reference_pages_are_up_to_date(vectoll: Cli, page: str, file: str) -> None:
    assert vectoll.ok("reference", page) == (DOCS / file).read_text(), "run scripts/check --fix"


def test_every_setting_is_explained(vectoll: Cli) -> None:
    rows = [line for line in vectoll.ok("reference", "configuration").splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    for row in rows:
        assert row.rsplit("|", 2)[1].strip(), row
