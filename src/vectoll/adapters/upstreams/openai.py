"""OpenAI's embeddings protocol: OpenAI itself, vLLM, TEI, Ollama, llama.cpp, LM Studio."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from vectoll.adapters.upstreams.failures import BadAnswer, InputRefused, Refused, TooLong, UpstreamFailure
from vectoll.adapters.upstreams.provider import NOT_JSON, Answer, max_answer_bytes, usable_count
from vectoll.adapters.upstreams.transport import Transport
from vectoll.adapters.upstreams.vectors import from_base64, to_vectors
from vectoll.domain.embedding import Encoding

MAX_BATCH_TOKENS = 300_000
"""OpenAI's limit on the tokens of one request, all inputs together."""

_REFUSED_CODES = frozenset({
    "account_deactivated", "billing_hard_limit_reached", "insufficient_quota", "invalid_api_key", "invalid_model",
    "model_not_found", "unsupported_country_region_territory",
})  # fmt: skip
_INPUT_STATUSES = frozenset({400, 413, 422, 500})
"""500 is the input's fault only where the message says so: llama.cpp's does."""

_LIMIT = re.compile(
    r"maximum (?:context|input|model) length (?:is|of) (\d{1,9})"  # OpenAI, vLLM
    r"|must have less than (\d{1,9}) tokens"  # TEI
    r"|too large to process\. increase the physical batch size(?: \(current batch size: (\d{1,9}))?"  # llama.cpp
    r"|(?:input length exceeds the context|input is too long)"  # Ollama, others
    r"|exceeds? (?:the )?(?:maximum |available )?context",
    re.IGNORECASE,
)
_COUNT = re.compile(r"(?:requested|given:?|has|contains) (\d{1,9})", re.IGNORECASE)


class _Item(Struct):
    embedding: str | list[float]
    index: int | None = None


class _Usage(Struct):
    """An embedding has no other tokens than its prompt's: some servers name only the total."""

    prompt_tokens: Any = None
    total_tokens: Any = None


class _Body(Struct):
    data: list[_Item]
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Body)


class OpenAIProvider:
    """Implements ``Provider``. Asks for base64 and takes floats from servers that send those all the same."""

    max_batch_tokens = MAX_BATCH_TOKENS
    cuts_silently = False

    def __init__(self, transport: Transport, model: str, native_dims: int) -> None:
        self._transport = transport
        self._model = model
        self._native_dims = native_dims

    async def embed(
        self, part: Sequence[Encoding], dimensions: int | None, abandoned: asyncio.Event, deadline: float
    ) -> Answer:
        """See ``Provider.embed``."""
        body: dict[str, Any] = {
            "model": self._model,
            "input": [encoding.ids if encoding.text is None else encoding.text for encoding in part],
            "encoding_format": "base64",
        }
        dims = dimensions or self._native_dims
        if dims != self._native_dims:
            body["dimensions"] = dims

        def parse(data: bytes) -> Answer:
            return self._parse(data, len(part), dims)

        max_bytes = max_answer_bytes(len(part), self._native_dims)
        return await self._transport.post(
            "/embeddings", msgspec.json.encode(body), parse, classify, max_bytes, abandoned, deadline
        )

    def _parse(self, data: bytes, count: int, dims: int) -> Answer:
        try:
            body = _decoder.decode(data)
        except NOT_JSON:
            raise BadAnswer("an answer that is not an embeddings object") from None
        if len(body.data) != count:
            raise BadAnswer(f"{len(body.data)} vectors for {count} inputs")
        rows = [
            from_base64(e) if isinstance(e := item.embedding, str) else e for item in _in_order(body.data)
        ]
        usage = body.usage or _Usage()
        billed = usable_count(usage.prompt_tokens) or usable_count(usage.total_tokens)
        return Answer(to_vectors(rows, dims, self._native_dims), billed)

    async def count(self, _part: Sequence[Encoding], _deadline: float, /) -> int | None:
        """The protocol has no such call."""
        return None

    async def close(self) -> None:
        """Cut every connection."""
        await self._transport.close()


def _in_order(items: list[_Item]) -> list[_Item]:
    """By ``index`` where the server numbers its items, as they come where it numbers none."""
    numbers = [item.index for item in items]
    if all(number is None for number in numbers):
        return items
    if sorted(-1 if number is None else number for number in numbers) != list(range(len(items))):
        raise BadAnswer("vectors that are not numbered one by one")
    return sorted(items, key=lambda item: item.index or 0)


def classify(status: int, body: bytes) -> UpstreamFailure | None:
    """See ``Classify``. Of what the provider wrote only codes that are known and numbers are used."""
    code, message = _read_error(body)
    if code:
        return Refused(f"HTTP {status} {code}")
    if status not in _INPUT_STATUSES:
        return None
    if limit := _LIMIT.search(message):
        count = _COUNT.search(message, limit.end())
        number = limit[1] or limit[2] or limit[3]
        return TooLong(int(number) if number else None, int(count[1]) if count else None)
    if status == 500:
        return None
    if "batch size" in message:
        return Refused(f"HTTP {status}: it takes fewer inputs per call; set max_batch_inputs")
    return InputRefused(f"HTTP {status}")


def _read_error(body: bytes) -> tuple[str, str]:
    """A known code, else "", and the message, from any of the shapes in use. Only for matching, never shown."""
    try:
        tree = msgspec.json.decode(body)
    except NOT_JSON:
        return "", ""
    error = tree.get("error", tree) if isinstance(tree, dict) else tree
    if not isinstance(error, dict):
        return "", str(error)
    codes = {str(error.get(name)) for name in ("code", "type")} & _REFUSED_CODES
    return (codes.pop() if codes else ""), str(error.get("message") or error.get("detail") or "")
