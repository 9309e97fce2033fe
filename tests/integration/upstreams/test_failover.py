"""Several base URLs for one model."""

import asyncio
import socket

from tests.integration.upstreams.making import embed, upstream_model
from tests.integration.upstreams.provider_server import Fault, error, provider_server, vector_of


def dead_url() -> str:
    """Nobody listens there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}/v1"


async def test_a_dead_url_is_stepped_over_and_then_left_alone() -> None:
    async with provider_server() as alive, upstream_model(dead_url(), alive.url) as model:
        for _ in range(10):
            result = await embed(model, ["x"])
            assert bytes(result.vectors[0]) == vector_of("x").tobytes()
    assert len(alive.seen) == 10


async def test_a_failing_url_is_ejected_after_three_failures() -> None:
    async with provider_server(always=Fault(500, body=b"")) as bad, provider_server() as good:
        async with upstream_model(bad.url, good.url) as model:
            for _ in range(20):
                await embed(model, ["x"])
        assert (len(bad.seen), len(good.seen)) == (3, 20)


async def test_load_goes_to_all_healthy_urls() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as one, provider_server(gate=gate) as two:
        async with upstream_model(one.url, two.url) as model:
            requests = [asyncio.create_task(embed(model, ["x"])) for _ in range(10)]
            await asyncio.gather(one.active_calls(5), two.active_calls(5))
            gate.set()
            await asyncio.gather(*requests)
        assert (len(one.seen), len(two.seen)) == (5, 5)


async def test_a_busy_url_hands_over_at_once() -> None:
    busy = error(429, "rate_limit", **{"retry-after": "60"})
    async with provider_server(always=busy) as one, provider_server() as two:
        async with upstream_model(one.url, two.url) as model:
            for _ in range(5):
                await embed(model, ["x"])
        assert (len(one.seen), len(two.seen)) == (1, 5)


async def test_a_hanging_url_costs_half_the_time_and_the_next_one_answers() -> None:
    async with provider_server(always=Fault(hang=True)) as hanging, provider_server() as good:
        async with upstream_model(hanging.url, good.url, timeout_s=0.4) as model:
            await embed(model, ["x"])
        assert (len(hanging.seen), len(good.seen)) == (1, 1)


async def test_two_hanging_urls_leave_time_for_the_third() -> None:
    hang = Fault(hang=True)
    async with provider_server(always=hang) as one, provider_server(always=hang) as two:
        async with (
            provider_server() as good,
            upstream_model(one.url, two.url, good.url, timeout_s=0.6) as model,
        ):
            await embed(model, ["x"])
        assert (len(one.seen), len(two.seen), len(good.seen)) == (1, 1, 1)


async def test_nonsense_and_refusals_of_one_url_do_not_reach_the_caller() -> None:
    for fault in (Fault(body=b"nonsense"), error(401, "invalid_api_key"), error(404, "model_not_found")):
        async with provider_server(always=fault) as bad, provider_server() as good:
            async with upstream_model(bad.url, good.url) as model:
                await embed(model, ["x"])
            assert (len(bad.seen), len(good.seen)) == (1, 1)


async def test_all_urls_down_and_up_again() -> None:
    async with provider_server() as one, provider_server() as two, upstream_model(one.url, two.url) as model:
        one.faults.extend([Fault(500, body=b"")] * 2)
        two.faults.extend([Fault(500, body=b"")])
        assert len((await embed(model, ["x"])).vectors) == 1
