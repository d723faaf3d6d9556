"""Sensors of the catalog, evaluated on real files and tables."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from synqx_dagster import model
from synqx_dagster.defs import record_sensors
from synqx_dagster.defs.record_sensors import ProbeError, build_sensor, plan_sensor
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, FakeVault, connection, mapping, pipeline, snapshot_of


class Watched:
    """A sensor, its cursor, and an instance to look at."""

    def __init__(self, instance: dg.DagsterInstance, sensor: model.Sensor, *records: Any, vault: Any = None) -> None:
        snapshot = snapshot_of(sensor, mapping("orders"), *records)
        self.catalog = FakeCatalog({1: snapshot}, vault=vault or FakeVault())
        self.instance = instance
        anything: Any = self.catalog
        self.definition = build_sensor(sensor, "job", snapshot, lambda: anything)
        self.cursor: str | None = None

    def look(self) -> Any:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        data = self.definition.evaluate_tick(context)
        self.cursor = data.cursor if data.cursor is not None else self.cursor
        return data


@pytest.fixture
def instance():
    with dg.DagsterInstance.local_temp() as opened:
        yield opened


# --- a table ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    execute(path, "create table orders (id integer primary key, note text)")
    return path


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def table_sensor(**fields: Any) -> model.Sensor:
    defaults = {"type": "source_changed", "connection": "source", "table": "orders", "column": "id"}
    return model.Sensor(name="changed", mapping="orders", **{**defaults, **fields})


def test_a_changed_table_starts_one_run_for_each_change(instance, shop):
    watched = Watched(instance, table_sensor(), connection("source", "sqlite", database=str(shop)))
    assert "for the first time" in watched.look().skip_message
    assert "has not changed" in watched.look().skip_message
    execute(shop, "insert into orders values (7, 'canary-value')")
    (first,) = watched.look().run_requests
    assert first.tags["synqx/sensor"] == "changed"
    assert "has not changed" in watched.look().skip_message
    # It comes back to what it was, which is a change all the same.
    execute(shop, "delete from orders")
    (second,) = watched.look().run_requests
    execute(shop, "insert into orders values (7, 'canary-value')")
    (third,) = watched.look().run_requests
    assert len({first.run_key, second.run_key, third.run_key}) == 3


def test_a_change_asks_for_the_partitions_that_are_due_and_waits_for_the_first(instance, shop):
    source = connection("source", "sqlite", database=str(shop))
    today = datetime.now(UTC).date()
    for start, expected in ((today - timedelta(days=3), str(today - timedelta(days=1))), (today, None)):
        daily = mapping("orders", partitions={"type": "daily", "start": str(start)}, partition_column="day")
        watched = Watched(instance, table_sensor(), source, daily)
        watched.look()
        execute(shop, "insert into orders (note) values ('new')")
        before, data = watched.cursor, watched.look()
        if expected is not None:
            assert [one.tags["dagster/partition"] for one in data.run_requests] == [expected]
        else:
            assert not data.run_requests
            assert "has not ended yet" in data.skip_message
            assert watched.cursor == before


def test_a_value_of_the_source_is_in_no_cursor(instance, shop):
    execute(shop, "insert into orders values (7, 'canary-value')")
    watched = Watched(instance, table_sensor(column="note"), connection("source", "sqlite", database=str(shop)))
    watched.look()
    assert watched.cursor is not None
    assert "canary" not in watched.cursor


def test_a_sealed_vault_moves_no_cursor(instance, shop):
    source = connection("source", "sqlite", database=str(shop), password={"sealed": True, "version": 1})
    watched = Watched(instance, table_sensor(), source, vault=FakeVault(opens=False))
    data = watched.look()
    assert "the vault is sealed" in data.skip_message
    assert watched.cursor is None
    execute(shop, "insert into orders values (1, 'a')")
    watched.catalog.vault.opens = True
    plain = Watched(instance, table_sensor(), connection("source", "sqlite", database=str(shop)))
    plain.cursor = watched.cursor
    assert "for the first time" in plain.look().skip_message


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"table": "nothing"}, "there is no table nothing"), ({"column": "nope"}, "has no column 'nope'")],
)
def test_a_look_that_fails_says_why_and_moves_no_cursor(fields, message, instance, shop):
    watched = Watched(instance, table_sensor(**fields), connection("source", "sqlite", database=str(shop)))
    watched.cursor = '{"seen": "x", "changes": 4}'
    with pytest.raises(Exception, match=message) as caught:
        watched.look()
    chain = [caught.value]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)  # type: ignore[arg-type]
    assert isinstance(chain[-1], ProbeError)
    assert chain[-1].__context__ is None
    assert watched.cursor == '{"seen": "x", "changes": 4}'


def test_a_server_that_is_away_is_looked_for_again(instance):
    away = connection("source", host="127.0.0.1", port=1, password=None)
    watched = Watched(instance, table_sensor(), away)
    data = watched.look()
    assert "will look again" in data.skip_message
    assert watched.cursor is None


# --- files ------------------------------------------------------------------------------------------------------


def test_each_new_file_starts_one_run_that_knows_its_name(instance, tmp_path):
    inbox = tmp_path / "inbox"
    (inbox / "in").mkdir(parents=True)
    sensor = model.Sensor(
        name="arrived",
        type="new_file",
        mapping="orders",
        connection="inbox",
        directory="in",
        pattern="*.csv",
        stable_seconds=0,
    )
    source = model.Connection(name="inbox", db_type="files", database=str(inbox))
    watched = Watched(instance, sensor, source)
    assert "no new file" in watched.look().skip_message
    (inbox / "in" / "a.csv").write_text("id\n1\n")
    (inbox / "in" / "b.txt").write_text("no")
    assert "1 may still be written" in watched.look().skip_message
    (inbox / "in" / "a.csv").write_text("id\n1\n2\n")
    assert "1 may still be written" in watched.look().skip_message
    (first,) = watched.look().run_requests
    assert first.tags["synqx/file"] == "in/a.csv"
    assert "no new file" in watched.look().skip_message
    (inbox / "in" / "a.csv").write_text("id\n9\n")
    os.utime(inbox / "in" / "a.csv", ns=(1, 1))
    watched.look()
    (again,) = watched.look().run_requests
    assert again.run_key != first.run_key


# --- pipelines --------------------------------------------------------------------------------------------------


def test_each_success_of_a_pipeline_starts_one_run(instance):
    sensor = model.Sensor(name="after", type="pipeline_succeeded", after_pipeline="load", mapping="orders")
    watched = Watched(instance, sensor, pipeline("load", "orders"))
    finish(instance, "load", dg.DagsterRunStatus.SUCCESS)
    assert not watched.look().run_requests, "what ended before the first look is not new"
    run_ids = [finish(instance, "load", dg.DagsterRunStatus.SUCCESS) for _ in range(2)]
    finish(instance, "load", dg.DagsterRunStatus.FAILURE)
    finish(instance, "other", dg.DagsterRunStatus.SUCCESS)
    requests = watched.look().run_requests
    assert [request.tags["synqx/after_run"] for request in requests] == run_ids
    instance.add_run_tags(run_ids[0], {"touched": "later"})
    assert not watched.look().run_requests


def test_many_successes_start_so_many_runs_at_a_time(instance, monkeypatch):
    monkeypatch.setattr(record_sensors, "MAX_RUNS", 2)
    sensor = model.Sensor(name="after", type="pipeline_succeeded", after_pipeline="load", mapping="orders")
    watched = Watched(instance, sensor, pipeline("load", "orders"))
    watched.look()
    run_ids = [finish(instance, "load", dg.DagsterRunStatus.SUCCESS) for _ in range(5)]
    found = [[request.tags["synqx/after_run"] for request in watched.look().run_requests] for _ in range(4)]
    assert found == [run_ids[:2], run_ids[2:4], run_ids[4:], []]


def finish(instance: dg.DagsterInstance, job_name: str, status: dg.DagsterRunStatus) -> str:
    """A run that has ended."""

    @dg.op
    def step() -> None:
        if status == dg.DagsterRunStatus.FAILURE:
            raise ValueError("canary-value")

    @dg.job(name=job_name)
    def job() -> None:
        step()

    return job.execute_in_process(instance=instance, raise_on_error=False).run_id


def test_a_sensor_over_mappings_has_a_job_of_its_own_and_one_over_a_pipeline_has_the_pipelines():
    plan = plan_sensor(table_sensor())
    assert plan is not None
    assert (plan.name, plan.mappings) == ("changed", ("orders",))
    assert plan_sensor(model.Sensor(name="s", type="pipeline_succeeded", after_pipeline="a", pipeline="b")) is None
