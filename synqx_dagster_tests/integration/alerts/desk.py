"""A desk where alerts arrive, and what happens that they tell of."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.defs.alert_sensor import (
    ALERT_SENSOR_NAME,
    tell_alerts,
)
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model import Record
from synqx_dagster_tests.fix_receivers import WebReceiver
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping, pipeline, schedule


class Desk:
    """A catalog with alerts, an instance, and somebody who is told."""

    def __init__(self, catalog: Catalog, instance: dg.DagsterInstance, receiver: WebReceiver) -> None:
        self.catalog, self.instance, self.receiver = catalog, instance, receiver
        self.now = datetime.now(UTC)
        self.location: str | None = None

    def declare(self, **alert: Any) -> None:
        values = {"name": "on_call", "events": ["run_failure", "recovery"], "webhook": {"url": self.receiver.url()}}
        records: list[Record] = [
            *(connection("shop"), connection("warehouse"), mapping("customers"), mapping("orders")),
            *(pipeline("load", "customers"), schedule("hourly", mapping="orders", cron_expression="0 * * * *")),
            build_record("alert", values | alert),
        ]
        plan = plan_changes(self.catalog, definitions(*records))
        apply_changes(self.catalog, plan, author="tester", reason=None)

    def look(self, after_seconds: float = 0) -> list[str]:
        self.now += timedelta(seconds=after_seconds)
        return tell_alerts(self.instance, self.catalog, self.catalog.snapshot(), self.now, location=self.location)

    def told(self) -> list[dict[str, Any]]:
        found = [json.loads(call.body) for call in self.receiver.received]
        self.receiver.received.clear()
        return found


def run(
    instance: dg.DagsterInstance,
    job_name: str,
    error: Exception | None = None,
    *,
    bad_rows: int = 0,
    known_rows: int = 0,
    tags: dict[str, str] | None = None,
    step: str = "customers",
) -> str:
    """A run that has ended, whose one step says that it is of the mapping ``customers``, if it says anything."""

    @dg.op(name=step)
    def customers(context) -> None:  # type: ignore[no-untyped-def] # Dagster reads the annotation, and not its text
        if error is not None:
            raise error
        metadata = {"synqx/mapping": "customers", "synqx/rows_quarantined": bad_rows}
        metadata["synqx/rows_quarantined_before"] = known_rows
        context.log_event(dg.AssetMaterialization("warehouse", metadata=metadata))

    @dg.job(name=job_name)
    def job() -> None:
        customers()

    return job.execute_in_process(instance=instance, raise_on_error=False, tags=tags).run_id


def our_failure() -> dg.Failure:
    """As a load fails."""
    return dg.Failure(
        "2 rows break the contract\nlook at them",
        metadata={"synqx/mapping": "customers", "synqx/error": BadRowsError.__name__},
        allow_retries=False,
    )


def failed_run(instance: dg.DagsterInstance, job_name: str, **values: Any) -> str:
    """A run that failed outside of its steps, just now, before Dagster has said whether it will retry it."""
    made = dg.DagsterRun(job_name=job_name, **values)
    instance.add_run(made)
    for kind in ("PIPELINE_START", "PIPELINE_FAILURE"):
        event = dg.DagsterEvent(kind, job_name, message="")
        instance.run_storage.handle_run_event(made.run_id, event, datetime.now(UTC))
    return made.run_id


def state_of(
    instance: dg.DagsterInstance, since: datetime, name: str = "hourly", location: str = "synqx"
) -> InstigatorState:
    place = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), location)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(place, "__repository__"), name)
    data = ScheduleInstigatorData("0 * * * *", since.timestamp())
    state = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.DECLARED_IN_CODE, data)
    if name == ALERT_SENSOR_NAME:
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    return instance.add_instigator_state(state)
