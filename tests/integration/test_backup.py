"""vectoll backup and restore: of a server under load, of what is damaged, into what is in use."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.live import MODEL, Key, Server, Vectoll

CALLERS = 4
ATTEMPTS = 3


@pytest.fixture
def vectoll(tmp_path: Path) -> Vectoll:
    return Vectoll(tmp_path / "home", limits__requests_per_minute=0)


@contextmanager
def spending(server: Server, key: Key) -> Iterator[threading.Semaphore]:
    """Callers who embed as fast as they can, until the block ends; the semaphore counts answers."""
    answered, is_over = threading.Semaphore(0), threading.Event()
    failures: list[str] = []

    def spend() -> None:
        with server.client(key) as client:
            while not is_over.is_set():
                answer = client.post("/v1/embeddings", json={"model": MODEL, "input": "one"})
                if answer.status_code != 200:
                    failures.append(answer.text)
                answered.release()

    threads = [threading.Thread(target=spend) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures


def wait_for(answered: threading.Semaphore, count: int) -> None:
    for _ in range(count):
        assert answered.acquire(timeout=20)


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


BALANCES = "SELECT id, balance FROM accounts ORDER BY id"
TRANSFERS = "SELECT * FROM transfers ORDER BY seq"
KEYS = "SELECT id, digest FROM api_keys ORDER BY id"


def test_backups_under_load_restore_to_the_very_balances(tmp_path: Path, vectoll: Vectoll) -> None:
    key = vectoll.create_key("100")
    during = [tmp_path / f"during-{n}.sqlite3" for n in range(ATTEMPTS)]
    after = tmp_path / "after.sqlite3"
    with vectoll.serve() as server:
        with spending(server, key) as answered:
            for file in during:
                wait_for(answered, 20)
                done = vectoll.json("backup", str(file))
                assert done["transfers"] >= 20
        vectoll.run("backup", str(after))
        with server.client(key) as client:
            balance = client.get("/api/v1/billing/balance").json()
    live = vectoll.data_dir / "vectoll.sqlite3"
    final = rows(live, TRANSFERS)
    counts = []
    for file in during:
        kept = rows(file, TRANSFERS)
        assert kept == final[: len(kept)], "one moment's transfers: none missing before the last"
        counts.append(len(kept))
    assert counts == sorted(set(counts)), "each is of a later moment"
    assert {p.name for p in tmp_path.iterdir()} == {"home", after.name, *(f.name for f in during)}, (
        "nothing is left over"
    )

    restored = Vectoll(tmp_path / "restored")
    said = restored.run("restore", str(after))
    assert "verified" in said
    restored.verify()
    copy = restored.data_dir / "vectoll.sqlite3"
    for query in (BALANCES, TRANSFERS, KEYS):
        assert rows(copy, query) == rows(live, query)
    with restored.serve() as server, server.client(key) as client:
        assert client.get("/api/v1/billing/balance").json() == balance
        assert client.post("/v1/embeddings", json={"model": MODEL, "input": "one"}).status_code == 200
    restored.verify()


def test_restore_leaves_a_ledger_in_use_and_one_that_is_there_alone(tmp_path: Path, vectoll: Vectoll) -> None:
    file = tmp_path / "backup.sqlite3"
    vectoll.create_key("1")
    vectoll.run("backup", str(file))
    vectoll.create_key("2")
    before = rows(vectoll.data_dir / "vectoll.sqlite3", BALANCES)
    with vectoll.serve():
        refused = vectoll.try_run("restore", str(file), "--force")
        assert (refused.returncode, "is using the data directory" in refused.stderr) == (1, True)
    refused = vectoll.try_run("restore", str(file))
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    assert rows(vectoll.data_dir / "vectoll.sqlite3", BALANCES) == before

    vectoll.run("restore", str(file), "--force")
    assert rows(vectoll.data_dir / "vectoll.sqlite3", BALANCES) == rows(file, BALANCES)
    assert rows(vectoll.data_dir / "vectoll.sqlite3.replaced", BALANCES) == before
    vectoll.verify()


def test_a_ledger_that_crashed_is_kept_with_its_log(tmp_path: Path, vectoll: Vectoll) -> None:
    """What SIGKILL leaves in the write-ahead log must not be replayed into the restored file."""
    file = tmp_path / "backup.sqlite3"
    key = vectoll.create_key("1")
    vectoll.run("backup", str(file))
    with vectoll.serve() as server:
        with server.client(key) as client:
            client.post("/v1/embeddings", json={"model": MODEL, "input": "one"})
        server.kill()
    live = vectoll.data_dir / "vectoll.sqlite3"
    assert live.with_name(live.name + "-wal").stat().st_size > 0
    vectoll.run("restore", str(file), "--force")
    assert rows(live, TRANSFERS) == rows(file, TRANSFERS)
    replaced = Path(f"{live}.replaced")
    assert len(rows(replaced, TRANSFERS)) == len(rows(file, TRANSFERS)) + 1
    vectoll.verify()


def test_a_backup_of_what_does_not_add_up_fails_and_leaves_no_file(tmp_path: Path, vectoll: Vectoll) -> None:
    vectoll.create_key("1")
    with closing(sqlite3.connect(vectoll.data_dir / "vectoll.sqlite3")) as db:
        db.execute("UPDATE accounts SET balance = balance + 1 WHERE id LIKE 'acct%'")
        db.commit()
    failed = vectoll.try_run("backup", str(tmp_path / "b"))
    assert (failed.returncode, "does not add up" in failed.stderr) == (1, True)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_backup_overwrites_only_on_request_and_never_the_ledger_itself(
    tmp_path: Path, vectoll: Vectoll
) -> None:
    file, live = tmp_path / "b", vectoll.data_dir / "vectoll.sqlite3"
    nothing = vectoll.try_run("backup", str(file))
    assert (nothing.returncode, "no ledger" in nothing.stderr) == (2, True)
    vectoll.create_key("1")
    vectoll.run("backup", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert vectoll.try_run("backup", str(file)).returncode == 1
    vectoll.run("backup", str(file), "--force")
    for command in ("backup", "restore"):
        itself = vectoll.try_run(command, str(live), "--force")
        assert (itself.returncode, "the ledger itself" in itself.stderr) == (2, True)
    nowhere = vectoll.try_run("backup", str(tmp_path / "no" / "b"))
    assert (nowhere.returncode, "No such file" in nowhere.stderr) == (1, True)


WAITING = """
import sys
from contextlib import contextmanager
from vectoll.cli import backup, main

@contextmanager
def wait(label):
    yield lambda done, total: (print("copying", flush=True), sys.stdin.read())

backup.progress_bar = wait
main()
"""


def test_a_backup_that_is_terminated_leaves_no_copy(tmp_path: Path, vectoll: Vectoll) -> None:
    vectoll.create_key("1")
    arguments = ["backup", str(tmp_path / "b"), "--data-dir", str(vectoll.data_dir)]
    command = [sys.executable, "-c", WAITING, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as copying:
        assert copying.stdout
        assert copying.stdout.readline() == b"copying\n"
        copying.terminate()
        assert copying.wait(20) == 128 + signal.SIGTERM
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
