"""What the API does not read: each refused with a problem that says where, and none of it behind the middleware."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.api.strict_body import MAX_BODY_BYTES, RefusedBodyError, StrictBodyMiddleware, check_json

JSON = {"content-type": "application/json"}


class Behind:
    """What stands behind the middleware: keeps the bodies that reach it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def send_body(
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    path: bytes = b"/x",
    query: bytes = b"",
    chunk: int = 1 << 20,
) -> tuple[int, Any, list[bytes]]:
    """Status, answer, and what came through."""
    parts = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)} for index, part in enumerate(parts)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    behind = Behind()
    scope = {
        "type": "http",
        "method": "POST",
        "path": path.decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in (JSON if headers is None else headers).items()],
    }
    asyncio.run(StrictBodyMiddleware(behind)(scope, receive, send))
    answer = sent[1]["body"]
    return sent[0]["status"], json.loads(answer) if answer else None, behind.bodies


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_body_comes_through_as_it_was_sent(chunk: int) -> None:
    body = b' {"a": [1, -9223372036854775808, 1.5e300, "\\u00e9\\ud83d\\ude00", null, true], "b": {}}\n'
    assert send_body(body, chunk=chunk) == (200, None, [body])


def test_a_request_without_a_body_needs_no_media_type() -> None:
    assert send_body(b"", {}) == (200, None, [b""])


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b'{"a": 1, "a": 2}', 400, "a"),
        (b'{"x": [{"b": 1, "b": 1}]}', 400, "x[0].b"),
        (b'{"a": NaN}', 400, "a"),
        (b"[1, -Infinity]", 400, "[1]"),
        (b'{"a": 1e999}', 422, "a"),
        (b'{"a": -1e999}', 422, "a"),
        (b'{"a": 9223372036854775808}', 422, "a"),
        (b'{"a": -9223372036854775809}', 422, "a"),
        (b'{"a": ' + b"9" * 4000 + b"}", 422, "a"),
        (b'{"a": "\\ud800"}', 422, "a"),
        (b'{"a": "\\udc00\\ud800"}', 422, "a"),
        (b'{"a": "x\\u0000y"}', 422, "a"),
        (b'{"a": {"\\u0000": 1}}', 422, "a"),
    ],
)
def test_a_value_is_refused_at_its_place(body: bytes, status: int, path: str) -> None:
    found, problem, reached = send_body(body)
    assert (found, reached) == (status, [])
    assert [item["path"] for item in problem["errors"]] == [path]
    assert problem["status"] == status


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nothing",
        b'{"a": 1} x',
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 65 + b"]" * 65,
        b"[" * 900 + b"]" * 900,
        b"[" * 500_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'"' + b'\\"' * 400_000,
        b'"' + b"\\" * 400_001,
        b'{"a": 01}',
        b"{'a': 1}",
        b'{"a": "\n"}',
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    begin = time.monotonic()
    status, problem, reached = send_body(body)
    assert (status, reached) == (400, [])
    assert problem["detail"].startswith("The body")
    assert time.monotonic() - begin < 5


def test_brackets_in_texts_are_no_depth() -> None:
    body = json.dumps({"a": "[" * 1000 + '\\"{' * 100}).encode()
    assert send_body(body)[0] == 200
    assert send_body(b"[" * 64 + b"]" * 64)[0] == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_long_is_refused(announced: bool) -> None:
    body = b'"' + b"x" * (20 * 1024 * 1024) + b'"'
    headers = {**JSON, **({"content-length": str(len(body))} if announced else {})}
    status, problem, reached = send_body(body, headers)
    assert (status, reached) == (413, [])
    assert str(MAX_BODY_BYTES) in problem["detail"]


@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=latin-1"],
)
def test_another_media_type_is_refused(media_type: str) -> None:
    status, _, reached = send_body(b"{}", {"content-type": media_type} if media_type else {})
    assert (status, reached) == (415, [])


def test_parameters_of_the_media_type_are_read() -> None:
    assert send_body(b"{}", {"content-type": 'Application/JSON; charset="UTF-8"'})[0] == 200


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (b"/a%00b", b""),
        (b"/a%ff", b""),
        (b"/%ed%a0%80", b""),
        (b"/a", b"name=%00"),
        (b"/a", b"name=%ED%B0%80"),
        (b"/a", b"name=\xff"),
        (b"/a", b"n=" + b"x" * 20_000),
    ],
)
def test_a_path_or_query_that_is_no_text_is_refused(path: bytes, query: bytes) -> None:
    status, problem, reached = send_body(b"", {}, path=path, query=query)
    assert (status, reached) == (400, [])
    assert "errors" in problem


def test_a_client_that_goes_away_is_not_answered() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    asyncio.run(StrictBodyMiddleware(Behind())(scope, receive, send))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner)
    ),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_all_that_can_be_stored_is_read(value: Any, ascii_only: bool) -> None:
    check_json(json.dumps(value, ensure_ascii=ascii_only).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    with contextlib.suppress(RefusedBodyError):
        check_json(body)
        json.loads(body.decode("utf-8"))
