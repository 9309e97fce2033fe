"""Every answer is one that /openapi.json describes, and what it describes as valid is served."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from benchmarks.faults.documented import JSON, Documented
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.http.conftest import running
from tests.unit.http.test_x402 import Shop
from tests.wallets import Wallet

from vectoll.domain.identity import KeyKind

BOUNDED = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
OF_ANY_ANSWER = {
    "cache-control", "connection", "content-length", "content-security-policy", "content-type", "date",
    "transfer-encoding", "vary", "x-content-type-options",
}  # fmt: skip
"""Headers that are HTTP's own."""

Operation = tuple[str, str]
"""A method and a path."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True)
class Site:
    """A server that sells to wallets, what it promises, and who may come."""

    url: str
    document: dict[str, Any]
    callers: dict[str, list[str]]
    """Who has what credit, and the lines that say so."""

    @property
    def operations(self) -> list[Operation]:
        return [(method, path) for path, methods in self.document["paths"].items() for method in methods]

    def promise(self, operation: Operation) -> Any:
        method, path = operation
        return self.document["paths"][path][method]

    def send(self, request: bytes) -> Answer:
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(request)
            with closing(HTTPResponse(connection)) as response:
                response.begin()
                return Answer(response.status, httpx.Headers(response.getheaders()), response.read())

    def problem_of(self, operation: Operation, answer: Answer) -> str | None:
        """Why the document does not describe the answer."""
        promised = self.promise(operation)["responses"].get(str(answer.status))
        if promised is None:
            return f"{answer.status} is not documented"
        if more := {*answer.headers} - OF_ANY_ANSWER - {*promised["headers"]}:
            return f"{answer.status} has {sorted(more)}"
        media_type = answer.headers["content-type"].partition(";")[0]
        if media_type != JSON:
            return None if media_type in promised["content"] else f"{answer.status} as {media_type}"
        if "content-encoding" in answer.headers:
            return None
        return Documented(self.document).problem_of(*operation, answer.status, JSON, answer.body)

    def valid(self, schema: Any) -> st.SearchStrategy[Any]:
        """What a schema of the document describes, but for arrays that are long."""
        if "$ref" in schema:
            return self.valid(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return st.one_of([self.valid(form) for form in schema["anyOf"]])
        if isinstance(schema.get("type"), list):
            return st.one_of([self.valid({**schema, "type": each}) for each in schema["type"]])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        least, most = schema.get("minimum"), schema.get("maximum")
        text = st.text(st.characters(codec="utf-8"), min_size=schema.get("minLength", 0), max_size=32)
        if "pattern" in schema:
            text = st.from_regex(schema["pattern"], fullmatch=True)
        kinds: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
            "null": st.none,
            "boolean": st.booleans,
            "integer": lambda: st.integers(least, most),
            "number": lambda: st.floats(least, most, allow_nan=False, allow_infinity=False),
            "string": lambda: text,
            "array": lambda: st.lists(self.valid(schema["items"]), min_size=schema["minItems"], max_size=4),
            "object": lambda: self._valid_object(schema),
        }
        return kinds[schema["type"]]()

    def parameter(self, schema: Any) -> st.SearchStrategy[str]:
        """A value as text, or what is none."""
        printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=6)
        valid = self.valid(schema).map(str).filter(lambda text: text.isprintable() and text.isascii())
        return valid | printable

    def _valid_object(self, schema: Any) -> st.SearchStrategy[Any]:
        fields = {name: self.valid(field) for name, field in schema["properties"].items()}
        required = {name: fields.pop(name) for name in schema.get("required", [])}
        return st.fixed_dictionaries(required, optional=fields)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    shop, wallet = Shop(pay_on_inference=True), Wallet()
    callers: dict[str, list[str]] = {
        "nobody": [],
        "a wrong key": ["api-key: x"],
        "junk": ["sign-in-with-x: x"],
    }

    async def prepare() -> None:
        await shop.credit(wallet, "10")
        keys = {
            "poor": await shop.fake.open("acct_poor", dollars="0"),
            "rich": await shop.fake.open(dollars="1000"),
            "admin": await shop.fake.key(kind=KeyKind.ADMIN),
        }
        signed_in = {"wallet": wallet.sign_in(), "payer": wallet.payment(), "cheat": wallet.payment(1)}
        callers.update({who: [f"authorization: Bearer {secret}"] for who, secret in keys.items()})
        for who, headers in signed_in.items():
            callers[who] = [f"{name}: {value}" for name, value in headers.items()]

    with running(shop.fake.settings, shop.fake.app.services, prepare) as url:
        yield Site(url, httpx.get(f"{url}/openapi.json").json(), callers)


ODD_LINES = [
    "accept-encoding: gzip", "accept: text/csv", "connection: close", "content-encoding: gzip", "content-type: x",
    "expect: 100-continue", "host: y", "transfer-encoding: gzip", "x-request-id: mine", "x: \x01", f"x: {'x' * 66_000}",
]  # fmt: skip
ODDITIES = [*[[]] * 16, *([line] for line in ODD_LINES), ["upgrade: h2c", "connection: upgrade"]]
VERSIONS = ["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/2.0", "HTTP/1.3"]


@st.composite
def requests(draw: st.DrawFn, site: Site) -> tuple[Operation, bytes]:
    """A request of some operation: mostly as the document has it, by anybody, with something odd about it."""
    operation = draw(st.sampled_from(site.operations))
    method, target = operation
    promise = site.promise(operation)
    lines = ["host: x", *site.callers[draw(st.sampled_from(sorted(site.callers)))]]
    query = []
    for parameter in promise.get("parameters", ()):
        name, place, value = parameter["name"], parameter["in"], draw(site.parameter(parameter["schema"]))
        if place == "path":
            target = target.replace(f"{{{name}}}", quote(value, safe="") or "-")
        elif draw(st.booleans()):
            (query.append(f"{name}={quote(value)}") if place == "query" else lines.append(f"{name}: {value}"))
    body = b""
    if "requestBody" in promise:
        body = json.dumps(draw(site.valid(promise["requestBody"]["content"][JSON]["schema"]))).encode()
        body = draw(st.sampled_from([b"", b"", b"", b"0", b"{", b"\xff"])) + body
        lines.append("content-type: application/json")
    lines += draw(st.sampled_from(ODDITIES))
    query += draw(st.sampled_from([[]] * 20 + [["x" * 66_000]]))
    first = f"{method.upper()} {target}?{'&'.join(query)} {draw(st.sampled_from(VERSIONS))}"
    head = "\r\n".join([first, *lines, f"content-length: {len(body)}", "", ""])
    return operation, head.encode() + body


def test_every_answer_is_described(site: Site) -> None:
    @BOUNDED
    @given(requests(site))
    def is_described(request: tuple[Operation, bytes]) -> None:
        operation, raw = request
        assert site.problem_of(operation, site.send(raw)) is None

    is_described()


@pytest.mark.parametrize("path", ["/api/v1/embeddings", "/v1/embeddings"])
def test_whatever_is_described_as_valid_is_served(site: Site, path: str) -> None:
    lines = [f"POST {path} HTTP/1.1", "host: x", *site.callers["rich"], "content-type: application/json"]
    described = site.valid(site.promise(("post", path))["requestBody"]["content"][JSON]["schema"])

    @BOUNDED
    @given(described, st.sampled_from([None, 8, 384]))
    def is_served(body: dict[str, Any], dimensions: int | None) -> None:
        what_a_model_decides = {"model": "fake-model", "dimensions": dimensions}
        text = json.dumps(body | what_a_model_decides).encode()
        head = "\r\n".join([*lines, f"content-length: {len(text)}", "", ""])
        answer = site.send(head.encode() + text)
        assert answer.status == 200, answer.body

    is_served()
