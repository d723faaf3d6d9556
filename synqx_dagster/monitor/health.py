"""Whether connections can be used: one test of each, and what its outcome changes.

Guarantee: a connection is down when two tests in a row failed, and up with the first that succeeds; each change is
said once, by whoever stores it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from synqx_dagster.connectors.protocol import ConnectionReport, Connector

HealthStatus = Literal["up", "down"]

#: A test that failed is made once more after this, before a connection that was up is said to be down.
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class HealthLook:
    """The outcome of one test.

    Attributes:
        latency_seconds: What one short question took; None where nothing answered, or there is no server.
        seconds: What the test took, connecting included.
        reason, message, hint: Why it failed, as a `ConnectionReport` says it.
    """

    looked_at: datetime
    ok: bool
    seconds: float
    latency_seconds: float | None = None
    reason: str | None = None
    message: str | None = None
    hint: str | None = None
    server_version: str | None = None

    @classmethod
    def of(cls, report: ConnectionReport, looked_at: datetime, seconds: float) -> HealthLook:
        """A test's outcome."""
        return cls(
            looked_at=looked_at,
            ok=report.ok,
            seconds=seconds,
            latency_seconds=report.latency_seconds if report.ok else None,
            reason=None if report.ok else report.reason or "unknown",
            message=None if report.ok else report.message,
            hint=None if report.ok else report.hint,
            server_version=report.server_version,
        )


def check_health(connector: Connector, *, timeout_seconds: float, was_up: bool) -> HealthLook:
    """Test a connection, each time within the limit; never raises for what a server or the network does.

    Args:
        was_up: A failure is news: it is looked at twice.
    """
    look = _test(connector, timeout_seconds)
    if look.ok or not was_up:
        return look
    time.sleep(RETRY_SECONDS)
    return _test(connector, timeout_seconds)


def _test(connector: Connector, timeout_seconds: float) -> HealthLook:
    looked_at, started = datetime.now(UTC), time.monotonic()
    report = connector.test(timeout_seconds=timeout_seconds)
    return HealthLook.of(report, looked_at, time.monotonic() - started)


@dataclass(frozen=True)
class HealthState:
    """What is known of a connection.

    Attributes:
        since: Since when (ISO 8601) it has this status.
        reason, message: Why it is down.
    """

    status: HealthStatus
    since: str
    reason: str | None = None
    message: str | None = None
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HealthState:
        """Read what `to_dict` gave.

        Raises:
            TypeError: Another version of SynqX wrote it.
        """
        return cls(**values)


@dataclass(frozen=True)
class HealthChange:
    """A connection went down, or came up again.

    Attributes:
        seconds: How long it was in the status before.
    """

    status: HealthStatus
    seconds: float
    look: HealthLook


def follow_health(before: HealthState | None, look: HealthLook) -> tuple[HealthState, HealthChange | None]:
    """The state after a test, and what is to be told.

    A connection that was never tested before is no news when it is up.
    """
    status: HealthStatus = "up" if look.ok else "down"
    if before is not None and before.status == status:
        return HealthState(status, before.since, look.reason, look.message, look.hint), None
    after = HealthState(status, look.looked_at.isoformat(), look.reason, look.message, look.hint)
    if before is None:
        return after, None if look.ok else HealthChange(status, 0.0, look)
    lasted = (look.looked_at - datetime.fromisoformat(before.since)).total_seconds()
    return after, HealthChange(status, max(0.0, lasted), look)
