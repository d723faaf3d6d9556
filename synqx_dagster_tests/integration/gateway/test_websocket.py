"""The websocket of the web UI: for our own page, for streams alone, and for no longer than the login lasts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.gateway import webserver
from synqx_dagster.people.accounts import UserChange
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster_tests.fix_gateway import Caller, GatewayServer
from synqx_dagster_tests.integration.gateway.test_web_ui import launch

LOGS = """
subscription ($run: ID!) { pipelineRunLogs(runId: $run) {
  __typename ... on PipelineRunLogsSubscriptionSuccess { hasMorePastEvents } } }
"""


@contextmanager
def opened(caller: Caller, origin: str | None, **headers: str) -> Iterator[ClientConnection]:
    if caller.cookie is not None:
        headers["Cookie"] = f"{SESSION_COOKIE}={caller.cookie}"
    address = f"{caller.base.replace('http', 'ws', 1)}/graphql"
    with connect(
        address,
        origin=origin,  # type: ignore[arg-type]
        subprotocols=["graphql-ws"],  # type: ignore[list-item]
        additional_headers={**caller.headers, **headers},
        proxy=None,
    ) as socket:
        yield socket


def start(socket: ClientConnection, query: str, **variables: Any) -> Any:
    socket.send(json.dumps({"type": "connection_init"}))
    assert json.loads(socket.recv(10))["type"] == "connection_ack"
    payload = {"query": query, "variables": variables}
    socket.send(json.dumps({"type": "start", "id": "1", "payload": payload}))
    return json.loads(socket.recv(20))


def end_of(socket: ClientConnection) -> int:
    """The code with which the server ends it; what it sends before is left."""
    for _ in range(1000):
        try:
            socket.recv(20)
        except ConnectionClosed as closed:
            return 0 if closed.rcvd is None else closed.rcvd.code
    raise AssertionError("it goes on")


def test_our_own_page_streams_the_log_of_a_run(gateway_server: GatewayServer) -> None:
    run_id = launch(gateway_server.as_role(Role.OPERATOR))
    viewer = gateway_server.as_role(Role.VIEWER)
    with opened(viewer, viewer.base) as socket:
        answer = start(socket, LOGS, run=run_id)
    assert answer["type"] == "data"
    assert answer["payload"]["data"]["pipelineRunLogs"]["__typename"] == "PipelineRunLogsSubscriptionSuccess"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://127.0.0.1.evil.example", None]
)
def test_another_sites_page_opens_none(gateway_server: GatewayServer, origin: str | None) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        opened(gateway_server.as_role(Role.ADMIN), origin),
    ):
        pytest.fail("it was opened")
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"X-Forwarded-User": "admin"}], ids=str)
def test_nobody_opens_none(gateway_server: GatewayServer, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(gateway_server.nobody(), gateway_server.base, **headers):
        pytest.fail("it was opened")
    assert refused.value.response.status_code == 403


def test_a_program_with_a_key_needs_no_origin(gateway_server: GatewayServer) -> None:
    admin = gateway_server.people.accounts.get_by_name("admin").identity("session")
    scopes = [Permission.RUNS_READ, Permission.CATALOG_READ]
    key = gateway_server.people.keys.create(admin, "a stream", scopes, None).key
    with opened(gateway_server.nobody(Authorization=f"Bearer {key}"), None) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(10))["type"] == "connection_ack"


@pytest.mark.parametrize(
    "query", ["{ version }", 'mutation { deleteRun(runId: "x") { __typename } }', "{", "{a" * 3000]
)
def test_nothing_but_streams_is_executed(gateway_server: GatewayServer, query: str) -> None:
    admin = gateway_server.as_role(Role.ADMIN)
    with opened(admin, admin.base) as socket:
        answer = start(socket, query)
    assert answer["type"] == "error"
    assert "data" not in answer["payload"]


@pytest.mark.parametrize("message", ["", "[]", "{", '{"type": "start"}', '{"type": "start", "payload": 3}', "x" * 100])
def test_what_is_no_message_ends_the_stream(gateway_server: GatewayServer, message: str) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    with opened(viewer, viewer.base) as socket:
        socket.send(message)
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
    assert viewer.data("{ version }")["version"]


def test_a_message_that_does_not_end_is_not_read(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    with opened(viewer, viewer.base) as socket:
        socket.send("x" * 2_000_000)
        assert end_of(socket) == 1009


@pytest.mark.parametrize("end", ["logout", "disabled", "less"])
def test_a_stream_ends_with_the_login_that_opened_it(
    gateway_server: GatewayServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(webserver, "RECHECK_SECONDS", 0.2)
    run_id = launch(gateway_server.as_role(Role.ADMIN))
    operator = gateway_server.login(Role.OPERATOR)
    accounts = gateway_server.people.accounts
    user_id = accounts.get_by_name("operator").user_id
    try:
        with opened(operator, operator.base) as socket:
            start(socket, LOGS, run=run_id)
            if end == "logout":
                operator.form("/logout")
            elif end == "disabled":
                accounts.update(user_id, UserChange(disabled=True))
            else:
                accounts.update(user_id, UserChange(role=Role.VIEWER))
            assert end_of(socket) == webserver.WS_LOGIN
    finally:
        accounts.update(user_id, UserChange(disabled=False, role=Role.OPERATOR))
        gateway_server.forget(Role.OPERATOR)
