"""The server as a whole: what answers at which path, its metrics, its log, and how it starts and ends."""

from __future__ import annotations

import json
import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from synqx_dagster.api.identify import put_request_ids_into_logs
from synqx_dagster.defs.json_logs import JsonFormatter
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.gateway.access_log import logger as access_logger
from synqx_dagster.gateway.app import LastResort
from synqx_dagster.gateway.server import listen, open_gateway
from synqx_dagster.model.server_settings import ServerSettings
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster_tests.fix_gateway import Caller, GatewayServer, running

# --- paths --------------------------------------------------------------------------------------------------------


def test_one_port_has_it_all(gateway_server: GatewayServer) -> None:
    nobody = gateway_server.nobody()
    assert nobody.get("/").json() == {
        "name": "SynqX",
        "status": "ready",
        "api": "/api/v1",
        "docs": "/docs",
        "health": "/health",
    }
    assert nobody.get("/health").json()["status"] == "ok"
    assert nobody.get("/openapi.json").json()["info"]["title"] == "SynqX"
    assert nobody.get("/docs").status_code == 200
    assert nobody.get("/api/v1/connections").status_code == 401
    assert "synqx-account" in gateway_server.as_role(Role.VIEWER).page("/").text
    assert "synqx-account" in gateway_server.as_role(Role.VIEWER).page("/jobs").text
    for path in ("/", "/login", "/health", "/api/v1/connections", "/x"):
        headers = nobody.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]
        assert "server" not in headers


@pytest.mark.parametrize(
    "path", ["/%00", "/a%0d%0aSet-Cookie:%20x", "//evil.example/x", "/..%2f..%2fetc/passwd", "/%ff"]
)
def test_no_path_makes_the_server_fail(gateway_server: GatewayServer, path: str) -> None:
    for caller in (gateway_server.nobody(), gateway_server.as_role(Role.VIEWER)):
        answer = caller.page(path)
        assert answer.status_code < 500
        assert "set-cookie" not in answer.headers
        assert not answer.headers.get("location", "/").startswith("//")


def test_the_api_and_the_web_ui_know_the_same_people(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    me = viewer.get("/api/v1/auth/me")
    assert me.status_code == 200, me.text
    assert me.json()["username"] == "viewer"


def test_pages_of_listed_origins_may_call_the_api_and_nothing_else(gateway_server: GatewayServer) -> None:
    listed, other = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
    asks = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization, if-match"}
    path, allowed = "/api/v1/connections", "access-control-allow-origin"
    for origin in (listed, other):
        answer = gateway_server.nobody().request("OPTIONS", path, headers={**origin, **asks})
        assert allowed not in answer.headers, "nobody is listed as long as no setting says so"
    server = replace(gateway_server.settings.server, cors_origins=("https://app.example",))
    viewer = gateway_server.as_role(Role.VIEWER)
    with open_gateway(replace(gateway_server.settings, server=server)) as gateway, running(gateway) as base:
        caller = Caller(base)
        before = caller.request("OPTIONS", path, headers={**listed, **asks})
        assert (before.status_code, before.headers[allowed]) == (200, "https://app.example")
        assert "PATCH" in before.headers["access-control-allow-methods"]
        assert allowed not in caller.request("OPTIONS", path, headers={**other, **asks}).headers
        refused = caller.get(path, headers=listed)
        assert (refused.status_code, refused.headers[allowed]) == (401, "https://app.example")
        assert "ETag" in refused.headers["access-control-expose-headers"]
        assert allowed not in caller.get(path, headers=other).headers
        # The cookie is not for scripts of other origins, listed or not, and Dagster's own API is for none of them.
        mine = Caller(base, cookie=viewer.cookie)
        assert "access-control-allow-credentials" not in mine.get(path, headers=listed).headers
        assert mine.request("POST", "/api/v1/auth/logout", headers=listed).status_code == 403
        assert allowed not in mine.get("/server_info", headers=listed).headers


# --- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_are_for_those_who_may_read_runs(gateway_server: GatewayServer) -> None:
    admin = gateway_server.people.accounts.get_by_name("admin").identity("session")
    keys = gateway_server.people.keys
    may = keys.create(admin, "metrics", [Permission.RUNS_READ], None).key
    may_not = keys.create(admin, "catalog", [Permission.CATALOG_READ], None).key
    answer = gateway_server.nobody(Authorization=f"Bearer {may}").get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "synqx_catalog_revision 1\n" in answer.text
    assert gateway_server.nobody(Authorization=f"Bearer {may_not}").get("/metrics").status_code == 403


def test_metrics_are_for_all_where_that_is_set(gateway_server: GatewayServer) -> None:
    settings = replace(gateway_server.settings, server=replace(gateway_server.settings.server, metrics_open=True))
    with open_gateway(settings) as gateway, running(gateway) as base:
        assert Caller(base).get("/metrics").status_code == 200
        assert Caller(base).get("/server_info").status_code == 401


@pytest.mark.parametrize("text", ["*", "proxy.example", "10.0.0.0/99"])
def test_not_everybody_is_a_trusted_proxy(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNQX_TRUSTED_PROXIES"):
        ServerSettings.parse({"SYNQX_TRUSTED_PROXIES": text}.get)


def test_only_a_trusted_proxy_says_who_the_client_is(gateway_server: GatewayServer) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Host": "synqx.example"}
    with open_gateway(gateway_server.settings) as gateway:
        with running(gateway, trusted_proxies=("10.0.0.0/8",)) as base:
            assert "strict-transport-security" not in Caller(base).get("/login", headers=forged).headers
        with running(gateway, trusted_proxies=("127.0.0.0/8",)) as base:
            assert "strict-transport-security" in Caller(base).get("/login", headers=forged).headers


# --- the log ------------------------------------------------------------------------------------------------------


def test_a_request_is_a_line_without_its_query(gateway_server: GatewayServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=access_logger.name):
        answer = gateway_server.as_role(Role.VIEWER).get("/server_info?token=a-secret")
        gateway_server.nobody().get("/login?token=a-secret%0a2026")
        gateway_server.nobody().get("/a%0aINFO forged")
        gateway_server.as_role(Role.VIEWER).request("POST", "/graphql", headers={"Origin": "https://evil.example"})
        gateway_server.nobody().get("/health")
    records = [record for record in caplog.records if record.name == access_logger.name]
    lines = [json.loads(JsonFormatter().format(record)) for record in records]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/server_info", 200),
        ("GET", "/login", 403),
        ("GET", "/a\nINFO forged", 404),
        ("POST", "/graphql", 403),
    ]
    assert (lines[0]["user"], lines[0]["login"], lines[0]["address"]) == ("viewer", "session", "127.0.0.1")
    assert lines[0]["request_id"] == answer.headers["x-request-id"]
    assert "a-secret" not in caplog.text
    assert "\nINFO forged" not in "".join(record.getMessage() for record in records)


def test_a_failure_that_nobody_answers_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("postgresql://user:a-secret@host")

    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b"", "server": ("h", 80)}
    asyncio.run(LastResort(failing)(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert b"a-secret" not in bytes(sent[1]["body"])  # type: ignore[call-overload]


def test_what_is_logged_of_a_request_has_its_id(
    gateway_server: GatewayServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(find_catalog: object) -> None:
        raise RuntimeError("something that nobody has foreseen")

    monkeypatch.setattr("synqx_dagster.gateway.app.read_state", fail)
    factory = logging.getLogRecordFactory()
    put_request_ids_into_logs()
    try:
        answer = gateway_server.nobody().get("/")
    finally:
        logging.setLogRecordFactory(factory)
    assert answer.status_code == 500
    request_id = answer.headers["x-request-id"]
    assert answer.json()["request_id"] == request_id
    (record,) = [record for record in caplog.records if record.name == "synqx_dagster.gateway.app"]
    assert json.loads(JsonFormatter().format(record))["request_id"] == request_id


# --- starting -----------------------------------------------------------------------------------------------------


def test_a_taken_port_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="cannot be listened at"):
            listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigurationError):
        listen("no such host.example", 3000)


def test_a_workspace_that_is_not_there_is_told(tmp_path: Path) -> None:
    from synqx_dagster.gateway.server import load_target

    with pytest.raises(ConfigurationError, match="no workspace file"):
        load_target(tmp_path / "workspace.yaml", None)
