"""Replications: tables that follow a PostgreSQL database, with the last look at their slot and their last run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from synqx_dagster.api.access import Caller, Requires
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.problems import problems_of
from synqx_dagster.api.record_routes import RecordRoutes, Ref, add_record_routes
from synqx_dagster.api.record_views import ReplicationView
from synqx_dagster.api.records import Writer
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.model import Record, Replication
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["replications"])

Switcher = Annotated[Identity, Depends(Requires(Permission.SCHEDULES_SWITCH))]


class ReplicationSwitch(BaseModel):
    """Whether a replication is started."""

    status: str = Field(description="`started` or `paused`.")
    message: str
    enabled: bool
    revision: int = Field(description="The revision that made it so.")


def how_they_do(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """The last runs and looks of replications, from Dagster's storage."""
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.ticks import report_sensors

    if not stored:
        return ()
    with open_instance(context.settings) as instance:
        return report_sensors(instance, [item.record for item in stored if isinstance(item.record, Replication)])


add_record_routes(
    router,
    RecordRoutes(
        "replication",
        "replications",
        ReplicationView,
        filters=("source_connection", "target_connection", "mode", "enabled"),
        more=how_they_do,
    ),
)


@router.post(
    "/replications/{ref}/start",
    response_model=ReplicationSwitch,
    responses=problems_of(404, 409),
    operation_id="start_replication",
    summary="Let a replication follow its source",
)
def start(context: Context, identity: Switcher, client: Caller, ref: Ref) -> ReplicationSwitch:
    """Its sensor starts runs from here on; the first one makes publication and slot, and copies the tables."""
    return _switch(context, Writer(identity, client), ref, enabled=True)


@router.post(
    "/replications/{ref}/pause",
    response_model=ReplicationSwitch,
    responses=problems_of(404, 409),
    operation_id="pause_replication",
    summary="Let a replication follow its source no more, until it is started",
)
def pause(context: Context, identity: Switcher, client: Caller, ref: Ref) -> ReplicationSwitch:
    """A run in flight finishes its batch and ends. The slot stays, and keeps the source's log."""
    return _switch(context, Writer(identity, client), ref, enabled=False)


def _switch(context: ApiContext, writer: Writer, ref: str, *, enabled: bool) -> ReplicationSwitch:
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.sensors import SENSOR_NAME
    from synqx_dagster.defs.switches import press

    before = context.records.get("replication", ref)
    name = before.record.name

    def switch(record: Record) -> Record:
        return record.model_copy(update={"enabled": enabled})

    word = "started" if enabled else "paused"
    stored = context.records.change(before, switch, writer, reason=f"replication {name} {word}")
    assert isinstance(stored.record, Replication)
    with open_instance(context.settings) as instance:
        press(instance, [stored.record], marker=SENSOR_NAME)
    kept = "" if enabled else "; its slot keeps the source's log until it is started again, or dropped"
    return ReplicationSwitch(
        status=word, message=f"{name} is {word}{kept}", enabled=stored.record.enabled, revision=stored.revision
    )
