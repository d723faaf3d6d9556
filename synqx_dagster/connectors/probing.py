"""Testing a connection within a limit of time that holds whatever the driver waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from synqx_dagster.connectors.protocol import ConnectionReport


def look_within(timeout_seconds: float, place: str, look: Callable[[float], ConnectionReport]) -> ConnectionReport:
    """What `look` reports, or that `place` did not answer in time.

    Args:
        look: Connects, looks and disconnects; is given the limit, and must not raise.
    """
    reports: list[ConnectionReport] = []
    # Looking up a host's name has no limit of its own, so the whole runs beside this thread.
    worker = threading.Thread(target=lambda: reports.append(look(timeout_seconds)), name="synqx-test", daemon=True)
    worker.start()
    worker.join(timeout_seconds)
    if reports:
        return reports[0]
    return ConnectionReport(
        False,
        f"{place} did not answer within {timeout_seconds:g} seconds",
        reason="timeout",
        hint="is a firewall in between?",
    )
