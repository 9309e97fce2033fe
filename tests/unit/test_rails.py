"""A rail that is configured by half is one clear line, and no secret is ever in it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.wallets import Wallet

from vectoll import wallets
from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.payments.base import BaseRail
from vectoll.adapters.payments.facilitator import FacilitatorRail
from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.bootstrap import open_services
from vectoll.core.payment_header import parse_payment_header, render_payment
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.ids import AccountId
from vectoll.domain.payments import Intent, IntentState, PaymentId
from vectoll.ports.clock import SystemClock
from vectoll.rails import make_rails, open_top_ups
from vectoll.settings import Settings, load_settings
from vectoll.wallets import watch_stakes

BASE = {"rpc_url": "http://rpc.example/secret", "pay_to": "0x" + "5e" * 20, "settlement_key": "11" * 32}
SOLANA = {
    "rpc_url": "http://rpc.example/secret",
    "pay_to": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
    "facilitator_url": "https://f.example",
    "fee_payer": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
}


def settings(base: dict[str, Any] | None = None, solana: dict[str, Any] | None = None) -> Settings:
    tables = {"enabled": True, "base": base or {}, "solana": solana or {}}
    return load_settings(Path("/dev/null"), {"x402": tables}, {})


async def test_rails_come_in_order_base_first() -> None:
    found = make_rails(settings(BASE, SOLANA))
    assert [type(rail) for rail in found] == [BaseRail, FacilitatorRail]
    option = found[0].option
    assert (option.network, option.extra) == ("eip155:8453", {"name": "USD Coin", "version": "2"})
    assert option.asset == "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
    assert found[1].option.asset == "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"


async def test_the_rehearsal_network_has_its_own_usdc() -> None:
    option = make_rails(settings(BASE | {"network": "eip155:84532"}))[0].option
    assert option.asset == "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
    assert option.extra["name"] == "USDC"


@pytest.mark.parametrize(
    ("base", "solana", "names"),
    [
        ({}, {}, "x402.base or x402.solana"),
        (BASE | {"rpc_url": None}, {}, "x402.base.rpc_url"),
        (BASE | {"pay_to": None}, {}, "x402.base.pay_to"),
        (BASE | {"pay_to": "0x1234"}, {}, "x402.base.pay_to"),
        (BASE | {"pay_to": SOLANA["pay_to"]}, {}, "x402.base.pay_to"),
        (BASE | {"settlement_key": None}, {}, "x402.base.settlement_key"),
        (BASE | {"facilitator_url": "https://f"}, {}, "exactly one"),
        (BASE | {"settlement_key": "secretsecret"}, {}, "x402.base.settlement_key"),
        (BASE | {"settlement_key": "00" * 32}, {}, "x402.base.settlement_key"),
        (BASE | {"rpc_url": "rpc.example"}, {}, "x402.base.rpc_url"),
        (BASE | {"rpc_url": "http://[::1"}, {}, "x402.base.rpc_url"),
        ({}, SOLANA | {"fee_payer": None}, "x402.solana.fee_payer"),
        ({}, SOLANA | {"pay_to": BASE["pay_to"]}, "x402.solana.pay_to"),
        (
            {},
            SOLANA | {"facilitator_url": None, "settlement_key": "secretsecret"},
            "x402.solana.settlement_key",
        ),
    ],
)
def test_half_a_rail_is_one_line_that_names_the_setting(
    base: dict[str, Any], solana: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_rails(settings(base, solana))
    assert names in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_no_secret_is_in_the_repr_of_the_settings() -> None:
    text = repr(settings(BASE, SOLANA | {"facilitator_headers": {"Authorization": "hush"}}))
    assert "example/secret" not in text
    assert "11" * 32 not in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("allowance", "base", "names"),
    [
        ({"token": "0x12"}, BASE, "allowance.token"),
        ({"minimum_units": "lots"}, BASE, "allowance.minimum_units"),
        ({"minimum_units": "1e9"}, BASE, "allowance.minimum_units"),
        ({}, {}, "x402.base.rpc_url"),
    ],
)
async def test_allowances_configured_by_half(
    allowance: dict[str, Any], base: dict[str, Any], names: str, tmp_path: Path
) -> None:
    tables = {"x402": {"base": base}, "allowance": {"enabled": True} | allowance}
    configured = load_settings(Path("/dev/null"), tables, {})
    store = await open_sqlite(tmp_path)
    with pytest.raises(ConfigurationError, match=names):
        async with watch_stakes(configured, store, SystemClock()):
            pass
    await store.close()


@asynccontextmanager
async def node(answers: list[Any]) -> AsyncIterator[str]:
    """An endpoint that gives these results one after the other, the last one for ever; None is a 500."""
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        result = answers[min(asked, len(answers) - 1)]
        asked += 1
        body = {"jsonrpc": "2.0", "id": (await request.json())["id"], "result": result}
        return web.Response(status=500) if result is None else web.json_response(body)

    app = web.Application()
    app.router.add_post("/secret", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}/secret".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("table", "answer", "says"),
    [
        ("base", "0x2105", None),
        ("base", "0x1", "x402.base.rpc_url is an endpoint of eip155:1, and x402.base.network is eip155:8453"),
        ("solana", "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d", None),
        (
            "solana",
            "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG",
            "x402.solana.rpc_url is an endpoint of solana:Et",
        ),
    ],
)
async def test_an_endpoint_must_be_of_the_network(table: str, answer: str, says: str | None) -> None:
    async with node([answer]) as url:
        rail = (BASE if table == "base" else SOLANA) | {"rpc_url": url}
        configured = settings(**{table: rail})
        if says is None:
            async with wallets._checked_networks(configured):
                return
        with pytest.raises(ConfigurationError, match=re.escape(says)):
            async with wallets._checked_networks(configured):
                pass


async def test_an_endpoint_that_does_not_answer_is_told_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with node([None, None, "0x2105"]) as url:
        tables = {"enabled": True, "reconcile_interval_s": 0.01, "base": BASE | {"rpc_url": url}}
        configured = load_settings(Path("/dev/null"), {"x402": tables}, {})
        async with wallets._checked_networks(configured), asyncio.timeout(5):
            while "chain_answers" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
    told = [record for record in caplog.records if record.name == "vectoll.chains"]
    assert [record.getMessage() for record in told] == ["chain_unreachable", "chain_answers"]
    assert "secret" not in str([vars(record) for record in told])


@pytest.mark.parametrize(
    ("database", "may_send", "state"),
    [
        ({}, True, IntentState.FAILED),
        ({}, False, IntentState.RECEIVED),
        ({"url": "postgresql://u@db.example/v"}, True, IntentState.RECEIVED),
    ],
)
async def test_who_serves_from_a_data_directory_takes_nothing_unsent_for_anybody_elses(
    tmp_path: Path, database: dict[str, str], may_send: bool, state: IntentState
) -> None:
    tables = {"x402": {"enabled": True, "base": BASE}, "database": database}
    configured = load_settings(Path("/dev/null"), tables, {})
    option = make_rails(configured)[0].option
    wallet, now = Wallet(), datetime.now(UTC)
    sent = wallet.payment(to=option.pay_to)["payment-signature"]
    payment = parse_payment_header(sent, [option])
    payload = render_payment(payment)
    intent = Intent(
        payment.id, option.network, wallet.id, payment.base_units, payload, IntentState.RECEIVED, now, now
    )
    store, limiter = await open_sqlite(tmp_path), MemoryRateLimiter()
    await store.payments.insert(intent)
    async with open_top_ups(configured, store, limiter, SystemClock(), may_send=may_send) as top_ups:
        await top_ups.reconcile(may_send=may_send)
    assert [i.state for i in await store.payments.list()] == [state]
    await store.close()


@pytest.mark.parametrize(("state", "is_told"), [(IntentState.UNKNOWN, True), (IntentState.RECEIVED, False)])
async def test_payments_that_nobody_watches_are_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, state: IntentState, *, is_told: bool
) -> None:
    model = {"id": "all-MiniLM-L6-v2", "load": "first_use"}
    configured = load_settings(Path("/dev/null"), {"models": [model]}, {})
    now = datetime.now(UTC)
    intent = Intent(PaymentId("pay_1"), "eip155:8453", AccountId("0x"), 1, b"", state, now, now)
    store = await open_sqlite(tmp_path)
    await store.payments.insert(intent)
    async with open_services(configured, store, SystemClock()):
        pass
    await store.close()
    assert ("payments_not_watched" in caplog.text) is is_told


async def test_allowances_need_wallets(tmp_path: Path) -> None:
    configured = load_settings(Path("/dev/null"), {"allowance": {"enabled": True}}, {})
    store = await open_sqlite(tmp_path)
    with pytest.raises(ConfigurationError, match=r"allowance\.enabled needs x402\.enabled"):
        async with open_services(configured, store, SystemClock()):
            pass
    await store.close()


async def test_stakes_are_watched_until_the_server_ends(tmp_path: Path) -> None:
    configured = load_settings(
        Path("/dev/null"), {"x402": {"base": BASE | {"rpc_url": "http://127.0.0.1:9"}}}, {}
    )
    store = await open_sqlite(tmp_path)
    before = asyncio.all_tasks()
    async with watch_stakes(configured, store, SystemClock()):
        assert len(asyncio.all_tasks() - before) == 1
    assert asyncio.all_tasks() == before
    await store.close()
