"""Pipelines over HTTP: made with their first version and schedule, versions, runs, start and pause."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest

from synqx_dagster.api.run_control import LaunchRequest
from synqx_dagster.errors import NotFoundError
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.api.records import connection_body, make

REQUEST: dict[str, Any] = {
    "name": "User Backup Pipeline",
    "description": "Backs up user data daily",
    "schedule_cron": "0 0 * * *",
    "schedule_enabled": True,
    "initial_version": {
        "config_snapshot": {},
        "nodes": [
            {
                "node_id": "extract_users",
                "name": "Extract Users",
                "operator_type": "extract",
                "operator_class": "postgresql",
                "source_asset_id": 1,
                "order_index": 1,
            },
            {
                "node_id": "load_backup",
                "name": "Load Backup",
                "operator_type": "load",
                "operator_class": "postgresql",
                "destination_asset_id": 1,
                "order_index": 2,
            },
        ],
        "edges": [{"from_node_id": "extract_users", "to_node_id": "load_backup"}],
    },
}


@pytest.fixture
def editor(api: Api, postgresql: PostgresqlDatabase) -> httpx.Client:
    client = api.client(Role.EDITOR)
    make(client, "connections", connection_body(postgresql))
    make(client, "assets", {"name": "users", "connection": "warehouse", "table": "public.users"})
    return client


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(REQUEST), **changes}


def first_path(answer: httpx.Response) -> str:
    assert answer.status_code == 422, answer.text
    path: str = answer.json()["errors"][0]["path"]
    return path


def test_a_pipeline_is_made_with_its_first_version_and_its_schedule(api: Api, editor: httpx.Client) -> None:
    made = make(editor, "pipelines", REQUEST)
    assert [node["source_asset"] for node in made["nodes"]] == ["users", None]
    assert [node["destination_asset_id"] for node in made["nodes"]] == [None, 1]
    assert (made["schedule_cron"], made["schedule_enabled"], made["schedule"]) == ("0 0 * * *", True, made["name"])
    (schedule,) = editor.get("/schedules").json()["items"]
    assert (schedule["pipeline_ids"], schedule["cron_expression"]) == ([1], "0 0 * * *")
    assert schedule["next_run_at"].endswith("T00:00:00Z")
    assert schedule["revision"] == made["revision"], "one request is one revision"

    # Sent back as it was read, and with another schedule.
    same = editor.put("/pipelines/1", json=made)
    assert same.json()["etag"] == made["etag"]
    moved = editor.put("/pipelines/1", json={**made, "schedule_cron": "5 5 * * *", "schedule_enabled": False})
    assert (moved.json()["schedule_cron"], moved.json()["schedule_enabled"]) == ("5 5 * * *", False)
    untouched = editor.put("/pipelines/1", json=changed(schedule_cron="5 5 * * *", schedule_enabled=None))
    assert untouched.json()["schedule_enabled"] is False
    without = changed(description="no word of the schedule")
    del without["schedule_cron"], without["schedule_enabled"]
    assert editor.put("/pipelines/1", json=without).json()["schedule_cron"] == "5 5 * * *"
    gone = editor.put("/pipelines/1", json=changed(schedule_cron=None, schedule_enabled=None))
    assert gone.json()["schedule_cron"] is None
    assert editor.get("/schedules").json()["total"] == 0
    editor.put("/pipelines/1", json=REQUEST)
    assert editor.delete("/assets/1").status_code == 409
    assert editor.delete("/pipelines/1").status_code == 204
    assert editor.get("/schedules").json()["total"] == 0, "its own schedule goes with it"


def test_problems_stand_in_the_first_version(editor: httpx.Client) -> None:
    def with_node(**values: Any) -> dict[str, Any]:
        body = changed()
        body["initial_version"]["nodes"][0].update(values)
        return body

    base = "initial_version.nodes[0]"
    assert first_path(editor.post("/pipelines", json=with_node(source_asset_id=2))) == f"{base}.source_asset_id"
    assert first_path(editor.post("/pipelines", json=with_node(operator_type="extrct"))) == f"{base}.operator_type"
    assert first_path(editor.post("/pipelines", json=with_node(source_asset_id=None))).startswith(base)
    assert first_path(editor.post("/pipelines", json=changed(schedule_cron="daily"))) == "schedule_cron"
    assert first_path(editor.post("/pipelines", json=changed(schedule_enabled="yes"))) == "schedule_enabled"
    assert first_path(editor.post("/pipelines", json=changed(schedule_cron=None))) == "schedule_cron"
    assert first_path(editor.post("/pipelines", json=changed(initial_version=[]))) == "initial_version"
    assert first_path(editor.post("/pipelines", json=changed(nodes=[]))) == "initial_version.nodes"
    body = changed()
    body["initial_version"]["config_snapshot"] = {"memory_limit": "1 byte"}
    assert first_path(editor.post("/pipelines", json=body)) == "initial_version.config_snapshot.memory_limit"
    body["initial_version"]["config_snapshot"] = {"executr": "x"}
    assert first_path(editor.post("/pipelines", json=body)) == "initial_version.config_snapshot.executr"
    body["initial_version"]["config_snapshot"] = {"memory_limit": "1GB"}
    assert make(editor, "pipelines", body)["memory_limit"] == "1GB"
    assert editor.get("/pipelines").json()["total"] == 1


def test_versions_are_listed_compared_and_gone_back_to(api: Api, editor: httpx.Client) -> None:
    made = make(editor, "pipelines", REQUEST)
    editor.put("/pipelines/1", json={**made, "description": "second"})
    viewer = api.client(Role.VIEWER)
    page = viewer.get("/pipelines/1/versions").json()
    assert [(item["version"], item["is_current"], item["created_by"]) for item in page["items"]] == [
        (2, True, "editor"),
        (1, False, "editor"),
    ]
    assert viewer.get("/pipelines/1/versions", params={"skip": 1}).json()["items"] == page["items"][1:]
    old = viewer.get("/pipelines/1/versions/1").json()
    assert old["pipeline"]["description"] == REQUEST["description"]
    diff = viewer.get("/pipelines/1/diff").json()
    assert diff == {
        "before": 1,
        "after": 2,
        "fields": [{"path": "description", "before": REQUEST["description"], "after": "second"}],
    }
    assert viewer.get("/pipelines/1/versions/3").status_code == 404
    assert viewer.get("/pipelines/1/diff", params={"before": 9}).status_code == 404
    assert viewer.post("/pipelines/1/versions/1/restore").status_code == 403
    restored = editor.post("/pipelines/1/versions/1/restore")
    assert (restored.json()["version"], restored.json()["description"]) == (3, REQUEST["description"])


def test_a_pipeline_is_started_and_paused_by_its_schedule(api: Api, editor: httpx.Client) -> None:
    make(editor, "pipelines", REQUEST)
    paused = editor.post("/pipelines/1/pause").json()
    assert (paused["status"], paused["schedule_enabled"]) == ("paused", False)
    assert editor.get("/schedules/1").json()["enabled"] is False
    assert editor.get("/schedules/1").json()["next_run_at"] is None
    again = editor.post("/pipelines/1/pause").json()
    assert again["revision"] == paused["revision"], "what is paused is left as it is"
    assert editor.post("/pipelines/1/start").json()["status"] == "started"
    assert editor.get("/pipelines/1").json()["schedule_enabled"] is True
    assert api.client(Role.OPERATOR).post("/pipelines/1/start").status_code == 403
    editor.put("/pipelines/1", json=changed(schedule_cron=None, schedule_enabled=None))
    assert editor.post("/pipelines/1/start").status_code == 409


class Launcher:
    """A code location that knows a job only after a while, as one that is still reloading."""

    def __init__(self) -> None:
        self.requests: list[tuple[LaunchRequest, str]] = []

    def launch(self, request: LaunchRequest, identity: Identity) -> str:
        self.requests.append((request, identity.username))
        if len(self.requests) < 3:
            raise NotFoundError("there is no such job yet")
        return "run-1"

    def cancel(self, run_id: str, identity: Identity) -> None:
        raise AssertionError(run_id)

    def reexecute(self, run_id: str, identity: Identity, *, from_failure: bool) -> str:
        raise AssertionError(run_id)


def test_a_run_is_asked_for_and_answered_with_its_id(api: Api, editor: httpx.Client) -> None:
    make(editor, "pipelines", REQUEST)
    operator = api.client(Role.OPERATOR)
    assert operator.post("/pipelines/1/run").status_code == 503
    launcher = Launcher()
    api.context.runs = launcher
    answer = operator.post("/pipelines/1/run")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "queued",
        "message": "The run of User Backup Pipeline is on its way: queued",
        "job_id": "run-1",
    }
    assert launcher.requests[-1] == (LaunchRequest(job_name="User_Backup_Pipeline"), "operator")
    assert operator.post("/pipelines/2/run").status_code == 404
    assert operator.post("/pipelines/1/run", params={"wait": -1}).status_code == 422
    assert api.client(Role.VIEWER).post("/pipelines/1/run").status_code == 403
