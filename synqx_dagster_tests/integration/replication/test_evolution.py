"""Tables whose columns change at the source in mid stream, followed from a real log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.model.table import TableName
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.report import BatchReport
from synqx_dagster.replication.tables import follow_table
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.applying import Target, make_target
from synqx_dagster_tests.integration.replication.following import Followed, follow, inspect, publish

ITEM = TableName("item", "public")


@dataclass
class Line:
    """A source, a target, and what brings the one's changes into the other."""

    source: PostgresqlDatabase
    target: Target
    followed: Followed
    applier: Applier

    def run(self, *statements: str) -> list[BatchReport]:
        """Run statements at the source, each a transaction of its own, and follow them to the target."""
        for statement in statements:
            self.source.execute(statement)
        # A table that was made again is in the publication once it is put there.
        publish(self.followed.connector, self.followed.replication)
        return self.catch_up()

    def catch_up(self) -> list[BatchReport]:
        """Follow until a mark of the source has come through."""
        self.source.execute("insert into mark default values")
        reports: list[BatchReport] = []
        deadline = time.monotonic() + 60
        while True:
            try:
                self._follow(deadline, reports)
                return reports
            except TargetAlteredError:
                # As a run does: read again from the position.
                self.followed.position = self.applier.state.position or 0

    def _follow(self, deadline: float, reports: list[BatchReport]) -> None:
        with self.followed.stream() as stream:
            while time.monotonic() < deadline:
                transaction = stream.next_transaction(1.0)
                if transaction is not None:
                    reports.append(self.applier.apply([transaction]))
                    self.followed.position = reports[-1].position
                    stream.confirm(self.followed.position)
                    if TableName("mark") in reports[-1].tables or TableName("mark", "public") in reports[-1].tables:
                        return
        raise AssertionError("the stream did not catch up")

    def state(self) -> str:
        return self.applier.table_states[ITEM].status

    def reason(self) -> str:
        return self.applier.table_states[ITEM].reason or ""

    def assert_equal(self, columns: str = "*", order: str = "id") -> None:
        ours = self.source.execute(f"select {columns} from item order by {order}")
        theirs = self.target.rows(f"SELECT {columns} FROM item ORDER BY {order}")
        assert [tuple(map(str, row)) for row in theirs] == [tuple(map(str, row)) for row in ours]


def assert_renamed(line: Line, target: Target, columns: str) -> None:
    """The target has followed the rename of ``name`` to ``title``; MySQL cannot, where it would commit: it says so."""
    if target.kind == "mysql":
        assert line.state() == "stopped"
        assert "'name' was renamed to 'title'" in line.reason()
        return
    assert line.state() == "following", line.reason()
    line.assert_equal(columns)


def make_line(stack: ExitStack, source: PostgresqlDatabase, target: Target, table: str, **fields: Any) -> Line:
    source.execute(table)
    source.execute("create table mark (id serial primary key)")
    followed = stack.enter_context(follow(source, "item", "mark", **fields))
    found = inspect(followed.connector, followed.replication)
    tables = [follow_table(followed.replication, one.table, one.entry, one.key) for one in found.tables]
    applier = stack.enter_context(Applier(followed.replication, target.connector, tables, source=followed.connector))
    applier.begin("run")
    applier.set_position(followed.position, slot="slot", status="following")
    for source_table in applier.table_states:
        applier.follow(source_table, followed.position)
    return Line(source, target, followed, applier)


@pytest.fixture(params=["postgresql", pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    kind = request.param
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    if kind == "postgresql":
        place = place.create_database()
    made = make_target(kind, place)
    yield made
    made.connector.close()


@pytest.fixture
def stack(postgresql: PostgresqlDatabase) -> Iterator[ExitStack]:
    # Ends before the source is dropped.
    with ExitStack() as made:
        yield made


PLAIN = "create table item (id integer primary key, name text, big text)"


def test_a_new_column_comes_with_what_earlier_rows_hold_in_it(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item select i, 'n', 'b' from generate_series(1, 5) i")
    line.run(
        "update item set name = 'before' where id = 1",
        "alter table item add column plain integer, add column filled numeric(8,2) not null default 1.5,"
        " add column said text default 'it''s', add column yes boolean default true",
        "update item set plain = 7 where id = 2",
        "insert into item values (6, 'new', 'b', 8, 2.5, 'x', false)",
        "begin; update item set said = 'y' where id = 3; alter table item add column late text;"
        " update item set late = 'l' where id = 4; commit",
    )
    assert line.state() == "following", line.reason()
    line.assert_equal("id, name, big, plain, filled, said, late")


def test_a_column_that_is_dropped_stays_in_the_target(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run(
        "insert into item values (1, 'a', 'b'), (2, 'c', 'd')",
        "alter table item drop column name",
        "insert into item values (3, 'e')",
        "update item set big = 'f' where id = 1",
    )
    assert line.state() == "following", line.reason()
    line.assert_equal("id, big")
    assert target.rows("SELECT id, name FROM item ORDER BY id") == [(1, "a"), (2, "c"), (3, None)]


def test_a_column_that_is_renamed_is_renamed_in_the_target_or_stops_the_table(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item values (1, 'a', 'b'), (2, 'c', 'd')")
    line.run("alter table item rename column name to title", "update item set title = 't' where id = 1")
    assert_renamed(line, target, "id, title, big")


def test_a_rename_and_a_new_column_at_once_are_told_apart(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item values (1, 'a', 'b')")
    line.run(
        "alter table item rename column name to title",
        "alter table item add column name text default 'new'",
        "alter table item drop column big",
        "insert into item values (2, 'x', 'y')",
    )
    assert_renamed(line, target, "id, title, name")


def test_a_rename_is_known_also_where_older_changes_were_still_to_come(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item values (1, 'a', 'b')")
    # A new run takes the first change when the source's catalog has all of it behind it.
    line.applier.begin("second run")
    line.run(
        "insert into item values (2, 'c', 'd')",
        "alter table item rename column name to title",
        "alter table item drop column big",
        "alter table item add column since date default '2026-01-01'",
        "insert into item values (3, 'e')",
    )
    assert_renamed(line, target, "id, title")


def test_a_column_that_grows_grows_in_the_target_where_the_policy_lets_it(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(
        stack,
        postgresql,
        target,
        "create table item (id integer primary key, n integer, d numeric(6,2), v varchar(5))",
        evolution="widen",
    )
    line.run("insert into item values (1, 2147483647, 1234.56, 'short')")
    line.run(
        "alter table item alter column n type bigint, alter column d type numeric(12,2),"
        " alter column v type varchar(50)",
        "insert into item values (2, 9223372036854775807, 1234567890.12, 'much longer')",
        "update item set d = 9999999999.99 where id = 1",
    )
    if target.kind == "mysql":
        # Its ALTER forgets what else is said of a column.
        assert line.state() == "stopped"
        return
    assert line.state() == "following", line.reason()
    line.assert_equal()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter table item alter column name type integer using length(name)", "rewritten"),
        ("alter table item add column at timestamptz default clock_timestamp()", "differ from row to row"),
        ("alter table item add column serial_number serial", "differ from row to row"),
    ],
)
def test_what_the_log_does_not_tell_stops_the_table(
    change: str, reason: str, stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN, evolution="widen")
    line.run("insert into item values (1, 'abc', 'b')")
    reports = line.run(change, "insert into item (id, big) values (2, 'x')", "update item set big = 'y'")
    assert line.state() == "stopped"
    assert reason in line.reason()
    assert [stopped for report in reports for stopped in report.stopped] == [ITEM]
    # What it holds is of the moment at which it stopped.
    assert target.rows("SELECT id, big FROM item") == [(1, "b")]


def test_freeze_stops_the_table(stack: ExitStack, postgresql: PostgresqlDatabase, target: Target) -> None:
    line = make_line(stack, postgresql, target, PLAIN, evolution="freeze")
    line.run("insert into item values (1, 'abc', 'b')")
    line.run("alter table item add column more text", "insert into item values (2, 'x', 'y', 'z')")
    assert line.state() == "stopped"
    assert "evolution: freeze" in line.reason()
    assert target.rows("SELECT id FROM item") == [(1,)]


def test_a_table_that_is_dropped_and_made_again_stops(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item values (1, 'abc', 'b')")
    line.run("drop table item", PLAIN)
    line.run("insert into item values (2, 'x', 'y')")
    assert line.state() == "stopped"
    assert "dropped and made again" in line.reason()
    assert target.rows("SELECT id FROM item") == [(1,)]


def test_a_change_of_columns_between_two_runs_is_noticed(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item values (1, 'abc', 'b')")
    line.applier.begin("second run")
    line.run(
        "alter table item add column more text default 'd'",
        "insert into item values (2, 'x', 'y', 'z')",
    )
    assert line.state() == "following", line.reason()
    line.assert_equal("id, name, big, more")


def test_a_column_that_was_dropped_and_made_again_under_its_name_stops_the_table(
    stack: ExitStack, postgresql: PostgresqlDatabase, target: Target
) -> None:
    line = make_line(stack, postgresql, target, PLAIN)
    line.run("insert into item values (1, 'abc', 'b')")
    line.source.execute("alter table item drop column big")
    line.source.execute("alter table item add column big text")
    # The log looks the same; a run asks once for each table.
    line.applier.begin("second run")
    line.run("insert into item values (2, 'x', 'y')")
    assert line.state() == "stopped"
    assert "others took their names ('big')" in line.reason()
