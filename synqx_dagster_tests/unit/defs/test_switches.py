"""The catalog's `enabled` and a switch in the web UI: they agree again, whoever moved and in whatever order."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorData,
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.defs.switches import AUTHOR, find_states, press, set_enabled, sync_switches
from synqx_dagster.model import Record, Schedule, Sensor
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping, schedule


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as opened:
        yield opened


@pytest.fixture
def declared(catalog: Catalog) -> Catalog:
    sensor = Sensor(
        name="changed", type="source_changed", mapping="customers", connection="shop", table="t", column="id"
    )
    records: list[Record] = [
        *(connection("shop"), connection("warehouse"), mapping("customers")),
        *(schedule("nightly", mapping="customers"), sensor),
    ]
    apply_changes(catalog, plan_changes(catalog, definitions(*records)), author="tester", reason=None)
    return catalog


def switch(
    instance: dg.DagsterInstance,
    name: str,
    status: InstigatorStatus,
    kind: InstigatorType = InstigatorType.SCHEDULE,
    location: str = "synqx",
) -> None:
    """What a press in the web UI leaves in Dagster's storage."""
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(
            ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), location), "__repository__"
        ),
        name,
    )
    data: InstigatorData = ScheduleInstigatorData("0 2 * * *", 1.0)
    if kind == InstigatorType.SENSOR:
        data = SensorInstigatorData(cursor="kept")
    state = InstigatorState(origin, kind, status, data)
    before = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
    if before is None:
        instance.add_instigator_state(state)
    else:
        instance.update_instigator_state(before.with_status(status))


def status_of(instance: dg.DagsterInstance, name: str) -> InstigatorStatus:
    states = {state.instigator_name: state for state in instance.all_instigator_state()}
    return states[name].status


def sync(instance: dg.DagsterInstance, catalog: Catalog) -> list[str]:
    """One look of a code server that has loaded the latest revision."""
    return sync_switches(instance, catalog, catalog.snapshot(), marker=SENSOR_NAME, location="synqx")


def enable(catalog: Catalog, name: str, enabled: bool) -> Schedule:
    snapshot = catalog.snapshot()
    record = snapshot.get_schedule(name).model_copy(update={"enabled": enabled})
    set_enabled(catalog, snapshot, [record], author="tester", reason=None)
    return record


def test_a_stop_in_the_web_ui_becomes_a_revision(instance, declared):
    switch(instance, "nightly", InstigatorStatus.STOPPED)
    assert sync(instance, declared) == ["schedule nightly was stopped by hand"]
    assert not declared.snapshot().get_schedule("nightly").enabled
    newest = declared.history(1)[0]
    assert (newest.number, newest.author) == (2, AUTHOR)
    # The code server has loaded revision 2 now: what was stored by hand is taken back.
    assert sync(instance, declared) == []
    assert status_of(instance, "nightly") == InstigatorStatus.DECLARED_IN_CODE
    assert declared.latest_revision() == 2


def test_a_start_in_the_web_ui_becomes_a_revision(instance, declared):
    enable(declared, "nightly", False)
    sync(instance, declared)
    switch(instance, "nightly", InstigatorStatus.RUNNING)
    assert sync(instance, declared) == ["schedule nightly was started by hand"]
    assert declared.snapshot().get_schedule("nightly").enabled


def test_a_sensor_keeps_its_cursor(instance, declared):
    switch(instance, "changed", InstigatorStatus.STOPPED, InstigatorType.SENSOR)
    assert sync(instance, declared) == ["sensor changed was stopped by hand"]
    sync(instance, declared)
    (state,) = instance.all_instigator_state()
    assert state.status == InstigatorStatus.DECLARED_IN_CODE
    assert isinstance(state.instigator_data, SensorInstigatorData)
    assert state.instigator_data.cursor == "kept"


def test_of_two_changes_the_catalogs_wins(instance, declared):
    sync(instance, declared)
    switch(instance, "nightly", InstigatorStatus.STOPPED)
    sync(instance, declared)
    # Somebody applies `enabled: true`, and nobody looked at the switch meanwhile.
    switch(instance, "nightly", InstigatorStatus.STOPPED)
    enable(declared, "nightly", True)
    assert sync(instance, declared) == []
    assert declared.snapshot().get_schedule("nightly").enabled
    assert status_of(instance, "nightly") == InstigatorStatus.DECLARED_IN_CODE


def test_the_command_line_takes_effect_before_the_code_is_loaded_again(instance, declared):
    switch(instance, SENSOR_NAME, InstigatorStatus.DECLARED_IN_CODE, InstigatorType.SENSOR)
    switch(instance, "nightly", InstigatorStatus.RUNNING)
    sync(instance, declared)
    switch(instance, "nightly", InstigatorStatus.RUNNING)
    press(instance, [enable(declared, "nightly", False)], marker=SENSOR_NAME)
    assert status_of(instance, "nightly") == InstigatorStatus.STOPPED
    assert sync(instance, declared) == []
    assert not declared.snapshot().get_schedule("nightly").enabled
    assert status_of(instance, "nightly") == InstigatorStatus.DECLARED_IN_CODE


def test_another_location_is_left_alone(instance, declared):
    switch(instance, SENSOR_NAME, InstigatorStatus.DECLARED_IN_CODE, InstigatorType.SENSOR)
    switch(instance, "nightly", InstigatorStatus.STOPPED, location="somebody-elses")
    assert sync(instance, declared) == []
    press(instance, [declared.snapshot().get_schedule("nightly")], marker=SENSOR_NAME)
    assert status_of(instance, "nightly") == InstigatorStatus.STOPPED
    assert find_states(instance, marker=SENSOR_NAME, by_hand=True) == {}


def test_somebody_who_was_first_is_followed_later(instance, declared):
    snapshot = declared.snapshot()
    enable(declared, "nightly", False)
    switch(instance, "changed", InstigatorStatus.STOPPED, InstigatorType.SENSOR)
    assert sync_switches(instance, declared, snapshot, marker=SENSOR_NAME, location="synqx") == []
    assert sync(instance, declared) == ["sensor changed was stopped by hand"]
    assert not declared.snapshot().get_schedule("nightly").enabled
