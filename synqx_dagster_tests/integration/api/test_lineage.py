"""Lineage and measured KPIs over HTTP, of a project that has run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from synqx_dagster.people.roles import Role
from synqx_dagster_tests.integration.api.hub import Hub, open_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with open_hub(tmp_path_factory.mktemp("hub")) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(hub: Hub) -> httpx.Client:
    return hub.client(Role.VIEWER)


def read(viewer: httpx.Client, asset: str, **query: Any) -> Any:
    answer = viewer.get(f"/lineage/{asset}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def nodes(document: Any) -> dict[str, tuple[str, int, str | None]]:
    return {node["asset"]: (node["direction"], node["distance"], node["record"]) for node in document["nodes"]}


def columns(document: Any) -> set[tuple[str, str]]:
    return {
        (f"{edge['upstream']}.{edge['upstream_column']}", f"{edge['downstream']}.{edge['downstream_column']}")
        for edge in document["column_edges"]
    }


def test_tables_up_and_down(viewer: httpx.Client) -> None:
    document = read(viewer, "warehouse/customer")
    assert nodes(document) == {
        "warehouse/customer": ("self", 0, "customers"),
        "shop/customer": ("up", 1, None),
        "warehouse/mirror": ("down", 1, "mirrored"),
    }
    assert set(nodes(read(viewer, "warehouse/customer", direction="up"))) == {"warehouse/customer", "shop/customer"}
    assert set(nodes(read(viewer, "shop/customer", depth=1))) == {
        "shop/customer",
        "warehouse/customer",
        "warehouse/named",
    }
    assert read(viewer, "shop/customer", depth=1)["is_cut"]
    assert not read(viewer, "shop/customer")["is_cut"]


def test_columns_by_the_records_and_by_the_last_load(viewer: httpx.Client) -> None:
    # The mapping `mirrored` declares no columns: its load has told what it found.
    assert columns(read(viewer, "warehouse/customer")) == {
        ("shop/customer.id", "warehouse/customer.id"),
        ("shop/customer.name", "warehouse/customer.full_name"),
        ("warehouse/customer.id", "warehouse/mirror.id"),
        ("warehouse/customer.full_name", "warehouse/mirror.full_name"),
    }
    assert columns(read(viewer, "warehouse/named")) == {
        ("shop/customer.id", "warehouse/named.id"),
        ("shop/customer.name", "warehouse/named.label"),
    }


def test_one_column_is_followed(viewer: httpx.Client) -> None:
    document = read(viewer, "shop/customer", column="NAME")
    assert document["column"] == "name"
    assert columns(document) == {
        ("shop/customer.name", "warehouse/customer.full_name"),
        ("warehouse/customer.full_name", "warehouse/mirror.full_name"),
        ("shop/customer.name", "warehouse/named.label"),
    }
    assert set(nodes(read(viewer, "warehouse/named", column="label", direction="up"))) == {
        "warehouse/named",
        "shop/customer",
    }


def test_an_asset_by_the_name_of_a_dataset_or_a_mapping(viewer: httpx.Client) -> None:
    for name in ("all_customers", "customers"):
        assert read(viewer, name)["asset"] == "warehouse/customer"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("warehouse/nothing", 404),
        ("warehouse/customer?column=nothing", 404),
        ("warehouse/customer?depth=0", 422),
        ("warehouse/customer?direction=sideways", 422),
        ("a/../b", 404),
        ("%2e%2e/x", 404),
        ("x" * 2000, 422),
    ],
)
def test_what_is_not_there(viewer: httpx.Client, path: str, status: int) -> None:
    answer = viewer.get(f"/lineage/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text


def test_kpis_are_measured(viewer: httpx.Client) -> None:
    (agent,) = viewer.get("/agents").json()["items"]
    kpis = {kpi["name"]: kpi["current"] for kpi in agent["kpis"]}
    assert kpis["reliable"] == 1.0
    assert kpis["rows"] == 14.0
    assert 0 < kpis["slow"] < 600
    assert 0 <= kpis["fresh"] < 3600
    assert kpis["mood"] == "amber"
    assert viewer.get(f"/agents/{agent['id']}").json()["kpis"] == agent["kpis"]  # kept for a moment


def test_an_agent_with_measured_kpis_can_be_sent_back(hub: Hub, viewer: httpx.Client) -> None:
    agent = viewer.get("/agents/Customer care").json()
    # It belongs to a team.
    answer = hub.client(Role.ADMIN).put("/agents/Customer care", json=agent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["etag"] == agent["etag"]
