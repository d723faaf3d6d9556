"""Replications: tables that follow a PostgreSQL database, with the last look at their slot and their last run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from synqx_dagster.api.access import Caller, Requires
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.api.record_routes import RecordRoutes, Ref, add_record_routes
from synqx_dagster.api.record_views import ReplicationView
from synqx_dagster.api.records import Writer
from synqx_dagster.catalog.listing import StoredRecord
from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.model import Record, Replication
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["replications"])

Tester = Annotated[Identity, Depends(Requires(Permission.CONNECTIONS_TEST))]
Switcher = Annotated[Identity, Depends(Requires(Permission.SCHEDULES_SWITCH))]


class ReplicationSwitch(BaseModel):
    """Whether a replication is started."""

    status: str = Field(description="`started` or `paused`.")
    message: str
    enabled: bool
    revision: int = Field(description="The revision that made it so.")


class SlotState(BaseModel):
    """The slot at the source; what its version does not tell is null."""

    active: bool
    held_bytes: int = Field(description="Write-ahead log that the source keeps for it.")
    lag_bytes: int = Field(description="Log behind what the target has; other databases' part included.")
    wal_status: str | None
    safe_wal_bytes: int | None = Field(description="What may be written before the server may give it up.")
    inactive_since: datetime | None


class TableState(BaseModel):
    """One followed table."""

    source: str
    target: str
    status: str = Field(description="`pending`, `copying`, `following` or `stopped`.")
    copied_at: str | None = Field(description="The LSN that its copy shows.")
    reason: str | None


class GuardVerdict(BaseModel):
    """What the WAL guard says of the slot."""

    level: str = Field(description="`ok`, `warn` or `act`.")
    action: str
    text: str


class ReplicationState(BaseModel):
    """How a replication is."""

    name: str
    enabled: bool
    state: str = Field(description="`new`, `copying`, `following`, `degraded` (tables have stopped) or `lost`.")
    reason: str | None
    slot_name: str
    publication_name: str
    slot: SlotState | None
    position: str | None = Field(description="The target has what was committed before this LSN.")
    lag_bytes: int | None
    lag_seconds: float | None
    guard: GuardVerdict
    cost: str | None = Field(description="What it costs that nobody reads the slot.")
    tables: list[TableState]


class ResyncRequest(BaseModel):
    """Which tables; none named: all."""

    model_config = ConfigDict(extra="forbid")

    tables: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(default=[], max_length=10_000)


class ResyncAnswer(BaseModel):
    """What will be copied."""

    message: str
    tables: list[str]


class DropAnswer(BaseModel):
    """What was dropped."""

    message: str
    dropped_slot: bool
    dropped_publication: bool


def how_they_do(context: ApiContext, stored: Sequence[StoredRecord]) -> Sequence[dict[str, Any]]:
    """The last runs and looks of replications, from Dagster's storage."""
    from synqx_dagster.defs.ticks import report_sensors

    if not stored:
        return ()
    return report_sensors(context.instance, [item.record for item in stored if isinstance(item.record, Replication)])


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


@router.get(
    "/replications/{ref}/status",
    response_model=ReplicationState,
    responses=problems_of(404, 409),
    operation_id="get_replication_status",
    summary="How far a replication is, and what its slot keeps",
)
def read_status_of(context: Context, identity: Tester, ref: Ref) -> Any:
    """Asks the source and the target; 502 where one of them does not answer."""
    from synqx_dagster.replication.status import read_status

    record = _record(context, ref)
    with _ends(context, record) as (replication, source, target):
        return ReplicationState.model_validate(read_status(replication, source, target).to_dict())


@router.post(
    "/replications/{ref}/start",
    response_model=ReplicationSwitch,
    responses=problems_of(404, 409),
    operation_id="start_replication",
    summary="Let a replication follow its source",
)
def start(context: Context, identity: Switcher, client: Caller, ref: Ref) -> ReplicationSwitch:
    """Makes publication and slot where they are missing; 409 says what to grant or change at the source where that
    cannot be done. From here on its sensor starts runs, and the first one copies the tables."""
    from synqx_dagster.audit.recording import record_act
    from synqx_dagster.defs.replication_ends import find_loads
    from synqx_dagster.replication.operations import create
    from synqx_dagster.replication.run_plan import refuse_source

    record = _record(context, ref)
    _require_owner(record, identity)
    record_act(context.catalog, "replication.create", kind="replication", name=record.name)
    find_load = find_loads(context.catalog.latest_snapshot(), record.target_connection)
    with _ends(context, record) as (replication, source, target):
        made = create(replication, source, target, find_load)
    if made.source.problems:
        raise refuse_source(record, made.source.problems)
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


@router.post(
    "/replications/{ref}/resync",
    response_model=ResyncAnswer,
    responses=problems_of(404, 409),
    operation_id="resync_replication",
    summary="Have tables copied anew by the next run",
)
def resync(context: Context, identity: Switcher, ref: Ref, wanted: ResyncRequest | None = None) -> ResyncAnswer:
    """Some tables, or all of them; after a slot was lost, all of them. Readers see the old rows until a copy is
    complete."""
    from synqx_dagster.audit.recording import record_act
    from synqx_dagster.replication.operations import resync as mark_for_resync

    record = _record(context, ref)
    _require_owner(record, identity)
    tables = [] if wanted is None else wanted.tables
    detail = ", ".join(tables)[:500] or "all tables"
    record_act(context.catalog, "replication.resync", kind="replication", name=record.name, detail=detail)
    with _ends(context, record) as (replication, source, target):
        marked = mark_for_resync(replication, source, target, tables)
    return ResyncAnswer(
        message=f"{len(marked)} tables of {record.name} will be copied by the next run",
        tables=[str(table) for table in marked],
    )


@router.post(
    "/replications/{ref}/drop",
    response_model=DropAnswer,
    responses=problems_of(404, 409),
    operation_id="drop_replication",
    summary="Pause a replication, and drop its slot and its publication",
)
def drop(context: Context, identity: Switcher, client: Caller, ref: Ref) -> DropAnswer:
    """The target's tables stay as they are, and so does the record: to start it again is to copy its tables again."""
    from synqx_dagster.audit.recording import record_act
    from synqx_dagster.replication.operations import drop as drop_objects

    record = _record(context, ref)
    _require_owner(record, identity)
    if record.enabled:
        _switch(context, Writer(identity, client), ref, enabled=False)
    record_act(context.catalog, "replication.drop", kind="replication", name=record.name)
    with _ends(context, record) as (replication, source, target):
        dropped = drop_objects(replication, source, target)
    return DropAnswer(
        dropped_slot=dropped.slot, dropped_publication=dropped.publication, message="; ".join(dropped.lines)
    )


def _record(context: ApiContext, ref: str) -> Replication:
    record = context.records.get("replication", ref).record
    assert isinstance(record, Replication)
    return record


def _require_owner(record: Replication, identity: Identity) -> None:
    if not identity.owns(record.writers):
        raise ApiError(
            403,
            f"The replication {record.name!r} belongs to {', '.join(record.writers)}",
            hint="one of its owners, or an admin, may do this",
        )


@contextmanager
def _ends(context: ApiContext, record: Replication) -> Iterator[tuple[Replication, Connector, Connector]]:
    from synqx_dagster.defs.replication_ends import open_ends

    with open_ends(context.catalog, context.catalog.latest_snapshot(), record) as ends:
        yield ends


def _switch(context: ApiContext, writer: Writer, ref: str, *, enabled: bool) -> ReplicationSwitch:
    from synqx_dagster.defs.sensors import SENSOR_NAME
    from synqx_dagster.defs.switches import press

    before = context.records.get("replication", ref)
    name = before.record.name

    def switch(record: Record) -> Record:
        return record.model_copy(update={"enabled": enabled})

    word = "started" if enabled else "paused"
    stored = context.records.change(before, switch, writer, reason=f"replication {name} {word}")
    assert isinstance(stored.record, Replication)
    press(context.instance, [stored.record], marker=SENSOR_NAME)
    kept = "" if enabled else "; its slot keeps the source's log until it is started again, or dropped"
    return ReplicationSwitch(
        status=word, message=f"{name} is {word}{kept}", enabled=stored.record.enabled, revision=stored.revision
    )
