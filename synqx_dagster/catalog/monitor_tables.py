"""The tables of what is measured: figures over time, what the next look is compared with, and what changed.

A row of figures is one look, or all looks of a span of time once it is old (``resolution_seconds``). What a column
becomes when rows are put together is its `RULE`; each rule gives a value that was there, or the sum of those.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table, Text

from synqx_dagster.catalog.table_base import Id, UtcDateTime, metadata

#: Key of a column's rule: ``last`` (the last that is known), ``sum``, ``max``, ``min``, or ``slots``.
RULE = "synqx_rule"


def _figure(name: str, rule: str, kind: Any = BigInteger) -> Column[Any]:
    return Column(name, kind, info={RULE: rule})


def _record() -> Column[Any]:
    return Column("record_id", Id, ForeignKey("synqx_record.record_id"), nullable=False)


def _point() -> list[Column[Any]]:
    """What every row of figures has. ``sampled_at`` is when the last of its looks was."""
    return [
        Column("metric_id", Id, primary_key=True),
        Column("sampled_at", UtcDateTime, nullable=False),
        Column("resolution_seconds", Integer, nullable=False),
    ]


#: The write-ahead log of a connection's server. ``wal_bytes`` were written in ``wal_ms``: since the look before.
wal_metrics = Table(
    "synqx_wal_metrics",
    metadata,
    *_point(),
    _record(),
    _figure("looks", "sum"),
    _figure("failures", "sum"),
    _figure("restarts", "sum"),
    _figure("is_standby", "last", Boolean),
    _figure("wal_lsn", "last"),
    _figure("wal_bytes", "sum"),
    _figure("wal_ms", "sum"),
    _figure("directory_bytes", "last"),
    _figure("directory_bytes_max", "max"),
    _figure("lag_bytes", "last"),
    _figure("lag_bytes_max", "max"),
    _figure("safe_wal_bytes_min", "min"),
    _figure("max_slot_wal_keep_bytes", "last"),
    _figure("slots", "last"),
    _figure("active_slots", "last"),
    _figure("lost_slots", "last"),
    _figure("clients", "last"),
    _figure("checkpoints", "sum"),
    _figure("checkpoints_requested", "sum"),
    _figure("archive_failures", "sum"),
    _figure("breaches", "max"),
    _figure("slot_details", "slots", Text),
    _figure("missing", "last", Text),
    _figure("error", "last", Text),
)

#: Tests of a connection. Latencies are those of the tests that succeeded and told one.
connection_health = Table(
    "synqx_connection_health",
    metadata,
    *_point(),
    _record(),
    _figure("tests", "sum"),
    _figure("failures", "sum"),
    _figure("status", "last", String(16)),
    _figure("latency_us", "last"),
    _figure("latency_us_min", "min"),
    _figure("latency_us_max", "max"),
    _figure("latency_us_sum", "sum"),
    _figure("latencies", "sum"),
    _figure("reason", "last", String(64)),
    _figure("message", "last", Text),
)

#: A machine (``host``), and the processes of SynqX and Dagster on it by what they are.
system_metrics = Table(
    "synqx_system_metrics",
    metadata,
    *_point(),
    Column("host_name", String(256), nullable=False),
    Column("subject", String(64), nullable=False),
    _figure("looks", "sum"),
    _figure("cpu_ms", "sum"),
    _figure("elapsed_ms", "sum"),
    _figure("cpu_count", "last"),
    _figure("memory_bytes", "last"),
    _figure("memory_bytes_max", "max"),
    _figure("memory_total_bytes", "last"),
    _figure("disk_used_bytes", "last"),
    _figure("disk_used_bytes_max", "max"),
    _figure("disk_total_bytes", "last"),
    _figure("open_files", "last"),
    _figure("open_files_max", "max"),
    _figure("max_open_files", "last"),
    _figure("processes", "last"),
    _figure("processes_max", "max"),
)

#: Columns that say which series a row belongs to.
SERIES: dict[Table, tuple[str, ...]] = {
    wal_metrics: ("record_id",),
    connection_health: ("record_id",),
    system_metrics: ("host_name", "subject"),
}

for _table, _names in SERIES.items():
    Index(f"ix_{_table.name}_series", *(_table.c[name] for name in _names), _table.c.sampled_at)
    Index(f"ix_{_table.name}_age", _table.c.resolution_seconds, _table.c.sampled_at)

#: What is looked at, when it last was, and what the next look is compared with; changed by one writer at a time.
monitor_state = Table(
    "synqx_monitor_state",
    metadata,
    Column("subject", String(320), primary_key=True),
    Column("looked_at", UtcDateTime),
    Column("state", Text),
)

#: What changed and people may want to know of. Numbers are given in the order in which the changes were stored.
monitor_event = Table(
    "synqx_monitor_event",
    metadata,
    Column("number", Id, primary_key=True, autoincrement=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("event_type", String(32), nullable=False),
    Column("connection", String(128), nullable=False),
    Column("body", Text, nullable=False),
)
Index("ix_synqx_monitor_event_occurred_at", monitor_event.c.occurred_at)
