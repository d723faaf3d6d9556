"""Many clients at once: no update is lost in silence, and writers of different records do not disturb each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from synqx_dagster.api.problems import ApiError
from synqx_dagster.api.records import Draft, Precondition, RecordService, Writer
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConflictError
from synqx_dagster.people.identity import Client, Identity
from synqx_dagster.people.roles import ROLE_PERMISSIONS, Role
from synqx_dagster_tests.fix_people import Api
from synqx_dagster_tests.integration.api.records import make

CLIENTS = 50
BODY = {"name": "one", "db_type": "sqlite", "database": "/tmp/one.db"}
WRITER = Writer(Identity(uuid4(), "ann", Role.EDITOR, ROLE_PERMISSIONS[Role.EDITOR], "token"), Client("192.0.2.7"))


@pytest.fixture
def editor(api: Api) -> httpx.Client:
    logged_in = api.client(Role.EDITOR)
    made = httpx.Client(
        base_url=logged_in.base_url,
        headers=logged_in.headers,
        timeout=120,
        limits=httpx.Limits(max_connections=CLIENTS),
    )
    api.clients.append(made)
    return made


def all_at_once(act: Callable[[int], Any], count: int = CLIENTS) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def test_of_many_clients_that_read_one_version_one_may_write(api: Api, editor: httpx.Client) -> None:
    made = make(editor, "connections", BODY)

    def write(number: int) -> int:
        body = {**made, "description": f"client {number}"}
        return editor.put("/connections/1", json=body, headers={"If-Match": f'"{made["etag"]}"'}).status_code

    found = Counter(all_at_once(write))
    assert found[200] == 1
    assert found[412] + found[409] == CLIENTS - 1
    assert editor.get("/connections/1").json()["version"] == 2


def test_clients_that_count_together_lose_no_count(editor: httpx.Client) -> None:
    make(editor, "connections", {**BODY, "description": "0"})

    def count(number: int) -> int:
        for refused in range(2000):
            before = editor.get("/connections/1")
            body = before.json()
            body["description"] = str(int(body["description"]) + 1)
            answer = editor.put("/connections/1", json=body, headers={"If-Match": before.headers["ETag"]})
            if answer.status_code == 200:
                return refused
            assert answer.status_code in (409, 412), answer.text
        raise AssertionError("never got its turn")

    all_at_once(count, 10)
    now = editor.get("/connections/1").json()
    assert (now["description"], now["version"]) == ("10", 11)


def test_without_if_match_who_wrote_into_the_middle_is_told(editor: httpx.Client) -> None:
    make(editor, "connections", BODY)

    def write(number: int) -> int:
        return editor.put("/connections/1", json={**BODY, "description": f"client {number}"}).status_code

    found = Counter(all_at_once(write))
    assert found.keys() <= {200, 409}
    assert editor.get("/connections/1").json()["version"] == 1 + found[200]


def test_writers_of_different_records_do_not_disturb_each_other(api: Api, editor: httpx.Client) -> None:
    answers = all_at_once(lambda number: editor.post("/connections", json={**BODY, "name": f"c{number}"}))
    assert Counter(answer.status_code for answer in answers) == {201: CLIENTS}
    assert sorted(answer.json()["id"] for answer in answers) == list(range(1, CLIENTS + 1))
    assert editor.get("/connections").json()["total"] == CLIENTS
    assert api.context.catalog.latest_revision() == CLIENTS


def test_of_many_clients_that_make_one_record_one_does(editor: httpx.Client) -> None:
    found = Counter(all_at_once(lambda number: editor.post("/connections", json=BODY).status_code))
    assert found == {201: 1, 409: CLIENTS - 1}


def test_two_servers_of_one_catalog_meet_in_its_transactions(any_catalog: Catalog) -> None:
    with Catalog.open(any_catalog.settings) as other:
        services = [RecordService(any_catalog), RecordService(other)]
        services[0].create(Draft("connection", BODY), WRITER)

        def write(number: int) -> str:
            service = services[number % 2]
            service.create(Draft("connection", {**BODY, "name": f"c{number}"}), WRITER)
            start = service.get("connection", "one")
            try:
                service.replace(
                    start,
                    Draft("connection", {**BODY, "description": str(number)}),
                    Precondition(frozenset({start.etag})),
                    WRITER,
                )
            except (ApiError, ConflictError):
                return "refused"
            return "written"

        found = Counter(all_at_once(write, 12))
        stored = services[0].get("connection", "one")
        assert stored.version == 1 + found["written"]
        assert len(other.latest_snapshot().connections) == 13
        assert any_catalog.latest_snapshot() == other.snapshot()
