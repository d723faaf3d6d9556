"""Changes of connections, their logs, replications and the age of tables, as events of alerts.

Guarantee: each change is found once, whoever stored it and however often the sensor of alerts was started since.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from synqx_dagster.alerts.messages import AlertEvent, Trouble
from synqx_dagster.catalog.metrics import MetricsHistory, MonitorEvent
from synqx_dagster.defs.alert_events import AlertMemory

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: What changed longer ago than this is not told any more.
_STALE = timedelta(days=1)


def begin_changes(catalog: Catalog) -> int:
    """What is known to a memory that begins now."""
    return MetricsHistory(catalog).latest_event()


def take_changes(catalog: Catalog, memory: AlertMemory, now: datetime) -> list[AlertEvent]:
    """Changes since `memory` was moved; moves it."""
    history = MetricsHistory(catalog)
    if memory.changes is None:
        memory.changes = history.latest_event()
        return []
    found = history.events_after(memory.changes, since=now - _STALE)
    if found:
        memory.changes = found[-1].number
    return [_alert_event(catalog, event) for event in found]


def _alert_event(catalog: Catalog, event: MonitorEvent) -> AlertEvent:
    body = event.body
    replication, target = body.get("replication"), body.get("target_connection")
    subject = str(body.get("subject") or replication or event.connection)
    return AlertEvent(
        # The catalog's id: two catalogs may tell the same channel.
        f"{event.event_type}:{catalog.catalog_id}:{event.number}",
        event.event_type,
        event.occurred_at.astimezone(UTC).isoformat(),
        subject=subject,
        summary=str(body.get("summary", "")),
        troubles=tuple(Trouble(subject, str(text)) for text in body.get("details", ())),
        connections=(event.connection,) if target is None else (event.connection, str(target)),
        replications=() if replication is None else (str(replication),),
        mappings=tuple(body.get("mappings", ())),
        pipelines=tuple(body.get("pipelines", ())),
        schedules=tuple(body.get("schedules", ())),
    )
