"""The schema's two parts, two migrators at once, and programs that are older or newer than the database."""

import asyncio

import asyncpg
import pytest
from tests.postgres import POOL, PostgresServer, execute

from vectoll.adapters.storage.postgres import migrations, open_postgres
from vectoll.adapters.storage.postgres.database import Database, connect, sql
from vectoll.adapters.storage.postgres.migrations import (
    Part,
    SchemaVersions,
    check,
    migrate,
    scripts,
    versions,
)
from vectoll.domain.errors import ConfigurationError

NEWEST = migrations.newest()
NEXT = {
    Part.PRE: {**scripts(Part.PRE), NEWEST + 1: "ALTER TABLE vectoll.accounts ADD COLUMN extra integer"},
    Part.POST: {NEWEST + 1: "ALTER TABLE vectoll.sign_in_nonces DROP COLUMN nonce"},
}


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def next_program(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This program with one migration more."""
    monkeypatch.setattr(migrations, "scripts", lambda part: NEXT[part])
    return monkeypatch


async def opened(url: str) -> Database:
    return await connect(url, POOL)


async def columns(url: str, table: str) -> set[str]:
    rows = await execute(
        url,
        f"SELECT column_name FROM information_schema.columns WHERE table_schema = 'vectoll' AND table_name = '{table}'",
    )
    return {name for (name,) in rows}


async def test_an_empty_database_says_what_to_run(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no schema.*`vectoll db migrate`"):
        await open_postgres(url, None, POOL)


async def test_migrating_makes_it_usable_and_again_changes_nothing(url: str) -> None:
    database = await opened(url)
    assert await versions(database) == SchemaVersions(0, 0, NEWEST)
    for _ in range(2):
        assert await migrate(database) == SchemaVersions(NEWEST, NEWEST, NEWEST)
    await check(database)
    await database.close()


async def test_two_migrators_at_once_are_safe(url: str) -> None:
    databases = [await opened(url) for _ in range(4)]
    found = await asyncio.gather(*(migrate(database) for database in databases))
    assert found == [SchemaVersions(NEWEST, NEWEST, NEWEST)] * 4
    for database in databases:
        await database.close()


async def test_a_migrator_waits_for_the_one_before(url: str) -> None:
    database, other = await opened(url), await asyncpg.connect(url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(sql("lock_schema"))
    migrating = asyncio.create_task(migrate(database))
    async with asyncio.timeout(10):
        while not await execute(url, WAITING):  # noqa: ASYNC110 - a lock that is waited for has no event
            await asyncio.sleep(0.005)
    assert not migrating.done()
    await transaction.commit()
    assert (await migrating).is_usable
    await other.close()
    await database.close()


WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_gateways_are_replaced_one_by_one(url: str, next_program: pytest.MonkeyPatch) -> None:
    """The first part lets both programs run; the second ends the old one's time."""
    database = await opened(url)
    with next_program.context() as old:
        old.setattr(migrations, "scripts", scripts)
        await migrate(database)
    with pytest.raises(
        ConfigurationError, match=f"has schema {NEWEST}, .* needs {NEWEST + 1}.*`vectoll db migrate`"
    ):
        await check(database)
    with pytest.raises(ConfigurationError, match="--pre"):
        await migrate(database, (Part.POST,))
    found = await migrate(database, (Part.PRE,))
    assert (found.pre, found.post) == (NEWEST + 1, NEWEST)
    assert found.advice is not None
    assert "--post" in found.advice
    await check(database)
    assert "extra" in await columns(url, "accounts")
    assert "nonce" in await columns(url, "sign_in_nonces")
    with next_program.context() as old:
        old.setattr(migrations, "scripts", scripts)
        await check(database)  # the old program goes on working
        with pytest.raises(ConfigurationError, match="newer than this vectoll"):
            await migrate(database)
    await migrate(database, (Part.POST,))
    await check(database)
    assert "nonce" not in await columns(url, "sign_in_nonces")
    with next_program.context() as old:
        old.setattr(migrations, "scripts", scripts)
        with pytest.raises(ConfigurationError, match=r"newer.*install a newer one"):
            await check(database)
    await database.close()


async def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await opened(url)
    await migrate(database)
    broken = {**NEXT[Part.PRE], NEWEST + 2: "SELECT nothing_like_this()"}
    monkeypatch.setattr(migrations, "scripts", lambda part: broken if part is Part.PRE else {})
    with pytest.raises(asyncpg.UndefinedFunctionError, match="nothing_like_this"):
        await migrate(database)
    monkeypatch.undo()
    assert await versions(database) == SchemaVersions(NEWEST, NEWEST, NEWEST)
    assert "extra" not in await columns(url, "accounts")
    await database.close()


async def test_a_user_who_may_not_change_or_see_the_schema_is_told_so(
    postgres: PostgresServer, url: str
) -> None:
    name = url.rpartition("/")[2]
    postgres.execute("CREATE ROLE stranger LOGIN")
    database = await opened(postgres.url(name, "stranger"))
    with pytest.raises(ConfigurationError, match=rf"permission denied for database {name}: .* must own"):
        await migrate(database)
    postgres.execute("CREATE SCHEMA vectoll", database=name)
    with pytest.raises(ConfigurationError, match=r"permission denied for schema vectoll: .* must own"):
        await check(database)
    await database.close()


def test_every_migration_belongs_to_a_part_and_numbers_have_no_gap() -> None:
    numbers = sorted({*scripts(Part.PRE), *scripts(Part.POST)})
    assert numbers == list(range(1, NEWEST + 1))
