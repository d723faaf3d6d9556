"""The sensor that tells alerts: it finds what happened, queues it, and makes the attempts that are due.

Guarantee: what was found is stored before it is told, and each attempt's outcome before the next one, so that a crash
loses nothing; an attempt whose outcome was not stored is made again, with the same event id.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType

from synqx_dagster.alerts.delivery import deliver
from synqx_dagster.alerts.messages import AlertEvent
from synqx_dagster.alerts.queue import AlertQueue
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import find_seal_reason, needs_vault
from synqx_dagster.defs.alert_events import AlertMemory, begin_memory, take_events
from synqx_dagster.defs.monitor_events import begin_changes, take_changes
from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.defs.sensors import location_of
from synqx_dagster.errors import SealedError, SynqxError
from synqx_dagster.model import Alert

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

#: One look at a time in this process.
_looking = threading.Lock()

ALERT_SENSOR_NAME = "synqx_alerts"
INTERVAL_SECONDS = 15
#: No attempt begins later than this in one evaluation: Dagster ends it after 60 s.
DELIVERY_SECONDS = 25.0


@dataclass
class AlertState:
    """What is kept between looks and over restarts."""

    memory: AlertMemory
    queues: dict[str, AlertQueue] = field(default_factory=dict)

    def to_json(self) -> str:
        """As it is stored."""
        queues = {name: queue.to_dict() for name, queue in self.queues.items()}
        return json.dumps({"memory": self.memory.to_dict(), "queues": queues})

    @classmethod
    def from_json(cls, text: str) -> AlertState:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        queues = {name: AlertQueue.from_dict(item) for name, item in values["queues"].items()}
        return cls(AlertMemory.from_dict(values["memory"]), queues)


def load_state(instance: dg.DagsterInstance, catalog: Catalog, location: str | None = None) -> AlertState | None:
    """What is kept of a catalog's alerts in a code location; None before the first look."""
    key = _key_of(catalog, location)
    text = instance.daemon_cursor_storage.get_cursor_values({key}).get(key)
    try:
        return AlertState.from_json(text) if text else None
    except (ValueError, TypeError, KeyError, AttributeError):
        logger.warning("what was kept of alerts was written by another version of SynqX: they begin anew")
        return None


def _key_of(catalog: Catalog, location: str | None) -> str:
    return f"{METADATA_PREFIX}alerts/{catalog.catalog_id}/{location or ''}"


def build_alert_sensor(snapshot: CatalogSnapshot, get_catalog: Callable[[], Catalog]) -> dg.SensorDefinition:
    """The sensor over all alerts of a snapshot."""

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        done = tell_alerts(context.instance, get_catalog(), snapshot, location=location_of(context))
        return dg.SkipReason("\n".join(done))

    return dg.SensorDefinition(
        name=ALERT_SENSOR_NAME,
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the alerts of the catalog what happened: by webhook, Slack or mail.",
    )


def tell_alerts(
    instance: dg.DagsterInstance,
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    now: datetime | None = None,
    *,
    location: str | None = None,
) -> list[str]:
    """Look once, and make the attempts that are due; returns what was done, in words."""
    # Dagster gives up an evaluation that takes too long, and begins another one while it goes on.
    if not _looking.acquire(blocking=False):
        return ["the look before this one has not ended"]
    try:
        return _tell_all(instance, catalog, snapshot, now or datetime.now(UTC), location)
    finally:
        _looking.release()


def _tell_all(
    instance: dg.DagsterInstance, catalog: Catalog, snapshot: CatalogSnapshot, moment: datetime, location: str | None
) -> list[str]:
    def save(state: AlertState) -> None:
        instance.daemon_cursor_storage.set_cursor_values({_key_of(catalog, location): state.to_json()})

    state = load_state(instance, catalog, location)
    if state is None:
        # What happened before there were alerts is nobody's surprise.
        save(AlertState(begin_memory(moment, begin_changes(catalog))))
        return ["alerts begin now: what happens from here on is told"]
    alerts = {alert.name: alert for alert in snapshot.alerts.values() if alert.enabled}
    state.queues = {name: queue for name, queue in state.queues.items() if name in snapshot.alerts}
    events = [
        *take_events(instance, snapshot, state.memory, moment, location),
        *take_changes(catalog, state.memory, moment),
    ]
    for alert in alerts.values():
        queue = state.queues.setdefault(alert.name, AlertQueue())
        for event in events:
            if concerns(alert, event):
                # What was found late is no younger for it.
                occurred = datetime.fromisoformat(event.occurred_at).timestamp()
                queue.add(event, min(moment.timestamp(), occurred))
    save(state)
    deadline = time.monotonic() + DELIVERY_SECONDS
    done = [
        _tell(alert, state.queues[alert.name], catalog, moment, deadline, save=partial(save, state))
        for alert in alerts.values()
    ]
    return [line for line in done if line] or ["nothing to tell"]


def concerns(alert: Alert, event: AlertEvent) -> bool:
    """Whether an alert is about an event."""
    if event.event_type not in alert.events:
        return False
    mappings = frozenset(event.mappings)
    if event.event_type == "quarantine_threshold":
        mappings = frozenset(name for name, rows in event.quarantine.items() if rows >= alert.quarantine_rows)
        if not mappings:
            return False
    return alert.covers(
        pipelines=frozenset(event.pipelines),
        mappings=mappings,
        schedules=frozenset(event.schedules),
        connections=frozenset(event.connections),
        replications=frozenset(event.replications),
    )


def _tell(
    alert: Alert, queue: AlertQueue, catalog: Catalog, moment: datetime, deadline: float, *, save: Callable[[], None]
) -> str | None:
    """Make the attempts of one alert that are due; says what came of them."""
    told = 0
    started = time.monotonic()
    while time.monotonic() < deadline:
        now = moment.timestamp() + time.monotonic() - started
        waiting = len(queue.pending)
        item = queue.next_due(now, alert.max_per_hour)
        if item is None:
            if len(queue.pending) != waiting:
                save()
            break
        reason = find_seal_reason(catalog, secrets_needed=needs_vault(alert))
        if reason is not None:
            return f"{alert.name}: {waiting} wait, because the vault is sealed: {reason}"
        queue.begin(now)
        save()
        try:
            deliver(
                alert,
                item.event,
                queue.untold(),
                partial(catalog.resolve_secret, alert),
                host_policy=catalog.settings.host_policy,
            )
        except SealedError as exc:
            queue.take_back()
            save()
            return f"{alert.name}: {waiting} wait, because the vault is sealed: {exc}"
        except SynqxError as exc:
            logger.warning("%s", exc)
            if exc.context.get("delivered"):
                queue.succeeded(now)
            else:
                queue.failed(str(exc))
                save()
                break
        except Exception as exc:  # noqa: BLE001 # The other alerts must be told; and what it says may hold a secret.
            queue.failed(f"alert {alert.name!r}: {type(exc).__name__} that SynqX did not expect")
            logger.warning("%s", queue.last_error)
            save()
            break
        else:
            queue.succeeded(now)
            told += 1
        save()
    parts = [f"told {told}"] if told else []
    if queue.pending:
        parts.append(f"{len(queue.pending)} wait")
    if queue.last_error is not None:
        parts.append(f"the last attempt failed: {queue.last_error}")
    parts += queue.untold().lines()
    return f"{alert.name}: {'; '.join(parts)}" if parts else None


def report_alerts(instance: dg.DagsterInstance, catalog: Catalog, alerts: list[Alert]) -> list[dict[str, Any]]:
    """How alerts do, as plain values, in the given order; those of several code locations together."""
    states = [load_state(instance, catalog, location) for location in _find_locations(instance)]
    reports = []
    for alert in alerts:
        queues = [state.queues[alert.name] for state in states if state is not None and alert.name in state.queues]
        sent_at = max((queue.last_sent_at for queue in queues if queue.last_sent_at is not None), default=None)
        reports.append(
            {
                "name": alert.name,
                "enabled": alert.enabled,
                "channel": next(name for name in ("webhook", "slack", "email") if getattr(alert, name) is not None),
                "events": list(alert.events),
                "waiting": sum(len(queue.pending) for queue in queues),
                "last_sent_at": datetime.fromtimestamp(sent_at, UTC) if sent_at is not None else None,
                "last_error": next((queue.last_error for queue in queues if queue.last_error is not None), None),
                "suppressed": _sum(queue.suppressed for queue in queues),
                "given_up": _sum(queue.given_up for queue in queues),
            }
        )
    return reports


def _sum(counts: Iterable[Counter[str]]) -> dict[str, int]:
    return dict(sum(counts, Counter[str]()))


def _find_locations(instance: dg.DagsterInstance) -> list[str | None]:
    """The code locations that tell alerts; and None, for whoever looks without being in one."""
    states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    names = {
        state.origin.repository_origin.code_location_origin.location_name
        for state in states
        if state.instigator_name == ALERT_SENSOR_NAME
    }
    return [None, *sorted(names)]
