"""What the guard of a source's disk does to other work: it disables schedules and sensors until the danger is over.

Only what it has disabled itself is enabled again, and only where nobody has changed it since.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.jobs import connections_of
from synqx_dagster.defs.switches import set_enabled
from synqx_dagster.errors import ConflictError, NotFoundError
from synqx_dagster.model import Replication, Schedule, Sensor

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

#: Who writes the revisions.
AUTHOR = "the WAL guard"


def pause_others(catalog: Catalog, replication: Replication, why: str) -> list[str]:
    """Disable what loads from or into the replication's source; gives ``kind:name`` of what was disabled now."""
    snapshot = catalog.latest_snapshot()
    found = [record for record in iter_others(snapshot, replication.source_connection) if record.enabled]
    return _switch(catalog, snapshot, found, enabled=False, reason=f"replication {replication.name}: {why}"[:1000])


def resume_others(catalog: Catalog, replication: Replication, names: Iterable[str]) -> list[str]:
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
    reason = f"replication {replication.name}: its slot is within its limits again"
    return [] if _switch(catalog, snapshot, found, enabled=True, reason=reason) else names


def iter_others(snapshot: CatalogSnapshot, connection: str) -> Iterator[Schedule | Sensor]:
    """Schedules and sensors whose runs use a connection."""
    for record in (*snapshot.schedules.values(), *snapshot.sensors.values()):
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
