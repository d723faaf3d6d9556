"""A replication as a component of a Dagster project: its jobs and its sensor, without a catalog."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.core.load_defs import build_defs_for_component

from synqx_dagster import ReplicationComponent
from synqx_dagster.defs.project import access_of
from synqx_dagster.model import Connection, Replication
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

pytestmark = pytest.mark.filterwarnings("ignore::dagster.PreviewWarning", "ignore::dagster.BetaWarning")


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNQX_HOME", str(tmp_path))
    access_of.cache_clear()
    yield
    access_of.cache_clear()


def connection(name: str, database: PostgresqlDatabase) -> Connection:
    return Connection(
        name=name,
        db_type="postgresql",
        host=database.host,
        port=database.port,
        database=database.name,
        username=database.username,
    )


def slots(database: PostgresqlDatabase) -> list[str]:
    rows = database.execute("select slot_name from pg_replication_slots where database = current_database()")
    return [row[0] for row in rows]


def test_a_component_follows_is_copied_anew_and_dropped(postgresql: PostgresqlDatabase) -> None:
    target = postgresql.create_database()
    postgresql.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')")
    replication = Replication(
        name="shop_mirror",
        source_connection="shop",
        target_connection="warehouse",
        tables=({"name": "t"},),
        slot=f"s_{postgresql.name}",
        idle_seconds=1,
        batch_seconds=0.2,
        enabled=True,
    )
    records = (replication, connection("shop", postgresql), connection("warehouse", target))
    definitions = build_defs_for_component(ReplicationComponent(*records))
    assert {job.name for job in definitions.jobs or ()} == {
        "shop_mirror",
        "shop_mirror_resync",
        "shop_mirror_drop",
    }
    key = dg.AssetKey(["warehouse", "public", "t"])
    assert key in definitions.resolve_asset_graph().get_all_asset_keys()
    (sensor,) = definitions.sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:

        def run(name: str, **config: object) -> dg.ExecuteInProcessResult:
            return definitions.resolve_job_def(name).execute_in_process(instance=instance, run_config=config)

        def look() -> int:
            return len(sensor.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests or ())

        assert look() == 1
        (materialization,) = run("shop_mirror").asset_materializations_for_node("follow__shop_mirror")
        assert materialization.asset_key == key
        assert materialization.metadata["synqx/rows_copied"].value == 2
        postgresql.execute("insert into t values (3, 'c')")
        # The servers of the tests tell of a commit before it is in the log on disk, which is what a slot shows.
        deadline = time.monotonic() + 30
        while not look():
            assert time.monotonic() < deadline, "the sensor has seen no change"
            time.sleep(0.1)
        run("shop_mirror")
        rows = [(1, "a"), (2, "b"), (3, "c")]
        assert target.execute("select * from t order by id") == rows

        target.execute("delete from t")
        run("shop_mirror_resync", ops={"resync__shop_mirror": {"config": {"tables": ["t"]}}})
        run("shop_mirror")
        assert target.execute("select * from t order by id") == rows
        with pytest.raises(dg.Failure, match="does not follow public"):
            run("shop_mirror_resync", ops={"resync__shop_mirror": {"config": {"tables": ["x"]}}})

        assert slots(postgresql) == [replication.slot_name]
        assert run("shop_mirror_drop").success
    assert slots(postgresql) == []
    assert postgresql.execute("select count(*) from pg_publication") == [(0,)]
    assert target.execute("select * from t order by id") == rows
