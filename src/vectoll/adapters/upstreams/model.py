"""A model whose vectors are bought from a provider."""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import cast

from vectoll.adapters.upstreams.bounds import SPECIAL_TOKENS, token_bound
from vectoll.adapters.upstreams.failures import (
    BadAnswer,
    Busy,
    InputRefused,
    NoAnswer,
    Refused,
    TooLong,
    UpstreamFailure,
)
from vectoll.adapters.upstreams.provider import Answer, Provider
from vectoll.adapters.upstreams.purchase import Bought, Purchase
from vectoll.core.gate import FairGate
from vectoll.core.inputs import check_ids, check_lengths, read_texts
from vectoll.core.parts import for_each
from vectoll.core.reading import Readers, slices
from vectoll.domain.catalog import ModelSpec, TokenIdPolicy, Upstream, UsageMissing
from vectoll.domain.embedding import Embeddings, Encoding, Inputs, Usage, check_characters, check_unicode
from vectoll.domain.errors import (
    NOTHING_CHARGED,
    AtCapacity,
    InferenceFailed,
    InputTooLong,
    InvalidRequest,
    UpstreamUnavailable,
    VectollError,
)
from vectoll.domain.identity import NOBODY, Caller
from vectoll.ports.model import BilledUsage, ForeignTokens, Tokenizer

PARALLEL_CALLS = 4
"""Calls that one request may have under way; the rest of its parts follow."""

INLINE_CHARACTERS = 20_000
"""Less text than this is measured on the event loop: a thread's round trip would cost more."""

Part = tuple[int, Sequence[Encoding]]
"""The index of the first input, and the inputs of one call."""

_log = logging.getLogger("vectoll.upstreams")


class UpstreamModel:
    """Implements ``ports.model.EmbeddingModel`` over a provider.

    Quotes are exact with a tokenizer and upper bounds without; the charge is what the provider says it read, and
    never more than the quote.
    """

    def __init__(
        self,
        spec: ModelSpec,
        upstream: Upstream,
        provider: Provider,
        gate: FairGate,
        readers: Readers,
        tokenizer: Tokenizer | None,
        foreign: ForeignTokens | None,
    ) -> None:
        """``foreign`` reads the token ids of a policy that is neither native nor reject."""
        self._spec = spec
        self._upstream = upstream
        self._provider = provider
        self._gate = gate
        self._readers = readers
        self._tokenizer = tokenizer
        self._foreign = foreign
        self._under_way: set[Purchase] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def spec(self) -> ModelSpec:
        """How it is read, limited and priced."""
        return self._spec

    async def tokenize(self, inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        """See ``EmbeddingModel.tokenize``. Encodings carry the text, or the ids where they go out as they came."""
        if self._spec.token_ids is TokenIdPolicy.NATIVE and not isinstance(inputs[0], str):
            return await self._adopt(cast("Sequence[Sequence[int]]", inputs))
        texts = await read_texts(inputs, self._spec, self._foreign, self._readers, caller)
        if sum(map(len, texts)) < INLINE_CHARACTERS:
            counts: Sequence[int] = list(chain.from_iterable(self._count_tokens(texts)))
        else:
            check_characters(texts, self._spec.max_tokens)
            counts = await self._readers.read(self._count_tokens(texts), len(texts), caller)
        if self._tokenizer is not None:
            check_lengths(counts, self._spec)
        return [Encoding((), text, tokens) for text, tokens in zip(texts, counts, strict=True)]

    def _count_tokens(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        """A few texts at a time. Without a tokenizer it is the most that each can have."""
        if self._tokenizer is not None:
            for encodings in self._tokenizer.encode_in_slices(texts):
                yield [encoding.token_count for encoding in encodings]
            return
        for few in slices(texts):
            try:
                bounds = [min(token_bound(text), self._spec.max_tokens) for text in few]
            except UnicodeEncodeError:
                check_unicode(texts)  # says which of them all it is
                raise
            yield bounds

    async def _adopt(self, sequences: Sequence[Sequence[int]]) -> Sequence[Encoding]:
        """The caller's own ids, sent as they are. Only with the provider's tokenizer is their range known."""
        await check_ids(sequences, self._spec, self._tokenizer.vocab_size if self._tokenizer else 2**31)
        check_lengths([len(ids) for ids in sequences], self._spec)
        room = 0 if self._tokenizer else SPECIAL_TOKENS
        return [Encoding(ids, None, len(ids) + room) for ids in sequences]

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: Caller
    ) -> Embeddings:
        """See ``EmbeddingModel.embed``. What is cancelled before its first call is sent has cost nothing."""
        purchase = Purchase()
        self._under_way.add(purchase)
        self._idle.clear()
        try:
            return await self._embed(encodings, dimensions, caller, purchase)
        except (asyncio.CancelledError, InvalidRequest) as why:
            tokens = await self._billed(purchase, caller)
            if not tokens:
                raise
            if isinstance(why, InvalidRequest):
                why.reword(lambda text: _with_charge(text, tokens))
            is_whole = sum(len(part.encodings) for part in purchase.bought) == len(encodings)
            raise why from BilledUsage(Usage(tokens), is_whole)
        finally:
            self._under_way.remove(purchase)
            if not self._under_way:
                self._idle.set()

    async def _embed(
        self, encodings: Sequence[Encoding], dimensions: int | None, caller: Caller, purchase: Purchase
    ) -> Embeddings:
        if self._provider.cuts_silently:
            await self._refuse_long(encodings, caller)
        parts = list(_split(encodings, self._upstream.max_batch_inputs, self._provider.max_batch_tokens))
        answers = await for_each(
            parts, lambda part: self._buy(part, dimensions, caller, purchase), at_once=PARALLEL_CALLS
        )
        bought = [Bought(part, answer) for (_, part), answer in zip(parts, answers, strict=True)]
        usage = await self._usage(bought, caller)
        vectors = [vector for answer in answers for vector in answer.vectors]
        return Embeddings(vectors, dimensions or self._spec.dims, usage)

    async def _billed(self, purchase: Purchase, caller: Caller) -> int:
        """The tokens that were bought and will not be delivered; 0 where nobody can say."""
        if not purchase.bought:
            return 0
        try:
            return (await self._usage(purchase.bought, caller)).prompt_tokens
        except VectollError:
            return 0

    async def _refuse_long(self, encodings: Sequence[Encoding], caller: Caller) -> None:
        """Have the provider count what may be too long, for it would cut it in silence."""
        limit = self._spec.max_tokens
        suspects = [(i, [e]) for i, e in enumerate(encodings) if e.token_count >= limit]

        async def check(part: Part) -> None:
            tokens = await self._count(part, caller)
            if tokens > limit:
                raise InputTooLong(part[0], tokens, limit)

        await for_each(suspects, check, at_once=PARALLEL_CALLS)

    async def _buy(self, part: Part, dimensions: int | None, caller: Caller, purchase: Purchase) -> Answer:
        first, encodings = part
        deadline = self._deadline()
        try:
            async with self._gate.slot(caller):
                call = self._provider.embed(encodings, dimensions, purchase.abandoned, deadline)
                return await purchase.make(call, encodings)
        except UpstreamFailure as failure:
            error = self._translate(failure, first, len(encodings))
        except AtCapacity as full:
            error = full
        purchase.is_void |= not isinstance(error, InvalidRequest)
        raise error

    async def _count(self, part: Part, caller: Caller) -> int:
        first, encodings = part
        deadline = self._deadline()
        async with self._gate.slot(caller):
            try:
                tokens = await self._provider.count(encodings, deadline)
            except UpstreamFailure as failure:
                raise self._translate(failure, first, len(encodings)) from None
        if tokens is None:
            raise self._no_usage()
        return tokens

    def _deadline(self) -> float:
        """Of a call that is asked for now: the wait for a place is part of its time."""
        return asyncio.get_running_loop().time() + self._upstream.timeout_s

    async def _usage(self, bought: Sequence[Bought], caller: Caller) -> Usage:
        """What is charged: the provider's number, at most the quote; or, by setting, a count."""
        quoted = sum(_quoted(part) for part in bought)
        used = sum(part.answer.prompt_tokens or 0 for part in bought)
        if uncounted := [part for part in bought if part.answer.prompt_tokens is None]:
            used += await self._count_bought(uncounted, caller)
        if used > quoted:
            details = {"model": self._spec.id, "tokens": used, "quoted": quoted}
            _log.warning("upstream_billed_more", extra=details)
        return Usage(min(used, quoted))

    async def _count_bought(self, uncounted: Sequence[Bought], caller: Caller) -> int:
        """The tokens of what the provider gave no number for, each part by itself as it was sent."""
        if self._upstream.usage_missing is UsageMissing.FAIL:
            raise self._no_usage()
        if self._tokenizer:
            return sum(_quoted(part) for part in uncounted)
        counts = await for_each(
            uncounted, lambda part: self._count((0, part.encodings), caller), at_once=PARALLEL_CALLS
        )
        return sum(counts)

    def _no_usage(self) -> UpstreamUnavailable:
        _log.error("upstream_usage_missing", extra={"model": self._spec.id})
        return UpstreamUnavailable(self._spec.id, "does not say how many tokens it read")

    def _translate(self, failure: UpstreamFailure, first: int, size: int) -> VectollError:
        """What the caller is told, in our own words."""
        model = self._spec.id
        match failure:
            case TooLong():
                return _too_long(failure, first, size, self._spec.max_tokens)
            case InputRefused():
                return InvalidRequest.of(("input",), f"the provider of the model '{model}' refuses it")
            case Busy():
                return AtCapacity(math.ceil(failure.retry_after_s or 1.0))
            case NoAnswer():
                return UpstreamUnavailable(model, "does not answer", math.ceil(failure.retry_after_s or 1.0))
            case BadAnswer():
                _log.error("upstream_answer_bad", extra={"model": model, "reason": str(failure)})
                return InferenceFailed()
            case Refused():
                _log.error("upstream_refuses_us", extra={"model": model, "reason": str(failure)})
                return UpstreamUnavailable(model, "refuses this server; its operator must act")
        raise failure

    async def close(self, drain_s: float = 0.0) -> None:
        """See ``EmbeddingModel.close``."""
        try:
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        except TimeoutError:
            details = {"model": self._spec.id, "requests": len(self._under_way)}
            _log.warning("upstream_cut_off", extra=details)
            for purchase in self._under_way:
                purchase.abandoned.set()
        await self._provider.close()


def _quoted(part: Bought) -> int:
    return sum(encoding.token_count for encoding in part.encodings)


def _split(encodings: Sequence[Encoding], max_inputs: int, max_tokens: int) -> Iterator[Part]:
    """Parts in order, each as large as both limits allow; an input that exceeds ``max_tokens`` goes alone."""
    first, tokens = 0, 0
    for index, encoding in enumerate(encodings):
        is_full = index - first >= max_inputs or tokens + encoding.token_count > max_tokens
        if is_full and index > first:
            yield first, encodings[first:index]
            first, tokens = index, 0
        tokens += encoding.token_count
    yield first, encodings[first:]


def _too_long(failure: TooLong, first: int, size: int, max_tokens: int) -> InvalidRequest:
    limit = failure.limit or max_tokens
    if size == 1 and failure.tokens is not None:
        return InputTooLong(first, failure.tokens, limit)
    return InvalidRequest.at(
        ("input",),
        f"This model's maximum context length is {limit} tokens, but an input has more. "
        f"Shorten or split it; {NOTHING_CHARGED}.",
    )


def _with_charge(text: str, tokens: int) -> str:
    """The refusal of one input, to a caller who pays for those beside it."""
    charged = f"{tokens} tokens of other inputs were embedded by the provider and are charged"
    if NOTHING_CHARGED in text:
        return text.replace(NOTHING_CHARGED, charged)
    return f"{text}. {charged}."
