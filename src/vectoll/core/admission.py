"""Who may come in now: requests and tokens per minute, requests in flight, and callers who keep failing."""

from collections import Counter
from dataclasses import dataclass
from typing import Self, TypeVar

from vectoll.domain.errors import AtCapacity, RateLimited
from vectoll.domain.identity import Caller
from vectoll.domain.limits import LimitState, RateLimit
from vectoll.ports.limiter import RateLimiter
from vectoll.settings import LimitsSettings

K = TypeVar("K")

ANY_MODEL = "-"
"""The bucket of requests that name no model that is served."""

UNFUNDED_SIGN_INS = RateLimit(120)
"""Sign-ins per client address and minute of wallets that cannot pay: a wallet is free, and each leaves a nonce."""


MAX_BYTES_EACH, MAX_BYTES_OF_ACCOUNT, MAX_BYTES = 256 << 20, 512 << 20, 1 << 30
"""Memory that one caller's requests in flight may take, those of all the keys of an account, and everybody's: what was
sent, and the vectors that are asked for. A request that is alone may take any."""

KEYS_IN_FLIGHT = 4
"""How many of its keys' requests in flight an account may have: what is not counted of each is memory, too."""

UNCOUNTED_BYTES = 64 << 10
"""Of each request: single queries are never refused for the memory that bulk requests take."""


class Admission:
    """Hands out permits. What is counted per minute, and who is blocked, is a caller's key."""

    def __init__(self, limiter: RateLimiter, limits: LimitsSettings) -> None:
        self.limiter = limiter
        self._limits = limits
        self.requests = _per_minute(limits.requests_per_minute)
        self.tokens = _per_minute(limits.tokens_per_minute)
        self._in_flight: dict[Caller, int] = {}
        self._in_flight_of_accounts: dict[str, int] = {}
        self._bytes: Counter[Caller] = Counter()
        self._bytes_of_accounts: Counter[str] = Counter()
        self.bytes_in_flight = 0
        """Of all callers."""

    async def admit(self, caller: Caller, in_flight: int | None = None) -> "Permit":
        """A permit for one request, to be used as a context manager.

        ``in_flight`` is this caller's own cap, where it is lower than everybody's. Raises RateLimited for a caller who
        is blocked or has too many requests in flight.
        """
        await refuse_blocked(self.limiter, caller.key)
        at_most = min(in_flight or self._limits.requests_in_flight, self._limits.requests_in_flight)
        self.check_in_flight(caller, at_most)
        return Permit(self, caller, at_most)

    async def record_failure(self, caller: Caller) -> None:
        """Count a request that failed through its caller's fault; too many in the window block the caller."""
        limits = self._limits
        if not limits.failures_before_block:
            return
        window = RateLimit(limits.failures_before_block, limits.failure_window_s)
        if not (await self.limiter.hit(window, "failures", caller.key)).allowed:
            await self.limiter.block("failures", caller.key, duration_s=limits.block_s)

    async def check_sign_in(self, client: str) -> None:
        """Raises RateLimited for a client address whose wallets keep signing in with nothing to pay with."""
        state = await self.limiter.peek(UNFUNDED_SIGN_INS, "unfunded-sign-ins", client)
        if not state.remaining:
            raise state.refusal(f"{UNFUNDED_SIGN_INS.amount} sign-ins of wallets without credit per minute")

    async def record_unfunded(self, client: str) -> None:
        """Count a sign-in of a wallet that cannot pay."""
        await self.limiter.hit(UNFUNDED_SIGN_INS, "unfunded-sign-ins", client)

    async def requests_left(self, caller: Caller, model: str) -> LimitState | None:
        """Where a caller stands with the request limit, None for no limit. Counts nothing."""
        return (
            await self.limiter.peek(self.requests, "requests", caller.key, model) if self.requests else None
        )

    async def tokens_left(self, caller: Caller, model: str) -> LimitState | None:
        """Where a caller stands with the token limit, None for no limit. Counts nothing."""
        return await self.limiter.peek(self.tokens, "tokens", caller.key, model) if self.tokens else None

    def check_in_flight(self, caller: Caller, at_most: int) -> None:
        """Raises RateLimited when one more request would be too many."""
        if self._in_flight.get(caller, 0) >= at_most:
            raise RateLimited(f"Too many requests in flight: {at_most} at most.", 1)
        of_account = KEYS_IN_FLIGHT * self._limits.requests_in_flight
        if self._in_flight_of_accounts.get(caller.account, 0) >= of_account:
            what = f"{of_account} at most, by all keys of an account"
            raise RateLimited(f"Too many requests in flight: {what}.", 1)

    def enter(self, caller: Caller, at_most: int) -> None:
        """One more request in flight. Checks again: others may have entered since this one was admitted."""
        self.check_in_flight(caller, at_most)
        account = caller.account
        self._in_flight[caller] = self._in_flight.get(caller, 0) + 1
        self._in_flight_of_accounts[account] = self._in_flight_of_accounts.get(account, 0) + 1

    def leave(self, caller: Caller) -> None:
        """One fewer; the last one out leaves no trace."""
        _subtract(self._in_flight, caller, 1)
        _subtract(self._in_flight_of_accounts, caller.account, 1)

    def hold_bytes(self, caller: Caller, before: int, now: int) -> None:
        """One request takes ``now`` bytes instead of ``before``. Raises RateLimited, AtCapacity."""
        own, of_account = self._bytes[caller] - before, self._bytes_of_accounts[caller.account] - before
        others = self.bytes_in_flight - before
        for taken, most in ((own, MAX_BYTES_EACH), (of_account, MAX_BYTES_OF_ACCOUNT)):
            if taken and taken + now > most:
                what = f"{most >> 20} MiB of requests and their vectors at most"
                raise RateLimited(f"Too much in flight: {what}.", 1)
        if others and others + now > MAX_BYTES:
            raise AtCapacity(1)
        self._bytes[caller], self._bytes_of_accounts[caller.account] = own + now, of_account + now
        self.bytes_in_flight = others + now

    def free_bytes(self, caller: Caller, size: int) -> None:
        """A request is over that took these."""
        self.bytes_in_flight -= size
        _subtract(self._bytes, caller, size)
        _subtract(self._bytes_of_accounts, caller.account, size)


@dataclass(slots=True)
class Permit:
    """One request's place, and where its caller stands with each limit, for the answer's headers."""

    _admission: Admission
    caller: Caller
    in_flight: int
    """How many requests the caller may have in flight."""
    requests: LimitState | None = None
    tokens: LimitState | None = None
    _is_in: bool = False
    _outlasts: bool = False
    _bytes: int = 0

    def __enter__(self) -> Self:
        self._admission.enter(self.caller, self.in_flight)
        self._is_in = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._outlasts:
            self.leave()

    def outlast(self) -> None:
        """Stay beyond the ``with``, until ``leave``: for an answer that is still being sent then."""
        self._outlasts = True

    def leave(self) -> None:
        """Give the place and the memory back, where they are taken."""
        if self._is_in:
            self._is_in = False
            self._admission.leave(self.caller)
        if self._bytes:
            self._admission.free_bytes(self.caller, self._bytes)
            self._bytes = 0

    def hold_bytes(self, size: int) -> None:
        """This request takes so much memory by now, until it leaves. Raises RateLimited, AtCapacity."""
        if size > UNCOUNTED_BYTES:
            self._admission.hold_bytes(self.caller, self._bytes, size)
            self._bytes = size

    async def take_request(self, model: str = ANY_MODEL) -> None:
        """Count one request for a model. Raises RateLimited."""
        if limit := self._admission.requests:
            decision = await self._admission.limiter.hit(limit, "requests", self.caller.key, model)
            self.requests = decision.state
            if not decision.allowed:
                raise decision.state.refusal(f"{limit.amount} requests per minute")

    async def take_tokens(self, model: str, tokens: int) -> None:
        """Count the tokens of one request for a model. Raises RateLimited."""
        if limit := self._admission.tokens:
            decision = await self._admission.limiter.hit(limit, "tokens", self.caller.key, model, cost=tokens)
            self.tokens = decision.state
            if not decision.allowed:
                what = f"{limit.amount} tokens per minute, this request has {tokens}"
                raise decision.state.refusal(what)


async def refuse_blocked(limiter: RateLimiter, caller: str) -> None:
    """Raises RateLimited for a caller who is blocked for having failed too often."""
    blocked_s = await limiter.blocked_s("failures", caller)
    if blocked_s:
        raise RateLimited(f"Too many failed requests: blocked for {blocked_s} more seconds.", blocked_s)


def _subtract(counter: dict[K, int], who: K, amount: int) -> None:
    """Nothing is kept of who has nothing."""
    counter[who] -= amount
    if not counter[who]:
        del counter[who]


def _per_minute(amount: int) -> RateLimit | None:
    """None for no limit."""
    return RateLimit(amount) if amount else None
