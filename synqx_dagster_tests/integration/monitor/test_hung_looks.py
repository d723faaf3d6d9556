"""Looks that hang in the operating system: told as errors, and no other waits for them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.monitor_tables import monitor_state, wal_metrics
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs import monitoring
from synqx_dagster.defs.monitoring import Monitor
from synqx_dagster.model import Connection
from synqx_dagster.monitor import system
from synqx_dagster.monitor.system import SystemMeter
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.proxies import stalling_proxy


def test_a_look_at_a_log_that_hangs_is_an_error(
    catalog: Catalog, postgresql: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stalling_proxy(postgresql.port) as proxy:
        proxy.stall(new_connections_too=True)
        shop = Connection.model_validate(
            {
                "name": "shop",
                "db_type": "postgresql",
                "host": "127.0.0.1",
                "port": proxy.port,
                "database": postgresql.name,
                "username": postgresql.username,
                "monitor": {"wal": True, "interval_seconds": 5, "timeout_seconds": 20},
            }
        )
        apply_changes(catalog, plan_changes(catalog, Definitions((shop,))), author="ann", reason=None)
        monitor = Monitor(catalog)
        outcomes, text = monitor.watch_logs(catalog.snapshot(), seconds=0.1)
        assert outcomes == []
        assert "1 have not answered yet" in text
        # As if it had been under way for so long beyond its limit.
        monkeypatch.setattr(monitoring, "_HUNG_SECONDS", -40.0)
        with catalog.write() as connection:
            connection.execute(sa.update(monitor_state).values(looked_at=None))
        (outcome,), text = monitor.watch_logs(catalog.snapshot(), seconds=0.1)
        assert "the look at its log hangs" in (outcome.error or "")
        assert "1 failed" in text
        # Once an interval, as any look.
        outcomes, _ = monitor.watch_logs(catalog.snapshot(), seconds=0.1)
        assert outcomes == []
        with catalog.read() as connection:
            [row] = connection.execute(sa.select(wal_metrics)).mappings()
        assert (row["looks"], row["failures"]) == (0, 1)


def test_a_disk_that_hangs_leaves_the_other_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    measure = psutil.disk_usage

    def hang(path: str) -> Any:
        answers.wait()
        return measure(path)

    monkeypatch.setattr(psutil, "disk_usage", hang)
    monkeypatch.setattr(system, "DISK_SECONDS", 0.2)
    meter = SystemMeter(tmp_path)
    try:
        for _ in range(2):
            host = meter.look().samples[0]
            assert (host.disk_used_bytes, host.disk_total_bytes) == (None, None)
            assert host.memory_bytes is not None
    finally:
        answers.set()
    monkeypatch.setattr(system, "DISK_SECONDS", 10.0)
    deadline = time.monotonic() + 10
    while (host := meter.look().samples[0]).disk_total_bytes is None:
        assert time.monotonic() < deadline
    assert host.disk_used_bytes is not None
