"""What is left of an error once it is answered."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fakes import FakeServer
from tests.unit.http.conftest import Client

from vectoll.core.parts import for_each
from vectoll.core.reading import Readers
from vectoll.domain.embedding import Encoding, Inputs
from vectoll.domain.errors import InputTooLong
from vectoll.domain.identity import NOBODY, Caller


class Texts(list[str]):
    """What a request has sent."""

    def refuse(self) -> Sequence[Encoding]:
        raise InputTooLong(0, 65, 64)


Way = Callable[[Texts], Awaitable[object]]


async def in_a_thread(texts: Texts) -> object:
    with ThreadPoolExecutor(1) as threads:
        return await Readers(threads, 1, 10.0).run(texts.refuse, NOBODY)


async def in_parts(texts: Texts) -> object:
    async def refuse(part: Texts) -> object:
        return part.refuse()

    return await for_each([texts, texts], refuse, at_once=2)


async def in_a_task(texts: Texts) -> object:
    async def refuse() -> object:
        return texts.refuse()

    task = asyncio.create_task(refuse())
    return await task


async def from_another(texts: Texts) -> object:
    try:
        return await in_parts(texts)
    except InputTooLong as error:
        why = error
    raise InputTooLong(1, 66, 64) from why


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", [in_a_thread, in_parts, in_a_task, from_another])
async def test_an_error_that_is_answered_holds_nothing_of_its_request(
    client: Client, server: FakeServer, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[weakref.ref[Texts]] = []

    async def tokenize(inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        texts = Texts(map(str, inputs))
        sent.append(weakref.ref(texts))
        await way(texts)
        raise AssertionError

    monkeypatch.setattr(server.model, "tokenize", tokenize)
    answer = await client.embed()
    assert answer.status_code == 400, answer.text
    await asyncio.sleep(0)
    assert [texts() for texts in sent] == [None]
