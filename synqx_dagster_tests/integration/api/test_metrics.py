"""Figures over time over HTTP: ranges, resolutions, pages, and who may see them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import hypothesis
import pytest
from schemathesis.generation import GenerationMode

from synqx_dagster.catalog.figures import encode_slots
from synqx_dagster.catalog.metrics import Advance, MetricsHistory, health_subject
from synqx_dagster.catalog.monitor_tables import system_metrics, wal_metrics
from synqx_dagster.defs.monitor_looks import advance_health
from synqx_dagster.monitor.health import HealthLook
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api
from synqx_dagster_tests.integration.api.records import make
from synqx_dagster_tests.integration.api.test_openapi import CHECKS, UNHURRIED, headers_of, schema_of

NAME = "shop"
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def viewer(api: Api) -> httpx.Client:
    """Who may look, at a server with an hour of figures of its connection."""
    make(api.client(Role.EDITOR), "connections", {"name": NAME, "db_type": "sqlite", "database": "/tmp/shop.db"})
    history = MetricsHistory(api.context.catalog)
    slot = {"name": "s", "restart_lag_bytes": 5, "restart_lag_bytes_max": 5}
    missing = [{"figure": "directory", "reason": "no", "grant": "GRANT x"}]
    rows: list[tuple[Any, dict[str, Any]]] = []
    for minute in range(60):
        at = NOW + timedelta(minutes=minute)
        rows.append(
            (
                wal_metrics,
                {
                    "sampled_at": at,
                    "connection": NAME,
                    "looks": 1,
                    "failures": 0,
                    "restarts": 0,
                    "wal_bytes": minute,
                    "wal_ms": 60_000,
                    "slots": 1,
                    "slot_details": encode_slots([slot]),
                    "missing": json.dumps(missing),
                },
            )
        )
        rows.append(
            (
                system_metrics,
                {
                    "sampled_at": at,
                    "host_name": "h",
                    "subject": "host",
                    "looks": 1,
                    "cpu_ms": 30_000,
                    "elapsed_ms": 60_000,
                    "memory_bytes": minute,
                },
            )
        )
    history.advance({"test": lambda before: Advance({}, rows)})
    for minute in range(4):
        look = HealthLook(NOW + timedelta(minutes=minute), minute != 1, 0.1, latency_seconds=0.01 * minute)
        if minute == 1:
            look = HealthLook(look.looked_at, False, 0.1, reason="refused", message="no", hint="start it")
        subject = health_subject(NAME)
        history.advance({subject: lambda before, look=look: advance_health(NAME, look, before)})  # type: ignore[misc] # a default
    return api.client(Role.VIEWER)


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    answer = client.get(f"/metrics/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


RANGE = {"from": "2026-06-15T12:00:00Z", "to": "2026-06-15T13:00:00Z"}


def test_a_log_over_time(viewer: httpx.Client, api: Api) -> None:
    name = NAME
    page = get(viewer, "wal", connection=name, **RANGE)
    assert (page["connection"], page["resolution_seconds"], page["total"]) == (name, 60, 60)
    assert len(page["items"]) == 50
    point = page["items"][6]
    assert point["at"] == "2026-06-15T12:06:00Z"
    assert point["wal_bytes_per_second"] == pytest.approx(0.1)
    assert point["slot_details"][0]["restart_lag_bytes_max"] == 5
    assert point["missing"] == [{"figure": "directory", "reason": "no", "grant": "GRANT x"}]
    page = get(viewer, "wal", connection=name, resolution=600, skip=1, limit=2, **RANGE)
    assert page["total"] == 6
    assert [item["wal_bytes"] for item in page["items"]] == [sum(range(10, 20)), sum(range(20, 30))]
    assert [item["looks"] for item in page["items"]] == [10, 10]
    # In another zone it is the same time; and there is nothing else.
    local = {"from": "2026-06-15T14:00:00+02:00", "to": "2026-06-15T14:05:00+02:00"}
    assert get(viewer, "wal", connection=name, resolution=0, **local)["total"] == 5
    assert get(viewer, "wal", connection=name)["total"] == 0
    number = viewer.get(f"/connections/{name}").json()["id"]
    assert get(viewer, "wal", connection=number, **RANGE)["total"] == 60


def test_tests_over_time_and_now(viewer: httpx.Client, api: Api) -> None:
    name = NAME
    page = get(viewer, "health", connection=name, resolution=3600, **RANGE)
    [point] = page["items"]
    assert (point["connection"], point["tests"], point["failures"], point["availability"]) == (name, 4, 1, 0.75)
    assert point["latency_seconds"] == pytest.approx((0 + 0.02 + 0.03) / 3)
    assert point["latency_seconds_max"] == pytest.approx(0.03)
    assert (point["status"], point["reason"]) == ("up", "refused")
    current = get(viewer, "health/current")
    found = {item["connection"]: item for item in current["items"]}
    assert found[name]["status"] == "up"
    assert found[name]["since"] == "2026-06-15T12:02:00Z"
    assert current["total"] == len(found)
    assert all(item["status"] is None for other, item in found.items() if other != name)


def test_machines_over_time(viewer: httpx.Client) -> None:
    page = get(viewer, "system", resolution=1800, **RANGE)
    assert [item["cpu_percent"] for item in page["items"]] == [50, 50]
    assert [item["memory_bytes"] for item in page["items"]] == [29, 59]
    assert get(viewer, "system", host="other", **RANGE)["total"] == 0
    assert get(viewer, "system", subject="host", **RANGE)["total"] == 60


BAD_RANGES: list[dict[str, Any]] = [
    {"from": "2026-06-15T13:00:00Z", "to": "2026-06-15T12:00:00Z"},
    {"from": "2026-06-15T12:00:00Z", "to": "2026-06-15T12:00:00Z"},
    {"from": "1026-06-15T12:00:00Z"},
    {"from": "2026-06-15T12:00:00"},
    {"to": "yesterday"},
    {"to": "0001-01-01T00:00:00+14:00"},
    {"from": "9999-12-31T23:00:00-14:00"},
    {"from": "0001-01-01T00:00:00Z", "to": "0001-01-01T00:00:00Z"},
    {"resolution": -1},
    {"resolution": 10**9},
    {"resolution": "1h"},
    {"limit": 501},
    {"skip": -1},
]


def test_bad_ranges_are_refused(viewer: httpx.Client, api: Api) -> None:
    for query in BAD_RANGES:
        for path in ("wal", "health", "system"):
            answer = viewer.get(f"/metrics/{path}", params={"connection": NAME, **query})
            assert answer.status_code == 422, (path, query, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_not_there_is_not_found(viewer: httpx.Client, api: Api) -> None:
    for path in ("wal", "health"):
        assert viewer.get(f"/metrics/{path}", params={"connection": "nobody"}).status_code == 404
        assert viewer.get(f"/metrics/{path}").status_code == 422
        for hostile in ("'; --", "../x", "a\x00b", "9" * 40, ""):
            answer = viewer.get(f"/metrics/{path}", params={"connection": hostile})
            assert answer.status_code in (400, 404, 422), (hostile, answer.text)


def test_nobody_looks_without_a_login(api: Api) -> None:
    for path in ("wal?connection=x", "health?connection=x", "health/current", "system"):
        assert api.client(None).get(f"/metrics/{path}").status_code == 401


@pytest.mark.slow
def test_the_routes_are_what_the_document_says(api: Api) -> None:
    headers = headers_of(api, Role.VIEWER)
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        for result in schema_of(api, mode=mode).include(path_regex=r"/metrics/").get_all_operations():
            operation = result.ok()

            @hypothesis.settings(max_examples=15, **UNHURRIED)
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                response = case.call(headers=headers, timeout=60)
                case.validate_response(response, checks=CHECKS)

            send()
