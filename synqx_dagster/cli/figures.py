"""Numbers, times and durations as people read them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def format_count(count: int | None) -> str:
    """``1,234,567``; a dash for what is not known."""
    return "-" if count is None else f"{count:,}"


def format_bytes(size: int | None) -> str:
    """``12.3 MB``, in powers of 1,000."""
    if size is None:
        return "-"
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1000
        if value < 999.95 or unit == _UNITS[-1]:
            break
    return f"{value:,.1f} {unit}"


def format_seconds(seconds: float | None) -> str:
    """``0.042 s``, ``1.23 s``, ``2 min 05 s``, ``3 h 07 min``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds:.3f} s"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_latency(seconds: float | None) -> str:
    """``0.4 ms``, ``120 ms``."""
    if seconds is None:
        return "-"
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"


def format_rate(rows: int | None, seconds: float | None) -> str:
    """Rows per second; a dash where that means nothing."""
    return f"{rows / seconds:,.0f}" if rows and seconds else "-"


def format_time(moment: datetime.datetime | float | None) -> str:
    """A moment in the zone of this machine, to the second: ``2026-11-21 14:05:09``."""
    if moment is None:
        return "-"
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_age(moment: datetime.datetime | float | None, now: datetime.datetime | None = None) -> str:
    """How long ago: ``12 s ago``, ``3 days ago``, ``never``."""
    if moment is None:
        return "never"
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    seconds = max(0, int(((now or datetime.datetime.now(datetime.UTC)) - moment).total_seconds()))
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return f"{seconds} s ago"


def describe_freshness(freshness: Mapping[str, Any]) -> str:
    """What a plan says of how old a last load may be."""
    return f"the last load may be {format_seconds(freshness['maximum_age_seconds'])} old"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """``1 mapping``, ``2 mappings``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
