"""What components become in Dagster, in this process."""

from __future__ import annotations

import importlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from dagster.components.core.load_defs import build_defs_for_component

from synqx_dagster import CatalogComponent, ConnectionComponent, MappingComponent, PipelineComponent, SensorComponent
from synqx_dagster.defs.project import Project, ProjectAccess, access_of
from synqx_dagster.errors import ConfigurationError, InvalidInputError
from synqx_dagster.model import (
    Connection,
    EnvSecret,
    FileSecret,
    HostPolicy,
    LiteralSecret,
    Schedule,
    SealedSecret,
    Sensor,
)
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.unit.defs.fakes import connection, mapping, pipeline, schema

# Dagster warns of itself here; `load_from_defs_folder` keeps that back.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.parse_obj_as. is deprecated", "ignore::dagster.PreviewWarning", "ignore::dagster.BetaWarning"
)


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("SYNQX_HOME", "DAGSTER_HOME", "SYNQX_EXECUTOR", "SYNQX_CATALOG_URL"):
        monkeypatch.delenv(name, raising=False)
    access_of.cache_clear()
    yield
    access_of.cache_clear()


def files(tmp_path: Path) -> tuple[Connection, Connection]:
    """A source of three rows, and a target."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("create table src_orders (id integer primary key, name text)")
        database.executemany("insert into src_orders values (?, ?)", [(number, f"n{number}") for number in range(3)])
    return (
        connection("shop", "sqlite", database=str(tmp_path / "shop.db")),
        connection("warehouse", "duckdb", database=str(tmp_path / "warehouse.duckdb")),
    )


def test_a_component_by_itself_is_a_project(tmp_path: Path) -> None:
    definitions = build_defs_for_component(MappingComponent(mapping("orders"), *files(tmp_path)))
    key = dg.AssetKey(["warehouse", "main", "orders"])
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process()
    assert result.success
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as database:
        assert database.execute("select count(*), max(name) from orders").fetchall() == [(3, "n2")]
    (materialization,) = result.asset_materializations_for_node("warehouse__main__orders")
    assert materialization.asset_key == key
    assert materialization.metadata["dagster/row_count"].value == 3
    assert "dagster/column_lineage" in materialization.metadata


def test_nothing_has_a_revision(tmp_path: Path) -> None:
    component = PipelineComponent(pipeline("load_all", "orders"), mapping("orders"), *files(tmp_path))
    definitions = build_defs_for_component(component)
    job = definitions.resolve_job_def("load_all")
    assert "synqx/revision" not in job.run_tags
    assert job.run_tags["synqx/pipeline"] == "load_all"
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert "synqx/revision" not in run.tags
    (materialization,) = result.asset_materializations_for_node("warehouse__main__orders")
    assert "synqx/revision" not in materialization.metadata
    spec = definitions.resolve_assets_def(dg.AssetKey(["warehouse", "main", "orders"])).get_asset_spec()
    assert "synqx/revision" not in spec.metadata


def test_a_job_leaves_its_executor_to_the_project_unless_its_pipeline_has_one(tmp_path: Path) -> None:
    parts = (mapping("orders"), *files(tmp_path))
    own = pipeline("own", "orders").model_copy(update={"executor": "multiprocess"})
    definitions = dg.Definitions.merge(
        build_defs_for_component(PipelineComponent(pipeline("other", "orders"), own, *parts)),
        dg.Definitions(executor=dg.in_process_executor),
    )
    assert definitions.resolve_job_def("other").executor_def is dg.in_process_executor
    assert definitions.resolve_job_def("own").executor_def is dg.multiprocess_executor


def test_the_age_of_a_table_is_told_without_a_catalog(tmp_path: Path) -> None:
    watched = mapping("orders", freshness={"maximum_age_seconds": 60})
    component = MappingComponent(watched, *files(tmp_path))
    definitions = build_defs_for_component(component)
    sensor = definitions.resolve_sensor_def("synqx_freshness_warehouse__main__orders")
    key = dg.AssetCheckKey(dg.AssetKey(["warehouse", "main", "orders"]), "freshness")
    with dg.DagsterInstance.local_temp() as instance:
        first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
        assert [item.passed for item in first.asset_events] == [True]
        # Since the first look, which its cursor remembers.
        since = json.loads(first.cursor or "")
        (asset,) = since["since"]
        since["since"][asset] -= 61
        later = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=json.dumps(since)))
        assert later.asset_events == []  # it rests, for it may not be overdue yet
        again = build_defs_for_component(component).resolve_sensor_def(sensor.name)
        later = again.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=json.dumps(since)))
        assert [item.passed for item in later.asset_events] == [False]
        assert later.skip_message == "overdue: 1 of 1: orders"
        for event in later.asset_events:
            instance.report_runless_asset_event(event)
        assert definitions.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance).success
        shown = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
        assert shown[key].status.value == "SUCCEEDED"
        assert again.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=later.cursor)).asset_events == []


@pytest.mark.parametrize("name", ["celery", "k8s"])
def test_steps_may_go_to_other_machines_without_a_catalog(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNQX_CELERY_BROKER", "rediss://:hunter2@redis.example:6379/0")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("SYNQX_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_db: {hostname: db.example, db_name: d, username: u, password: p}}}"
    )
    access_of.cache_clear()
    own = pipeline("own", "orders").model_copy(update={"executor": name})
    definitions = build_defs_for_component(PipelineComponent(own, mapping("orders"), *files(tmp_path)))
    assert definitions.resolve_job_def("own").executor_def.name == name


def test_what_holds_for_a_catalogs_jobs_keeps_back_none_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a broker the executor could not be used; the project's own is.
    monkeypatch.setenv("SYNQX_EXECUTOR", "celery")
    parts = (pipeline("other", "orders"), mapping("orders"), *files(tmp_path))
    definitions = build_defs_for_component(PipelineComponent(*parts))
    assert definitions.resolve_job_def("other").name == "other"


def test_edges_order_the_steps_of_a_job(tmp_path: Path) -> None:
    component = PipelineComponent(
        pipeline("both", "b", "a", edges=[("b", "a")]), mapping("a"), mapping("b"), *files(tmp_path)
    )
    job = build_defs_for_component(component).resolve_job_def("both")
    assert [node.name for node in job.nodes_in_topological_order] == ["warehouse__main__b", "warehouse__main__a"]


def test_schedules_and_sensors_are_there(tmp_path: Path) -> None:
    sensor = Sensor(name="changed", type="source_changed", connection="shop", table="o", column="id", mapping="orders")
    schedule = Schedule(name="nightly", mapping="orders", cron_expression="0 2 * * *")
    component = SensorComponent(sensor, schedule, mapping("orders"), *files(tmp_path))
    definitions = build_defs_for_component(component)
    repository = definitions.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {"changed", "nightly"}
    assert [item.name for item in repository.sensor_defs] == ["changed"]
    due = datetime.now(UTC)
    context = dg.build_schedule_context(repository_def=repository, scheduled_execution_time=due)
    assert len(list(repository.get_schedule_def("nightly").evaluate_tick(context).run_requests or ())) == 1


def test_a_schedule_of_a_pipelines_name_runs_the_pipelines_job(tmp_path: Path) -> None:
    schedule = Schedule(name="nightly", pipeline="nightly", cron_expression="0 2 * * *")
    component = PipelineComponent(pipeline("nightly", "orders"), schedule, mapping("orders"), *files(tmp_path))
    assert [job.name for job in build_defs_for_component(component).jobs or ()] == ["nightly"]


def test_problems_of_all_components_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="3 problems in the SynqX components") as caught:
        Project.of(
            [
                MappingComponent(mapping("orders", target_schema="nothing")).declared,
                ConnectionComponent(connection("shop", password=LiteralSecret(value="x"))).declared,
            ],
            tmp_path,
        )
    assert [str(problem.location) for problem in caught.value.problems] == [
        "connection 'shop' password",
        "mapping 'orders' target_connection",
        "mapping 'orders' target_schema",
    ]


def test_alerts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "alert.yaml"
    file.write_text("kind: alert\nname: team\nevents: [run_failure]\nslack: {url: {env: HOOK}}\n")
    component = CatalogComponent.from_attributes_dict(attributes={"files": [str(file)]})
    with pytest.raises(InvalidInputError) as caught:
        build_defs_for_component(component)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{file}:1: alerts are told by the code location of a catalog, not by components")


def test_attributes_of_a_dictionary_make_a_component() -> None:
    component = ConnectionComponent.from_attributes_dict(
        attributes={"name": "shop", "db_type": "sqlite", "database": "a.db"}
    )
    assert component.declared.records == (connection("shop", "sqlite", database="a.db"),)
    wrong = ConnectionComponent.from_attributes_dict(attributes={"name": "shop", "port": "1"})
    assert {str(problem.location) for problem in wrong.declared.problems} == {
        "connection 'shop' db_type",
        "connection 'shop' port",
    }


# --- a tree of components ---------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.ComponentTree]:
    """The components of a folder that is no project of ``dg``."""
    package = f"components_of_{tmp_path.name}"
    directory = tmp_path / package
    (directory / "orders").mkdir(parents=True)
    (directory / "__init__.py").touch()
    shop, warehouse = files(tmp_path)
    (directory / "orders" / "defs.yaml").write_text(
        "type: synqx_dagster.MappingComponent\nattributes: {name: orders, source_connection: shop,"
        " source_table: src_orders, target_connection: warehouse, target_table: orders}\n"
    )
    values = [record.model_dump(include={"name", "db_type", "database"}) for record in (shop, warehouse)]
    (directory / "python.py").write_text(
        "import dagster as dg\nfrom synqx_dagster import ConnectionComponent\n"
        "from synqx_dagster.model import Connection\n\n\n"
        "@dg.component_instance\ndef load(context: dg.ComponentLoadContext) -> ConnectionComponent:\n"
        f"    return ConnectionComponent(*(Connection(**values) for values in {values!r}))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield dg.ComponentTree.from_module(importlib.import_module(package), tmp_path)
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


def test_components_of_files_and_of_python_are_one_project(tree: dg.ComponentTree) -> None:
    result = tree.build_defs().resolve_implicit_global_asset_job_def().execute_in_process()
    assert result.success
    resources = tree.build_defs().resources or {}
    assert {"conn_shop", "conn_warehouse"} <= set(resources)


def test_a_project_is_put_together_once(tree: dg.ComponentTree, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    of = Project.of
    monkeypatch.setattr(Project, "of", lambda *arguments: made.append(of(*arguments)) or made[-1])
    tree.build_defs()
    assert len(made) == 1


def test_names_that_lead_nowhere_are_told_with_the_nearest(tree: dg.ComponentTree) -> None:
    path = tree.defs_module_path / "orders" / "defs.yaml"
    path.write_text(path.read_text().replace("source_connection: shop", "source_connection: shopp"))
    with pytest.raises(Exception, match="Error while building definitions") as caught:
        tree.build_defs()
    cause = caught.value.__cause__
    assert isinstance(cause, InvalidInputError)
    assert [str(problem) for problem in cause.problems] == [
        f"{path}:2 source_connection: there is no connection 'shopp' (did you mean 'shop'?)"
    ]


# --- access -----------------------------------------------------------------------------------------------------------


def test_references_are_resolved_where_a_connection_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = ProjectAccess(load_settings({}, tmp_path))
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("SHOP_PASSWORD", "from the environment")
    for secret, text in (
        (EnvSecret(env="SHOP_PASSWORD"), "from the environment"),
        (FileSecret(file=str(tmp_path / "secret")), "from a file"),
        (None, None),
    ):
        assert access.resolve_secret(connection("shop", password=secret), "password") == text
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(ConfigurationError, match="SHOP_PASSWORD is not set"):
        access.resolve_secret(connection("shop", password=EnvSecret(env="SHOP_PASSWORD")), "password")
    with pytest.raises(ConfigurationError, match="no vault"):
        access.resolve_secret(connection("shop", password=SealedSecret(version=1)), "password")


def test_a_project_has_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SYNQX_DENIED_HOSTS=db.example\n")
    access = access_of(tmp_path)
    assert access.settings.code_directory == tmp_path
    assert access_of(tmp_path) is access
    assert access.settings.host_policy == HostPolicy.parse(None, "db.example")


def test_a_project_needs_no_catalog(tmp_path: Path) -> None:
    build_defs_for_component(MappingComponent(mapping("orders", target_schema="customer"), schema(), *files(tmp_path)))
    assert not (tmp_path / ".synqx").exists()
