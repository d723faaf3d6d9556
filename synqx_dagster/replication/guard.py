"""The guard of a source's disk: whether a slot keeps too much write-ahead log, and what is done about it; pure.

A paused or failing replication keeps its slot, and the slot keeps every byte of log that the source writes, until its
disk is full. The guard says so in time, and does what the replication's policy says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from synqx_dagster.model.replication import GuardAction, WalGuard
from synqx_dagster.replication.slot import SlotState

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class SlotWal:
    """What a slot keeps of its server's log.

    Attributes:
        held_bytes: From what the slot may still need to where the server writes.
        safe_bytes: How much may still be written before the server gives the slot up; None: without limit.
        wal_status: As ``pg_replication_slots`` has it: ``reserved``, ``extended``, ``unreserved`` or ``lost``.
    """

    held_bytes: int
    safe_bytes: int | None = None
    wal_status: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the guard says of a slot.

    Attributes:
        level: ``ok``; ``warn`` above a limit; ``act`` where the policy's action is due, too.
        text: What is the matter, in one line; empty where all is well.
    """

    level: Literal["ok", "warn", "act"]
    action: GuardAction
    text: str = ""


def wal_of(slot: SlotState) -> SlotWal:
    """What the guard looks at of a slot."""
    return SlotWal(slot.restart_lag_bytes, slot.safe_wal_bytes, slot.wal_status)


def judge(guard: WalGuard, wal: SlotWal) -> Verdict:
    """Compare what a slot keeps with what it may."""
    reasons = []
    if guard.max_lag_bytes is not None and wal.held_bytes > guard.max_lag_bytes:
        reasons.append(
            f"it keeps {format_bytes(wal.held_bytes)} of write-ahead log, more than"
            f" max_lag_bytes ({format_bytes(guard.max_lag_bytes)})"
        )
    if guard.min_safe_bytes is not None and wal.safe_bytes is not None and wal.safe_bytes < guard.min_safe_bytes:
        reasons.append(
            f"the server gives it up after {format_bytes(max(wal.safe_bytes, 0))} more, less than"
            f" min_safe_bytes ({format_bytes(guard.min_safe_bytes)})"
        )
    if wal.wal_status == "unreserved":
        reasons.append("the server may give it up at its next checkpoint (wal_status unreserved)")
    if not reasons:
        return Verdict("ok", guard.action)
    return Verdict("warn" if guard.action == "warn" else "act", guard.action, "; ".join(reasons))


def format_bytes(count: int) -> str:
    """A number of bytes for people, in powers of 1,000."""
    value, unit = float(count), 0
    while abs(value) >= 999.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
