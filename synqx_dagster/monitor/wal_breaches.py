"""Which thresholds a look at a log breaks, and what is said of each: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from synqx_dagster.model.connection import WalThresholds
from synqx_dagster.monitor.wal import WalLook, WalSlot

#: A threshold that was broken is kept again only when so much of it is left, so that a figure that stays around it is
#: told once.
_MARGIN = 0.9

#: Broken whatever the settings are: what is lost, or can be with the next checkpoint.
_BAD_STATUSES = frozenset({"unreserved", "lost"})


@dataclass(frozen=True)
class WalBreach:
    """A threshold that is broken.

    Attributes:
        key: The same as long as the same slot breaks the same threshold.
        is_severe: Somebody has to act, or has lost something.
    """

    key: str
    message: str
    is_severe: bool = False


def track_inactive(look: WalLook, before: Mapping[str, float]) -> dict[str, float]:
    """Since when (a Unix time, by the server's clock) nobody reads a slot, of all that nobody reads now.

    The server says so from version 17 on; of an older one it is known since we first saw it.

    Args:
        before: What this gave at the look before.
    """
    return {
        slot.name: (
            slot.inactive_since.timestamp()
            if slot.inactive_since is not None
            else before.get(slot.name, look.server_seconds)
        )
        for slot in look.slots or ()
        if not slot.active
    }


def find_breaches(
    look: WalLook,
    thresholds: WalThresholds,
    before: Collection[str] = (),
    inactive_since: Mapping[str, float] | None = None,
) -> tuple[WalBreach, ...]:
    """The thresholds that a look breaks, by slot.

    Args:
        before: Keys of those that the look before broke.
        inactive_since: What `track_inactive` gave; left out: what the server says.
    """
    since = track_inactive(look, {}) if inactive_since is None else inactive_since
    found = [breach for slot in look.slots or () for breach in _breaches_of(slot, look, thresholds, before, since)]
    if look.archiver is not None and look.archiver.is_failing:
        name = look.archiver.last_failed_file or "a file"
        found.append(WalBreach("archiver", f"archiving fails: {name} could not be archived"))
    # What is severe first: it is what a message's first line says.
    return tuple(sorted(found, key=lambda breach: not breach.is_severe))


def _breaches_of(
    slot: WalSlot,
    look: WalLook,
    thresholds: WalThresholds,
    before: Collection[str],
    inactive_since: Mapping[str, float],
) -> Iterator[WalBreach]:
    key = f"slot:{slot.name}"
    if slot.is_lost:
        reason = f" ({slot.invalidation_reason})" if slot.invalidation_reason else ""
        yield WalBreach(f"{key}:lost", f"slot {slot.name} is lost{reason}: what reads it must begin anew", True)
        return  # It keeps no log any more; its other figures mean nothing.
    if slot.wal_status in _BAD_STATUSES:
        yield WalBreach(f"{key}:unreserved", f"slot {slot.name} needs log that the next checkpoint may remove", True)
    lag, most = slot.lag_bytes, thresholds.max_lag_bytes
    if lag is not None and most is not None and lag > most * (_MARGIN if f"{key}:lag" in before else 1.0):
        yield WalBreach(f"{key}:lag", f"slot {slot.name} keeps {lag:,} bytes of log; the threshold is {most:,}")
    safe, least = slot.safe_wal_bytes, thresholds.min_safe_bytes
    if safe is not None and least is not None and safe < least / (_MARGIN if f"{key}:safe" in before else 1.0):
        yield WalBreach(
            f"{key}:safe", f"slot {slot.name} is lost after {safe:,} more bytes of log; the threshold is {least:,}"
        )
    longest = thresholds.max_inactive_seconds
    if longest is not None and slot.name in inactive_since:
        idle = look.server_seconds - inactive_since[slot.name]
        if idle > longest:
            yield WalBreach(
                f"{key}:inactive",
                f"nobody has read slot {slot.name} for {idle:,.0f} s; the threshold is {longest:,}",
            )
