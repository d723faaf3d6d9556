"""Refuses what a careful JSON API does not read, before a route sees it: pure ASGI, one pass over the body.

Guarantee: what a route is given is UTF-8 JSON of at most `MAX_BODY_BYTES`, without duplicate keys, NaN, infinities,
integers beyond 64 bits, NUL or lone surrogates, and nested at most `MAX_DEPTH` deep; path and query are UTF-8
without NUL. All else is answered with a problem that says where it is, and reaches nothing behind this.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synqx_dagster.api.problems import FieldProblem, problem_response
from synqx_dagster.catalog.yaml_tree import FieldPath, format_path

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_QUERY_BYTES = 16 * 1024
_MAX_PROBLEMS = 100

_INTEGERS = range(-(2**63), 2**63)
#: No 64-bit integer has more characters; Python refuses to read some thousands of digits.
_INTEGER_CHARACTERS = 20
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Brackets outside of texts tell the depth. A text is skipped as a whole, also one that does not end; possessive,
#: because what matches from each quote to the end of the body would be read as often as it has quotes.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class RefusedBodyError(Exception):
    """The body is not read; says with which status, why and where."""

    def __init__(self, status: int, detail: str, problems: tuple[FieldProblem, ...] = ()) -> None:
        self.status = status
        self.detail = detail
        self.problems = problems
        super().__init__(detail)


class StrictBodyMiddleware:
    """Reads the whole body, checks it, and hands it on as it came.

    Args:
        app: What is behind.
        max_bytes: The longest body that is read.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            check_target(scope)
            body = await self._read(scope, receive)
        except RefusedBodyError as refused:
            request_id = scope.get("state", {}).get("request_id")
            # The path may be what is refused; it is not repeated then.
            path = "" if refused.status == 400 else scope["path"]
            response = problem_response(request_id, path, refused.status, refused.detail, errors=refused.problems)
            await response(scope, receive, send)
            return
        if body is None:  # The client has gone.
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > self._max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large()
            parts.append(part)
            more = message.get("more_body", False)
        body = b"".join(parts)
        if body:
            _check_media_type(headers.get("content-type", ""))
            check_json(body)
        return body

    def _too_large(self) -> RefusedBodyError:
        return RefusedBodyError(413, f"The body is longer than {self._max_bytes} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def replayed() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _check_media_type(text: str) -> None:
    media_type, _, parameters = text.partition(";")
    if media_type.strip().lower() != "application/json":
        raise RefusedBodyError(415, "The body must be JSON: send `Content-Type: application/json`")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise RefusedBodyError(415, "The body must be UTF-8")


# --- path and query ---------------------------------------------------------------------------------------------


def check_target(scope: Scope) -> None:
    """Refuse a path or a query that is not text.

    Raises:
        RefusedBodyError: It is not UTF-8 once it is decoded, holds NUL, or the query is too long.
    """
    # Servers put a replacement where the path is not UTF-8; what was sent stands in `raw_path`.
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    _check_text(unquote_to_bytes(raw_path), "path")
    query: bytes = scope.get("query_string", b"")
    if len(query) > MAX_QUERY_BYTES:
        raise RefusedBodyError(400, f"The query is longer than {MAX_QUERY_BYTES} bytes")
    _check_text(unquote_to_bytes(query), "query")


def _check_text(data: bytes, what: str) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedBodyError(400, f"The {what} is not UTF-8") from None
    if "\x00" in text:
        raise RefusedBodyError(400, f"The {what} holds a NUL character")


# --- JSON -------------------------------------------------------------------------------------------------------


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, each key as often as it stands there."""


class _Unreadable:
    """A number that is none here; says why."""

    def __init__(self, why: str) -> None:
        self.why = why


def check_json(body: bytes) -> None:
    """Refuse a body that is not JSON as this API takes it.

    Raises:
        RefusedBodyError: 400 where it is not JSON, 422 where a value is none that can be stored.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedBodyError(400, f"The body is not UTF-8: the byte at offset {error.start} does not fit") from None
    if _depth_of(body) > MAX_DEPTH:
        raise RefusedBodyError(400, f"The body is nested more than {MAX_DEPTH} levels deep")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_int=_read_integer,
            parse_float=_read_float,
            parse_constant=lambda name: _Unreadable(f"{name} is not JSON"),
        )
    except (ValueError, RecursionError) as error:
        place = f" at offset {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise RefusedBodyError(400, f"The body is not JSON{place}") from None
    found = list(itertools.islice(_iter_problems(value), _MAX_PROBLEMS))
    if found:
        status = 400 if any(is_syntax for _, _, is_syntax in found) else 422
        problems = tuple(FieldProblem(path=format_path(path), message=message) for path, message, _ in found)
        raise RefusedBodyError(status, "The body has values that are not accepted", problems)


def _depth_of(body: bytes) -> int:
    depth = deepest = 0
    for match in _BRACKETS.finditer(body):
        if match[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in (b"]", b"}"):
            depth -= 1
    return deepest


def _read_integer(text: str) -> Any:
    if len(text) > _INTEGER_CHARACTERS or int(text) not in _INTEGERS:
        return _Unreadable("the number does not fit into 64 bits")
    return int(text)


def _read_float(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else _Unreadable("the number is too large")


def _iter_problems(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str, bool]]:
    """Place, words, and whether it is JSON's own rule that is broken. The depth is bounded before."""
    if isinstance(value, _Unreadable):
        yield path, value.why, value.why.endswith("JSON")
    elif isinstance(value, str):
        if why := _why_no_text(value):
            yield path, why, False
    elif isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, item in value:
            if why := _why_no_text(key):
                yield path, f"a key {why.removeprefix('the text ')}", False
                continue
            if key in seen:
                yield (*path, key), "the key stands there twice", True
            seen.add(key)
            yield from _iter_problems(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _iter_problems(item, (*path, index))


def _why_no_text(text: str) -> str | None:
    if "\x00" in text:
        return "the text holds a NUL character"
    if _SURROGATE.search(text):
        return "the text holds half of a surrogate pair"
    return None
