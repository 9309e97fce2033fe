"""What a body must be, and what is said about one that is not."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectoll.domain.embedding import EmbeddingRequest, EncodingFormat
from vectoll.domain.errors import FieldIssue, InvalidRequest, format_path
from vectoll.http.body import MAX_MEMBERS, member_names
from vectoll.http.errors import details_tree
from vectoll.http.validation import (
    COUNTED_BYTES,
    MAX_ISSUES,
    MAX_WALKED_BYTES,
    _issues,
    parse_embedding_request,
)


def refuse(body: bytes | dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_embedding_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def with_input(value: Any) -> dict[str, Any]:
    return {"model": "m", "input": value}


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("text", ["text"]),
        (" ", [" "]),
        ("\u0000", ["\u0000"]),
        ("😀", ["😀"]),
        (["a", "b"], ["a", "b"]),
        (["a"] * 2048, ["a"] * 2048),
        ([1, 2], [[1, 2]]),
        ([1] * 2048, [[1] * 2048]),
        ([[0, 1], [2]], [[0, 1], [2]]),
        ([[1] * 3000], [[1] * 3000]),
    ],
)
def test_inputs(value: Any, inputs: Any) -> None:
    request = parse_embedding_request(json.dumps(with_input(value)).encode())
    assert request == EmbeddingRequest("m", inputs)  # type: ignore[arg-type]


def test_options() -> None:
    body = {**with_input("x"), "dimensions": 3, "encoding_format": "base64", "user": "u"}
    request = parse_embedding_request(json.dumps(body).encode())
    assert (request.dimensions, request.encoding_format) == (3, EncodingFormat.BASE64)
    body |= {"dimensions": None, "encoding_format": None, "user": None}
    request = parse_embedding_request(json.dumps(body).encode())
    assert (request.dimensions, request.encoding_format) == (None, EncodingFormat.FLOAT)


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ("", "input", "must not be an empty string"),
        ([], "input", "must not be an empty array"),
        (None, "input", "must be a string, an array"),
        (7, "input", "must be a string, an array"),
        (True, "input", "must be a string, an array"),
        ({"a": 1}, "input", "must be a string, an array"),
        (["a"] * 2049, "input", "must have at most 2048 items, has 2049"),
        ([1] * 2049, "input", "must have at most 2048 items, has 2049"),
        (["a", "", "b"], "input[1]", "must not be an empty string"),
        (["a", 1], "input[1]", "must be a string, like the first item"),
        (["a", None], "input[1]", "must be a string, like the first item"),
        ([1, "a"], "input[1]", "must be an integer token id"),
        ([1, True], "input[1]", "must be an integer token id"),
        ([1, 2.0], "input[1]", "must be an integer token id"),
        ([1, 2.5], "input[1]", "must be an integer token id"),
        ([1, [2]], "input[1]", "must be an integer token id"),
        ([0], "input[0]", "must be a token id from 1 to 2147483647"),
        ([-1], "input[0]", "must be a token id from 1 to 2147483647"),
        ([2**31], "input[0]", "must be a token id from 1 to 2147483647"),
        ([10**40], "input[0]", "must be a token id from 1 to 2147483647"),
        ([True], "input[0]", "must be a string, a token id or an array of token ids"),
        ([1.5], "input[0]", "must be a string, a token id or an array of token ids"),
        ([None], "input[0]", "must be a string, a token id or an array of token ids"),
        ([[]], "input[0]", "must not be an empty array"),
        ([[1], []], "input[1]", "must not be an empty array"),
        ([[1], 2], "input[1]", "must be an array of token ids, like the first item"),
        ([[1], "a"], "input[1]", "must be an array of token ids, like the first item"),
        ([[1, -1]], "input[0][1]", "must be a token id from 0 to 2147483647"),
        ([[1, "a"]], "input[0][1]", "must be an integer token id"),
        ([[1, False]], "input[0][1]", "must be an integer token id"),
        ([[[1]]], "input[0][0]", "must be an integer token id"),
    ],
)
def test_wrong_inputs_are_named_by_index(value: Any, path: str, message: str) -> None:
    error = refuse(with_input(value))
    assert format_path(error.issues[0].path) == path
    assert error.issues[0].message.startswith(message)
    assert str(error).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"dimensions": 0}, "dimensions", "must be an integer from 1 to 2147483647"),
        ({"dimensions": -5}, "dimensions", "must be an integer from 1 to 2147483647"),
        ({"dimensions": 1.0}, "dimensions", "must be an integer from 1 to 2147483647"),
        ({"dimensions": "1"}, "dimensions", "must be an integer from 1 to 2147483647"),
        ({"dimensions": True}, "dimensions", "must be an integer from 1 to 2147483647"),
        ({"dimensions": 10**30}, "dimensions", "must be an integer from 1 to 2147483647"),
        ({"encoding_format": "int8"}, "encoding_format", "must be 'float' or 'base64'"),
        ({"encoding_format": ["float"]}, "encoding_format", "must be 'float' or 'base64'"),
        ({"user": 5}, "user", "must be a string"),
        ({"model": ""}, "model", "must be a non-empty string"),
        ({"model": None}, "model", "must be a non-empty string"),
        ({"model": 5}, "model", "must be a non-empty string"),
        ({"truncate": True}, "", "Unknown field 'truncate'"),
        ({"x" * 500: 1}, "", "Unknown field 'xxx"),
        ({"_errors": 1}, "", "Unknown field '_errors'"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], path: str, message: str) -> None:
    error = refuse({**with_input("x"), **fields})
    assert format_path(error.issues[0].path) == path
    assert error.issues[0].message.startswith(message)
    assert len(str(error)) < 200


def test_every_problem_is_listed_up_to_a_limit() -> None:
    error = refuse({"dimensions": 0, "encoding_format": "x", "user": 1, "more": 1})
    assert [issue.message for issue in error.issues] == [
        "Unknown field 'more'",
        "Field is required",
        "Field is required",
        "must be an integer from 1 to 2147483647",
        "must be 'float' or 'base64'",
        "must be a string",
    ]
    assert str(error) == (
        "Unknown field 'more'; input: Field is required; model: Field is required; "
        "dimensions: must be an integer from 1 to 2147483647; encoding_format: must be 'float' or 'base64'; "
        "user: must be a string"
    ), "OpenAI's clients show the message, and no details"
    assert len(refuse(with_input(["a", *[""] * 2000])).issues) == MAX_ISSUES


def test_details_have_the_shape_that_the_spec_shows() -> None:
    assert details_tree(refuse({"model": "m"}).issues) == {
        "_errors": [],
        "input": {"_errors": ["Field is required"]},
    }
    assert details_tree(refuse(with_input([[1], [2, -1]])).issues) == {
        "_errors": [],
        "input": {
            "_errors": [],
            "1": {"_errors": [], "1": {"_errors": ["must be a token id from 0 to 2147483647"]}},
        },
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request body is not valid JSON: it is empty"),
        (b" \r\n", "The request body is not valid JSON: it is empty"),
        (b"{", "The request body is not valid JSON"),
        (b"[]", "The request body must be a JSON object"),
        (b'"text"', "The request body must be a JSON object"),
        (b"null", "The request body must be a JSON object"),
        (b"1e999", "The request body must be a JSON object"),
        (b'{"model":"m","input":"x"} trailing', "The request body is not valid JSON"),
        (
            b'\xef\xbb\xbf{"model":"m","input":"x"}',
            "The request body is not valid JSON: it begins with a byte",
        ),
        (
            '{"model":"m","input":"x"}'.encode("utf-16"),
            "The request body is not valid JSON: it begins with a byte order mark",
        ),
        (b'{"model":"m","input":"\xff"}', "The request body is not valid JSON: it is not UTF-8"),
        (b'{"model":"m","input":"\xed\xa0\x80"}', "The request body is not valid JSON: it is not UTF-8"),
        (b'{"\xff":1}', "The request body is not valid JSON: it is not UTF-8"),
        (b'{"model":"m","input":"\\ud800"}', "input: has half of a surrogate pair"),
        (b'{"model":"m","input":"\\udc00x"}', "input: has half of a surrogate pair"),
        (b'{"model":"m","input":"a\x00b"}', "The request body is not valid JSON"),
        (b'{"model":"m","input":[NaN]}', "The request body is not valid JSON"),
        (b'{"model":"m","input":[Infinity]}', "The request body is not valid JSON"),
        (b'{"model":"m","input":[-Infinity]}', "The request body is not valid JSON"),
        (b'{"model":"m","input":[01]}', "The request body is not valid JSON"),
        (b'{"model":"m","input":"x",}', "The request body is not valid JSON"),
        (b"{'model':'m'}", "The request body is not valid JSON"),
        (b'{"model":"m","input":' + b"[" * 100_000, "The request body is nested too deeply"),
        (b'{"a":' * 20_000, "The request body is "),
        (
            b'{"model":"m","input":' + b"[" * 500 + b"]" * 500 + b"}",
            "input[0][0]: must be an integer token id",
        ),
        (b'{"model":"m","input":[1e999]}', "input[0]: must be a string, a token id or an array"),
        (
            b'{"model":"m","input":[' + b"9" * 5000 + b"]}",
            "The request body is not valid JSON: integer value",
        ),
        (b'{"model":"m","input":"a","input":"b"}', "The field 'input' is given more than once"),
        (b'{"model":"m","input":"a","in\\u0070ut":"a"}', "The field 'input' is given more than once"),
        (b'{"model":"m","input":"a","user":"x","user":"y"}', "The field 'user' is given more than once"),
        (
            b'{"model":"m","input":"a"' + b',"user":"x"' * 100_000 + b"}",
            "The request body has more than 64 fields",
        ),
    ],
)
def test_bodies_that_are_no_sound_json_object(body: bytes, message: str) -> None:
    assert str(refuse(body)).startswith(message)


def test_a_large_body_that_quotes_the_names_of_fields_gives_none_twice() -> None:
    texts = ['"model"', "model", "input", "x" * COUNTED_BYTES]
    assert parse_embedding_request(json.dumps(with_input(texts)).encode()).inputs == texts
    repeated = json.dumps(with_input(texts))[:-1] + ',"model":"other"}'
    assert str(refuse(repeated.encode())).startswith("The field 'model' is given more than once")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (["x" * 200] * 2047 + [""], "input[2047]"),
        ([["x"] * 10] * 100_000, "input[0][0]"),
        ([[1] * 10] * 100_000, "input"),
        ([[[1] * 10] * 10] * 2_000, "input[0][0]"),
        ([[1] * 200] * 2047 + [[-1]], "input[2047][0]"),
        (["x" * 200] * 2047 + [1], "input[2047]"),
    ],
)
def test_large_bodies_are_told_their_first_problem(value: Any, path: str) -> None:
    assert format_path(refuse(with_input(value)).issues[0].path) == path


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":[' + b"[[1]]," * 3_000_000 + b"1]}",
        b"{" + b",".join(b'"k%d":1' % n for n in range(1_000_000)) + b"}",
        b'{"model":"m","input":"x"' + b',"user":""' * 1_000_000 + b"}",
        b'{"model":"m","input":' + b"[" * 20_000_000,
    ],
)
def test_refusing_rubbish_is_cheap(body: bytes) -> None:
    started = time.process_time()
    refuse(body)
    assert time.process_time() - started < 1


def test_no_message_quotes_an_input() -> None:
    for value in (
        ["hidden words", 5],
        ["hidden words", ""],
        [["hidden words"]],
        {"hidden words": "hidden words"},
    ):
        error = refuse(with_input(value))
        assert "hidden" not in str(error)
        assert "hidden" not in str(details_tree(error.issues))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=4),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), children, max_size=2)
    ),
    max_leaves=8,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m"]) | JSON,
        "input": JSON
        | st.lists(st.text(st.characters(codec="utf-8"), max_size=2), max_size=3)
        | st.lists(st.integers(-1, 2), max_size=3)
        | st.lists(st.lists(st.integers(-1, 2), max_size=3), max_size=3),
        "dimensions": st.integers(-1, 3) | JSON,
        "encoding_format": st.sampled_from(["float", "base64"]) | JSON,
        "user": st.text(st.characters(codec="utf-8"), max_size=2) | JSON,
        "extra": JSON,
    },
)


def issues_of(raw: bytes) -> list[FieldIssue]:
    """What is wrong with a body: never nothing where it is refused."""
    try:
        request = parse_embedding_request(raw)
    except InvalidRequest as error:
        return list(error.issues) or pytest.fail("refused without a reason")
    assert 1 <= len(request.inputs) <= 2048
    return []


@settings(max_examples=400, deadline=None)
@given(BODIES)
def test_fast_and_slow_reading_agree(body: dict[str, Any]) -> None:
    assert issues_of(json.dumps(body).encode()) == list(_issues(body))[:MAX_ISSUES]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | BODIES.map(lambda body: json.dumps(body).encode()).flatmap(
    lambda raw: st.tuples(st.integers(0, len(raw)), st.binary(max_size=3)).map(
        lambda edit: raw[: edit[0]] + edit[1] + raw[edit[0] + len(edit[1]) :]
    )
))  # fmt: skip
def test_any_bytes_are_a_request_or_an_invalid_request(raw: bytes) -> None:
    json.dumps(details_tree(issues_of(raw)))


def test_member_names_keep_repetitions() -> None:
    assert len(member_names(b"{" + b'"a":1,' * (MAX_MEMBERS - 1) + b'"a":1}')) == MAX_MEMBERS
    assert member_names(b'{"a":1,"b":{"a":2},"a":3}') == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("body", "path", "why"),
    [
        (rb'{"model":"m","input":["fine","\ud800"]}', "input[1]", "surrogate"),
        (rb'{"model":"m","input":["fine","\udc00\ud800", 5]}', "input[1]", "surrogate"),
        (rb'{"model":"m","input":"\ud800\u0041"}', "input", "surrogate"),
        (rb'{"model":"\ud800","input":"x"}', "model", "surrogate"),
        (rb'{"model":"m","input":"x","user":"\udfff"}', "user", "surrogate"),
        (b'{"model":"m","input":[1,1e999]}', "input[1]", "integer token id"),
        (b'{"model":"m","input":"x","dimensions":1e999}', "dimensions", "integer"),
        (b'{"model":"m","input":[NaN]}', "", "not valid JSON"),
        (b'{"model":"m","input":["x"', "", "truncated"),
    ],
)
def test_what_the_decoder_does_not_read_is_named_all_the_same(body: bytes, path: str, why: str) -> None:
    error = refuse(body)
    assert format_path(error.issues[0].path) == path
    assert why in error.issues[0].message
    assert "$" not in str(error)


def test_a_large_body_that_cannot_be_read_costs_one_reading() -> None:
    body = b'{"model":"m","input":["\\ud800","' + b"x" * MAX_WALKED_BYTES + b'"]}'
    assert refuse(body).issues[0].path == ()
    assert "surrogate pair" in str(refuse(body))
    assert "$" not in str(refuse(body.replace(b'"\\ud800"', b"1e999")))
    ends_with_half = b'{"model":"m","input":["' + b"x" * MAX_WALKED_BYTES + b'\\ud800"]}'
    assert "surrogate pair" in str(refuse(ends_with_half))
