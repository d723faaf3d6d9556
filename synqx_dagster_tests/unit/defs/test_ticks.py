"""Schedules and the catalog's sensor, evaluated."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from synqx_dagster import model
from synqx_dagster.defs import sensors
from synqx_dagster.defs.jobs import plan_schedule
from synqx_dagster.defs.schedules import build_schedule
from synqx_dagster.defs.sensors import build_catalog_sensor
from synqx_dagster.errors import NotInitialisedError
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, FakeVault, connection, mapping, snapshot_of


def schedule_of(catalog: FakeCatalog, **fields: Any) -> dg.ScheduleDefinition:
    record = model.Schedule(name="nightly", **{"mapping": "orders", "cron_expression": "0 2 * * *", **fields})
    snapshot = catalog.snapshot()
    anything: Any = catalog
    return build_schedule(record, plan_schedule(record, snapshot), snapshot, lambda: anything)


def catalog_of(*, sealed_secret: bool, vault: FakeVault) -> FakeCatalog:
    records = [mapping("orders")]
    if sealed_secret:
        shop = connection("shop", password={"sealed": True, "version": 1})
        return FakeCatalog({1: snapshot_of(*records, shop)}, vault=vault)
    return FakeCatalog({1: snapshot_of(*records)}, vault=vault)


def tick(schedule: dg.ScheduleDefinition) -> Any:
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 1, 2, tzinfo=UTC))
    return schedule.evaluate_tick(context)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_schedule_has_its_cron_time_zone_and_state(enabled):
    schedule = schedule_of(
        catalog_of(sealed_secret=False, vault=FakeVault()), timezone="Europe/Berlin", enabled=enabled
    )
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.execution_timezone == "Europe/Berlin"
    assert schedule.job_name == "nightly"
    assert schedule.default_status.value == ("RUNNING" if enabled else "STOPPED")


@pytest.mark.parametrize(
    ("sealed_secret", "vault", "runs"),
    [
        (True, FakeVault(opens=True), True),
        (True, FakeVault(opens=False), False),
        (False, FakeVault(opens=False), True),
        (True, FakeVault(opens=True, sealed_by_operator=True), False),
        (False, FakeVault(opens=True, sealed_by_operator=True), False),
        (False, FakeVault(is_initialised=False, opens=False), True),
    ],
)
def test_a_sealed_vault_skips_the_tick_and_says_why(sealed_secret, vault, runs):
    data = tick(schedule_of(catalog_of(sealed_secret=sealed_secret, vault=vault)))
    if runs:
        (request,) = data.run_requests
        assert request.tags["synqx/schedule"] == "nightly"
    else:
        assert not data.run_requests
        assert "sealed" in data.skip_message


def test_an_unsealed_vault_is_not_opened_again():
    catalog = catalog_of(sealed_secret=True, vault=FakeVault())
    schedule = schedule_of(catalog)
    tick(schedule)
    tick(schedule)
    assert catalog.vault.attempts == 1


# --- the sensor -------------------------------------------------------------------------------------------------


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr(sensors, "request_own_reload", lambda: asked.append("reload"))
    return asked


def look(catalog: Any, revision: int | None, problems: tuple[str, ...] = ()) -> Any:
    sensor = build_catalog_sensor(revision, problems, lambda: catalog)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:
        return sensor.evaluate_tick(dg.build_sensor_context(instance=instance))


def test_a_catalog_that_stands_still_asks_for_nothing(reloads):
    data = look(FakeCatalog({4: snapshot_of(revision=4)}), 4, ("mapping bad could not be loaded: why",))
    assert "revision 4" in data.skip_message
    assert "mapping bad could not be loaded: why" in data.skip_message
    assert reloads == []


@pytest.mark.parametrize("loaded", [3, None])
def test_a_catalog_that_moved_asks_for_a_reload(loaded, reloads, monkeypatch):
    monkeypatch.setattr(sensors, "find_own_server", lambda: object())
    data = look(FakeCatalog({4: snapshot_of(revision=4)}), loaded)
    assert "to 4" in data.skip_message
    assert reloads == ["reload"]
    assert data.cursor is None


def test_a_server_that_cannot_reload_says_so(reloads):
    data = look(FakeCatalog({4: snapshot_of(revision=4)}), 3)
    assert "cannot reload" in data.skip_message
    assert reloads == []


def test_without_a_catalog_it_waits(reloads):
    class NoCatalog:
        def latest_revision(self) -> int:
            raise NotInitialisedError

    assert "synqx init" in look(NoCatalog(), None).skip_message
    assert reloads == []
