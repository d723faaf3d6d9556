"""Looks that tests make up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from synqx_dagster.monitor.wal import Archiver, Checkpoints, WalLook, WalSettings, WalSlot

MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_slot(name: str = "shop", **values: Any) -> WalSlot:
    """A slot that keeps nothing and breaks nothing."""
    fields: dict[str, Any] = {
        "slot_type": "logical",
        "plugin": "pgoutput",
        "database": "shop",
        "temporary": False,
        "active": True,
        "restart_lag_bytes": 0,
        "confirmed_lag_bytes": 0,
        "wal_status": "reserved",
        "safe_wal_bytes": None,
        "inactive_since": None,
        "invalidation_reason": None,
    }
    return WalSlot(name, **{**fields, **values})


def make_look(*slots: WalSlot, **values: Any) -> WalLook:
    """A look at a primary in order."""
    fields: dict[str, Any] = {
        "looked_at": MOMENT,
        "server_seconds": MOMENT.timestamp(),
        "server_version": "18.0",
        "user_name": "watcher",
        "system_identifier": "7",
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "is_standby": False,
        "timeline": "00000001",
        "wal_lsn": 1000,
        "received_lsn": None,
        "replay_age_seconds": None,
        "directory_bytes": 16 * 1024**2,
        "directory_files": 1,
        "settings": WalSettings("logical", "off", 1024**3, 0, None, 10, 10),
        "statistics": None,
        "checkpoints": Checkpoints(10, 2, 1.0, 0.1, 100, MOMENT),
        "archiver": Archiver(0, 0, None, None, None, None, MOMENT),
        "slots": tuple(slots),
        "clients": (),
        "missing": (),
        "seconds": 0.01,
    }
    return WalLook(**{**fields, **values})
