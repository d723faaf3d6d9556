"""Dagster's web UI behind logins: who may do what, and every way around it that stock Dagster leaves open."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synqx_dagster.audit.chain import AuditEntry
from synqx_dagster.audit.verify import verify_trail
from synqx_dagster.people.accounts import UserChange
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster_tests.fix_gateway import Caller, GatewayServer

SELECTOR = {"repositoryLocationName": "synqx", "repositoryName": "__repository__"}
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } }
}
"""
DELETE = 'mutation { deleteRun(runId: "%s") { __typename } }'
CANCEL = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
START_SCHEDULE = """
mutation ($selector: ScheduleSelector!) {
  startSchedule(scheduleSelector: $selector) { __typename ... on ScheduleStateResult { scheduleState { status } } }
}
"""


def launch_params(**tags: str) -> dict[str, Any]:
    return {
        "selector": {**SELECTOR, "jobName": "copying"},
        "mode": "default",
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }


def launch(caller: Caller, **tags: str) -> str:
    answer = caller.data(LAUNCH, params=launch_params(**tags))["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def latest(server: GatewayServer) -> list[AuditEntry]:
    """The latest entries of the trail, the newest last."""
    return server.trail.page(limit=50)[0][::-1]


def actions(server: GatewayServer, **wanted: str) -> list[tuple[str, str]]:
    """Acts and outcomes of the latest entries of the trail, the newest last."""
    return [
        (entry.event.action, entry.event.outcome)
        for entry in latest(server)
        if all(getattr(entry.event, name) == value for name, value in wanted.items())
    ]


# --- without a login ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/runs", "/jobs?q=1", "/assets/a/b", "/_next/static/x.js", "/favicon.png"])
def test_a_browser_without_a_login_is_led_to_it_and_back(gateway_server: GatewayServer, path: str) -> None:
    answer = gateway_server.nobody().page(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=/")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    ["/graphql?query={version}", "/logs/a/b/c.out", "/download_debug/x", "/notebook", "/server_info", "/metrics", "/x"],
)
def test_a_program_without_a_login_is_told_so(gateway_server: GatewayServer, path: str) -> None:
    answer = gateway_server.nobody().get(path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-User": "admin"},
        {"Remote-User": "admin", "X-Forwarded-For": "127.0.0.1"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"X-API-Key": "synqx_nonsense"},
        {"Cookie": "__Host-synqx_session=nonsense"},
        {"Cookie": "synqx_session=x; session=y"},
    ],
    ids=str,
)
def test_nobody_gets_in_by_saying_who_they_are(gateway_server: GatewayServer, headers: dict[str, str]) -> None:
    caller = gateway_server.nobody()
    answer = caller.request("POST", "/graphql", json={"query": "{ version }"}, headers={**headers, **caller.origin})
    assert answer.status_code == 401


# --- roles --------------------------------------------------------------------------------------------------------


def test_everybody_sees_the_web_ui_and_who_they_are(gateway_server: GatewayServer) -> None:
    for role in Role:
        caller = gateway_server.as_role(role)
        page = caller.page("/")
        assert page.status_code == 200
        assert 'id="synqx-account"' in page.text
        assert f"Account of {role.value}" in page.text
        assert page.headers["x-frame-options"] == "DENY"
        nonce = page.headers["content-security-policy"].partition("'nonce-")[2].partition("'")[0]
        assert f'<style nonce="{nonce}">' in page.text
        assert "x-dagster-call-counts" not in page.headers
        assert caller.data("{ version }")["version"]


def test_the_page_is_told_the_permissions_of_the_role(gateway_server: GatewayServer) -> None:
    query = "{ permissions { permission value disabledReason } }"
    found = {
        role: {item["permission"] for item in gateway_server.as_role(role).data(query)["permissions"] if item["value"]}
        for role in Role
    }
    assert found[Role.VIEWER] == set()
    assert "launch_pipeline_execution" in found[Role.OPERATOR]
    assert "start_schedule" not in found[Role.OPERATOR]
    assert "start_schedule" in found[Role.EDITOR]
    assert "delete_pipeline_run" not in found[Role.EDITOR]
    assert "delete_pipeline_run" in found[Role.ADMIN]
    by_location = "{ workspaceOrError { ... on Workspace { locationEntries { permissions { permission value } } } } }"
    (entry,) = gateway_server.as_role(Role.OPERATOR).data(by_location)["workspaceOrError"]["locationEntries"]
    assert {item["permission"] for item in entry["permissions"] if item["value"]} == found[Role.OPERATOR]


def test_a_viewer_cannot_launch_and_it_is_in_the_trail(gateway_server: GatewayServer) -> None:
    before = gateway_server.instance.get_runs_count()
    answer = gateway_server.as_role(Role.VIEWER).graphql(LAUNCH, params=launch_params())
    assert answer.status_code == 403
    assert "runs:launch" in answer.json()["errors"][0]["message"]
    assert answer.json()["data"] is None
    assert gateway_server.instance.get_runs_count() == before
    assert actions(gateway_server, actor="viewer")[-1] == ("run.launch", "denied")


def test_an_operator_launches_and_cancels_and_the_run_says_who(gateway_server: GatewayServer) -> None:
    operator = gateway_server.as_role(Role.OPERATOR)
    run_id = launch(operator, **{"user": "somebody else", "synqx/user_id": "0", "mine": "kept"})
    run = gateway_server.instance.get_run_by_id(run_id)
    assert run.status.value == "QUEUED"
    assert run.tags["user"] == "operator"
    assert run.tags["synqx/user_id"] == str(gateway_server.people.accounts.get_by_name("operator").user_id)
    assert run.tags["synqx/launched_by"] == "session"
    assert run.tags["mine"] == "kept"
    (queued,) = [entry.event for entry in latest(gateway_server) if entry.event.run_id == run_id]
    assert (queued.action, queued.actor, queued.request_id) == ("run.queued", "operator", run.tags["synqx/request_id"])
    assert operator.data(CANCEL, run=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert gateway_server.instance.get_run_by_id(run_id).status.value == "CANCELED"
    assert actions(gateway_server, actor="operator", run_id=run_id)[-1] == ("run.cancel", "allowed")


def test_an_operator_edits_no_schedule_and_an_editor_does(gateway_server: GatewayServer) -> None:
    selector = {**SELECTOR, "scheduleName": "nightly"}
    refused = gateway_server.as_role(Role.OPERATOR).graphql(START_SCHEDULE, selector=selector)
    assert refused.status_code == 403
    editor = gateway_server.as_role(Role.EDITOR)
    started = editor.data(START_SCHEDULE, selector=selector)["startSchedule"]
    assert started["scheduleState"]["status"] == "RUNNING"
    entry = latest(gateway_server)[-1].event
    assert (entry.action, entry.target_kind, entry.target) == ("schedule.start", "schedule", "nightly")


def test_only_an_admin_deletes_runs(gateway_server: GatewayServer) -> None:
    run_id = launch(gateway_server.as_role(Role.OPERATOR))
    assert gateway_server.as_role(Role.EDITOR).graphql(DELETE % run_id).status_code == 403
    assert gateway_server.instance.get_run_by_id(run_id) is not None
    gateway_server.as_role(Role.ADMIN).data(DELETE % run_id)
    assert gateway_server.instance.get_run_by_id(run_id) is None


def test_what_is_refused_refuses_the_whole_request(gateway_server: GatewayServer) -> None:
    run_id = launch(gateway_server.as_role(Role.OPERATOR))
    fields = f'a: terminateRun(runId: "{run_id}") {{ __typename }} b: deleteRun(runId: "x") {{ __typename }}'
    both = f"mutation {{ {fields} }}"
    assert gateway_server.as_role(Role.EDITOR).graphql(both).status_code == 403
    assert gateway_server.instance.get_run_by_id(run_id).status.value == "QUEUED"


def test_a_failed_mutation_is_in_the_trail_as_failed(gateway_server: GatewayServer) -> None:
    gateway_server.as_role(Role.OPERATOR).data(CANCEL, run="no such run")
    assert actions(gateway_server, actor="operator")[-2:] == [("run.cancel", "allowed"), ("run.cancel", "failed")]


def test_a_change_of_role_counts_from_the_next_request_on(gateway_server: GatewayServer) -> None:
    accounts = gateway_server.people.accounts
    caller = gateway_server.as_role(Role.OPERATOR)
    user = accounts.get_by_name("operator")
    try:
        accounts.update(user.user_id, UserChange(role=Role.VIEWER))
        assert caller.graphql(LAUNCH, params=launch_params()).status_code == 403
    finally:
        accounts.update(user.user_id, UserChange(role=Role.OPERATOR))
    launch(caller)


def test_a_key_with_a_scope_that_does_not_look_sees_nothing(gateway_server: GatewayServer) -> None:
    identity = gateway_server.people.accounts.get_by_name("admin").identity("session")
    key = gateway_server.people.keys.create(identity, "one scope", [Permission.RUNS_READ], None).key
    answer = gateway_server.nobody(Authorization=f"Bearer {key}").post("/graphql", json={"query": "{ version }"})
    assert answer.status_code == 403
    key = gateway_server.people.keys.create(
        identity, "to look", [Permission.RUNS_READ, Permission.CATALOG_READ], None
    ).key
    program = gateway_server.nobody(**{"X-API-Key": key})
    assert program.data("{ version }")["version"]
    assert program.graphql(LAUNCH, params=launch_params()).status_code == 403


def test_the_instances_settings_are_for_admins(gateway_server: GatewayServer) -> None:
    query = "{ instance { info } }"
    assert gateway_server.as_role(Role.EDITOR).data(query)["instance"]["info"] is None
    assert "run_coordinator" in gateway_server.as_role(Role.ADMIN).data(query)["instance"]["info"]


# --- downloads ----------------------------------------------------------------------------------------------------


def test_a_viewer_downloads_no_debug_dump(gateway_server: GatewayServer) -> None:
    operator = gateway_server.as_role(Role.OPERATOR)
    path = f"/download_debug/{launch(operator)}"
    assert gateway_server.as_role(Role.VIEWER).get(path).status_code == 403
    assert operator.get(path).headers["content-type"] == "application/gzip"
    assert gateway_server.as_role(Role.VIEWER).get("/notebook?repoLocName=synqx&path=a.ipynb").status_code == 403
    assert gateway_server.as_role(Role.VIEWER).get("/dagit/notebook?path=a.ipynb").status_code == 403


def test_logs_are_read_within_their_directory_alone(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    for path in ("/logs/..%2f..%2f..%2fetc/passwd", "/logs/%2e%2e/%2e%2e/dagster.yaml", "/logs/x/compute_logs/y.out"):
        answer = viewer.get(path)
        assert answer.status_code in (404, 500), path
        assert "run_coordinator" not in answer.text


def test_a_viewer_reports_no_materialization(gateway_server: GatewayServer) -> None:
    path = "/report_asset_materialization/files/main/two"
    for role in (Role.VIEWER, Role.OPERATOR):
        assert gateway_server.as_role(role).post(path, json={}).status_code == 403


# --- requests from elsewhere --------------------------------------------------------------------------------------


def test_a_mutation_by_get_is_refused(gateway_server: GatewayServer) -> None:
    admin = gateway_server.as_role(Role.ADMIN)
    run_id = launch(admin)
    hidden = "query Look { version } " + (DELETE % run_id).replace("mutation", "mutation Delete", 1)
    for query, name in ((DELETE % run_id, ""), (hidden, "Delete")):
        answer = admin.get("/graphql", params={"query": query, "operationName": name})
        assert answer.status_code == 405
    assert gateway_server.instance.get_run_by_id(run_id) is not None
    assert admin.get("/graphql", params={"query": "{ version }"}).json()["data"]["version"]


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "text/plain; application/json",
        'text/plain; x="application/json"',
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/graphql",
        "application/jsonp",
        "",
    ],
)
def test_a_mutation_that_is_not_json_is_refused(gateway_server: GatewayServer, media_type: str) -> None:
    admin = gateway_server.as_role(Role.ADMIN)
    run_id = launch(admin)
    body = json.dumps({"query": DELETE % run_id})
    answer = admin.post("/graphql", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == 415
    answer = admin.post("/graphql", params={"query": DELETE % run_id}, headers={"Content-Type": media_type})
    assert answer.status_code == 415
    assert gateway_server.instance.get_run_by_id(run_id) is not None


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1234"},
        {},
    ],
    ids=str,
)
def test_a_change_that_another_sites_page_sends_is_refused(
    gateway_server: GatewayServer, headers: dict[str, str]
) -> None:
    admin = gateway_server.as_role(Role.ADMIN)
    run_id = launch(admin)
    answer = admin.request("POST", "/graphql", json={"query": DELETE % run_id}, headers=headers)
    assert answer.status_code == 403
    assert gateway_server.instance.get_run_by_id(run_id) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"query"',
        b'{"query": 1}',
        b'{"query": "{ version }", "variables": "x"}',
        b'{"query": "{ version"}',
        b'{"query": "\\ud800"}',
        b'{"query": "query A { version } query B { version }"}',
        b'{"query": "subscription { locationStateChangeEvents { event { message } } }"}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"query": "{a" * 5_000 + "}" * 5_000}).encode(),
    ],
    ids=range(13),
)
def test_what_is_no_request_is_told_so(gateway_server: GatewayServer, body: bytes) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    answer = viewer.post("/graphql", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "Traceback" not in answer.text


def test_a_body_that_does_not_end_is_cut_off(gateway_server: GatewayServer) -> None:
    viewer = gateway_server.as_role(Role.VIEWER)
    answer = viewer.post("/graphql", content=b" " * 5_000_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


# --- the trail ----------------------------------------------------------------------------------------------------


def test_what_the_trail_cannot_hold_is_not_done(gateway_server: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # A trigger is the one way to have a real database refuse it.
    operator = gateway_server.as_role(Role.OPERATOR)
    before = gateway_server.instance.get_runs_count()
    catalog = gateway_server.gateway.context.catalog
    import sqlalchemy as sa

    refuse = "create trigger refuse before insert on synqx_audit begin select raise(abort, 'no'); end"
    with catalog.write() as connection:
        connection.execute(sa.text(refuse))
    try:
        answer = operator.graphql(LAUNCH, params=launch_params())
    finally:
        with catalog.write() as connection:
            connection.execute(sa.text("drop trigger refuse"))
    assert answer.status_code in (400, 500)
    assert "audit trail" in answer.text
    assert gateway_server.instance.get_runs_count() == before
    launch(operator)


def test_the_trail_holds_after_all_of_it(gateway_server: GatewayServer) -> None:
    assert verify_trail(gateway_server.gateway.context.catalog).broken is None
