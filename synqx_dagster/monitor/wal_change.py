"""What happened to a log between two looks: pure, and right across restarts, resets and other servers.

Guarantee: a change is counted only where both looks are of one server's one log and its counter went on; else it is
unknown, and never negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from synqx_dagster.monitor.wal import WalLook

#: Clocks of servers are set, by a little; looks that were so near each other say nothing of a rate.
_LEAST_SECONDS = 0.05


@dataclass(frozen=True)
class WalMark:
    """As much of a look as the next one is compared with."""

    server_seconds: float
    started_at: str
    system_identifier: str | None
    timeline: str | None
    is_standby: bool
    wal_lsn: int | None
    checkpoints: int | None
    checkpoints_requested: int | None
    checkpoints_reset_at: str | None
    archive_failures: int | None
    archiver_reset_at: str | None

    @classmethod
    def of(cls, look: WalLook) -> WalMark:
        """The mark of a look."""
        checkpoints, archiver = look.checkpoints, look.archiver
        return cls(
            server_seconds=look.server_seconds,
            started_at=look.started_at.isoformat(),
            system_identifier=look.system_identifier,
            timeline=look.timeline,
            is_standby=look.is_standby,
            wal_lsn=look.wal_lsn,
            checkpoints=None if checkpoints is None else checkpoints.timed + checkpoints.requested,
            checkpoints_requested=None if checkpoints is None else checkpoints.requested,
            checkpoints_reset_at=_text(checkpoints.reset_at if checkpoints else None),
            archive_failures=None if archiver is None else archiver.failed,
            archiver_reset_at=_text(archiver.reset_at if archiver else None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WalMark:
        """Read what `to_dict` gave.

        Raises:
            TypeError: Another version of SynqX wrote it.
        """
        return cls(**values)


@dataclass(frozen=True)
class WalChange:
    """What happened since the look before; None where that cannot be known.

    Attributes:
        wal_bytes, seconds: Log that was written (by a standby: replayed), and in which time. Both or neither.
        checkpoints, checkpoints_requested, archive_failures: How many more.
        restarted: The server was started since, or another one has taken its place.
    """

    wal_bytes: int | None = None
    seconds: float | None = None
    checkpoints: int | None = None
    checkpoints_requested: int | None = None
    archive_failures: int | None = None
    restarted: bool = False

    @property
    def wal_bytes_per_second(self) -> float | None:
        """The mean rate."""
        return None if self.wal_bytes is None or not self.seconds else self.wal_bytes / self.seconds


def compare(before: WalMark | None, after: WalMark) -> WalChange:
    """What happened from one look to the next."""
    if before is None:
        return WalChange()
    same_server = before.system_identifier == after.system_identifier
    restarted = not same_server or before.started_at != after.started_at
    if not same_server or (after.system_identifier is None and restarted):
        return WalChange(restarted=True)
    wal_bytes, seconds = None, after.server_seconds - before.server_seconds
    # The log of a server goes on over a restart. A standby that was promoted begins a timeline, a copy that was
    # restored another one, and what was replayed is not what was written.
    if (
        (before.timeline, before.is_standby) == (after.timeline, after.is_standby)
        and before.wal_lsn is not None
        and after.wal_lsn is not None
        and after.wal_lsn >= before.wal_lsn
        and seconds >= _LEAST_SECONDS
    ):
        wal_bytes = after.wal_lsn - before.wal_lsn
    # Counters of statistics are kept over a shutdown, and lost in a crash: then their moment of reset is another one.
    same_count = before.checkpoints_reset_at == after.checkpoints_reset_at
    same_archiver = before.archiver_reset_at == after.archiver_reset_at
    return WalChange(
        wal_bytes=wal_bytes,
        seconds=None if wal_bytes is None else seconds,
        checkpoints=_more(before.checkpoints, after.checkpoints) if same_count else None,
        checkpoints_requested=(
            _more(before.checkpoints_requested, after.checkpoints_requested) if same_count else None
        ),
        archive_failures=_more(before.archive_failures, after.archive_failures) if same_archiver else None,
        restarted=restarted,
    )


def _more(before: int | None, after: int | None) -> int | None:
    return after - before if before is not None and after is not None and after >= before else None


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
