"""One revision as a repository."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from synqx_dagster import model
from synqx_dagster.defs import lineage_cache
from synqx_dagster.defs.jobs import ASSET_JOB
from synqx_dagster.defs.monitoring import HEALTH_SENSOR_NAME
from synqx_dagster.defs.ordering import order_steps
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.unit.defs.fakes import (
    FakeCatalog,
    connection,
    mapping,
    pipeline,
    schema,
    snapshot_of,
)

#: Nothing is kept beside a catalog that is not there.
NO_HOME = Path("/nowhere")


def repository_of(*records: model.Record, home: Path = NO_HOME) -> CatalogRepository:
    snapshot = snapshot_of(*records)
    catalog: Any = FakeCatalog({snapshot.revision: snapshot})
    data = CatalogRepositoryData(load_settings({"SYNQX_HOME": str(home)}), snapshot.revision, lambda: catalog)
    return CatalogRepository("__repository__", repository_data=data)


def schedule(name: str, **fields: Any) -> model.Schedule:
    return model.Schedule(name=name, **{"cron_expression": "0 2 * * *", **fields})


def catalog_of(repository: CatalogRepository) -> FakeCatalog:
    catalog: Any = repository.data._get_catalog()
    assert isinstance(catalog, FakeCatalog)
    return catalog


def order(job: dg.JobDefinition) -> list[str]:
    return [node.name for node in job.nodes_in_topological_order]


A, B, C = mapping("a"), mapping("b"), mapping("c")
OPS = {name: f"warehouse__public__{name}" for name in "abc"}


def test_everything_that_a_catalog_declares_is_there():
    repository = repository_of(
        A, B, pipeline("p", "a", "b"), schedule("nightly", mapping="a", timezone="Europe/Berlin"), schema()
    )
    repository.load_all_definitions()
    assert set(repository.job_names) == {ASSET_JOB, "p", "nightly"}
    assert [item.name for item in repository.schedule_defs] == ["nightly"]
    assert [item.name for item in repository.sensor_defs] == [SENSOR_NAME, HEALTH_SENSOR_NAME]
    assert set(repository.get_top_level_resources()) == {"conn_shop", "conn_warehouse"}
    executable = {key.to_user_string() for key in repository.asset_graph.executable_asset_keys}
    assert executable == {"warehouse/public/a", "warehouse/public/b"}
    external = {key.to_user_string() for key in repository.asset_graph.external_asset_keys}
    assert external == {"shop/public/src_a", "shop/public/src_b"}


def test_sensors_and_alerts_are_there_and_a_sensors_job_is_built_by_itself():
    watch = {"type": "source_changed", "connection": "shop", "table": "t", "column": "id"}
    records = [
        *(A, B, pipeline("p", "a", "b")),
        model.Sensor(name="changed", mapping=("a", "b"), **watch),
        model.Sensor(name="starts_p", pipeline="p", enabled=False, **watch),
        model.Alert(name="on_call", events=("recovery",), slack={"url": {"env": "HOOK"}}),
    ]
    repository = repository_of(*records)
    repository.load_all_definitions()
    sensors = {item.name: item for item in repository.sensor_defs}
    assert set(sensors) == {SENSOR_NAME, HEALTH_SENSOR_NAME, "synqx_alerts", "changed", "starts_p"}
    assert (sensors["changed"].job_name, sensors["starts_p"].job_name) == ("changed", "p")
    assert sensors["changed"].default_status == dg.DefaultSensorStatus.RUNNING
    assert sensors["starts_p"].default_status == dg.DefaultSensorStatus.STOPPED
    assert set(repository.job_names) == {ASSET_JOB, "p", "changed"}
    lazy = repository_of(*records)
    assert set(order(lazy.get_job("changed"))) == {OPS["a"], OPS["b"]}
    assert "snapshot" not in catalog_of(lazy).reads


@pytest.mark.parametrize("edges", [[("a", "b"), ("b", "c")], [("c", "b"), ("b", "a")]])
def test_edges_order_mappings_that_share_no_data(edges):
    repository = repository_of(A, B, C, pipeline("p", "a", "b", "c", edges=edges))
    names = [OPS[edges[0][0]], OPS[edges[0][1]], OPS[edges[1][1]]]
    assert order(repository.get_job("p")) == names
    repository.load_all_definitions()
    assert order(repository.get_job("p")) == names


def test_two_pipelines_may_order_the_same_mappings_differently():
    repository = repository_of(
        A, B, pipeline("p", "a", "b", edges=[("a", "b")]), pipeline("q", "a", "b", edges=[("b", "a")])
    )
    repository.load_all_definitions()
    assert order(repository.get_job("p")) == [OPS["a"], OPS["b"]]
    assert order(repository.get_job("q")) == [OPS["b"], OPS["a"]]


def test_an_edge_does_not_show_as_lineage():
    """Dagster records the parents in the job with each load, and calls an asset stale that has other ones."""
    repository = repository_of(A, B, pipeline("p", "a", "b", edges=[("a", "b")]))
    key = dg.AssetKey(["warehouse", "public", "b"])
    for asset in (repository.asset_graph.get(key), repository.get_job("p").asset_layer.get(key)):
        assert {parent.to_user_string() for parent in asset.parent_keys} == {"shop/public/src_b"}


def test_a_selection_of_a_pipelines_assets_keeps_their_order():
    repository = repository_of(A, B, C, pipeline("p", "a", "b", "c", edges=[("c", "b"), ("b", "a")]))
    key_of = {name: dg.AssetKey(["warehouse", "public", name]) for name in "abc"}
    everything = repository.get_maybe_subset_job_def("p", asset_selection=set(key_of.values()))
    assert order(everything) == [OPS["c"], OPS["b"], OPS["a"]]
    two = repository.get_maybe_subset_job_def("p", asset_selection={key_of["b"], key_of["a"]})
    assert order(two) == [OPS["b"], OPS["a"]]
    assert two.asset_selection == {key_of["a"], key_of["b"]}
    by_op = repository.get_maybe_subset_job_def("p", op_selection=[OPS["b"], OPS["a"]])
    assert order(by_op) == [OPS["b"], OPS["a"]]


def test_a_job_is_ordered_once_and_stays_what_it_was():
    repository = repository_of(A, B, pipeline("p", "a", "b", edges=[("b", "a")]), schedule("s", mapping="a"))
    job = repository.get_job("p")
    again = order_steps(job)
    assert order(again) == order(job) == [OPS["b"], OPS["a"]]
    assert again.graph.dependencies == job.graph.dependencies
    tags = {"synqx/revision": "1", "synqx/pipeline": "p", "synqx/at_most_1": "p"}
    assert again.run_tags == job.run_tags == tags
    assert set(again.asset_layer.executable_asset_keys) == set(job.asset_layer.executable_asset_keys)
    assert again.executor_def is job.executor_def
    plain = repository.get_job("s")
    assert order_steps(plain) is plain


def test_an_edge_where_data_flows_adds_nothing():
    second = mapping("second", source_connection="warehouse", source_table="a", target_table="b")
    repository = repository_of(A, second, pipeline("p", "a", "second", edges=[("a", "second")]))
    job = repository.get_job("p")
    assert order(job) == [OPS["a"], OPS["b"]]
    (waits,) = (node.definition.input_dict for node in job.nodes if node.name == OPS["b"])
    assert list(waits) == ["upstream_0"]


def test_an_edge_against_the_data_takes_only_its_pipeline_down(caplog):
    second = mapping("second", source_connection="warehouse", source_table="a", target_table="b")
    repository = repository_of(A, second, pipeline("p", "a", "second", edges=[("second", "a")]))
    repository.load_all_definitions()
    assert set(repository.job_names) == {ASSET_JOB}
    assert "job p" in caplog.text
    assert any("p" in problem for problem in repository.data._problems)


def test_data_orders_mappings_without_edges():
    first = mapping("first", target_table="staging")
    second = mapping("second", source_connection="warehouse", source_table="staging", target_table="final")
    repository = repository_of(second, first, schedule("nightly", mapping=("second", "first")))
    assert order(repository.get_job("nightly")) == ["warehouse__public__staging", "warehouse__public__final"]


def test_a_schedule_over_a_pipeline_keeps_its_edges():
    repository = repository_of(
        A, B, C, pipeline("p", "a", "b", edges=[("b", "a")]), schedule("s", pipeline="p", mapping="c")
    )
    names = order(repository.get_job("s"))
    assert set(names) == set(OPS.values())
    assert names.index(OPS["b"]) < names.index(OPS["a"])


def test_one_job_is_built_from_its_own_records_alone():
    repository = repository_of(A, B, pipeline("p", "a"), schedule("s", mapping="b"))
    job = repository.get_job("s")
    assert order(job) == [OPS["b"]]
    assert catalog_of(repository).reads == ["snapshot_for", "snapshot_for"]
    assert job.run_tags["synqx/revision"] == "1"


def test_a_job_whose_record_has_another_name_is_found():
    repository = repository_of(A, schedule("every night!", mapping="a"))
    assert order(repository.get_job("every_night_")) == [OPS["a"]]


def test_an_ad_hoc_job_is_built_from_the_selected_assets_alone():
    repository = repository_of(A, B, C)
    key = dg.AssetKey(["warehouse", "public", "b"])
    job = repository.get_maybe_subset_job_def(ASSET_JOB, asset_selection={key})
    assert order(job) == [OPS["b"]]
    assert job.asset_selection == {key}
    assert catalog_of(repository).reads == ["snapshot_for_loads"]
    repository.load_all_definitions()
    again = repository.get_maybe_subset_job_def(ASSET_JOB, asset_selection={key})
    assert order(again) == [OPS["b"]]


def test_a_job_that_is_not_there_is_named():
    with pytest.raises(dg.DagsterInvariantViolationError, match="no job nowhere"):
        repository_of(A).get_job("nowhere")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (mapping("bad", source_connection="nowhere"), "nowhere"),
        (mapping("bad", target_schema="nowhere"), "nowhere"),
        (mapping("bad", target_table="a"), "loaded by a already"),
        (mapping("bad", source_connection="odd"), "orakel"),
        (pipeline("bad", "a", "gone"), "gone"),
        (schedule("bad", mapping="gone"), "gone"),
        (schedule("bad", pipeline="gone"), "gone"),
        (schedule("p", mapping="b"), "another job"),
    ],
)
def test_a_broken_record_does_not_take_the_others_down(broken, reason, caplog):
    repository = repository_of(A, B, pipeline("p", "a"), connection("odd", "orakel"), broken)
    with caplog.at_level(logging.ERROR, "synqx_dagster"):
        repository.load_all_definitions()
    assert reason in caplog.text
    keys = {key.to_user_string() for key in repository.asset_graph.executable_asset_keys}
    assert keys == {"warehouse/public/a", "warehouse/public/b"}
    assert order(repository.get_job("p")) == [OPS["a"]]
    assert any(reason in problem for problem in repository.data._problems.values())


def test_lineage_is_not_traced_again_by_the_next_process(tmp_path, monkeypatch):
    """A process that reconstructs one job asks for nothing of the file: it would cost more than it saves."""
    traced: list[str] = []
    trace = lineage_cache.trace_unconnected

    def counted(record: Any, *rest: Any) -> Any:
        traced.append(record.name)
        return trace(record, *rest)

    monkeypatch.setattr(lineage_cache, "trace_unconnected", counted)
    query = mapping("q", source_query="select x.id, y.name from x join y on x.id = y.id")
    for expected in (["a", "q"], []):
        repository = repository_of(A, query, pipeline("p", "q"), home=tmp_path)
        repository.load_all_definitions()
        assert traced == expected
        traced.clear()
        (parents,) = (node.parent_keys for node in repository.asset_graph.asset_nodes if node.key.path[-1] == "q")
        assert {key.path[-1] for key in parents} == {"x", "y"}


def test_mappings_in_a_cycle_do_not_take_the_others_down(caplog):
    one = mapping("one", source_connection="warehouse", source_table="two", target_table="one")
    two = mapping("two", source_connection="warehouse", source_table="one", target_table="two")
    repository = repository_of(A, one, two)
    repository.load_all_definitions()
    assert "cycle" in caplog.text
    assert OPS["a"] in order(repository.get_job(ASSET_JOB))


def test_without_a_catalog_only_the_sensor_is_there():
    catalog: Any = FakeCatalog({})
    repository = CatalogRepository(
        "__repository__", repository_data=CatalogRepositoryData(load_settings({}), None, lambda: catalog)
    )
    repository.load_all_definitions()
    assert list(repository.job_names) == []
    assert set(repository.asset_graph.get_all_asset_keys()) == set()
    assert [item.name for item in repository.sensor_defs] == [SENSOR_NAME]
    assert catalog.reads == []


def test_names_with_anything_in_them_load():
    odd = mapping("Größe & 'Co'", target_table='"we.ird"."ta ""ble"', group="a/b c", owners=("Ä Ö",))
    repository = repository_of(odd, schedule("jede Nacht", mapping=odd.name))
    repository.load_all_definitions()
    (key,) = repository.asset_graph.executable_asset_keys
    assert list(key.path) == ["warehouse", "we.ird", 'ta "ble']
