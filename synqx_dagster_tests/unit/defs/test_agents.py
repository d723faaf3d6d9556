"""What agents give to the assets that they link to, and the arithmetic of their figures."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.defs.agent_figures import p95_seconds, success_rate
from synqx_dagster.defs.pipeline_translator import PipelineTranslator
from synqx_dagster.defs.run_table import RunOutcome
from synqx_dagster.defs.translator import Translator
from synqx_dagster.model import Record
from synqx_dagster_tests.unit.catalog.records import agent, connection, mapping, pipeline

BASE = (connection("shop"), connection("warehouse"), mapping("customers"), mapping("orders"))


def spec(name: str, *records: Record) -> dg.AssetSpec:
    snapshot = CatalogSnapshot.from_records(1, [*BASE, *records])
    return Translator(snapshot).spec(snapshot.get_mapping(name))


def test_a_linked_asset_carries_owner_and_domain_and_the_way_back() -> None:
    linked = spec(
        "customers",
        agent("Churn guard", owner="team:care", business_domain="Customer care", mappings=["customers"]),
    )
    assert list(linked.owners) == ["team:care"]
    assert (linked.tags["synqx/agent"], linked.tags["synqx/domain"]) == ("Churn_guard", "Customer_care")
    assert linked.metadata["synqx/domain"] == "Customer care"
    assert linked.metadata["synqx/agent"] == dg.MetadataValue.url("/api/v1/agents/Churn%20guard")


def test_an_asset_that_no_agent_links_to_is_as_before() -> None:
    before = spec("orders")
    after = spec("orders", agent("a", mappings=["customers"], owner="team:x"))
    assert (before.owners, before.tags, before.metadata) == (after.owners, after.tags, after.metadata)
    assert not any(key.startswith("synqx/agent") for key in (*after.tags, *after.metadata))


def test_links_lead_through_pipelines_and_datasets() -> None:
    dataset = build_record("asset", {"name": "people", "connection": "warehouse", "table": "customers"})
    for links in ({"pipelines": ["nightly"]}, {"assets": ["people"]}):
        linked = spec("customers", pipeline("nightly", "customers"), dataset, agent("a", business_domain="x", **links))
        assert linked.tags["synqx/agent"] == "a"


def test_two_agents_both_lead_back_and_own_names_win() -> None:
    own = mapping("customers", owners=["team:data"], tags={"synqx/domain": "mine"})
    linked = spec(
        "customers",
        own,
        agent("b", owner="team:b", mappings=["customers"]),
        agent("a", business_domain="y", mappings=["customers"]),
    )
    assert list(linked.owners) == ["team:data", "team:b"]
    assert linked.tags["synqx/domain"] == "mine"
    assert {key for key in linked.metadata if "agent" in key} == {"synqx/agent", "synqx/agent_2"}


def test_a_source_that_an_agent_names_is_marked_too() -> None:
    dataset = build_record("asset", {"name": "raw", "connection": "shop", "table": "customers"})
    snapshot = CatalogSnapshot.from_records(1, [*BASE, dataset, agent("a", owner="team:raw", assets=["raw"])])
    translator = Translator(snapshot)
    external = translator.external_specs([translator.spec(snapshot.get_mapping("customers"))])
    assert [list(item.owners) for item in external] == [["team:raw"]]


def test_the_steps_of_a_linked_pipeline_are_marked() -> None:
    record = build_record(
        "pipeline",
        {
            "name": "etl",
            "nodes": [
                {
                    "node_id": "read",
                    "operator_type": "extract",
                    "operator_class": "table",
                    "config": {"connection": "shop", "table": "a"},
                },
                {
                    "node_id": "write",
                    "operator_type": "load",
                    "operator_class": "table",
                    "config": {"connection": "warehouse", "table": "b"},
                },
            ],
            "edges": [{"from_node_id": "read", "to_node_id": "write"}],
        },
    )
    snapshot = CatalogSnapshot.from_records(1, [*BASE, record, agent("a", owner="x@example.com", pipelines=["etl"])])
    translator = PipelineTranslator(Translator(snapshot))
    graph = translator.graph(snapshot.get_pipeline("etl"))
    marked = translator.spec(graph, graph.steps[0])
    assert (list(marked.owners), marked.tags["synqx/agent"]) == (["x@example.com"], "a")


@pytest.mark.parametrize("name", ["ünï cödé", "a" * 128, "x/../y?z#", "<b>", "100 %"])
def test_any_name_makes_a_tag_and_a_link(name: str) -> None:
    linked = spec("customers", agent(name, business_domain=name, owner=name, mappings=["customers"]))
    # Dagster checks tags, owners and metadata where the asset is made.
    assert dg.Definitions(assets=[linked]).resolve_asset_graph()
    link: Any = linked.metadata["synqx/agent"]
    assert link.url.startswith("/api/v1/agents/")
    assert "/" not in link.url.removeprefix("/api/v1/agents/")


# --- figures ------------------------------------------------------------------------------------------------------


def outcome(status: str, seconds: float = 1.0) -> RunOutcome:
    return RunOutcome("r", status, 100.0, 100.0 + seconds)


def test_nothing_has_no_figure() -> None:
    assert success_rate([]) is p95_seconds([]) is None
    assert success_rate([outcome("CANCELED")]) is None
    assert p95_seconds([outcome("FAILURE"), RunOutcome("r", "SUCCESS", None, 5.0)]) is None


def test_the_share_of_runs_that_succeeded() -> None:
    assert success_rate([outcome("SUCCESS"), outcome("SUCCESS"), outcome("FAILURE"), outcome("CANCELED")]) == 2 / 3


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_nineteen_of_twenty_runs_took_no_longer(seconds: list[int]) -> None:
    found = p95_seconds([outcome("SUCCESS", value) for value in seconds])
    assert found is not None
    assert min(seconds) - 1e-6 <= found <= max(seconds) + 1e-6
    assert sum(value <= found + 1e-6 for value in seconds) >= 0.95 * (len(seconds) - 1)
