"""The modes merge and scd2 against a model in plain Python: any sequence of states of a source, into every engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.protocol import Connector, RowChanges
from synqx_dagster.transfer.result import LoadResult
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping
from synqx_dagster_tests.integration.transfer.modes import KINDS, Target, make_target

#: Keys that some collation, trimming, folding, quoting or normalising takes for each other.
KEYS = ["", "a", "A", "a ", " a", "é", "e\u0301", "É", "'", '"', "\\", "%s", "{x}", "null", "😀", "ß", "ss"]
NOTES = [None, "", " ", "x", "X", "x ", "null", "\u00e9", "e\u0301"]
DOCUMENTS = [None, "1", "1.0", '{"a": 1}', '{"a":1}', '{"a":1,"a":2}', "null", '"x"']
AMOUNTS = [None, "0.00", "1.00", "-1.00", "99999999.99"]
NUMBERS = [None, 0.0, 1.5, 1e308, 5e-324]

#: note, number, amount, document, gone
Row = tuple[str | None, float | None, str | None, str | None, bool | None]
State = dict[str, Row]


@dataclass(frozen=True)
class Options:
    delete_missing: bool
    soft_delete: bool


@dataclass
class Merged:
    """What a target holds after merges."""

    options: Options
    rows: State = field(default_factory=dict)

    def apply(self, state: State) -> RowChanges:
        alive = {key: row for key, row in state.items() if not (self.options.soft_delete and row[4])}
        flagged = set(state) - set(alive)
        gone = set(self.rows) & (set(self.rows) - set(alive) if self.options.delete_missing else flagged)
        updated = {key for key in alive if key in self.rows and repr(self.rows[key]) != repr(alive[key])}
        inserted = set(alive) - set(self.rows)
        self.rows = {key: row for key, row in self.rows.items() if key not in gone} | alive
        return RowChanges(len(inserted), len(updated), len(gone))


@dataclass
class Kept:
    """What a target holds that keeps history: for each key its versions, and whether the last one is current."""

    options: Options
    versions: dict[str, list[Row]] = field(default_factory=dict)
    current: set[str] = field(default_factory=set)

    def apply(self, state: State) -> RowChanges:
        merged = Merged(self.options, {key: self.versions[key][-1] for key in self.current})
        before = dict(merged.rows)
        changes = merged.apply(state)
        opened = {key for key in merged.rows if repr(merged.rows[key]) != repr(before.get(key))}
        for key in opened:
            self.versions.setdefault(key, []).append(merged.rows[key])
        self.current = set(merged.rows)
        return RowChanges(len(opened), changes.updated, changes.deleted)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return make_target(request.param, request, tmp_path)


@pytest.fixture
def connectors(postgresql: PostgresqlDatabase, target: Target) -> Iterator[tuple[Connector, Connector]]:
    pair = connect(postgresql.config("source")), connect(target.config)
    yield pair
    for connector in pair:
        connector.close()


def states(numbers: list[float | None]) -> st.SearchStrategy[list[State]]:
    row = st.tuples(
        st.sampled_from(NOTES),
        st.sampled_from(numbers),
        st.sampled_from(AMOUNTS),
        st.sampled_from(DOCUMENTS),
        st.sampled_from([None, False, False, True]),
    )
    return st.lists(st.dictionaries(st.sampled_from(KEYS), row, max_size=6), min_size=2, max_size=4)


_names = itertools.count(1)


def write_source(source: PostgresqlDatabase, state: State) -> None:
    source.execute(
        "drop table if exists s; create table s (k text primary key, note text, number double precision,"
        " amount decimal(10,2), document json, gone boolean)"
    )
    for key, (note, number, *others) in state.items():
        # As text: the server takes a literal for a decimal, of which there is no negative zero.
        digits = None if number is None else repr(number)
        source.execute(
            "insert into s values (%s, %s, %s::text::double precision, %s, %s, %s)", (key, note, digits, *others)
        )


def read_rows(target: Target, table: str, more: str = "") -> list[tuple[str, Row]]:
    columns = f"k, note, number, {target.text('amount')}, {target.text('document')}, gone"
    if target.kind in ("sqlite", "mysql"):
        # Stored as numbers.
        columns = columns.replace(target.text("amount"), "amount")
    rows = []
    for key, note, number, amount, document, gone in target.fetch(f"select {columns} from {table} {more}"):
        text = None if amount is None else f"{float(str(amount)):.2f}"
        rows.append((str(key), (note, number, text, document, None if gone is None else bool(gone))))
    return rows  # type: ignore[return-value]  # what a driver gives has no type


def changes_of(result: LoadResult) -> RowChanges:
    return RowChanges(result.rows_inserted, result.rows_updated, result.rows_deleted)


SETTINGS = settings(
    max_examples=5,
    deadline=None,
    # Each example loads some tables; shrinking one takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("mode", ["merge", "scd2"])
def test_a_target_is_what_the_model_says(
    postgresql: PostgresqlDatabase, target: Target, connectors: tuple[Connector, Connector], mode: str
) -> None:
    # Neither MySQL nor SQLite has a negative zero.
    numbers = [*NUMBERS, -0.0] if target.kind in ("postgresql", "duckdb") else NUMBERS

    @SETTINGS
    @given(states=states(numbers), options=st.builds(Options, st.booleans(), st.booleans()))
    def check(states: list[State], options: Options) -> None:
        table = f"t{next(_names)}"
        mapping = make_mapping(
            source_table="s",
            target_table=table,
            mode=mode,
            delete_missing=options.delete_missing,
            soft_delete_column="gone" if options.soft_delete else None,
        )
        model: Merged | Kept = Merged(options) if mode == "merge" else Kept(options)
        for number, state in enumerate([*states, states[-1]]):
            write_source(postgresql, state)
            expected = model.apply(state)
            result = load(*connectors, mapping, load_id=f"{table}-{number}")
            assert changes_of(result) == expected
            assert all(check.passed for check in result.checks)
        # The last state was loaded twice.
        assert (expected.inserted, expected.updated, expected.deleted) == (0, 0, 0)
        connectors[1].close()
        if isinstance(model, Merged):
            assert sorted(map(repr, read_rows(target, table))) == sorted(map(repr, model.rows.items()))
        else:
            check_history(target, table, model)

    check()


def check_history(target: Target, table: str, model: Kept) -> None:
    true = "true" if target.kind in ("postgresql", "duckdb") else "1"
    current = [key for key, _ in read_rows(target, table, f"where is_current = {true}")]
    assert sorted(current) == sorted(model.current)
    versions: dict[str, list[Row]] = {}
    for key, row in read_rows(target, table, "order by valid_from"):
        versions.setdefault(key, []).append(row)
    assert repr(sorted(versions.items())) == repr(sorted(model.versions.items()))
    columns = f"k, {target.text('valid_from')}, {target.text('valid_to')}, is_current"
    ends: dict[object, datetime] = {}
    for owner, start, end, is_current in target.fetch(f"select {columns} from {table} order by valid_from"):
        starts = datetime.fromisoformat(str(start))
        assert owner not in ends or ends[owner] <= starts
        assert (end is None) == bool(is_current)
        ends[owner] = datetime.max.replace(tzinfo=starts.tzinfo) if end is None else datetime.fromisoformat(str(end))
        assert starts < ends[owner]
