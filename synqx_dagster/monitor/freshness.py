"""Whether tables were loaded lately enough, and what changed since the look before: pure.

The age of a table counts from the end of its last load. One that never was loaded counts from when it was first looked
at: whoever has just declared a mapping has had no time to run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class AgeLook:
    """What is known of one table at one moment. All times are Unix times.

    Attributes:
        last_load: When the last load ended that succeeded; None where there was none.
        since: When the table was first looked at.
    """

    maximum_seconds: float
    last_load: float | None
    since: float
    now: float

    @property
    def age_seconds(self) -> float:
        """How old the last load is. One that another machine's clock has put ahead of this one is new."""
        return max(0.0, self.now - (self.since if self.last_load is None else self.last_load))

    @property
    def is_fresh(self) -> bool:
        """Whether it is at most as old as it may be."""
        return self.age_seconds <= self.maximum_seconds

    def describe(self) -> str:
        """In words."""
        # Most looks come soon after an age has passed its bound, so the two would often read the same.
        allowed = describe_age(self.maximum_seconds)
        age = f"{'within' if self.is_fresh else 'longer ago than'} the {allowed} that are allowed"
        if self.last_load is None:
            return f"never loaded; first looked at {_describe_moment(self.since)}, {age}"
        return f"last loaded {_describe_moment(self.last_load)}, {age}"


@dataclass
class FreshnessState:
    """What the next look goes on from; what is not watched any more is forgotten.

    Attributes:
        since: When each table was first looked at, by its key.
        overdue: Tables whose last load was too old.
    """

    since: dict[str, float] = field(default_factory=dict)
    overdue: frozenset[str] = frozenset()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> FreshnessState:
        """Read what `to_dict` gave; anew where another version of SynqX wrote it."""
        try:
            found = dict(values or {})
            since = {str(key): float(moment) for key, moment in found.get("since", {}).items()}
            return cls(since, frozenset(str(key) for key in found.get("overdue", ())))
        except (TypeError, ValueError, AttributeError):
            return cls()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"since": dict(self.since), "overdue": sorted(self.overdue)}


@dataclass(frozen=True)
class FreshnessRound:
    """What came of a look.

    Attributes:
        overdue: Those that have become overdue since the look before.
        recovered: Those that are overdue no more.
    """

    state: FreshnessState
    looks: Mapping[str, AgeLook]
    overdue: tuple[str, ...]
    recovered: tuple[str, ...]


def judge_ages(
    maximums: Mapping[str, float], last_loads: Mapping[str, float | None], before: FreshnessState, now: float
) -> FreshnessRound:
    """Judge tables.

    Args:
        maximums: How old the last load of each table that is watched may be, in seconds, by its key.
        last_loads: When the last load ended of each table that was looked at now; None of one that never was loaded.
        before: The state that the look before has left; of tables that were not looked at it stands.
    """
    since = {key: before.since.get(key, now) for key in maximums}
    looks = {key: AgeLook(maximums[key], last_load, since[key], now) for key, last_load in last_loads.items()}
    stays = frozenset(key for key in before.overdue if key in maximums and key not in looks)
    overdue = stays | {key for key, look in looks.items() if not look.is_fresh}
    return FreshnessRound(
        FreshnessState(since, overdue),
        looks,
        tuple(key for key in looks if key in overdue and key not in before.overdue),
        tuple(key for key in looks if key not in overdue and key in before.overdue),
    )


class Rota:
    """Which tables a look is about: reading what Dagster knows of one takes about two milliseconds.

    One that is fresh cannot become overdue before its time, so it may rest until then. In memory alone: after a restart
    all of them are looked at anew.
    """

    def __init__(self) -> None:
        self._rests_until: dict[str, float] = {}

    def take(self, keys: Iterable[str], now: float, *, most: int) -> list[str]:
        """Those that do not rest, at most so many: first those that wait longest."""
        waiting = {key: self._rests_until.get(key, 0.0) for key in keys}
        due = [key for key, until in waiting.items() if until <= now]
        return sorted(due, key=waiting.__getitem__)[:most]

    def rest(self, look: AgeLook, key: str, *, most_seconds: float) -> None:
        """Let one rest for so long, unless it may become overdue before; one that is overdue does not rest."""
        left = look.maximum_seconds - look.age_seconds if look.is_fresh else 0.0
        self._rests_until[key] = look.now + min(left, most_seconds)


def describe_age(seconds: float) -> str:
    """A span of time in its own unit: ``45 s``, ``20 min``, ``1.5 h``, ``3 d``."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length, 1):g} {unit}"
    return f"{seconds:.0f} s"


def _describe_moment(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
