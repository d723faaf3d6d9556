"""The sensor that guards sources' disks from slots, and what it does to other work.

It looks at the slots of all replications, the paused ones above all: nobody reads these, and they keep every byte.
Only what it has disabled itself is enabled again, and only where nobody has changed it since; which that is the
catalog's revisions say, so that an evaluation that was ended half-way forgets nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import find_seal_reason, needs_vault
from synqx_dagster.defs.failures import describe_error
from synqx_dagster.defs.jobs import connections_of
from synqx_dagster.defs.monitor_looks import describe_failure
from synqx_dagster.defs.replication_sensors import find_run
from synqx_dagster.defs.replication_troubles import Finding, look_for_troubles, store_findings
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.defs.switches import set_enabled
from synqx_dagster.errors import ConflictError, NotFoundError, SealedError, SlotInUseError, SynqxError
from synqx_dagster.model import Connection, Replication, Schedule, Sensor
from synqx_dagster.monitor.rounds import Outcome, Rounds
from synqx_dagster.replication.guard import Verdict, judge
from synqx_dagster.replication.operations import drop
from synqx_dagster.replication.status import drop_endangered, read_book, read_slot_wal

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

GUARD_SENSOR_NAME = "synqx_wal_guard"
INTERVAL_SECONDS = 60
#: Sources that are asked at the same time.
_SOURCES = 8
#: How long an evaluation waits for databases, and how much of that for the slots. Dagster ends one after 60 s.
_SECONDS = 40.0
_LOOK_SHARE = 0.6
#: How long it waits on for the targets once the slots are done with.
_TROUBLE_SECONDS = 3.0
#: Replications that were removed, and are settled at one evaluation: those first that were tried longest ago.
_SETTLED = 4

#: Who writes the revisions.
AUTHOR = "the WAL guard"
#: How their reasons begin, before the name of the replication.
_REASON = "replication "


@dataclass
class GuardState:
    """What the guard has done for a replication that was removed.

    Attributes:
        settled_at: The revision that ended it, once nothing of it is left at its source.
        tried_at: When it was last tried to settle it, in seconds since 1970.
    """

    settled_at: int = 0
    tried_at: float = 0.0


def read_cursor(text: str | None) -> dict[str, GuardState]:
    """States by replication; what another version wrote is forgotten."""
    try:
        values: dict[str, Any] = json.loads(text or "{}")
        return {
            name: GuardState(int(state.get("settled_at", 0)), float(state.get("tried_at", 0.0)))
            for name, state in values.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def write_cursor(states: dict[str, GuardState]) -> str:
    """As Dagster keeps it."""
    kept = {name: asdict(state) for name, state in sorted(states.items()) if state.settled_at or state.tried_at}
    return json.dumps(kept)


class GuardRounds:
    """What is asked of databases from evaluation to evaluation; one that hangs holds up nothing else."""

    def __init__(self) -> None:
        self.looks: Rounds[Verdict | None] = Rounds("wal-guard", _SOURCES)
        self.settled: Rounds[tuple[int, list[str]]] = Rounds("wal-guard-removed", _SETTLED)
        # Apart from the slots: a target that hangs must not keep a source's disk from being looked after.
        self.troubles: Rounds[dict[str, str] | None] = Rounds("replication-troubles", _SOURCES)


def build_guard_sensor(snapshot: CatalogSnapshot, get_catalog: Callable[[], Catalog]) -> dg.SensorDefinition:
    """The sensor over the slots of all replications of a snapshot."""
    rounds = GuardRounds()

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        states = read_cursor(context.cursor)
        lines = guard_slots(context.instance, get_catalog(), snapshot, states, rounds)
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
    instance: dg.DagsterInstance,
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    states: dict[str, GuardState],
    rounds: GuardRounds | None = None,
    *,
    seconds: float = _SECONDS,
) -> list[str]:
    """Look at every slot once, and do what the policies say; moves `states`. Gives what is to be said."""
    rounds = rounds or GuardRounds()
    deadline = time.monotonic() + seconds
    # What came too late for the evaluation before may not be so any more.
    rounds.looks.collect(0)
    rounds.troubles.collect(0)
    rounds.troubles.begin(
        {
            name: partial(look_for_troubles, item, snapshot, catalog, is_running=partial(_is_running, instance, item))
            for name, item in snapshot.replications.items()
        }
    )
    rounds.looks.begin({name: partial(_judge, item, snapshot, catalog) for name, item in snapshot.replications.items()})
    found = rounds.looks.collect(seconds * _LOOK_SHARE)
    paused = find_paused(catalog, catalog.latest_snapshot())
    lines: list[str] = []
    guarded: dict[str, str] = {}
    acted: set[str] = set()
    for name, replication in snapshot.replications.items():
        # Of a source that cannot be asked nothing is known; what was paused stays so.
        if name not in found:
            lines.append(f"{name}: could not look: its source has not answered yet")
            continue
        verdict, error = found[name].value, found[name].error
        if error is not None:
            lines.append(f"{name}: could not look: {_describe(error)}")
        elif verdict is None or verdict.level == "ok":
            guarded[name] = ""
            lines += _resume(catalog, name) if name in paused else []
        else:
            said = [f"{name}: the slot {replication.slot_name}: {verdict.text}"]
            if verdict.level == "act":
                acted.add(name)
                said += _act(catalog, snapshot, replication, paused.get(name, ()), verdict)
            guarded[name] = "; ".join(line.removeprefix(f"{name}: ") for line in said)
            lines += said
    left = max(0.0, min(_TROUBLE_SECONDS, deadline - time.monotonic()))
    _store_troubles(catalog, snapshot, guarded, acted, rounds.troubles.collect(left))
    for name in sorted(paused.keys() - snapshot.replications.keys()):
        # A replication that is gone keeps nothing disabled, and no slot.
        _resume(catalog, name)
    return lines + _settle(instance, catalog, snapshot, states, rounds.settled, deadline)


def _is_running(instance: dg.DagsterInstance, replication: Replication) -> bool:
    return find_run(instance, replication) is not None


def _store_troubles(
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    guarded: Mapping[str, str],
    acted: Set[str],
    found: Mapping[str, Outcome[dict[str, str] | None]],
) -> None:
    """Store what is the matter with replications, of which alerts tell."""
    findings = {
        name: Finding(guarded.get(name), found[name].value if name in found else None, has_acted=name in acted)
        for name in guarded.keys() | found.keys()
    }
    store_findings(catalog, snapshot, findings)


def _describe(error: Exception) -> str:
    return describe_error(error) if isinstance(error, SynqxError) else describe_failure(error)


# --- replications that were removed -----------------------------------------------------------------------------------


def _settle(
    instance: dg.DagsterInstance,
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    states: dict[str, GuardState],
    rounds: Rounds[tuple[int, list[str]]],
    deadline: float,
) -> list[str]:
    """Settle a few of the replications that were removed; the others have their turn next time."""
    removed = catalog.removed_names("replication")
    begun = 0
    for name in sorted(removed, key=lambda name: (states.setdefault(name, GuardState()).tried_at, name)):
        if begun >= _SETTLED or time.monotonic() > deadline:
            break
        last = catalog.versions("replication", name)[-1]
        if states[name].settled_at == last.valid_to:
            continue
        replication = last.decode()
        assert isinstance(replication, Replication)
        if find_run(instance, replication) is not None:
            continue
        states[name].tried_at = time.time()
        begun += len(rounds.begin({name: partial(_settle_removed, catalog, snapshot, replication, last.valid_to or 0)}))
    lines: list[str] = []
    for name, outcome in rounds.collect(max(0.0, deadline - time.monotonic())).items():
        if outcome.error is not None:
            lines.append(f"{name} was removed, and may have left a slot: {_describe(outcome.error)}")
        elif outcome.value is not None:
            states.setdefault(name, GuardState()).settled_at, said = outcome.value
            lines += said
    return lines


def _settle_removed(
    catalog: Catalog, snapshot: CatalogSnapshot, replication: Replication, ended_at: int
) -> tuple[int, list[str]]:
    """Drop what a replication that was removed has left at its source, if its target says that it was made there."""
    name = replication.name
    lines: list[str] = []
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
            # By now it may have been made again.
            is_free = not any(
                _shares_slot(replication, other) for other in catalog.latest_snapshot().replications.values()
            )
            if is_free and book.slot == replication.slot_name and book.position is not None:
                dropped = drop(replication, resources[0].connector, resources[1].connector)
                lines = [f"{name} was removed from the catalog: {line}" for line in dropped.lines[:2]]
        finally:
            for resource in resources:
                resource.close()
    return ended_at, lines


def _shares_slot(one: Replication, other: Replication) -> bool:
    return (one.source_connection, one.slot_name) == (other.source_connection, other.slot_name)


def _last_connection(catalog: Catalog, snapshot: CatalogSnapshot, name: str) -> Connection:
    """A connection as it is, or as it was when it was removed."""
    if name in snapshot.connections:
        return snapshot.get_connection(name)
    found = catalog.versions("connection", name)[-1].decode()
    assert isinstance(found, Connection)
    return found


# --- slots ------------------------------------------------------------------------------------------------------------


def _judge(replication: Replication, snapshot: CatalogSnapshot, catalog: Catalog) -> Verdict | None:
    """What the guard says of a slot; None where there is none."""
    connection = snapshot.get_connection(replication.source_connection)
    if (reason := find_seal_reason(catalog, secrets_needed=needs_vault(connection))) is not None:
        raise SealedError(reason)
    resource = ConnectionResource(connection, lambda: catalog)
    try:
        wal = read_slot_wal(replication, resource.connector)
        return None if wal is None else judge(replication.wal_guard, wal)
    finally:
        resource.close()


def _act(
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    replication: Replication,
    paused: Sequence[Schedule | Sensor],
    verdict: Verdict,
) -> list[str]:
    if verdict.action == "pause":
        done = pause_others(catalog, replication, verdict.text)
        names = dict.fromkeys([*map(_label, paused), *done])
        return [f"{replication.name}: paused until it is over: {', '.join(names)}"] if names else []
    ends = (replication.source_connection, replication.target_connection)
    resources = [ConnectionResource(snapshot.get_connection(name), lambda: catalog) for name in ends]
    try:
        drop_endangered(replication, resources[0].connector, resources[1].connector, verdict.text)
    except SlotInUseError:
        # A run that reads the slot looks after it itself. One that copies does not, however long it does.
        return []
    except SynqxError as exc:
        return [f"{replication.name}: the slot could not be dropped: {describe_error(exc)}"]
    finally:
        for resource in resources:
            resource.close()
    return [
        f"{replication.name}: the slot was dropped, and its tables must be copied anew:"
        f" `synqx replications resync {replication.name}`"
    ]


def _resume(catalog: Catalog, name: str) -> list[str]:
    """Enable what was disabled for a replication. Where somebody else is first, the next look tries again."""
    snapshot = catalog.latest_snapshot()
    paused = find_paused(catalog, snapshot).get(name, [])
    reason = _reason(name, "its slot is within its limits again")
    done = _switch(catalog, snapshot, paused, enabled=True, reason=reason)
    return [f"{name}: it is over; started again: {', '.join(done)}"] if done else []


# --- other work -------------------------------------------------------------------------------------------------------


def pause_others(catalog: Catalog, replication: Replication, why: str) -> list[str]:
    """Disable what loads from or into the replication's source; gives ``kind:name`` of what was disabled now."""
    snapshot = catalog.latest_snapshot()
    found = [record for record in iter_others(snapshot, replication.source_connection) if record.enabled]
    return _switch(catalog, snapshot, found, enabled=False, reason=_reason(replication.name, why))


def find_paused(catalog: Catalog, snapshot: CatalogSnapshot) -> Mapping[str, list[Schedule | Sensor]]:
    """What the guard has disabled, by the replication; who enabled it, or wrote it anew, has decided since."""
    found: dict[str, list[Schedule | Sensor]] = {}
    for kind, name, reason in catalog.written_by(AUTHOR):
        record = snapshot.find(kind, name)
        if isinstance(record, Schedule | Sensor) and not record.enabled and (of := _replication_of(reason)) is not None:
            found.setdefault(of, []).append(record)
    return found


def _reason(name: str, why: str) -> str:
    """The reason of a revision. A name may hold what follows it here, so it stands in quotes."""
    return f"{_REASON}{json.dumps(name, ensure_ascii=False)}: {why}"[:1000]


def _replication_of(reason: str | None) -> str | None:
    """The replication for which a revision was written; None where the reason is not the guard's, whoever wrote it."""
    if reason is None or not reason.startswith(_REASON):
        return None
    try:
        name, _ = json.JSONDecoder().raw_decode(reason.removeprefix(_REASON))
    except ValueError:
        return None
    return name if isinstance(name, str) else None


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


def _label(record: Schedule | Sensor) -> str:
    return f"{record.kind}:{record.name}"


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
    return [_label(record) for record in records]
