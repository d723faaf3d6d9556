"""Whole runs against real servers: first copy, changes, pauses, lost slots, resyncs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.errors import PlanError, SlotInUseError, SlotLostError
from synqx_dagster.replication import operations
from synqx_dagster.replication.status import find_work
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.replicating import Pair, once, open_pair

SCHEMA = """
create table orders (id int primary key, customer text not null, total numeric(12,2), note text);
create table lines (order_id int, position int, article text, primary key (order_id, position));
insert into orders select n, 'customer ' || n, n * 1.5, repeat('x', n % 7) from generate_series(1, 500) n;
insert into lines select n % 500 + 1, n, 'article ' || n from generate_series(1, 900) n;
"""


@pytest.fixture
def pair(postgresql: PostgresqlDatabase, tmp_path: Path) -> Iterator[Pair]:
    postgresql.execute(SCHEMA)
    with open_pair(postgresql, postgresql.create_database(), tmp_path / "spill") as found:
        yield found


def test_a_run_copies_and_follows(pair: Pair) -> None:
    report = pair.follow()
    assert report.ending == "idle"
    assert {str(table.source): table.rows_copied for table in report.tables} == {
        "public.lines": 900,
        "public.orders": 500,
    }
    pair.assert_equal("orders")
    pair.assert_equal("lines")
    pair.source.execute(
        "insert into orders values (1000, 'new', 1, null); update orders set total = total + 1 where id <= 10;"
        " update orders set id = 2000 where id = 20; delete from orders where id = 30; truncate lines"
    )
    report = pair.follow()
    pair.assert_equal("orders")
    assert pair.content("lines") == []
    figures = next(table for table in report.tables if table.source.name == "orders")
    assert (figures.rows_inserted, figures.rows_updated, figures.rows_deleted) == (1, 11, 1)
    assert figures.rows_copied is None
    assert [column.name for column in figures.columns] == ["id", "customer", "total", "note"]
    assert report.lag_seconds == 0
    status = pair.status()
    assert (status.state, status.lag_seconds is not None) == ("following", True)
    assert pair.slots() == [pair.replication.slot_name]


def test_changes_during_the_copy_come_once(pair: Pair) -> None:
    def write() -> None:
        pair.source.execute("update orders set note = 'changed' where id <= 50; delete from orders where id = 60")

    # It is asked before it prepares, before it makes the slot, and then while it copies.
    pair.follow(is_interrupted=once(write, call=3))
    pair.follow()
    pair.assert_equal("orders")


def test_history_has_each_change_once(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    postgresql.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')")
    target = postgresql.create_database()
    with open_pair(postgresql, target, tmp_path, mode="history") as pair:
        pair.follow()
        postgresql.execute(
            "update t set v = 'c' where id = 1; delete from t where id = 2; insert into t values (3, 'd')"
        )
        pair.follow()
        pair.follow()
        rows = target.execute("select change_operation, id, v from t order by change_lsn, change_ordinal")
        assert rows == [
            ("copy", 1, "a"),
            ("copy", 2, "b"),
            ("update", 1, "c"),
            ("delete", 2, None),
            ("insert", 3, "d"),
        ]
        # A new copy begins a new account, and what was recorded stays.
        operations.resync(pair.replication, pair.source_connector, pair.target_connector)
        pair.follow()
        assert target.execute("select change_operation, count(*) from t group by 1 order by 1") == [
            ("copy", 4),
            ("delete", 1),
            ("insert", 1),
            ("update", 1),
        ]


def test_soft_delete_keeps_rows_also_over_a_resync(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    postgresql.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b'), (3, 'c')")
    target = postgresql.create_database()
    with open_pair(postgresql, target, tmp_path, mode="soft_delete") as pair:
        pair.follow()
        postgresql.execute("delete from t where id = 1")
        pair.follow()
        shown = "select id, v, is_deleted, deleted_at is null from t order by id"
        assert target.execute(shown) == [(1, "a", True, False), (2, "b", False, True), (3, "c", False, True)]
        # While the slot is gone, a row goes of which no log will ever tell.
        pair.source.execute(f"select pg_drop_replication_slot('{pair.replication.slot_name}')")
        postgresql.execute("delete from t where id = 2; insert into t values (4, 'd')")
        with pytest.raises(SlotLostError):
            pair.follow()
        operations.resync(pair.replication, pair.source_connector, pair.target_connector)
        pair.follow()
        assert target.execute(shown) == [
            (1, "a", True, False),
            (2, "b", True, False),
            (3, "c", False, True),
            (4, "d", False, True),
        ]
        assert target.execute("select count(*) from pg_tables where tablename like '_synqx_keys%'") == [(0,)]


def test_a_lost_slot_stops_with_a_clear_state(pair: Pair) -> None:
    pair.follow()
    before = pair.content("orders")
    pair.source.execute(f"select pg_drop_replication_slot('{pair.replication.slot_name}')")
    pair.source.execute("delete from orders where id < 100")
    with pytest.raises(SlotLostError, match="is gone"):
        pair.follow()
    assert pair.content("orders") == before
    status = pair.status()
    assert status.state == "lost"
    assert "is gone" in str(status.reason)
    assert find_work(pair.replication, pair.source_connector, pair.target_connector).lost is not None
    with pytest.raises(SlotLostError, match="all tables"):
        operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["orders"])
    operations.resync(pair.replication, pair.source_connector, pair.target_connector)
    pair.follow()
    pair.assert_equal("orders")
    assert pair.status().state == "following"


def test_a_slot_that_was_made_anew_by_somebody_has_lost_changes(pair: Pair) -> None:
    pair.follow()
    name = pair.replication.slot_name
    pair.source.execute(f"select pg_drop_replication_slot('{name}')")
    pair.source.execute("delete from orders where id < 100")
    pair.source.execute(f"select pg_create_logical_replication_slot('{name}', 'pgoutput')")
    with pytest.raises(SlotLostError, match="by somebody else, or made anew"):
        pair.follow()
    assert len(pair.content("orders")) == 500


def test_snapshot_again_begins_anew_by_itself(pair: Pair) -> None:
    pair.change(snapshot="again")
    pair.follow()
    pair.source.execute(f"select pg_drop_replication_slot('{pair.replication.slot_name}')")
    pair.source.execute("delete from orders where id < 100")
    assert find_work(pair.replication, pair.source_connector, pair.target_connector).reason is not None
    pair.follow()
    pair.assert_equal("orders")


def test_snapshot_never_follows_from_here_on(pair: Pair) -> None:
    pair.change(snapshot="never")
    pair.follow()
    pair.source.execute("insert into orders values (1000, 'new', 1, null)")
    pair.follow()
    assert pair.content("orders") == ["(1000,new,1.00,)"]


def test_one_table_is_copied_anew(pair: Pair) -> None:
    pair.follow()
    pair.target.execute("delete from orders where id < 100; delete from lines where position < 100")
    marked = operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["orders"])
    assert [str(table) for table in marked] == ["public.orders"]
    assert find_work(pair.replication, pair.source_connector, pair.target_connector).reason is not None
    pair.follow()
    pair.assert_equal("orders")
    assert len(pair.content("lines")) == 801
    assert pair.slots() == [pair.replication.slot_name]


def test_new_tables_are_copied_and_tables_made_anew_too(pair: Pair) -> None:
    pair.follow()
    pair.source.execute("create table later (id int primary key, v text); insert into later values (1, 'a')")
    pair.source.execute(
        "drop table lines; create table lines (id bigint primary key, t text); insert into lines values (7)"
    )
    assert find_work(pair.replication, pair.source_connector, pair.target_connector).reason is not None
    pair.target.execute("drop table lines")
    pair.follow()
    pair.source.execute("insert into later values (2, 'b'); insert into lines values (8)")
    pair.follow()
    pair.assert_equal("later")
    pair.assert_equal("lines")


def test_a_paused_run_ends_and_the_next_one_goes_on(pair: Pair) -> None:
    report = pair.follow(is_paused=lambda: True)
    assert report.ending == "paused"
    report = pair.follow(is_interrupted=lambda: True)
    assert report.ending == "interrupted"
    pair.follow()
    pair.assert_equal("orders")


@pytest.mark.slow
def test_a_second_run_is_refused_while_one_reads(pair: Pair) -> None:
    pair.follow()
    with pair.source_connector.replicate() as other:
        other.start(
            pair.replication.slot_name,
            pair.replication.publication_name,
            after_lsn=0,
            streams_open_transactions=False,
        )
        with pytest.raises(SlotInUseError):
            pair.follow()


def test_an_idle_slot_moves_while_neighbours_write(pair: Pair) -> None:
    pair.follow()
    neighbour = pair.source.create_database()
    neighbour.execute("create table busy as select n, repeat('y', 500) from generate_series(1, 60000) n")
    held = pair.status()
    assert held.slot is not None
    assert held.slot.lag_bytes > 16 * 1024 * 1024
    work = find_work(pair.replication, pair.source_connector, pair.target_connector)
    assert "behind by" in str(work.reason)
    pair.follow()
    after = pair.status()
    assert after.slot is not None
    assert after.slot.lag_bytes < 1024 * 1024
    assert find_work(pair.replication, pair.source_connector, pair.target_connector).reason is None
    # What was passed over counts as stored: it is no loss.
    pair.source.execute("insert into orders values (1000, 'new', 1, null)")
    pair.follow()
    pair.assert_equal("orders")


def test_create_makes_publication_and_slot_once(pair: Pair) -> None:
    made = operations.create(pair.replication, pair.source_connector, pair.target_connector)
    assert (made.made_publication, made.made_slot) == (True, True)
    assert pair.slots() == [pair.replication.slot_name]
    again = operations.create(pair.replication, pair.source_connector, pair.target_connector)
    assert (again.made_publication, again.made_slot) == (False, False)
    pair.source.execute("delete from orders where id < 100")
    pair.follow()
    pair.assert_equal("orders")


def test_drop_leaves_nothing_at_the_source(pair: Pair) -> None:
    pair.follow()
    dropped = operations.drop(pair.replication, pair.source_connector, pair.target_connector)
    assert (dropped.slot, dropped.publication) == (True, True)
    assert (pair.slots(), pair.publications()) == ([], [])
    assert pair.status().state == "new"
    assert len(pair.content("orders")) == 500
    dropped = operations.drop(pair.replication, pair.source_connector, pair.target_connector)
    assert (dropped.slot, dropped.publication) == (False, False)
    pair.follow()
    pair.assert_equal("orders")


def test_a_table_without_key_is_refused_with_the_remedy(pair: Pair) -> None:
    pair.source.execute("create table no_key (v text)")
    with pytest.raises(PlanError, match="no_key"):
        pair.follow()
    assert (pair.slots(), pair.publications()) == ([], [])
    made = operations.create(pair.replication, pair.source_connector, pair.target_connector)
    assert [str(problem.table) for problem in made.source.problems] == ["public.no_key"]
    assert pair.slots() == []


def test_a_table_that_loses_its_key_later_stops_alone(pair: Pair) -> None:
    pair.follow()
    pair.source.execute("create table no_key (v text); insert into orders values (1000, 'new', 1, null)")
    report = pair.follow()
    assert any("no_key" in warning for warning in report.warnings)
    pair.assert_equal("orders")
    assert pair.status().state == "degraded"
    # The source's own statements go on.
    pair.source.execute("insert into no_key values ('a'); update no_key set v = 'b'; delete from no_key")


def test_a_failed_copy_leaves_the_slot_and_is_made_again(pair: Pair) -> None:
    pair.target.execute("create table orders (id int primary key, other int not null)")
    with pytest.raises(Exception, match="orders"):
        pair.follow()
    assert pair.slots() == [pair.replication.slot_name]
    assert pair.status().state == "copying"
    pair.target.execute("drop table orders")
    pair.source.execute("delete from orders where id < 100")
    pair.follow()
    pair.assert_equal("orders")
    pair.assert_equal("lines")


def test_a_later_copy_that_is_refused_stops_its_table_alone(pair: Pair) -> None:
    pair.follow()
    pair.target.execute("drop table orders; create table orders (id int primary key, other int not null)")
    operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["orders"])
    pair.source.execute("delete from lines where position % 2 = 0; insert into orders values (1000, 'new', 1, null)")
    report = pair.follow()
    assert any("orders has stopped: it cannot be copied" in warning for warning in report.warnings)
    pair.assert_equal("lines")
    assert pair.status().state == "degraded"
    pair.target.execute("drop table orders")
    operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["orders"])
    pair.follow()
    pair.assert_equal("orders")
    assert pair.status().state == "following"
