"""What a look becomes in the catalog: a row of figures, what the next look goes on from, and what changed. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from synqx_dagster.catalog.figures import encode_slots
from synqx_dagster.catalog.metrics import Advance, MonitorEvent
from synqx_dagster.catalog.monitor_tables import connection_health, system_metrics, wal_metrics
from synqx_dagster.errors import SynqxError
from synqx_dagster.model.connection import WalThresholds
from synqx_dagster.monitor.health import HealthLook, HealthState, follow_health
from synqx_dagster.monitor.system import HOST, SystemLook
from synqx_dagster.monitor.wal import WalLook, WalSlot
from synqx_dagster.monitor.wal_breaches import WalBreach, find_breaches, track_inactive
from synqx_dagster.monitor.wal_change import WalChange, WalMark, compare

#: Dagster's storage keeps observations for ever, so there are fewer than looks: one in so many seconds, and one with
#: each change.
OBSERVE_SECONDS = 300.0


# --- the write-ahead log --------------------------------------------------------------------------------------------


@dataclass
class WalOutcome:
    """What came of a look at a connection's log.

    Attributes:
        error: Why there is no look.
        observed: Whether Dagster is to be shown it.
    """

    connection: str
    look: WalLook | None = None
    error: str | None = None
    change: WalChange = field(default_factory=WalChange)
    breaches: tuple[WalBreach, ...] = ()
    observed: bool = False


def describe_failure(error: Exception) -> str:
    """Why a look failed: SynqX's own words, and of anything else its kind alone, for it may hold data."""
    if isinstance(error, SynqxError):
        return str(error)
    return f"{type(error).__name__} that SynqX did not expect"


def advance_wal(
    outcome: WalOutcome, thresholds: WalThresholds, before: Mapping[str, Any] | None, now: datetime
) -> Advance:
    """Store a look at a log; fills in what `outcome` says of the look before."""
    state = _WalState.of(before)
    look = outcome.look
    if look is None:
        row = {"sampled_at": now, "connection": outcome.connection, "looks": 0, "failures": 1, "error": outcome.error}
        # What the next look is compared with stays: what was written meanwhile is written then.
        return Advance(state.to_dict(), [(wal_metrics, row)])
    mark = WalMark.of(look)
    outcome.change = compare(state.mark, mark)
    inactive_since = track_inactive(look, state.inactive_since)
    outcome.breaches = find_breaches(look, thresholds, state.breaches, inactive_since)
    # What cannot be seen at the moment has neither broken nor kept its threshold.
    unseen = {key: text for key, text in state.breaches.items() if not _is_seen(key, look)}
    breaches = {**unseen, **{breach.key: breach.message for breach in outcome.breaches}}
    events = list(_wal_events(outcome, state.breaches, breaches))
    outcome.observed = bool(events) or not 0 <= now.timestamp() - state.observed_at < OBSERVE_SECONDS
    after = _WalState(
        mark=mark,
        breaches=breaches,
        inactive_since=inactive_since,
        observed_at=now.timestamp() if outcome.observed else state.observed_at,
    )
    row = {"sampled_at": look.looked_at, "connection": outcome.connection, **wal_figures(look, outcome.change)}
    return Advance(after.to_dict(), [(wal_metrics, {**row, "breaches": len(breaches)})], events)


@dataclass
class _WalState:
    mark: WalMark | None = None
    breaches: Mapping[str, str] = field(default_factory=dict)
    inactive_since: Mapping[str, float] = field(default_factory=dict)
    observed_at: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> _WalState:
        """What was stored; anew where another version of SynqX wrote it."""
        try:
            found = dict(values or {})
            mark = found.get("mark")
            return cls(
                None if mark is None else WalMark.from_dict(mark),
                dict(found.get("breaches", {})),
                {str(name): float(since) for name, since in found.get("inactive_since", {}).items()},
                float(found.get("observed_at", 0.0)),
            )
        except (TypeError, ValueError, AttributeError):
            return cls()

    def to_dict(self) -> dict[str, Any]:
        return {
            "mark": None if self.mark is None else self.mark.to_dict(),
            "breaches": dict(self.breaches),
            "inactive_since": dict(self.inactive_since),
            "observed_at": self.observed_at,
        }


def _is_seen(key: str, look: WalLook) -> bool:
    return (look.archiver if key == "archiver" else look.slots) is not None


def _wal_events(outcome: WalOutcome, before: Mapping[str, str], after: Mapping[str, str]) -> Sequence[MonitorEvent]:
    assert outcome.look is not None
    moment, name = outcome.look.looked_at, outcome.connection
    new = [text for key, text in after.items() if key not in before]
    if new:
        body = {"summary": f"the write-ahead log of {name}: {new[0]}", "details": new if len(new) > 1 else []}
        return [MonitorEvent("wal_threshold", name, moment, body)]
    if before and not after:
        return [MonitorEvent("wal_recovery", name, moment, {"summary": f"the write-ahead log of {name} is in order"})]
    return []


def wal_figures(look: WalLook, change: WalChange) -> dict[str, Any]:
    """The figures of one look, by their columns."""
    slots = look.slots
    lags = [slot.lag_bytes for slot in slots or () if slot.lag_bytes is not None]
    safe = [slot.safe_wal_bytes for slot in slots or () if slot.safe_wal_bytes is not None]
    lag = None if slots is None else max(lags, default=0)
    return {
        "looks": 1,
        "failures": 0,
        "restarts": int(change.restarted),
        "is_standby": look.is_standby,
        "wal_lsn": look.wal_lsn,
        "wal_bytes": change.wal_bytes,
        "wal_ms": None if change.seconds is None else max(1, round(change.seconds * 1000)),
        "directory_bytes": look.directory_bytes,
        "directory_bytes_max": look.directory_bytes,
        "lag_bytes": lag,
        "lag_bytes_max": lag,
        "safe_wal_bytes_min": min(safe, default=None),
        "max_slot_wal_keep_bytes": None if look.settings is None else look.settings.max_slot_wal_keep_bytes,
        "slots": None if slots is None else len(slots),
        "active_slots": None if slots is None else sum(slot.active for slot in slots),
        "lost_slots": None if slots is None else sum(slot.is_lost for slot in slots),
        "clients": None if look.clients is None else len(look.clients),
        "checkpoints": change.checkpoints,
        "checkpoints_requested": change.checkpoints_requested,
        "archive_failures": change.archive_failures,
        "slot_details": None if slots is None else encode_slots([_slot_figures(slot) for slot in slots]),
        "missing": json.dumps([asdict(item) for item in look.missing]) if look.missing else None,
    }


def _slot_figures(slot: WalSlot) -> dict[str, Any]:
    """A slot as it is kept in the history; its lags' largest values, too, which stay when rows are put together."""
    return {
        "name": slot.name,
        "slot_type": slot.slot_type,
        "plugin": slot.plugin,
        "database": slot.database,
        "active": slot.active,
        "restart_lag_bytes": slot.restart_lag_bytes,
        "restart_lag_bytes_max": slot.restart_lag_bytes,
        "confirmed_lag_bytes": slot.confirmed_lag_bytes,
        "confirmed_lag_bytes_max": slot.confirmed_lag_bytes,
        "wal_status": slot.wal_status,
        "safe_wal_bytes": slot.safe_wal_bytes,
        "inactive_since": None if slot.inactive_since is None else slot.inactive_since.isoformat(),
        "invalidation_reason": slot.invalidation_reason,
        "spilled_transactions": slot.spilled_transactions,
        "spilled_bytes": slot.spilled_bytes,
    }


# --- health ---------------------------------------------------------------------------------------------------------


def advance_health(connection: str, look: HealthLook, before: Mapping[str, Any] | None) -> Advance:
    """Store the outcome of a test."""
    state, change = follow_health(read_health(before), look)
    latency = None if look.latency_seconds is None else round(look.latency_seconds * 1_000_000)
    row = {
        "sampled_at": look.looked_at,
        "connection": connection,
        "tests": 1,
        "failures": int(not look.ok),
        "status": state.status,
        "latency_us": latency,
        "latency_us_min": latency,
        "latency_us_max": latency,
        "latency_us_sum": latency,
        "latencies": int(latency is not None),
        "reason": look.reason,
        "message": look.message,
    }
    events = []
    if change is not None and change.status == "down":
        body = {"summary": f"the connection {connection} cannot be used", "details": [look.message or "it failed"]}
        events.append(MonitorEvent("connection_down", connection, look.looked_at, body))
    elif change is not None:
        text = f"the connection {connection} can be used again, after {_describe_seconds(change.seconds)}"
        events.append(MonitorEvent("connection_up", connection, look.looked_at, {"summary": text}))
    return Advance(state.to_dict(), [(connection_health, row)], events)


def read_health(values: Mapping[str, Any] | None) -> HealthState | None:
    """The state that `advance_health` stored; None where there is none, or another version of SynqX wrote it."""
    try:
        return None if values is None else HealthState.from_dict(values)
    except TypeError:
        return None


def _describe_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- the machine ----------------------------------------------------------------------------------------------------


def advance_system(look: SystemLook) -> Advance:
    """Store what a machine and its processes use."""
    rows = []
    for sample in look.samples:
        row = {
            "sampled_at": look.looked_at,
            "host_name": look.host_name[:256],
            "subject": sample.subject,
            "looks": 1,
            "cpu_ms": None if sample.cpu_seconds is None else round(sample.cpu_seconds * 1000),
            "elapsed_ms": None if sample.elapsed_seconds is None else max(1, round(sample.elapsed_seconds * 1000)),
            "cpu_count": sample.cpu_count,
            "memory_bytes": sample.memory_bytes,
            "memory_bytes_max": sample.memory_bytes,
            "memory_total_bytes": sample.memory_total_bytes,
            "disk_used_bytes": sample.disk_used_bytes,
            "disk_used_bytes_max": sample.disk_used_bytes,
            "disk_total_bytes": sample.disk_total_bytes,
            "open_files": sample.open_files,
            "open_files_max": sample.open_files,
            "max_open_files": sample.max_open_files,
            "processes": sample.processes,
            "processes_max": sample.processes,
        }
        rows.append((system_metrics, row))
    host = next((sample for sample in look.samples if sample.subject == HOST), None)
    return Advance({"processes": None if host is None else host.processes}, rows)
