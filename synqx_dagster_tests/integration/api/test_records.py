"""Records of every kind over HTTP, on both backends of the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from synqx_dagster.audit.trail import AuditFilter, AuditTrail
from synqx_dagster.people.accounts import UserChange
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.api.records import CANARY, bodies_of, connection_body, make


@pytest.fixture
def editor(api: Api) -> httpx.Client:
    return api.client(Role.EDITOR)


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    return problem


def test_every_kind_is_made_read_changed_and_removed(
    api: Api, editor: httpx.Client, postgresql: PostgresqlDatabase
) -> None:
    viewer = api.client(Role.VIEWER)
    bodies = bodies_of(postgresql)
    for plural, body in bodies.items():
        made = make(editor, plural, body)
        assert made["id"] == 1
        assert (made["created_by"], made["updated_by"], made["version"]) == ("editor", "editor", 1)
        problem_of(editor.post(f"/{plural}", json=body), 409)
        for reference in ("1", body["name"]):
            answer = viewer.get(f"/{plural}/{reference}")
            assert answer.json() == made
            assert CANARY not in answer.text
        page = viewer.get(f"/{plural}").json()
        assert (page["total"], page["items"]) == (1, [made])

        changed = editor.put(
            f"/{plural}/1",
            json={**made, "description": "changed"},
            headers={"If-Match": viewer.get(f"/{plural}/1").headers["ETag"]},
        )
        assert changed.status_code == 200, changed.text
        assert changed.json()["description"] == "changed"
        assert changed.json()["version"] == 2
        assert changed.json()["etag"] != made["etag"]
        assert changed.json()["created_at"] == made["created_at"]
        same = editor.put(f"/{plural}/1", json=changed.json())
        assert same.json()["etag"] == changed.json()["etag"], "what says the same is no change"
    for plural in reversed(bodies):
        if plural in ("pipelines", "mappings", "assets"):
            problem = problem_of(editor.delete("/connections/1"), 409)
            assert "is used by" in problem["detail"]
        assert editor.delete(f"/{plural}/1").status_code == 204
        problem_of(viewer.get(f"/{plural}/1"), 404)
        assert viewer.get(f"/{plural}").json()["total"] == 0


def test_a_removed_record_that_is_made_again_has_its_id_and_another_etag(
    editor: httpx.Client, postgresql: PostgresqlDatabase
) -> None:
    first = make(editor, "connections", connection_body(postgresql))
    assert editor.delete("/connections/1").status_code == 204
    again = make(editor, "connections", connection_body(postgresql))
    assert again["id"] == first["id"]
    assert again["etag"] != first["etag"]
    problem_of(editor.delete("/connections/1", headers={"If-Match": f'"{first["etag"]}"'}), 412)


def test_a_record_may_be_called_like_the_id_of_another(editor: httpx.Client) -> None:
    for name in ("2", "one"):
        make(editor, "connections", {"name": name, "db_type": "sqlite", "database": f"/tmp/{name}.db"})
    assert editor.get("/connections/2").json()["name"] == "one"
    assert editor.get("/connections/1").json()["name"] == "2"


def test_another_version_than_if_match_says_is_left_alone(editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    made = make(editor, "connections", connection_body(postgresql))
    for if_match in ('"1.999"', '"x", "y"', f'W/"{made["etag"]}"', '""', "nonsense"):
        headers = {"If-Match": if_match}
        answer = editor.put("/connections/1", json={**made, "description": "lost"}, headers=headers)
        problem_of(answer, 412)
        assert answer.headers["ETag"] == f'"{made["etag"]}"'
        problem_of(editor.delete("/connections/1", headers=headers), 412)
    assert editor.get("/connections/1").json() == made


def test_if_match_takes_a_star_and_lists(editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    made = make(editor, "connections", connection_body(postgresql))
    for if_match in ("*", f'"0.0", "{made["etag"]}"'):
        answer = editor.put("/connections/1", json=made, headers={"If-Match": if_match})
        assert answer.status_code == 200


# --- what is wrong, and where -----------------------------------------------------------------------------------


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("connections", {"port": "5432"}, "port", "whole number"),
    ("connections", {"db_type": "postgres"}, "db_type", "not a kind of connection"),
    ("connections", {"hots": "x"}, "hots", "unknown key"),
    ("connections", {"host": "u:s3kret@h"}, "host", "a host is a name"),
    ("connections", {"name": None}, "name", "must be text"),
    ("connections", {"name": "a\nb"}, "name", "control characters"),
    ("connections", {"password": {"sealed": True}}, "password", "no sealed value"),
    ("connections", {"password": {"file": "relative"}}, "password.file", "absolute path"),
    ("connections", {"password": {"env": "SYNQX_MASTER_PASSWORD"}}, "password.env", "setting of the server"),
    ("connections", {"password": {"file": "/proc/self/environ"}}, "password.file", "server's own"),
    ("assets", {"connection_id": 77, "connection": None}, "connection_id", "no connection with the id 77"),
    ("assets", {"connection_id": "1", "connection": None}, "connection_id", "whole number"),
    ("assets", {"connection": 77}, "connection", "no connection with the id 77"),
    ("assets", {"connection": "warehuose"}, "connection", "no connection 'warehuose'"),
    ("assets", {"connection": "other", "connection_id": 1}, "connection_id", "another connection"),
    ("mappings", {"source_query": "select 1"}, "", "either source_table or source_query"),
    ("schedules", {"cron_expression": "every day"}, "cron_expression", "five fields"),
    ("schedules", {"mapping": [1, 2]}, "mapping[1]", "no mapping with the id 2"),
    ("pipelines", {"nodes": []}, "nodes", "at least 1 item"),
]


def test_a_problem_stands_at_the_field_of_the_request(editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    for plural, body in bodies_of(postgresql).items():
        for kind, change, path, words in WRONG:
            if kind == plural:
                answer = editor.post(f"/{plural}", json={**body, **change})
                problem = problem_of(answer, 422)
                assert ([item["path"] for item in problem["errors"]], kind) == ([path], kind)
                assert words in answer.text
                assert "s3kret" not in answer.text
        assert editor.get(f"/{plural}").json()["total"] == 0
        make(editor, plural, body)


def test_the_words_of_a_problem_have_no_secret(editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    body = connection_body(postgresql, port=0, tls={"mode": CANARY, "key_password": CANARY}, options={CANARY: None})
    answer = editor.post("/connections", json=body)
    problem_of(answer, 422)
    assert CANARY not in answer.text.replace(f"options.{CANARY}", "")


def test_a_record_keeps_its_name(editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    made = make(editor, "connections", connection_body(postgresql))
    problem = problem_of(editor.put("/connections/1", json={**made, "name": "other"}), 422)
    assert problem["errors"][0]["path"] == "name"
    del made["name"]
    assert editor.put("/connections/1", json=made).status_code == 200


def test_a_record_is_an_object(editor: httpx.Client) -> None:
    for body in (b"", b"[]", b"3", b'"text"', b"null"):
        answer = editor.post("/connections", content=body, headers={"Content-Type": "application/json"})
        problem_of(answer, 422)


def test_what_is_no_id_of_a_record_is_not_found(editor: httpx.Client) -> None:
    for reference in ("999999999999999999", "9999999999999999999999", "-1", "٣", "0"):
        problem_of(editor.get(f"/connections/{reference}"), 404)


def test_a_change_that_breaks_what_refers_to_it_is_refused(
    editor: httpx.Client, postgresql: PostgresqlDatabase
) -> None:
    for plural, body in bodies_of(postgresql).items():
        make(editor, plural, body)
    connection = editor.get("/connections/1").json()
    problem = problem_of(editor.put("/connections/1", json={**connection, "role": "source"}), 422)
    assert any("mapping 'customers'" in item["path"] for item in problem["errors"])
    assert any("pipeline 'nightly'" in item["path"] for item in problem["errors"])


def test_a_schema_grows_and_its_types_stay(editor: httpx.Client) -> None:
    made = make(editor, "schemas", {"name": "s", "columns": [{"name": "id", "data_type": "integer"}]})
    wider = {**made, "columns": [*made["columns"], {"name": "more", "data_type": "decimal(10,2)"}]}
    assert editor.put("/schemas/s", json=wider).status_code == 200
    wider["columns"] = [{"name": "id", "data_type": "bigint"}, {"name": "more", "data_type": "decimal(10,3)"}]
    problem = problem_of(editor.put("/schemas/s", json=wider), 409)
    assert "column 'id'" in problem["detail"]
    assert "column 'more'" in problem["detail"]


# --- secrets ----------------------------------------------------------------------------------------------------


def password_of(api: Api, name: str = "warehouse") -> str | None:
    catalog = api.context.catalog
    return catalog.resolve_secret(catalog.snapshot().get_connection(name), "password")


def test_a_secret_that_is_left_out_stays_and_null_removes_it(
    api: Api, editor: httpx.Client, postgresql: PostgresqlDatabase
) -> None:
    body = connection_body(postgresql)
    made = make(editor, "connections", body)
    assert made["password"] == {"sealed": True}
    del body["password"]
    assert editor.put("/connections/1", json={**body, "description": "kept"}).json()["password"] == {"sealed": True}
    assert password_of(api) == CANARY
    assert editor.put("/connections/1", json={**body, "password": "another"}).status_code == 200
    assert password_of(api) == "another"
    assert editor.put("/connections/1", json={**body, "password": None}).json()["password"] is None
    assert password_of(api) is None


def test_a_stored_secret_goes_nowhere_else(api: Api, editor: httpx.Client, postgresql: PostgresqlDatabase) -> None:
    made = make(editor, "connections", connection_body(postgresql))
    changes: list[dict[str, Any]] = [{"host": "evil.example.com"}, {"port": 1}, {"tls": {"mode": "disable"}}]
    for change in changes:
        changed = {**made, **change}
        for body in (changed, {name: value for name, value in changed.items() if name != "password"}):
            problem = problem_of(editor.put("/connections/1", json=body), 422)
            assert problem["errors"][0]["path"] == "password"
    assert editor.put("/connections/1", json={**made, **changes[0], "password": "given again"}).status_code == 200
    assert password_of(api) == "given again"


# --- who may ----------------------------------------------------------------------------------------------------


def test_records_of_a_team_are_written_by_the_team_and_admins(api: Api, postgresql: PostgresqlDatabase) -> None:
    admin, editor = api.client(Role.ADMIN), api.client(Role.EDITOR)
    people = api.context.people
    body = connection_body(postgresql, owners=["team:sales"])
    problem_of(editor.post("/connections", json=body), 403)
    made = make(admin, "connections", body)
    for answer in (
        editor.put("/connections/1", json={**made, "description": "mine"}),
        editor.put("/connections/1", json={**made, "owners": []}),
        editor.delete("/connections/1"),
    ):
        assert "team:sales" in problem_of(answer, 403)["detail"]
    denied, _ = AuditTrail(api.context.catalog).page(AuditFilter(outcome="denied"))
    assert [entry.event.target for entry in denied] == ["warehouse"] * 4
    people.accounts.update(people.accounts.get_by_name("editor").user_id, UserChange(teams=frozenset({"sales"})))
    mine = editor.put("/connections/1", json={**made, "description": "ours"})
    assert mine.status_code == 200
    problem_of(editor.put("/connections/1", json={**mine.json(), "owners": ["team:other"]}), 403)


def test_each_write_is_a_revision_and_an_entry_of_the_trail(
    api: Api, editor: httpx.Client, postgresql: PostgresqlDatabase
) -> None:
    answer = editor.post("/connections", json=connection_body(postgresql))
    revision = api.context.catalog.history(1)[0]
    assert (revision.number, revision.author) == (answer.json()["revision"], "editor")
    last = AuditTrail(api.context.catalog).page(limit=1)[0][0].event
    assert (last.action, last.actor, last.target, last.revision) == (
        "connection.create",
        "editor",
        "warehouse",
        revision.number,
    )
    assert last.request_id == answer.headers["X-Request-ID"]


# --- lists ------------------------------------------------------------------------------------------------------


def test_lists_are_paged_filtered_and_sorted(editor: httpx.Client) -> None:
    for index, name in enumerate(["delta", "Alpha", "bravo", "charlie", "a%b_c"]):
        db_type = "sqlite" if index % 2 else "duckdb"
        make(editor, "connections", {"name": name, "db_type": db_type, "database": f"/tmp/{index}.db"})
    editor.put("/connections/2", json={**editor.get("/connections/2").json(), "description": "changed last"})

    def names(**parameters: Any) -> tuple[list[str], int]:
        page = editor.get("/connections", params=parameters).json()
        return [item["name"] for item in page["items"]], page["total"]

    assert names(sort="id") == (["delta", "Alpha", "bravo", "charlie", "a%b_c"], 5)
    assert names(sort="id", order="desc", skip=1, limit=2) == (["charlie", "bravo"], 5)
    assert names(sort="created_at", skip=4) == (["a%b_c"], 5)
    assert names(sort="updated_at", order="desc", limit=1) == (["Alpha"], 5)
    assert names(sort="id", db_type="sqlite") == (["Alpha", "charlie"], 2)
    assert names(sort="id", name="A") == (["delta", "Alpha", "bravo", "charlie", "a%b_c"], 5)
    assert names(name="%b_") == (["a%b_c"], 1)
    assert names(name="' or 1=1 --") == ([], 0)
    assert names(skip=100) == ([], 5)
    assert names(skip=100, db_type="sqlite") == ([], 2)
    for wrong in ({"limit": 0}, {"limit": 501}, {"skip": -1}, {"sort": "password"}, {"order": "up"}):
        problem_of(editor.get("/connections", params=wrong), 422)
    make(
        editor,
        "alerts",
        {"name": "off", "events": ["recovery"], "slack": {"url": "https://x.example"}, "enabled": False},
    )
    assert editor.get("/alerts", params={"enabled": "false"}).json()["total"] == 1
    assert editor.get("/alerts", params={"enabled": "true"}).json()["total"] == 0


def test_sources_and_destinations_are_connections_by_their_role(editor: httpx.Client) -> None:
    file = {"db_type": "sqlite", "database": "/tmp/x.db"}
    make(editor, "connections", {"name": "both", **file})
    source = make(editor, "sources", {"name": "from", **file})
    make(editor, "destinations", {"name": "to", **file, "role": "destination"})
    assert source["role"] == "source"
    problem_of(editor.post("/sources", json={"name": "wrong", **file, "role": "destination"}), 422)
    for plural, names in (
        ("sources", ["both", "from"]),
        ("destinations", ["both", "to"]),
        ("connections", ["both", "from", "to"]),
    ):
        page = editor.get(f"/{plural}").json()
        assert sorted(item["name"] for item in page["items"]) == names
        assert page["total"] == len(names)
    problem_of(editor.get("/sources/to"), 404)
    problem_of(editor.put("/sources/to", json={"name": "to", **file}), 404)
    problem_of(editor.delete("/destinations/from"), 404)
    assert editor.put("/sources/both", json={"name": "both", **file, "description": "x"}).json()["role"] is None
    assert editor.delete("/sources/from").status_code == 204


def test_a_slash_at_the_end_changes_nothing(editor: httpx.Client) -> None:
    body = {"name": "x", "db_type": "sqlite", "database": "/tmp/x.db"}
    assert editor.post("/connections/", json=body).status_code == 201
    assert editor.get("/connections/").json() == editor.get("/connections").json()


def test_a_connection_does_not_lead_to_the_servers_own_files(api: Api, editor: httpx.Client, tmp_path: Path) -> None:
    """In the catalog's file there are accounts: whoever loads a row into it may do anything."""
    home = api.context.settings.home
    (tmp_path / "link").symlink_to(home)
    own = [
        str(home / "catalog.db"),
        str(home),
        str(tmp_path / "link" / "catalog.db"),
        f"{home}/x/../catalog.db",
        "/proc",
    ]
    for db_type, places in (("sqlite", own), ("duckdb", own), ("files", [*own, str(home.parent), "/"])):
        for place in places:
            body = {"name": "own", "db_type": db_type, "database": place}
            for path in ("/connections", "/connections/test", "/destinations"):
                problem = problem_of(editor.post(path, json=body), 422)
                assert [item["path"] for item in problem["errors"]] == ["database"], (db_type, place, path)
    fine = make(editor, "connections", {"name": "fine", "db_type": "sqlite", "database": str(tmp_path / "data.db")})
    problem_of(editor.put("/connections/1", json={**fine, "database": own[0]}), 422)
    assert editor.put("/connections/1", json={**fine, "description": "still there"}).status_code == 200
