"""Whether a schedule, sensor or replication runs: the catalog's `enabled` and the web UI's switch, kept the same.

Dagster stores a start or stop by hand, and from then on ignores what the code says. The catalog is the one source of
truth, so a switch by hand becomes a revision, and what Dagster stored is taken back: the code then says the same. Of
a change on each side since they last agreed, the catalog's wins.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.errors import ConflictError
from synqx_dagster.model import Replication, Schedule, Sensor, dagster_name

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

#: Who made a revision that follows a switch by hand.
AUTHOR = "the web UI"

Switchable = Schedule | Sensor | Replication

_TYPES: Mapping[type[Switchable], InstigatorType] = {
    Schedule: InstigatorType.SCHEDULE,
    Sensor: InstigatorType.SENSOR,
    # Started: its sensor looks whether the slot has work.
    Replication: InstigatorType.SENSOR,
}
_BY_HAND = {InstigatorStatus.RUNNING, InstigatorStatus.STOPPED}

#: Dagster's name for the one repository of a code location that is made of `Definitions`, or by SynqX.
_REPOSITORY = "__repository__"


def find_states(
    instance: dg.DagsterInstance, *, marker: str, location: str | None = None, by_hand: bool = False
) -> dict[tuple[InstigatorType, str], InstigatorState]:
    """What Dagster stores of the schedules and sensors of SynqX, by type and name.

    Args:
        marker: A sensor that every code location of SynqX has, and no other.
        location: Only of this code location; left out: of all that have `marker`, or of all while none has run yet.
        by_hand: Only those that somebody started or stopped.
    """
    statuses = _BY_HAND if by_hand else None
    states = list(instance.all_instigator_state(instigator_statuses=statuses))
    ours: set[tuple[str, str]] = set()
    if states and location is None:
        every_sensor = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR) if by_hand else states
        ours = {_place(state) for state in every_sensor if state.instigator_name == marker}
    found = {}
    for state in states:
        place = _place(state)
        if place[1] != _REPOSITORY or (location is not None and place[0] != location):
            continue
        if location is None and ours and place not in ours:
            continue
        found[state.instigator_type, state.instigator_name] = state
    return found


def _place(state: InstigatorState) -> tuple[str, str]:
    origin = state.origin.repository_origin
    return origin.code_location_origin.location_name, origin.repository_name


def iter_switchable(snapshot: CatalogSnapshot) -> Iterable[Switchable]:
    """What can be enabled and disabled."""
    yield from snapshot.schedules.values()
    yield from snapshot.sensors.values()
    yield from snapshot.replications.values()


def sync_switches(
    instance: dg.DagsterInstance, catalog: Catalog, snapshot: CatalogSnapshot, *, marker: str, location: str | None
) -> list[str]:
    """Make Dagster and the catalog agree; writes at most one revision. Idempotent.

    Args:
        snapshot: The latest revision, which is also the one that this code server has loaded.

    Returns:
        What was done, in words; empty when they agreed.
    """
    key = f"{METADATA_PREFIX}switches/{catalog.catalog_id}/{location or ''}"
    stored = instance.daemon_cursor_storage.get_cursor_values({key}).get(key)
    agreed: dict[str, bool] = json.loads(stored) if stored else {}
    states = find_states(instance, marker=marker, location=location, by_hand=True)
    done, adopted, settled = [], [], []
    for record in iter_switchable(snapshot):
        state = states.get((_TYPES[type(record)], dagster_name(record.name)))
        if state is None:
            continue
        pressed = state.status == InstigatorStatus.RUNNING
        moved_here = agreed.get(_key(record), record.enabled) != record.enabled
        if pressed != record.enabled and not moved_here:
            adopted.append(record.model_copy(update={"enabled": pressed}))
            done.append(f"{record.kind} {record.name} was {'started' if pressed else 'stopped'} by hand")
        else:
            # The code that is loaded says the same, or what the catalog has decided since.
            settled.append(state)
    if adopted and not _write(catalog, snapshot, adopted):
        return []
    for state in settled:
        instance.update_instigator_state(state.with_status(InstigatorStatus.DECLARED_IN_CODE))
    wanted = {_key(record): record.enabled for record in iter_switchable(snapshot)}
    wanted |= {_key(record): record.enabled for record in adopted}
    if wanted != agreed:
        instance.daemon_cursor_storage.set_cursor_values({key: json.dumps(wanted)})
    return done


def _key(record: Switchable) -> str:
    return f"{record.kind}:{record.name}"


def _write(catalog: Catalog, snapshot: CatalogSnapshot, records: list[Switchable]) -> bool:
    """Write records as one revision; False when somebody else was first."""
    names = ", ".join(f"{record.kind} {record.name}" for record in records)
    try:
        set_enabled(catalog, snapshot, records, author=AUTHOR, reason=f"started or stopped by hand: {names[:1000]}")
    except ConflictError:
        return False
    return True


def set_enabled(
    catalog: Catalog, snapshot: CatalogSnapshot, records: Iterable[Switchable], *, author: str, reason: str | None
) -> int:
    """Write changed schedules and sensors as one revision after `snapshot`; returns its number.

    Raises:
        ConflictError: Somebody else was first; nothing was changed.
    """
    from synqx_dagster.catalog.apply import apply_changes
    from synqx_dagster.catalog.changes import ChangePlan, compare_records

    changes = [compare_records(snapshot.find(record.kind, record.name), record, frozenset()) for record in records]
    plan = ChangePlan(snapshot.revision, tuple(change for change in changes if change is not None))
    return apply_changes(catalog, plan, author=author, reason=reason)


def press(instance: dg.DagsterInstance, records: Iterable[Switchable], *, marker: str) -> None:
    """Let what somebody started or stopped by hand follow the catalog at once, before the code is loaded again."""
    states = find_states(instance, marker=marker, by_hand=True)
    for record in records:
        state = states.get((_TYPES[type(record)], dagster_name(record.name)))
        wanted = InstigatorStatus.RUNNING if record.enabled else InstigatorStatus.STOPPED
        if state is not None and state.status != wanted:
            instance.update_instigator_state(state.with_status(wanted))
