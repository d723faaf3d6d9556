"""Runs the cases along a route, and says of every value what became of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import BadRowsError, ConfigurationError, PlanError, SynqxError
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping
from synqx_dagster_tests.integration.transfer.types.canonical import canonical
from synqx_dagster_tests.integration.transfer.types.cases import Case
from synqx_dagster_tests.integration.transfer.types.databases import (
    TABLE,
    Database,
    Read,
    Texts,
    column_names,
    read_quarantine,
    read_texts,
    row_numbers,
)

#: A source column whose text only PostgreSQL makes; hashing it takes a mapping out of the passthrough lane.
LANE_COLUMN = "lane"

#: Refused: before a row was read. Ended: the load failed while it read, naming the column, and changed nothing.
What = Literal["exact", "refused", "quarantined", "ended", "changed", "failed"]
#: What may become of a value; anything else is a defect.
ALLOWED: tuple[What, ...] = ("exact", "refused", "quarantined")


@dataclass(frozen=True)
class Outcome:
    """What became of one value on one route."""

    what: What
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" if self.reason else self.what


EXACT = Outcome("exact")

#: By the numbers of case and value.
Outcomes = dict[tuple[int, int], Outcome]


@dataclass(frozen=True)
class Route:
    """Databases that the rows pass one after the other, each with a table of its own; the first has the cases.

    With ``is_query`` the first leg reads a query, of whose result a server tells less than of a table.
    """

    name: str
    stations: tuple[Database, ...]
    lane: Literal["passthrough", "arrow"]
    is_query: bool = False


def run_route(route: Route, cases: Sequence[Case]) -> Outcomes:
    """Load the cases' table along a route, leg by leg, and judge every value at each station.

    A value that was exact at one station and is not at the next says so.
    """
    names = column_names(cases)
    places = row_numbers(cases)
    origin = route.stations[0]
    before = read_texts(origin, [Read(name, case.kind, case.text) for name, case in zip(names, cases, strict=True)])
    outcomes: Outcomes = {}
    left = list(names)
    for leg, (source, target) in enumerate(itertools.pairwise(route.stations)):
        stopped, quarantined = load_cases(source, target, left, route.lane, is_query=route.is_query and leg == 0)
        left = [name for name in left if name not in stopped]
        # A type that only one server has arrives as a text, unless every station has it.
        native = {station.family for station in route.stations[: leg + 2]} == {origin.family}
        after = read_texts(target, [_read_of(name, cases[names.index(name)], native=native) for name in left])
        if set(after) - set(before) or after.get(0) != tuple(None for _ in left):
            raise AssertionError(f"{route.name}: rows that are not the source's, or NULLs that became values")
        if native and not route.is_query:
            # Of a query's result the server does not tell each type with its length.
            kept = {name: spelt for name, spelt in origin.column_types(TABLE) if spelt and name in left}
            became = {name: spelt for name, spelt in target.column_types(TABLE) if name in kept}
            assert became == kept, f"{route.name}: columns changed their types"
        for place, row in places.items():
            if outcomes.get(place, EXACT) != EXACT:
                continue
            name = names[place[0]]
            if name in stopped:
                outcome = stopped[name]
            elif row in quarantined:
                outcome = _quarantined(name, *quarantined[row])
            else:
                same_text = native and origin.family != "sqlite"
                outcome = _judge(place, row, cases, before, after, left, same_text=same_text)
            if leg and outcome != EXACT:
                outcome = replace(outcome, reason=f"on the way back: {outcome.reason}")
            outcomes[place] = outcome
    return outcomes


def _read_of(name: str, case: Case, *, native: bool) -> Read:
    return Read(name, case.kind, case.text if native else None)


def _judge(
    place: tuple[int, int],
    row: int,
    cases: Sequence[Case],
    before: Texts,
    after: Texts,
    left: Sequence[str],
    *,
    same_text: bool,
) -> Outcome:
    column, _ = place
    if row not in after:
        return Outcome("changed", "the row is lost")
    texts = dict(zip(left, after[row], strict=True))
    name = f"c{column}"
    strays = [other for other, text in texts.items() if other != name and text is not None]
    if strays:
        return Outcome("changed", f"{', '.join(strays)} are no longer NULL")
    there, here = before[row][column], texts[name]
    kind = cases[column].kind
    if there == here or (not same_text and canonical(there, kind) == canonical(here, kind)):
        return EXACT
    return Outcome("changed", f"{_short(there)} became {_short(here)}")


def _short(text: str | None) -> str:
    return "NULL" if text is None else repr(text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)")


def _quarantined(name: str, column: str, reason: str) -> Outcome:
    if column != name:
        return Outcome("failed", f"quarantined for the column {column}: {reason}")
    return Outcome("quarantined", reason.removeprefix(f"{name}: "))


# --- one load ---------------------------------------------------------------------------------------------------


@contextmanager
def connected(*databases: Database) -> Iterator[list[Connector]]:
    """Connectors of databases, closed at the end."""
    with ExitStack() as stack:
        connectors = []
        for database in databases:
            connector = connect(database.config)
            stack.callback(connector.close)
            connectors.append(connector)
        yield connectors


def load_cases(
    source: Database, target: Database, names: Sequence[str], lane: str, *, is_query: bool = False
) -> tuple[dict[str, Outcome], Mapping[int, tuple[str, str]]]:
    """Load what can be loaded; what became of the columns that cannot, and the rows that were set aside."""
    left = list(names)
    stopped: dict[str, Outcome] = {}
    with connected(source, target) as (reads, writes):
        while True:
            mapping = make_mapping(
                **({"source_query": f"select * from {TABLE}"} if is_query else {"source_table": TABLE}),
                target_table=TABLE,
                on_bad_row="quarantine",
                column_mappings=[*map(_direct, ["id", *left]), *_lane_mapping(source, target, lane)],
            )
            try:
                result = load(reads, writes, mapping, load_id=f"load-{len(stopped)}")
            except SynqxError as error:
                blamed = _blamed(error, left)
                if not blamed:
                    raise
                stopped.update({name: _stopped(error, name) for name in blamed})
                left = [name for name in left if name not in blamed]
                continue
            break
    assert result.lane == (lane if source.family == target.family == "postgresql" else "arrow"), result.lane_reason
    return stopped, read_quarantine(target) if result.rows_quarantined else {}


def _direct(name: str) -> dict[str, object]:
    return {"type": "direct", "source_columns": [name], "target_fields": [name]}


def _lane_mapping(source: Database, target: Database, lane: str) -> list[dict[str, object]]:
    if not (source.family == target.family == "postgresql") or lane != "arrow":
        return []
    return [{"type": "hash", "source_columns": [LANE_COLUMN], "target_fields": [LANE_COLUMN]}]


def _blamed(error: SynqxError, names: Sequence[str]) -> list[str]:
    """The columns that an error names."""
    return [name for name in names if re.search(rf"['\"`\s]{name}['\"`:\s(]", f" {error} ")]


def _stopped(error: SynqxError, name: str) -> Outcome:
    message = re.sub(rf"^(column|field) '{name}'( is|:)? ", "", error.message)
    if isinstance(error, ConfigurationError | PlanError):
        return Outcome("refused", message)
    return Outcome("ended" if isinstance(error, BadRowsError) else "failed", message)
