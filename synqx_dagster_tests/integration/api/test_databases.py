"""What the API does at databases: tests, discovery, previews, plans and comparisons, on a real PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.api.records import CANARY, connection_body, make

MAPPING: dict[str, Any] = {
    "name": "customers",
    "source_connection_id": 1,
    "source_table": "public.customer",
    "target_connection_id": 1,
    "target_table": "public.customer_copy",
}


@pytest.fixture
def database(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    found = postgresql.create_database()
    found.execute("create table customer (id integer primary key, name text, street text, city text)")
    found.execute("insert into customer values (1, 'Ada Lovelace', 'Square', 'London'), (2, null, null, 'Ulm')")
    return found


@pytest.fixture
def editor(api: Api, database: PostgresqlDatabase) -> httpx.Client:
    client = api.client(Role.EDITOR)
    make(client, "connections", connection_body(database))
    return client


def test_a_connection_is_tested_and_its_tables_are_shown(
    api: Api, editor: httpx.Client, database: PostgresqlDatabase
) -> None:
    operator = api.client(Role.OPERATOR)
    report = operator.post("/connections/1/test").json()
    assert (report["ok"], report["status"], report["can_read"]) == (True, "ok", True)
    assert report["version"].startswith("PostgreSQL ")
    shown = operator.get("/connections/1").json()
    assert (shown["last_test_status"], shown["server_version"]) == ("ok", report["version"])
    assert shown["last_tested_at"] is not None
    assert operator.get("/sources").json()["items"][0]["last_test_status"] == "ok"

    (table,) = operator.get("/connections/1/discover").json()["tables"]
    assert (table["table"], table["schema"], [column["name"] for column in table["columns"]]) == (
        "public.customer",
        "public",
        ["id", "name", "street", "city"],
    )
    assert operator.get("/connections/1/discover", params={"schema": "none"}).json()["tables"] == []
    assert api.client(Role.VIEWER).post("/connections/1/test").status_code == 403


def test_tables_are_shown_in_pages(api: Api, editor: httpx.Client, database: PostgresqlDatabase) -> None:
    database.execute("create schema archive")
    for table in ("archive.customer", '"Customer_2"', "orders"):
        database.execute(f"create table {table} (id integer primary key)")

    def discover(**query: str | int) -> tuple[list[str], int]:
        answer = editor.get("/connections/1/discover", params=query).json()
        assert (answer["skip"], answer["limit"]) == (query.get("skip", 0), query.get("limit", 50))
        return [f"{table['schema']}.{table['name']}" for table in answer["tables"]], answer["total"]

    every = ["archive.customer", "public.Customer_2", "public.customer", "public.orders"]
    assert discover() == (every, 4)
    assert discover(order="desc") == (every[::-1], 4)
    assert discover(skip=1, limit=2) == (every[1:3], 4)
    assert discover(skip=4) == ([], 4)
    assert discover(name="CUSTOMER", schema="public", limit=1) == (every[1:2], 2)
    for wrong in ({"limit": 0}, {"limit": 501}, {"skip": -1}, {"order": "up"}):
        assert editor.get("/connections/1/discover", params=wrong).json()["errors"][0]["path"] == next(iter(wrong))


def test_a_connection_that_is_not_saved_is_tested(api: Api, editor: httpx.Client, database: PostgresqlDatabase) -> None:
    body = connection_body(database)
    del body["name"]
    assert editor.post("/connections/test", json=body).json()["ok"] is True
    begin = time.monotonic()
    # A documentation address (RFC 5737): nobody answers there.
    for host in ("192.0.2.1", "no-such-host.invalid"):
        report = editor.post("/connections/test", json={**body, "host": host, "port": 5432}).json()
        assert report["ok"] is False
        assert report["reason"] in ("timeout", "name_resolution", "refused", "unknown")
        assert CANARY not in str(report)
    assert time.monotonic() - begin < 12
    wrong = editor.post("/connections/test", json={**body, "password": {"sealed": True}})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "password")
    assert editor.get("/connections").json()["total"] == 1
    assert api.client(Role.OPERATOR).post("/connections/test", json=body).status_code == 403


def test_an_unreachable_connection_is_told_in_time(editor: httpx.Client, database: PostgresqlDatabase) -> None:
    make(editor, "connections", connection_body(database, "far", host="192.0.2.1", port=5432))
    begin = time.monotonic()
    assert editor.post("/connections/far/test").json()["ok"] is False
    answer = editor.get("/connections/far/discover")
    assert answer.status_code == 502
    assert CANARY not in answer.text
    assert time.monotonic() - begin < 14
    assert editor.get("/connections/far").json()["last_test_status"] == "failed"


def test_a_mapping_is_previewed_planned_and_compared(
    api: Api, editor: httpx.Client, database: PostgresqlDatabase
) -> None:
    unsaved = {**MAPPING, "source_table": None, "source_query": "select id, name from customer order by id"}
    del unsaved["name"]
    found = editor.post("/mappings/preview", json=unsaved, params={"limit": 1}).json()
    assert [row["values"] for row in found["rows"]] == [["1", "Ada Lovelace"]]
    bad = editor.post("/mappings/preview", json={**unsaved, "source_query": "drop table customer"})
    assert bad.status_code == 422
    assert database.execute("select count(*) from customer") == [(2,)]

    make(editor, "mappings", MAPPING)
    assert editor.post("/mappings/preview", json={**MAPPING, "name": "another"}).status_code == 200
    operator, viewer = api.client(Role.OPERATOR), api.client(Role.VIEWER)
    assert len(operator.post("/mappings/1/preview").json()["rows"]) == 2
    assert operator.post("/mappings/preview", json=unsaved).status_code == 403
    assert viewer.post("/mappings/1/preview").status_code == 403

    plan = operator.get("/mappings/1/plan").json()
    assert (plan["mapping"], plan["lane"], plan["target_action"]) == ("customers", "passthrough", "create")
    assert [column["name"] for column in plan["columns"]] == ["id", "name", "street", "city"]

    database.execute("create table customer_copy as select * from customer")
    database.execute("alter table customer_copy add primary key (id)")
    same = operator.post("/mappings/1/verify").json()
    assert (same["passed"], same["source"]["rows"]) == (True, 2)
    database.execute("update customer_copy set city = 'Paris' where id = 2")
    differs = operator.post("/mappings/1/verify", params={"show_values": "true"}).json()
    assert (differs["passed"], differs["different"]) == (False, 1)
    assert differs["differences"][0]["values"]["city"] == {"source": "Ulm", "target": "Paris"}


def test_column_mappings_are_added_one_by_one_and_as_a_list(api: Api, editor: httpx.Client) -> None:
    make(editor, "mappings", MAPPING)
    path = "/mappings/1/column-mappings"
    assert editor.get(path).json() == []
    direct = {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]}
    added = editor.post(path, json=direct)
    assert (added.status_code, added.json()) == (201, direct)
    etag = added.headers["ETag"]
    several = [
        {
            "type": "split",
            "source_columns": ["name"],
            "target_fields": ["first_name", "last_name"],
            "config": {"delimiter": " "},
        },
        {
            "type": "join",
            "source_columns": ["street", "city"],
            "target_fields": ["address"],
            "config": {"separator": ", "},
        },
    ]
    assert editor.post(path, json=several, headers={"If-Match": '"1.1"'}).status_code == 412
    assert editor.post(path, json=several, headers={"If-Match": etag}).status_code == 201
    there = api.client(Role.VIEWER).get(path).json()
    assert [item["type"] for item in there] == ["direct", "split", "join"]
    assert there[1]["config"]["delimiter"] == " "

    wrong = editor.post(path, json={"type": "split", "source_columns": ["x"], "target_fields": ["a", "b"]})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "config")
    wrong = editor.post(path, json=[direct, {"type": "diretc"}])
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["path"].startswith("[1]")
    for body in (direct, [], 3, None):
        assert editor.post(path, json=body).status_code == 422
    assert len(editor.get(path).json()) == 3
    preview = editor.post("/mappings/1/preview").json()
    assert [row["values"] for row in preview["rows"]] == [
        ["1", "Ada", "Lovelace", "Square, London"],
        ["2", None, None, "Ulm"],
    ]
