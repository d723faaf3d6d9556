"""Replications over HTTP: started, paused, looked at, copied anew and dropped, against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.api.records import connection_body, make


@pytest.fixture
def editor(api: Api, postgresql: PostgresqlDatabase) -> Iterator[httpx.Client]:
    client = api.client(Role.EDITOR)
    postgresql.execute("create table customer (id int primary key, name text)")
    make(client, "connections", connection_body(postgresql, "shop"))
    make(client, "connections", connection_body(postgresql.create_database(), "warehouse"))
    body = {
        "name": "mirror",
        "source_connection": "shop",
        "target_connection_id": 2,
        "tables": ["public.*"],
        "slot": postgresql.name,
    }
    make(client, "replications", body)
    yield client
    postgresql.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"
    )


def slots(database: PostgresqlDatabase) -> list[Any]:
    return database.execute("select slot_name from pg_replication_slots where database = current_database()")


def test_start_pause_status_resync_and_drop(api: Api, editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    status = editor.get("/replications/mirror/status").json()
    assert (status["state"], status["slot"], status["enabled"]) == ("new", None, False)
    answer = editor.post("/replications/1/start")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["enabled"]) == ("started", True)
    assert slots(postgresql) == [(postgresql.name,)]
    assert editor.get("/replications", params={"enabled": True}).json()["total"] == 1
    status = editor.get("/replications/mirror/status").json()
    assert (status["enabled"], status["slot"]["active"], status["guard"]["level"]) == (True, False, "ok")
    paused = editor.post("/replications/mirror/pause").json()
    assert (paused["status"], paused["enabled"]) == ("paused", False)
    assert "slot keeps the source's log" in paused["message"]
    answer = editor.post("/replications/mirror/resync", json={"tables": ["nothing"]})
    assert answer.status_code == 404, answer.text
    assert editor.post("/replications/mirror/resync", json={"table": ["x"]}).status_code == 422
    assert editor.post("/replications/mirror/resync").status_code == 200
    dropped = editor.post("/replications/mirror/drop").json()
    assert (dropped["dropped_slot"], dropped["dropped_publication"]) == (True, True)
    assert slots(postgresql) == []
    trail = api.client(Role.ADMIN).get("/audit").json()["items"]
    assert {"replication.create", "replication.resync", "replication.drop"} <= {item["action"] for item in trail}


def test_a_source_that_cannot_be_followed_is_a_conflict_with_its_remedy(
    editor: httpx.Client, postgresql: PostgresqlDatabase
) -> None:
    postgresql.execute("create table no_key (v text)")
    answer = editor.post("/replications/mirror/start")
    assert answer.status_code == 409
    assert "no_key" in answer.text
    assert "ALTER TABLE" in answer.text
    assert slots(postgresql) == []
    assert editor.get("/replications/mirror").json()["enabled"] is False


def test_who_may_what(api: Api, editor: httpx.Client) -> None:
    viewer, operator = api.client(Role.VIEWER), api.client(Role.OPERATOR)
    assert viewer.get("/replications/mirror").status_code == 200
    assert viewer.get("/replications/mirror/status").status_code == 403
    assert operator.get("/replications/mirror/status").status_code == 200
    for verb in ("start", "pause", "resync", "drop"):
        assert operator.post(f"/replications/mirror/{verb}").status_code == 403, verb
