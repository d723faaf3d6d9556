"""The sensors that watch, evaluated on real servers: what is stored, shown and told; and what holds up whom."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.metrics import MetricsHistory
from synqx_dagster.catalog.monitor_tables import connection_health, monitor_state, system_metrics, wal_metrics
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs import monitoring
from synqx_dagster.defs.alert_sensor import tell_alerts
from synqx_dagster.defs.jobs import ASSET_JOB
from synqx_dagster.defs.monitor_assets import wal_key
from synqx_dagster.defs.monitoring import (
    HEALTH_SENSOR_NAME,
    WAL_SENSOR_NAME,
    Monitor,
    build_monitor_sensors,
    monitor_of,
)
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.model import Alert, Connection, LiteralSecret, Record
from synqx_dagster.monitor import health
from synqx_dagster_tests.fix_catalog import MASTER_PASSWORD
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.fix_receivers import WebReceiver
from synqx_dagster_tests.proxies import stalling_proxy

WATCH = {"wal": True, "interval_seconds": 5, "timeout_seconds": 2}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.0)


@pytest.fixture
def slot(postgresql: PostgresqlDatabase) -> Iterator[str]:
    """A slot that nobody reads."""
    postgresql.execute("select pg_create_logical_replication_slot('forgotten', 'pgoutput')")
    try:
        yield "forgotten"
    finally:
        postgresql.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")


def connection_of(database: PostgresqlDatabase, name: str = "shop", **values: Any) -> Connection:
    fields = {
        "db_type": "postgresql",
        "host": "127.0.0.1",
        "port": database.port,
        "database": database.name,
        "username": database.username,
        "monitor": WATCH,
    }
    return Connection.model_validate({"name": name, **fields, **values})


class Watch:
    """The sensors of a catalog, evaluated as a code server does."""

    def __init__(self, catalog: Catalog, instance: dg.DagsterInstance, *records: Record) -> None:
        self.catalog, self.instance = catalog, instance
        apply_changes(catalog, plan_changes(catalog, Definitions(records)), author="ann", reason=None)
        self.history = MetricsHistory(catalog)

    def look(self, name: str = WAL_SENSOR_NAME, *, due: bool = True) -> SensorExecutionData:
        """One evaluation; all that is watched is due, unless it is said otherwise."""
        if due:
            with self.catalog.write() as connection:
                connection.execute(sa.update(monitor_state).values(looked_at=None))
        sensors = {item.name: item for item in build_monitor_sensors(self.catalog.snapshot(), lambda: self.catalog)}
        return sensors[name].evaluate_tick(dg.build_sensor_context(instance=self.instance))

    def rows(self, table: sa.Table) -> list[Mapping[str, Any]]:
        with self.catalog.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.metric_id)).mappings())

    def tell(self, seconds: float = 0) -> list[str]:
        now = datetime.now(UTC) + timedelta(seconds=seconds)
        return tell_alerts(self.instance, self.catalog, self.catalog.snapshot(), now)


def test_a_look_is_stored_and_shown(
    any_catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase, slot: str
) -> None:
    watch = Watch(any_catalog, instance, connection_of(postgresql))
    data = watch.look()
    assert data.skip_message == "looked at 1 log"
    observation, *checks = data.asset_events
    assert isinstance(observation, dg.AssetObservation)
    assert observation.asset_key == wal_key("shop")
    assert observation.metadata["synqx/slots"].value == 1
    assert f"synqx/lag_bytes/{slot}" in observation.metadata
    evaluations = [item for item in checks if isinstance(item, dg.AssetCheckEvaluation)]
    assert {item.check_name: item.passed for item in evaluations} == dict.fromkeys(
        ("slot_lag", "slot_status", "slot_activity", "archiver"), True
    )
    [row] = watch.rows(wal_metrics)
    assert (row["looks"], row["slots"], row["active_slots"], row["wal_bytes"]) == (1, 1, 0, None)
    assert [item["name"] for item in json.loads(row["slot_details"])] == [slot]
    # Not yet due.
    data = watch.look(due=False)
    assert data.skip_message == "nothing was due"
    assert data.asset_events == []
    postgresql.execute("create table t as select generate_series(1, 10000) as i")
    postgresql.execute("select pg_switch_wal()")  # commits do not wait for the log here
    data = watch.look()
    # Observations stay for ever, so there are fewer of them than looks.
    assert data.asset_events == []
    first, second = watch.rows(wal_metrics)
    assert second["wal_bytes"] == second["wal_lsn"] - first["wal_lsn"] > 100_000
    assert second["wal_ms"] > 0


def test_dagster_takes_what_is_shown(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase, slot: str
) -> None:
    watch = Watch(catalog, instance, connection_of(postgresql))
    for event in watch.look().asset_events:
        instance.report_runless_asset_event(event)
    [record] = instance.fetch_observations(wal_key("shop"), limit=5).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["synqx/directory_bytes"].value > 0


def test_the_checks_can_be_run_by_hand(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase, slot: str
) -> None:
    strict = {**WATCH, "thresholds": {"max_lag_bytes": 1}}
    Watch(catalog, instance, connection_of(postgresql, monitor=strict))
    data = CatalogRepositoryData(catalog.settings, catalog.latest_revision(), lambda: catalog)
    repository = CatalogRepository("__repository__", repository_data=data)
    repository.load_all_definitions()
    assert wal_key("shop") in repository.asset_graph.external_asset_keys
    keys = {dg.AssetCheckKey(wal_key("shop"), name) for name in ("slot_lag", "slot_status")}
    job = repository.get_maybe_subset_job_def(ASSET_JOB, asset_check_selection=keys, asset_selection=set())
    result = job.execute_in_process(instance=instance)
    found = {item.check_name: item for item in result.get_asset_check_evaluations()}
    assert not found["slot_lag"].passed
    assert "forgotten keeps" in (found["slot_lag"].description or "")
    assert found["slot_status"].passed


def test_a_threshold_is_told_once_and_so_is_its_end(
    catalog: Catalog,
    instance: dg.DagsterInstance,
    postgresql: PostgresqlDatabase,
    slot: str,
    web_receiver: WebReceiver,
) -> None:
    strict = {**WATCH, "thresholds": {"max_lag_bytes": 1}}
    alert = Alert.model_validate(
        {
            "name": "on_call",
            "events": ["wal_threshold", "wal_recovery"],
            "connections": ["shop"],
            "webhook": {"url": web_receiver.url()},
        }
    )
    watch = Watch(catalog, instance, connection_of(postgresql, monitor=strict), alert)
    watch.tell()
    assert next(type(event).__name__ for event in watch.look().asset_events) == "AssetObservation"
    for _ in range(3):
        watch.look()
        watch.tell()
    postgresql.execute("select pg_drop_replication_slot('forgotten')")
    for _ in range(3):
        watch.look()
        watch.tell()
    told = [json.loads(call.body) for call in web_receiver.received]
    assert [item["event"] for item in told] == ["wal_threshold", "wal_recovery"]
    assert told[0]["connections"] == ["shop"]
    assert "slot forgotten keeps" in told[0]["summary"]
    assert [row["breaches"] for row in watch.rows(wal_metrics)] == [1, 1, 1, 1, 0, 0, 0]


def test_an_alert_of_other_connections_is_not_told(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase, web_receiver: WebReceiver
) -> None:
    alert = {"name": "on_call", "events": ["connection_down"], "webhook": {"url": web_receiver.url()}}
    records = [
        connection_of(postgresql),
        connection_of(postgresql, "dead", port=1),
        Alert.model_validate({**alert, "connections": ["shop"]}),
        Alert.model_validate({**alert, "name": "pipelines", "mappings": []}),
    ]
    watch = Watch(catalog, instance, *records)
    watch.tell()
    watch.look(HEALTH_SENSOR_NAME)
    watch.tell()
    told = [json.loads(call.body) for call in web_receiver.received]
    assert [(item["alert"], item["subject"]) for item in told] == [("pipelines", "dead")]


def test_a_connection_goes_down_and_comes_up_again(
    any_catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase, web_receiver: WebReceiver
) -> None:
    alert = {
        "name": "on_call",
        "events": ["connection_down", "connection_up"],
        "webhook": {"url": web_receiver.url()},
    }
    with stalling_proxy(postgresql.port) as proxy:
        slow = connection_of(postgresql, port=proxy.port, monitor={**WATCH, "wal": False, "timeout_seconds": 0.5})
        watch = Watch(any_catalog, instance, slow, Alert.model_validate(alert))
        watch.tell()
        watch.look(HEALTH_SENSOR_NAME)
        proxy.stall(new_connections_too=True)
        for _ in range(3):
            watch.look(HEALTH_SENSOR_NAME)
            watch.tell()
        proxy.recover()
        for _ in range(2):
            watch.look(HEALTH_SENSOR_NAME)
            watch.tell()
    told = [json.loads(call.body) for call in web_receiver.received]
    assert [item["event"] for item in told] == ["connection_down", "connection_up"]
    rows = watch.rows(connection_health)
    assert [row["status"] for row in rows] == ["up", "down", "down", "down", "up", "up"]
    assert [row["failures"] for row in rows] == [0, 1, 1, 1, 0, 0]
    assert rows[1]["reason"] == "timeout"
    assert rows[0]["latency_us"] > 0
    assert rows[1]["latency_us"] is None
    assert {row["subject"] for row in watch.rows(system_metrics)} >= {"host"}


def test_dead_servers_hold_up_no_other(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "COLLECT_SECONDS", 3.0)
    with ExitStack() as stack:
        proxy = stack.enter_context(stalling_proxy(postgresql.port))
        proxy.stall(new_connections_too=True)
        dead = {**WATCH, "timeout_seconds": 30}
        records = [connection_of(postgresql, f"dead_{n}", port=proxy.port, monitor=dead) for n in range(8)]
        watch = Watch(catalog, instance, connection_of(postgresql), *records)
        started = time.monotonic()
        outcomes, text = Monitor(catalog).watch_logs(catalog.snapshot(), seconds=3)
        assert time.monotonic() - started < 20
        assert [outcome.connection for outcome in outcomes] == ["shop"]
        assert "8 have not answered yet" in text
        assert len(watch.rows(wal_metrics)) == 1


def test_what_ends_late_is_stored_by_the_next_evaluation(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase
) -> None:
    with stalling_proxy(postgresql.port) as proxy:
        proxy.stall(new_connections_too=True)
        watch = Watch(catalog, instance, connection_of(postgresql, port=proxy.port))
        monitor = Monitor(catalog)
        outcomes, text = monitor.watch_logs(catalog.snapshot(), seconds=0.1)
        assert outcomes == []
        assert "1 have not answered yet" in text
        outcomes, text = monitor.watch_logs(catalog.snapshot(), seconds=30)
        assert "no answer within 2 s" in text
        [row] = watch.rows(wal_metrics)
        assert (row["looks"], row["failures"]) == (0, 1)
        assert "no answer within 2 s" in row["error"]


def test_a_sealed_vault_changes_nothing(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase
) -> None:
    secret = LiteralSecret(value="canary-password")
    watch = Watch(
        catalog, instance, connection_of(postgresql, password=secret), connection_of(postgresql, "open", monitor=WATCH)
    )
    catalog.vault.seal()
    sealed = Catalog.open(catalog.settings)
    with sealed:
        watch.catalog = sealed
        for name in (WAL_SENSOR_NAME, HEALTH_SENSOR_NAME):
            data = watch.look(name)
            assert "sealed" in (data.skip_message or "")
            assert data.asset_events == []
        assert watch.rows(wal_metrics) == []
        assert watch.rows(connection_health) == []
        assert watch.history.read_states(["wal/shop", "health/shop"]) == []
    catalog.vault.unlock(remember=False, password=MASTER_PASSWORD)
    watch.catalog = catalog
    assert watch.look().skip_message == "looked at 2 logs"
    watch.look(HEALTH_SENSOR_NAME)
    assert len(watch.rows(connection_health)) == 2


def test_a_restart_is_one_row_and_no_absurd_rate(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase
) -> None:
    watch = Watch(catalog, instance, connection_of(postgresql))
    watch.look()
    postgresql.server.stop("immediate")
    watch.look()
    postgresql.server.start()
    watch.look()
    watch.look()
    rows = watch.rows(wal_metrics)
    assert [row["failures"] for row in rows] == [0, 1, 0, 0]
    assert [row["restarts"] for row in rows] == [0, None, 1, 0]
    assert all(row["wal_bytes"] is None or 0 <= row["wal_bytes"] < 1024**3 for row in rows)
    # It spans the time in which nobody answered.
    assert rows[2]["wal_ms"] is None or rows[2]["wal_ms"] >= 100


def test_connections_that_say_no_are_not_tested(
    catalog: Catalog, instance: dg.DagsterInstance, postgresql: PostgresqlDatabase
) -> None:
    watch = Watch(
        catalog,
        instance,
        connection_of(postgresql, monitor={"health": False}),
        connection_of(postgresql, "other", monitor=None),
    )
    watch.look(HEALTH_SENSOR_NAME)
    assert len(watch.rows(connection_health)) == 1
    names = [item.name for item in build_monitor_sensors(catalog.snapshot(), lambda: catalog)]
    assert names == [HEALTH_SENSOR_NAME]


def test_one_object_looks_in_a_process(catalog: Catalog) -> None:
    assert monitor_of(catalog) is monitor_of(catalog)
