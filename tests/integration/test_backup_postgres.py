"""docs/howto/backup.md for PostgreSQL, as an operator does it: pg_dump under load, pg_restore, verify, serve."""

import subprocess
from pathlib import Path
from typing import Any

from tests.integration.test_backup import spending, wait_for
from tests.live import MODEL, Vectoll
from tests.postgres import PostgresServer

TRANSFERS = "SELECT * FROM vectoll.transfers ORDER BY seq"
BALANCES = "SELECT id, balance FROM vectoll.accounts ORDER BY id"
KEYS = "SELECT id, digest FROM vectoll.api_keys ORDER BY id"


def run(program: Path, *arguments: str | Path) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def rows(postgres: PostgresServer, url: str, query: str) -> list[Any]:
    return [tuple(row) for row in postgres.execute(query, database=url.rpartition("/")[2])]


def gateway_on(home: Path, url: str) -> Vectoll:
    return Vectoll(home, database__url=url, limits__requests_per_minute=0)


def restored(postgres: PostgresServer, dump: Path) -> str:
    url = postgres.new_database()
    options = ("--no-owner", "--exit-on-error", "--single-transaction")
    run(postgres.program("pg_restore"), *options, f"--dbname={url}", dump)
    return url


def test_a_dump_under_load_restores_to_the_very_balances(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    vectoll = gateway_on(tmp_path / "home", url)
    vectoll.run("db", "migrate")
    key = vectoll.create_key("100")
    during, after = tmp_path / "during.dump", tmp_path / "after.dump"
    with vectoll.serve() as server:
        with spending(server, key) as answered:
            wait_for(answered, 50)
            run(postgres.program("pg_dump"), "--format=custom", f"--file={during}", url)
            wait_for(answered, 50)
        run(postgres.program("pg_dump"), "--format=custom", f"--file={after}", url)
        with server.client(key) as client:
            balance = client.get("/api/v1/billing/balance").json()
    vectoll.verify()
    final = rows(postgres, url, TRANSFERS)

    then = restored(postgres, during)
    gateway_on(tmp_path / "then", then).verify()
    kept = rows(postgres, then, TRANSFERS)
    assert kept == final[: len(kept)], "one moment's transfers: none missing before the last"
    assert 50 < len(kept) < len(final)

    now = restored(postgres, after)
    for query in (TRANSFERS, BALANCES, KEYS):
        assert rows(postgres, now, query) == rows(postgres, url, query)
    copy = gateway_on(tmp_path / "now", now)
    copy.run("db", "status")
    copy.verify()
    with copy.serve() as server, server.client(key) as client:
        assert client.get("/api/v1/billing/balance").json() == balance
        assert client.post("/v1/embeddings", json={"model": MODEL, "input": "one"}).status_code == 200
    copy.verify()
    assert len(rows(postgres, now, TRANSFERS)) == len(final) + 1


def test_sqlites_own_backup_is_refused_where_the_ledger_is_a_database(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    vectoll = gateway_on(tmp_path / "home", postgres.new_database())
    for command in ("backup", "restore"):
        refused = vectoll.try_run(command, str(tmp_path / "file"), "--force")
        assert (refused.returncode, "pg_dump" in refused.stderr) == (2, True)
