"""Monitoring: figures over time, what the next look is compared with, and what changed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)

_WAL = (
    ("looks", "failures", "restarts"),
    (sa.Column("is_standby", sa.Boolean()),),
    ("wal_lsn", "wal_bytes", "wal_ms", "directory_bytes", "directory_bytes_max", "lag_bytes", "lag_bytes_max"),
    ("safe_wal_bytes_min", "max_slot_wal_keep_bytes", "slots", "active_slots", "lost_slots", "clients"),
    ("checkpoints", "checkpoints_requested", "archive_failures", "breaches"),
    (sa.Column("slot_details", sa.Text()), sa.Column("missing", sa.Text()), sa.Column("error", sa.Text())),
)
_HEALTH = (
    ("tests", "failures"),
    (sa.Column("status", sa.String(16)),),
    ("latency_us", "latency_us_min", "latency_us_max", "latency_us_sum", "latencies"),
    (sa.Column("reason", sa.String(64)), sa.Column("message", sa.Text())),
)
_SYSTEM = (
    ("looks", "cpu_ms", "elapsed_ms", "cpu_count", "memory_bytes", "memory_bytes_max", "memory_total_bytes"),
    ("disk_used_bytes", "disk_used_bytes_max", "disk_total_bytes", "open_files", "open_files_max", "max_open_files"),
    ("processes", "processes_max"),
)


def upgrade() -> None:
    for table in ("synqx_wal_metrics", "synqx_connection_health"):
        _figures(
            table,
            [sa.Column("record_id", _ID, nullable=False)],
            _WAL if table == "synqx_wal_metrics" else _HEALTH,
            sa.ForeignKeyConstraint(["record_id"], ["synqx_record.record_id"], name=op.f(f"fk_{table}_record_id")),
        )
    _figures(
        "synqx_system_metrics",
        [
            sa.Column("host_name", sa.String(256), nullable=False),
            sa.Column("subject", sa.String(64), nullable=False),
        ],
        _SYSTEM,
    )
    op.create_table(
        "synqx_monitor_state",
        sa.Column("subject", sa.String(320), nullable=False),
        sa.Column("looked_at", _MOMENT),
        sa.Column("state", sa.Text()),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_synqx_monitor_state")),
    )
    op.create_table(
        "synqx_monitor_event",
        sa.Column("number", _ID, autoincrement=False, nullable=False),
        sa.Column("occurred_at", _MOMENT, nullable=False),
        sa.Column("event_type", sa.String(32), nullable=False),
        sa.Column("connection", sa.String(128), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_synqx_monitor_event")),
    )
    op.create_index("ix_synqx_monitor_event_occurred_at", "synqx_monitor_event", ["occurred_at"])


def _figures(table: str, series: list[sa.Column[Any]], figures: Any, *constraints: sa.Constraint) -> None:
    """A table of figures: which series, when, over how long, and the figures themselves."""
    columns = [
        sa.Column(item, sa.BigInteger()) if isinstance(item, str) else item for group in figures for item in group
    ]
    op.create_table(
        table,
        sa.Column("metric_id", _ID, nullable=False),
        sa.Column("sampled_at", _MOMENT, nullable=False),
        sa.Column("resolution_seconds", sa.Integer(), nullable=False),
        *series,
        *columns,
        sa.PrimaryKeyConstraint("metric_id", name=op.f(f"pk_{table}")),
        *constraints,
    )
    op.create_index(f"ix_{table}_series", table, [*(column.name for column in series), "sampled_at"])
    op.create_index(f"ix_{table}_age", table, ["resolution_seconds", "sampled_at"])
