"""How many sessions a load in ranges takes of its connections, and whether their pools allow so many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from synqx_dagster.model.connection import PoolSettings


@dataclass(frozen=True)
class PoolShortage:
    """A pool that allows fewer sessions than a load takes.

    Attributes:
        connection: The name of the connection.
        needed: Sessions that the load takes of it.
        allowed: Sessions that its pool allows.
    """

    hint: ClassVar[str] = "lower parallelism, or raise pool.size or pool.max_overflow of the connection"

    connection: str
    needed: int
    allowed: int

    def describe(self, parallelism: int) -> str:
        """The shortage in words; `parallelism` as the mapping asks for it."""
        return (
            f"parallelism {parallelism} takes {self.needed} sessions of {self.connection!r},"
            f" and its pool allows {self.allowed}"
        )


def find_pool_shortage(ends: Sequence[tuple[str, PoolSettings]], parallelism: int) -> PoolShortage | None:
    """The first end of a load whose pool is too small for so many ranges at a time; None where all are large enough.

    Args:
        ends: Name and pool of the source's and the target's connection, which may be one.
    """
    needed: Counter[str] = Counter()
    for name, _ in ends:
        # One for each range under way, and the load's own.
        needed[name] += parallelism + 1
    for name, pool in ends:
        if needed[name] > pool.most_sessions:
            return PoolShortage(name, needed[name], pool.most_sessions)
    return None
