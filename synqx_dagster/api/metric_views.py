"""What the API shows of figures over time: points, with rates made of the sums that are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from synqx_dagster.api.paging import Page


class MetricPoint(BaseModel):
    """What was looked at within a span of time."""

    at: datetime = Field(description="When the last look of the span was.")
    resolution_seconds: int = Field(description="The span; 0: a single look.")


class SlotPoint(BaseModel):
    """A replication slot as it was at the end of the span. Lags' `_max` are the largest within it."""

    name: str
    slot_type: str | None = None
    plugin: str | None = None
    database: str | None = None
    active: bool | None = None
    restart_lag_bytes: int | None = None
    restart_lag_bytes_max: int | None = None
    confirmed_lag_bytes: int | None = None
    confirmed_lag_bytes_max: int | None = None
    wal_status: str | None = None
    safe_wal_bytes: int | None = None
    inactive_since: datetime | None = None
    invalidation_reason: str | None = None
    spilled_transactions: int | None = None
    spilled_bytes: int | None = None


class MissingFigureView(BaseModel):
    """A figure that could not be had."""

    figure: str
    reason: str
    grant: str | None = Field(description="The statement that grants it, if that is what it takes.")


class WalPoint(MetricPoint):
    """The write-ahead log of a connection's server. null: not known, or the server is older than the figure."""

    looks: int
    failures: int = Field(description="Looks that failed.")
    restarts: int = Field(description="How often the server was seen to have been started, or replaced.")
    is_standby: bool | None
    wal_lsn: int | None = Field(description="Where the log ended, in bytes; of a standby, how far it was replayed.")
    wal_bytes: int | None = Field(description="Log that was written within the span (by a standby: replayed).")
    wal_bytes_per_second: float | None
    directory_bytes: int | None
    directory_bytes_max: int | None
    lag_bytes: int | None = Field(description="Log that the slot keeps which keeps most.")
    lag_bytes_max: int | None
    safe_wal_bytes_min: int | None = Field(description="Log that could be written until the first slot would be lost.")
    max_slot_wal_keep_bytes: int | None
    slots: int | None
    active_slots: int | None
    lost_slots: int | None
    clients: int | None
    checkpoints: int | None
    checkpoints_requested: int | None
    archive_failures: int | None
    breaches: int | None = Field(description="Thresholds that were broken, at most at once.")
    slot_details: list[SlotPoint]
    missing: list[MissingFigureView]
    error: str | None = Field(description="Why the last look that failed did.")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> WalPoint:
        """A row of the history."""
        return cls(
            **_shared(row),
            **{
                name: row[name]
                for name in cls.model_fields
                if name in row and name not in ("slot_details", "missing", *MetricPoint.model_fields)
            },
            wal_bytes_per_second=_ratio(row["wal_bytes"], row["wal_ms"], 1000),
            slot_details=json.loads(row["slot_details"] or "[]"),
            missing=json.loads(row["missing"] or "[]"),
        )


class HealthPoint(MetricPoint):
    """Tests of a connection."""

    connection: str
    status: Literal["up", "down"] | None = Field(description="At the end of the span.")
    tests: int
    failures: int
    availability: float | None = Field(description="The share of tests that succeeded, 0 to 1.")
    latency_seconds: float | None = Field(description="The mean, of one short question.")
    latency_seconds_min: float | None
    latency_seconds_max: float | None
    reason: str | None = Field(description="Why the last test that failed did.")
    message: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any], connection: str) -> HealthPoint:
        """A row of the history."""
        return cls(
            **_shared(row),
            connection=connection,
            status=row["status"],
            tests=row["tests"],
            failures=row["failures"],
            availability=_ratio(row["tests"] - row["failures"], row["tests"]),
            latency_seconds=_ratio(row["latency_us_sum"], row["latencies"], 1e-6),
            latency_seconds_min=_ratio(row["latency_us_min"], 1_000_000),
            latency_seconds_max=_ratio(row["latency_us_max"], 1_000_000),
            reason=row["reason"],
            message=row["message"],
        )


class HealthView(BaseModel):
    """A connection now."""

    connection: str
    status: Literal["up", "down"] | None = Field(description="null: not tested yet.")
    since: datetime | None = Field(description="Since when it has this status.")
    tested_at: datetime | None
    reason: str | None
    message: str | None
    hint: str | None


class SystemPoint(MetricPoint):
    """A machine, or processes on it."""

    host_name: str
    subject: str = Field(description="`host`: the machine; else what the processes are, such as `daemon`.")
    looks: int
    cpu_percent: float | None = Field(description="Of one processor: two that are busy are 200.")
    cpu_count: int | None
    memory_bytes: int | None
    memory_bytes_max: int | None
    memory_total_bytes: int | None
    disk_used_bytes: int | None = Field(description="Of the disk of SynqX's home.")
    disk_used_bytes_max: int | None
    disk_total_bytes: int | None
    open_files: int | None
    open_files_max: int | None
    max_open_files: int | None
    processes: int | None
    processes_max: int | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> SystemPoint:
        """A row of the history."""
        return cls(
            **_shared(row),
            **{name: row[name] for name in cls.model_fields if name in row and name not in MetricPoint.model_fields},
            cpu_percent=_ratio(row["cpu_ms"], row["elapsed_ms"], 100),
        )


class WalPage(Page[WalPoint]):
    """Points in order of time."""

    connection: str
    resolution_seconds: int = Field(description="The spans that were asked for, or chosen.")


class HealthPage(Page[HealthPoint]):
    """Points by connection, in order of time."""

    resolution_seconds: int = Field(description="The spans that were asked for, or chosen.")


class SystemPage(Page[SystemPoint]):
    """Points by machine and subject, in order of time."""

    resolution_seconds: int = Field(description="The spans that were asked for, or chosen.")


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"at": row["sampled_at"], "resolution_seconds": row["resolution_seconds"]}


def _ratio(part: float | None, whole: float | None, factor: float = 1.0) -> float | None:
    return None if part is None or not whole else part / whole * factor
