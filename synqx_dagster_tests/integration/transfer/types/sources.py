"""Which routes the cases of each source take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from synqx_dagster_tests.integration.transfer.types.cases import Case
from synqx_dagster_tests.integration.transfer.types.databases import Database, fill
from synqx_dagster_tests.integration.transfer.types.routes import Outcomes, Route, run_route


@dataclass(frozen=True)
class Way:
    """A route by the kinds of databases that it passes after the source."""

    families: tuple[str, ...]
    lane: Literal["passthrough", "arrow"] = "arrow"
    is_query: bool = False


@dataclass
class Source:
    """The filled table of one source, and what its routes gave so far; a route runs once."""

    database: Database
    cases: Sequence[Case]
    make_database: Callable[[str], Database]
    ways: dict[str, Way]
    _seen: dict[str, Outcomes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fill(self.database, self.cases)

    def run(self, name: str) -> Outcomes:
        """What became of the values on one way."""
        if name not in self._seen:
            way = self.ways[name]
            stations = (self.database, *map(self.make_database, way.families))
            self._seen[name] = run_route(Route(name, stations, way.lane, way.is_query), self.cases)
        return self._seen[name]

    def describe_defects(self, name: str, allowed: Sequence[str]) -> list[str]:
        """What became of values that is none of what may."""
        return [
            f"{self.cases[column].name}, {self.cases[column].values[value].label}: {outcome}"
            for (column, value), outcome in self.run(name).items()
            if outcome.what not in allowed
        ]
