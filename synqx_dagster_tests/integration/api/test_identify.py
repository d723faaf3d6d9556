"""The middleware: whom it believes, what it takes away, and which changes it refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from synqx_dagster.api.identify import (
    CSRF_HEADER,
    SESSION_COOKIE,
    IdentityMiddleware,
    current_request_id,
    put_request_ids_into_logs,
)
from synqx_dagster.audit.actor import current_actor
from synqx_dagster.errors import NotInitialisedError
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster.people.service import People
from synqx_dagster_tests.fix_people import CLIENT, add_user, password_of
from synqx_dagster_tests.http_server import served


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what stands behind the middleware sees."""
    state = scope["state"]
    logging.getLogger("synqx_dagster.test").warning("answered")
    document = {
        "username": state["identity"] and state["identity"].username,
        "method": state["identity"] and state["identity"].method,
        "error": state["identity_error"] and type(state["identity_error"]).__name__,
        "actor": current_actor().name,
        "address": state["client"].address,
        "request_id": state["request_id"],
        "context_id": current_request_id(),
        "headers": [name.decode() for name, _ in scope["headers"]],
    }
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"of the app")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


class Gate:
    """A server with a session, a token and a key of one editor."""

    def __init__(self, url: str, people: People) -> None:
        self.url = url
        self.people = people
        login = people.login("ann", password_of("ann"), CLIENT)
        self.browser = people.open_session(login.identity, CLIENT)
        self.token = people.issue_tokens(login.identity, CLIENT).access_token
        self.key = people.keys.create(login.identity, "key", [Permission.RUNS_READ], None).key
        self.cookie = {"Cookie": f"a=b; {SESSION_COOKIE}={self.browser.token}; c=d"}

    def send(
        self, method: str = "GET", headers: dict[str, str] | list[tuple[str, str]] | None = None
    ) -> httpx.Response:
        return httpx.request(method, f"{self.url}/some/path", headers=headers, timeout=60)

    def seen(self, method: str = "GET", headers: Any = None) -> dict[str, Any]:
        answer = self.send(method, headers)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


@pytest.fixture
def gate(people: People) -> Iterator[Gate]:
    add_user(people, "ann", Role.EDITOR)
    with served(IdentityMiddleware(echo, lambda: people)) as url:
        yield Gate(url, people)


def test_each_credential_says_who_it_is(gate: Gate) -> None:
    for headers, method in (
        (gate.cookie, "session"),
        ({"Authorization": f"Bearer {gate.token}"}, "token"),
        ({"authorization": f"bEARER   {gate.key}"}, "api_key"),
        ({"X-API-Key": gate.key}, "api_key"),
        ({"Authorization": "Basic YTpi", **gate.cookie}, "session"),
        ({"X-API-Key": gate.key, **gate.cookie}, "api_key"),
    ):
        seen = gate.seen(headers=headers)
        assert (seen["username"], seen["method"], seen["error"], seen["actor"]) == ("ann", method, None, "ann")


def test_without_one_there_is_nobody(gate: Gate) -> None:
    for headers in ({}, {"Cookie": "a=b"}, {"Cookie": f"x{SESSION_COOKIE}=1"}, {"Authorization": "Basic YTpi"}):
        seen = gate.seen(headers=headers)
        assert (seen["username"], seen["error"], seen["actor"]) == (None, None, "anonymous")


def test_one_that_is_not_valid_is_nobody_and_says_why(gate: Gate) -> None:
    for headers in (
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer ."},
        {"Authorization": f"Bearer x{gate.token}", **gate.cookie},
        {"X-API-Key": "synqx_x"},
        {"Cookie": f"{SESSION_COOKIE}=x"},
        {"Cookie": f"{SESSION_COOKIE}={gate.token}"},
        {"Authorization": f"Bearer {gate.browser.token}"},
    ):
        seen = gate.seen(headers=headers)
        assert (seen["username"], seen["error"]) == (None, "LoginFailedError")


def test_of_two_headers_nobody_knows_which_counts(gate: Gate) -> None:
    headers = [("Authorization", f"Bearer {gate.token}"), ("Authorization", "Bearer x")]
    assert gate.seen(headers=headers)["username"] is None


def test_what_a_client_says_of_itself_is_gone(gate: Gate) -> None:
    names = ("Remote-User", "X-Forwarded-User", "X_Forwarded_User", "X-SynqX-User", "x_synqx_anything", "X-Request-ID")
    seen = gate.seen(headers={**dict.fromkeys(names, "root"), "X-Other": "stays"})
    assert seen["username"] is None
    assert "x-other" in seen["headers"]
    assert [name for name in seen["headers"] if "user" in name.replace("user-agent", "") or "synqx" in name] == []
    assert "x-request-id" not in seen["headers"]


def test_every_answer_has_an_id_of_its_own(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()
    put_request_ids_into_logs()
    put_request_ids_into_logs()
    try:
        answers = [gate.send(headers={"X-Request-ID": "mine"}) for _ in range(2)]
    finally:
        logging.setLogRecordFactory(factory)
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == 2
    assert "mine" not in ids
    for answer, request_id in zip(answers, ids, strict=True):
        assert answer.headers.get_list("X-Request-ID") == [request_id]
        assert answer.json()["request_id"] == answer.json()["context_id"] == request_id
    assert [record.request_id for record in caplog.records if record.message == "answered"] == ids  # type: ignore[attr-defined]


SAME = "http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": SAME}, True),
        ({"Origin": SAME + ".evil.example"}, False),
        ({"Origin": "https://synqx.example.org", "Host": "synqx.example.org"}, True),
        ({"Origin": "http://synqx.example.org", "Host": "synqx.example.org"}, False),
        ({"Origin": "http://synqx.localhost", "Host": "synqx.localhost"}, True),
        ({"Origin": "https://[", "Host": "["}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({CSRF_HEADER: "{csrf}"}, True),
        ({CSRF_HEADER: "x"}, False),
        ({CSRF_HEADER: "x", "Origin": "https://evil.example"}, False),
        ({CSRF_HEADER: "{csrf}", "Origin": "https://evil.example"}, True),
        ({"Referer": SAME}, False),
    ],
)
def test_a_change_by_cookie_must_come_from_a_page_of_this_server(
    gate: Gate, headers: dict[str, str], passes: bool
) -> None:
    port = gate.url.rpartition(":")[2]
    filled = {name: text.format(port=port, csrf=gate.browser.csrf_token) for name, text in headers.items()}
    for method in ("POST", "PUT", "PATCH", "DELETE", "QUERY"):
        answer = gate.send(method, {**filled, **gate.cookie})
        assert answer.status_code == (200 if passes else 403)
        if not passes:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert gate.seen("GET", {**filled, **gate.cookie})["username"] == "ann"
    # Who sends a token or a key means it: no browser adds one by itself.
    assert gate.seen("POST", {**filled, "Authorization": f"Bearer {gate.token}", **gate.cookie})["username"] == "ann"


def test_behind_a_proxy_the_public_address_counts(gate: Gate) -> None:
    people = gate.people
    people._settings = replace(people._settings, public_url="https://synqx.example.org")
    headers = {**gate.cookie, "Origin": "https://synqx.example.org"}
    assert gate.seen("POST", headers)["username"] == "ann"
    assert gate.send("POST", {**headers, "Origin": "https://synqx.example.org.evil.example"}).status_code == 403


def test_a_cookie_of_an_ended_session_hinders_nobody(gate: Gate) -> None:
    gate.people.close_session(gate.browser.token)
    assert gate.seen("POST", gate.cookie)["error"] == "LoginFailedError"


def test_behind_a_sealed_vault_a_token_says_so(gate: Gate) -> None:
    gate.people.accounts._catalog.vault.seal()
    assert gate.seen(headers={"Authorization": f"Bearer {gate.token}"})["error"] == "SealedError"
    assert gate.seen(headers=gate.cookie)["username"] == "ann"
    assert gate.seen(headers={"X-API-Key": gate.key})["username"] == "ann"


def test_without_a_catalog_there_is_nobody() -> None:
    def people() -> People:
        raise NotInitialisedError

    with served(IdentityMiddleware(echo, people)) as url:
        assert httpx.get(f"{url}/api/v1/x").json()["error"] is None
        answer = httpx.get(f"{url}/api/v1/x", headers={"Authorization": "Bearer x"}).json()
        assert (answer["username"], answer["error"]) == (None, "NotInitialisedError")


def test_requests_to_the_api_are_counted_by_caller(gate: Gate) -> None:
    settings = replace(gate.people._settings, api_rate_per_minute=3)
    people = People(gate.people.accounts._catalog)
    people.throttle = type(people.throttle)(settings)
    with served(IdentityMiddleware(echo, lambda: people)) as url:
        statuses = [httpx.get(f"{url}/api/x", headers=gate.cookie).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        answer = httpx.get(f"{url}/api/x", headers=gate.cookie)
        assert 1 <= int(answer.headers["Retry-After"]) <= 61
        assert httpx.get(f"{url}/api/x", headers={"X-API-Key": gate.key}).status_code == 200
        assert httpx.get(f"{url}/other", headers=gate.cookie).status_code == 200


# --- websockets -----------------------------------------------------------------------------------------------------


async def open_websocket(people: People, headers: dict[str, str]) -> tuple[list[Message], Scope | None]:
    """What a websocket is answered, and the scope that stood behind the middleware."""
    sent: list[Message] = []
    behind: list[Scope] = []

    async def accept(scope: Scope, receive: Receive, send: Send) -> None:
        behind.append(scope)
        await send({"type": "websocket.accept", "headers": []})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "path": "/graphql", "headers": raw, "client": ("192.0.2.7", 1), "state": {}}
    await IdentityMiddleware(accept, lambda: people)(scope, receive, send)
    return sent, behind[0] if behind else None


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null"])
def test_a_websocket_by_cookie_from_another_page_is_refused(gate: Gate, origin: str | None) -> None:
    import asyncio

    headers = {**gate.cookie, "Host": "synqx.example.org"} | ({"Origin": origin} if origin else {})
    sent, behind = asyncio.run(open_websocket(gate.people, headers))
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert behind is None


def test_a_websocket_of_this_server_is_identified(gate: Gate) -> None:
    import asyncio

    headers = {**gate.cookie, "Host": "synqx.example.org", "Origin": "https://synqx.example.org"}
    sent, behind = asyncio.run(open_websocket(gate.people, headers))
    assert [message["type"] for message in sent] == ["websocket.accept"]
    assert [name for name, _ in sent[0]["headers"]] == [b"x-request-id"]
    assert behind is not None
    assert behind["state"]["identity"].username == "ann"
