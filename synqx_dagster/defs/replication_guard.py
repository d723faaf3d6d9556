"""The sensor that guards sources' disks from slots, and what it does to other work.

It looks at the slots of all replications, the paused ones above all: nobody reads these, and they keep every byte.
Only what it has disabled itself is enabled again, and only where nobody has changed it since.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import find_seal_reason, needs_vault
from synqx_dagster.defs.failures import describe_error
from synqx_dagster.defs.jobs import connections_of
from synqx_dagster.defs.replication_sensors import find_run
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.switches import set_enabled
from synqx_dagster.errors import ConflictError, NotFoundError, RetryableError, SealedError, SynqxError
from synqx_dagster.model import Connection, Replication, Schedule, Sensor
from synqx_dagster.replication.guard import Verdict, judge
from synqx_dagster.replication.operations import drop
from synqx_dagster.replication.status import drop_endangered, read_book, read_slot_wal

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

GUARD_SENSOR_NAME = "synqx_wal_guard"
INTERVAL_SECONDS = 60
#: Sources that are asked at the same time, and how long one may take to answer. Dagster ends an evaluation after 60 s.
_SOURCES = 8
_SECONDS = 40.0

#: Who writes the revisions.
AUTHOR = "the WAL guard"


@dataclass
class GuardState:
    """What the guard has done for one replication.

    Attributes:
        paused: Schedules and sensors that it disabled, as ``kind:name``.
        settled_at: The revision that ended a replication which was removed, once nothing of it is left at its source.
    """

    paused: list[str] = field(default_factory=list)
    settled_at: int = 0


def read_cursor(text: str | None) -> dict[str, GuardState]:
    """States by replication; what another version wrote is forgotten."""
    try:
        values: dict[str, Any] = json.loads(text or "{}")
        return {
            name: GuardState([str(item) for item in state["paused"]], int(state.get("settled_at", 0)))
            for name, state in values.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_cursor(states: dict[str, GuardState]) -> str:
    """As Dagster keeps it."""
    kept = {name: asdict(state) for name, state in sorted(states.items()) if state.paused or state.settled_at}
    return json.dumps(kept)


def build_guard_sensor(snapshot: CatalogSnapshot, get_catalog: Callable[[], Catalog]) -> dg.SensorDefinition:
    """The sensor over the slots of all replications of a snapshot."""

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        states = read_cursor(context.cursor)
        lines = guard_slots(context.instance, get_catalog(), snapshot, states)
        for line in lines:
            context.log.warning(line)
        said = "\n".join(lines) or "every slot is within its limits"
        return dg.SensorResult(skip_reason=said, cursor=write_cursor(states))

    return dg.SensorDefinition(
        name=GUARD_SENSOR_NAME,
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks after slots that keep too much write-ahead log, also those of paused replications.",
    )


def guard_slots(
    instance: dg.DagsterInstance, catalog: Catalog, snapshot: CatalogSnapshot, states: dict[str, GuardState]
) -> list[str]:
    """Look at every slot once, and do what the policies say; moves `states`. Gives what is to be said."""
    replications = list(snapshot.replications.values())
    deadline = time.monotonic() + _SECONDS
    lines: list[str] = []
    with ThreadPoolExecutor(_SOURCES, thread_name_prefix="wal-guard") as pool:
        looks = [(item, pool.submit(_judge, item, snapshot, catalog, deadline)) for item in replications]
        for replication, look in looks:
            state = states.setdefault(replication.name, GuardState())
            try:
                verdict = look.result()
            except SynqxError as exc:
                # Of a source that cannot be asked nothing is known; what was paused stays so.
                lines.append(f"{replication.name}: could not look: {describe_error(exc)}")
                continue
            if verdict is None or verdict.level == "ok":
                lines += _resume(catalog, replication, state)
                continue
            lines.append(f"{replication.name}: the slot {replication.slot_name}: {verdict.text}")
            if verdict.level == "act":
                lines += _act(instance, catalog, snapshot, replication, state, verdict)
    for name in catalog.removed_names("replication"):
        state = states.setdefault(name, GuardState())
        # A replication that is gone keeps nothing disabled, and no slot.
        state.paused = resume_others(catalog, name, state.paused) if state.paused else []
        try:
            lines += _settle_removed(instance, catalog, snapshot, name, state)
        except SynqxError as exc:
            lines.append(f"{name} was removed, and may have left a slot: {describe_error(exc)}")
    return lines


def _settle_removed(
    instance: dg.DagsterInstance, catalog: Catalog, snapshot: CatalogSnapshot, name: str, state: GuardState
) -> list[str]:
    """Drop what a replication that was removed has left at its source, if its target says that it was made there."""
    last = catalog.versions("replication", name)[-1]
    if state.settled_at == last.valid_to:
        return []
    replication = last.decode()
    assert isinstance(replication, Replication)
    if find_run(instance, replication) is not None:
        return []
    lines = []
    if not any(_shares_slot(replication, other) for other in snapshot.replications.values()):
        ends = [
            _last_connection(catalog, snapshot, end)
            for end in (replication.source_connection, replication.target_connection)
        ]
        reason = find_seal_reason(catalog, secrets_needed=any(map(needs_vault, ends)))
        if reason is not None:
            raise SealedError(reason)
        resources = [ConnectionResource(connection, lambda: catalog) for connection in ends]
        try:
            book, _ = read_book(replication, resources[1].connector)
            if book.slot == replication.slot_name and book.position is not None:
                dropped = drop(replication, resources[0].connector, resources[1].connector)
                lines = [f"{name} was removed from the catalog: {line}" for line in dropped.lines[:2]]
        finally:
            for resource in resources:
                resource.close()
    state.settled_at = last.valid_to or 0
    return lines


def _shares_slot(one: Replication, other: Replication) -> bool:
    return (one.source_connection, one.slot_name) == (other.source_connection, other.slot_name)


def _last_connection(catalog: Catalog, snapshot: CatalogSnapshot, name: str) -> Connection:
    """A connection as it is, or as it was when it was removed."""
    if name in snapshot.connections:
        return snapshot.get_connection(name)
    found = catalog.versions("connection", name)[-1].decode()
    assert isinstance(found, Connection)
    return found


def _judge(replication: Replication, snapshot: CatalogSnapshot, catalog: Catalog, deadline: float) -> Verdict | None:
    """What the guard says of a slot; None where there is none."""
    connection = snapshot.get_connection(replication.source_connection)
    if time.monotonic() > deadline:
        raise RetryableError("the other sources took too long to answer; it is its turn next time")
    if (reason := find_seal_reason(catalog, secrets_needed=needs_vault(connection))) is not None:
        raise SealedError(reason)
    resource = ConnectionResource(connection, lambda: catalog)
    try:
        wal = read_slot_wal(replication, resource.connector)
        return None if wal is None else judge(replication.wal_guard, wal)
    finally:
        resource.close()


def _act(
    instance: dg.DagsterInstance,
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    replication: Replication,
    state: GuardState,
    verdict: Verdict,
) -> list[str]:
    if verdict.action == "pause":
        done = pause_others(catalog, replication, verdict.text)
        state.paused = list(dict.fromkeys([*state.paused, *done]))
        return [f"{replication.name}: paused until it is over: {', '.join(state.paused)}"] if state.paused else []
    if find_run(instance, replication) is not None:
        # A run that reads the slot looks after it itself.
        return []
    ends = (replication.source_connection, replication.target_connection)
    resources = [ConnectionResource(snapshot.get_connection(name), lambda: catalog) for name in ends]
    try:
        drop_endangered(replication, resources[0].connector, resources[1].connector, verdict.text)
    except SynqxError as exc:
        return [f"{replication.name}: the slot could not be dropped: {describe_error(exc)}"]
    finally:
        for resource in resources:
            resource.close()
    return [
        f"{replication.name}: the slot was dropped, and its tables must be copied anew:"
        f" `synqx replications resync {replication.name}`"
    ]


def _resume(catalog: Catalog, replication: Replication, state: GuardState) -> list[str]:
    if not state.paused:
        return []
    paused = state.paused
    state.paused = resume_others(catalog, replication.name, paused)
    return [] if state.paused else [f"{replication.name}: it is over; started again: {', '.join(paused)}"]


# --- other work -------------------------------------------------------------------------------------------------------


def pause_others(catalog: Catalog, replication: Replication, why: str) -> list[str]:
    """Disable what loads from or into the replication's source; gives ``kind:name`` of what was disabled now."""
    snapshot = catalog.latest_snapshot()
    found = [record for record in iter_others(snapshot, replication.source_connection) if record.enabled]
    return _switch(catalog, snapshot, found, enabled=False, reason=f"replication {replication.name}: {why}"[:1000])


def resume_others(catalog: Catalog, replication: str, names: Iterable[str]) -> list[str]:
    """Enable what was disabled before; gives what is not settled yet."""
    names = list(names)
    snapshot = catalog.latest_snapshot()
    found = []
    for name in names:
        record = _find(snapshot, name)
        # Who enabled it, or wrote it anew, has decided since.
        if record is not None and not record.enabled and _was_ours(catalog, record):
            found.append(record)
    if not found:
        return []
    reason = f"replication {replication}: its slot is within its limits again"
    return [] if _switch(catalog, snapshot, found, enabled=True, reason=reason) else names


def iter_others(snapshot: CatalogSnapshot, connection: str) -> Iterator[Schedule | Sensor]:
    """Schedules and sensors whose runs use a connection."""
    records: list[Schedule | Sensor] = [*snapshot.schedules.values(), *snapshot.sensors.values()]
    for record in records:
        pipelines = record.pipeline_names if isinstance(record, Schedule) else _pipelines_of(record)
        mappings = [*record.mapping_names]
        try:
            for name in pipelines:
                mappings += snapshot.get_pipeline(name).mapping_names
            if connection in connections_of(snapshot, mappings, pipelines):
                yield record
        except NotFoundError:
            continue


def _pipelines_of(sensor: Sensor) -> tuple[str, ...]:
    return () if sensor.pipeline is None else (sensor.pipeline,)


def _find(snapshot: CatalogSnapshot, name: str) -> Schedule | Sensor | None:
    kind, _, rest = name.partition(":")
    return snapshot.schedules.get(rest) if kind == "schedule" else snapshot.sensors.get(rest)


def _was_ours(catalog: Catalog, record: Schedule | Sensor) -> bool:
    """Whether the guard's revision is the last one that changed a record."""
    versions = catalog.versions(record.kind, record.name)
    if not versions:
        return False
    info = catalog.revisions_of([versions[-1].valid_from]).get(versions[-1].valid_from)
    return info is not None and info.author == AUTHOR


def _switch(
    catalog: Catalog, snapshot: CatalogSnapshot, records: list[Schedule | Sensor], *, enabled: bool, reason: str
) -> list[str]:
    if not records:
        return []
    changed = [record.model_copy(update={"enabled": enabled}) for record in records]
    try:
        set_enabled(catalog, snapshot, changed, author=AUTHOR, reason=reason)
    except ConflictError:
        # Somebody else was first: the next look tries again.
        return []
    return [f"{record.kind}:{record.name}" for record in records]
