"""The schema's versions: each is a part that is made before the new program runs, and one after the old has gone.

``NNNN_name.pre.sql`` adds: programs of the version before go on working beside it. ``NNNN_name.post.sql`` takes away
what only they needed. So gateways are replaced one by one: ``vectoll db migrate --pre``, then the programs, then
``vectoll db migrate --post``. That says, also where it has nothing to take away, that no older program runs, and keeps
one from starting: what *pre* adds promises to get on with the version before, and not with those before that.
A function whose behaviour changes gets a new name.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

import asyncpg

from vectoll.adapters.storage.postgres.database import TAKE_TIME, Connection, Database, sql
from vectoll.domain.errors import Unusable

Scripts = Mapping[int, str]
MIGRATE_TIMEOUT_S = 3600.0


class Part(StrEnum):
    """Before or after the programs are replaced."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class SchemaVersions:
    """How far the database is, and how far this program would take it."""

    pre: int
    post: int
    newest: int

    @property
    def is_newer(self) -> bool:
        """Whether a newer program has migrated it."""
        return max(self.pre, self.post) > self.newest

    @property
    def is_usable(self) -> bool:
        """Whether this program can serve from it: also while the next program's gateways are about to take over."""
        return self.post <= self.newest <= self.pre

    @property
    def advice(self) -> str | None:
        """What to run next; None where there is nothing to do."""
        if self.post > self.newest:
            return (
                f"The schema ({self.post}) is newer than this vectoll ({self.newest}): install a newer one."
            )
        if self.pre < self.newest:
            return "Run `vectoll db migrate`."
        if self.post < self.newest:
            return "Once no older program runs: `vectoll db migrate --post`."
        return None


@cache
def scripts(part: Part) -> Scripts:
    """The text of each migration of one part by its number."""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    return {int(file.name[:4]): file.read_text() for file in files if file.name.endswith(f".{part}.sql")}


def newest() -> int:
    """The version that this program wants."""
    return max(*scripts(Part.PRE), *scripts(Part.POST), 0)


async def versions(database: Database) -> SchemaVersions:
    """Where the database stands. Raises ConfigurationError where its user may not see that."""
    with _told_what_is_forbidden():
        return await database.run(_read, is_repeatable=True)


async def check(database: Database) -> None:
    """Raises ConfigurationError, with the command to run, where this program cannot use the schema as it is."""
    found = await versions(database)
    if not found.is_usable:
        state = f"has schema {found.pre}, this vectoll needs {found.newest}" if found.pre else "has no schema"
        raise Unusable(f"the database {state}. {found.advice}")


async def migrate(database: Database, parts: tuple[Part, ...] = (Part.PRE, Part.POST)) -> SchemaVersions:
    """Bring the schema to this program's version, all or nothing. Two at once are safe: the second waits.

    Raises ConfigurationError when a newer program has migrated it, when the second part is asked for before the
    first was made, or when the database's user may not change the schema.
    """

    async def work(db: Connection) -> SchemaVersions:
        async with db.transaction():
            await db.execute(TAKE_TIME)
            await db.execute(sql("lock_schema"), timeout=MIGRATE_TIMEOUT_S)
            found = await _read(db)
            if found.is_newer:
                raise Unusable(
                    f"the database's schema ({max(found.pre, found.post)}) is newer than this vectoll "
                    f"({found.newest}): nothing was changed"
                )
            if not found.pre and not found.post:
                await _make_versions(db)
            for part in parts:
                await _apply(db, part, await _read(db))
            return await _read(db)

    with _told_what_is_forbidden():
        return await database.run(work, is_repeatable=False)


@contextmanager
def _told_what_is_forbidden() -> Iterator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unusable(f"{error.args[0]}: the user in database.url must own the database") from None


async def _apply(db: Connection, part: Part, found: SchemaVersions) -> None:
    if part is Part.POST and found.pre < found.newest:
        raise Unusable("the first part is missing: run `vectoll db migrate --pre` before --post")
    done = found.pre if part is Part.PRE else found.post
    for number in range(done + 1, found.newest + 1):
        if script := scripts(part).get(number):
            await db.execute(script, timeout=MIGRATE_TIMEOUT_S)
    await db.execute(sql("set_version"), part.value, found.newest)


async def _make_versions(db: Connection) -> None:
    if not await db.fetchval(sql("has_versions")):
        await db.execute(sql("make_versions"))


async def _read(db: Connection) -> SchemaVersions:
    found: dict[str, int] = {}
    if await db.fetchval(sql("has_versions")):
        found = dict(await db.fetch(sql("versions")))
    return SchemaVersions(found.get("pre", 0), found.get("post", 0), newest())
