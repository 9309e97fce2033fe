"""JSON-RPC 2.0 over HTTP, as Ethereum and Solana nodes speak it."""

import logging
import traceback
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import aiohttp
import msgspec

from vectoll.ports.wallets import RpcSilent, RpcUnavailable

MAX_ANSWER_BYTES = 8_000_000

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("vectoll.chains")


class RpcError(RpcUnavailable):
    """The node answered, with an error. The message is the node's: show it to no stranger."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"RPC error {code}")
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_revert(self) -> bool:
        """Whether the code that was called refused or failed, which is an answer; all else is the node's trouble."""
        message = self.message.lower().replace(" ", "")
        return self.code == 3 or any(word in message for word in ("revert", "outofgas", "invalidopcode"))


def reads_answers(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """For methods that take a node's answers apart: an answer that is not as documented becomes RpcUnavailable."""

    @wraps(method)
    async def read(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno} {frame.name}"
            _log.warning("answer_not_understood", extra={"error": type(error).__qualname__, "frame": where})
            raise RpcUnavailable("the answer is not as documented") from None

    return read


class JsonRpc:
    """One endpoint. Neither errors nor repr show its URL, which often carries the operator's key."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._id = 0

    async def call(self, method: str, *params: object) -> Any:
        """The ``result`` member. Raises RpcError for an error, RpcSilent for no answer, RpcUnavailable for nonsense."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        self._id += 1
        body = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(
                self._url, data=msgspec.json.encode(body), headers=headers, allow_redirects=False
            ) as answer:
                raw = await answer.content.read(MAX_ANSWER_BYTES)
                while chunk := await answer.content.read(MAX_ANSWER_BYTES):
                    raw += chunk
                    if len(raw) > MAX_ANSWER_BYTES:
                        raise RpcUnavailable("the answer is too large")
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise RpcSilent("no answer") from None
        return _result(raw)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _result(raw: bytes) -> Any:
    try:
        answer = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RpcUnavailable("the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise RpcUnavailable("the answer is not an object")
    if isinstance(error := answer.get("error"), dict):
        code = error.get("code")
        raise RpcError(code if isinstance(code, int) else 0, str(error.get("message", "")), error.get("data"))
    if "result" not in answer:
        raise RpcUnavailable("the answer has no result")
    return answer["result"]
