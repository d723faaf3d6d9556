"""What real servers log comes out as what was done: keys, large values, identities, partitions, savepoints, DDL."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.changes import UNCHANGED, Delete, Insert, Truncate, Update
from synqx_dagster.replication.slot import create_slot, drop_slot
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.following import follow, take, wait_until


def test_statements_on_one_key_come_one_by_one(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x text)")
    with follow(source) as followed, followed.stream() as stream:
        source.execute(
            "insert into t values (1, 'a'); update t set x = 'b'; delete from t; insert into t values (1, null)"
        )
        changes = followed.changes(stream)
        relation = changes[0].relation if isinstance(changes[0], Insert) else None
        assert relation is not None
        assert changes == [
            Insert(relation, ("1", "a")),
            Update(relation, None, False, ("1", "b")),
            Delete(relation, ("1", None), True),
            Insert(relation, ("1", None)),
        ]
        assert (relation.table, relation.key, relation.replica_identity) == (
            TableName("t", "public"),
            ("id",),
            "default",
        )
        assert [(column.name, column.native_type) for column in relation.columns] == [("id", "integer"), ("x", "text")]


def test_a_changed_key_comes_with_the_old_one(source: PostgresqlDatabase) -> None:
    source.execute("create table t (a int, b text, x text, primary key (b, a))")
    source.execute("insert into t values (1, 'k', 'x')")
    with follow(source) as followed, followed.stream() as stream:
        source.execute("update t set a = 2, x = 'y'")
        (change,) = followed.changes(stream)
        assert isinstance(change, Update)
        assert change.old_is_key
        assert (change.old, change.new) == (("1", "k", None), ("2", "k", "y"))


def test_a_large_value_that_has_not_changed_is_told_from_null(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x text, large text, other text)")
    source.execute("alter table t alter large set storage external")
    source.execute("insert into t values (1, 'a', repeat('x', 100000), null)")
    with follow(source) as followed, followed.stream() as stream:
        source.execute("update t set x = 'b'")
        source.execute("update t set id = 2")
        source.execute("update t set large = large || 'y'")
        first, second, third = (followed.changes(stream)[0] for _ in range(3))
        assert isinstance(first, Update)
        assert isinstance(second, Update)
        assert isinstance(third, Update)
        assert first.new == ("1", "b", UNCHANGED, None)
        assert (second.old, second.new) == (("1", None, None, None), ("2", "b", UNCHANGED, None))
        assert third.new == ("2", "b", "x" * 100_000 + "y", None)


def test_identities_full_and_by_index(source: PostgresqlDatabase) -> None:
    source.execute("create table f (id int primary key, x text); alter table f replica identity full")
    source.execute("create table i (id int primary key, code text not null, x text)")
    source.execute("create unique index by_code on i (code); alter table i replica identity using index by_code")
    source.execute("insert into f values (1, 'a'); insert into i values (1, 'c', 'a')")
    with follow(source) as followed, followed.stream() as stream:
        source.execute("update f set x = null; delete from f; update i set code = 'd'; delete from i")
        update_f, delete_f, update_i, delete_i = followed.changes(stream)
        assert isinstance(update_f, Update)
        assert isinstance(delete_f, Delete)
        assert isinstance(update_i, Update)
        assert isinstance(delete_i, Delete)
        assert (update_f.old, update_f.old_is_key, update_f.new) == (("1", "a"), False, ("1", None))
        assert (delete_f.old, delete_f.old_is_key) == (("1", None), False)
        assert (update_f.relation.replica_identity, update_f.relation.key) == ("full", ("id", "x"))
        assert (update_i.old, update_i.old_is_key) == ((None, "c", None), True)
        assert (delete_i.old, delete_i.relation.key) == ((None, "d", None), ("code",))
        assert delete_i.relation.replica_identity == "index"


def test_tables_that_are_emptied_at_once(source: PostgresqlDatabase) -> None:
    source.execute("create table a (id serial primary key)")
    source.execute("create table b (id int primary key, a int references a)")
    source.execute("create table other (id int primary key)")
    with follow(source, "a", "b") as followed, followed.stream() as stream:
        source.execute("insert into a values (1); truncate a, other restart identity cascade; insert into a values (2)")
        inserted, emptied, again = followed.changes(stream)
        assert isinstance(inserted, Insert)
        assert isinstance(again, Insert)
        assert isinstance(emptied, Truncate)
        # CASCADE was resolved by the server, and what is not published is left out.
        assert {relation.table.name for relation in emptied.relations} == {"a", "b"}
        assert emptied.restarts_identity


def test_partitions_come_as_the_table_that_they_are_parts_of(source: PostgresqlDatabase) -> None:
    source.execute("create table p (id int, year int, x text, primary key (id, year)) partition by range (year)")
    source.execute("create table p1 partition of p for values from (2000) to (2010)")
    # With its columns in another order, and parts of its own.
    source.execute(
        "create table p2 (x text, year int not null, id int not null, primary key (id, year)) partition by list (year)"
    )
    source.execute("create table p2a partition of p2 for values in (2010)")
    source.execute("alter table p attach partition p2 for values from (2010) to (2020)")
    with follow(source) as followed, followed.stream() as stream:
        source.execute("insert into p values (1, 2005, 'a'); update p set year = 2010; update p set x = 'b'")
        changes = followed.changes(stream)
        source.execute("create table p3 partition of p for values from (2020) to (2030)")
        source.execute("insert into p3 values (9, 2025, 'new'); truncate p")
        later = followed.changes(stream)
        assert [type(change) for change in changes] == [Insert, Delete, Insert, Update]
        assert {change.relation.table.name for change in changes if not isinstance(change, Truncate)} == {"p"}
        inserted, moved, again, updated = changes
        assert isinstance(inserted, Insert)
        assert isinstance(moved, Delete)
        assert isinstance(again, Insert)
        assert isinstance(updated, Update)
        assert (inserted.new, moved.old) == (("1", "2005", "a"), ("1", "2005", None))
        assert (again.new, updated.new) == (("1", "2010", "a"), ("1", "2010", "b"))
        assert isinstance(later[0], Insert)
        assert (later[0].relation.table.name, later[0].new) == ("p", ("9", "2025", "new"))
        assert isinstance(later[1], Truncate)
        assert [relation.table.name for relation in later[1].relations] == ["p"]


def test_column_lists_and_row_filters(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, secret text, x text); alter table t add region text")
    source.execute("alter table t drop constraint t_pkey, add primary key (id, region)")
    table = {"name": "t", "columns": ["id", "region", "x"], "where": "region in ('eu', 'it''s %s ?')"}
    with follow(source, table) as followed, followed.stream() as stream:
        source.execute("insert into t values (1, 's', 'a', 'eu'), (2, 's', 'b', 'us'), (3, 's', 'c', 'it''s %s ?')")
        source.execute("update t set region = 'us' where id = 1")
        source.execute("update t set region = 'eu' where id = 2")
        inserts = followed.changes(stream)
        (left,), (entered,) = followed.changes(stream), followed.changes(stream)
        assert [change.new for change in inserts if isinstance(change, Insert)] == [
            ("1", "a", "eu"),
            ("3", "c", "it's %s ?"),
        ]
        assert isinstance(left, Delete)
        assert isinstance(entered, Insert)
        assert (left.old, entered.new) == (("1", None, "eu"), ("2", "b", "eu"))


def test_changed_tables_are_described_anew_where_they_changed(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x int)")
    source.execute("create table other (id int primary key)")
    with follow(source) as followed, followed.stream() as stream:
        with closing(source.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("begin; insert into t values (1, 1)")
            cursor.execute("alter table t add y text default 'd'; insert into t values (2, 2)")
            cursor.execute("alter table t rename x to z; alter table t alter z type numeric(9,2)")
            cursor.execute("update t set y = 'e' where id = 2; alter table t drop z; insert into t values (3, 'f')")
            cursor.execute("alter table t rename to u; insert into u values (4, 'g'); commit")
        rewritten = followed.changes(stream)
        source.execute("drop table u; create table t (key text primary key)")
        source.execute("insert into other values (1)")
        shown = [
            (
                change.relation.table.name,
                [(column.name, column.native_type) for column in change.relation.columns],
                change.new,
            )
            for change in rewritten
            if not isinstance(change, (Truncate, Delete))
        ]
        identity = ("id", "integer")
        assert shown == [
            ("t", [identity, ("x", "integer")], ("1", "1")),
            ("t", [identity, ("x", "integer"), ("y", "text")], ("2", "2", "d")),
            ("t", [identity, ("z", "numeric(9,2)"), ("y", "text")], ("2", "2.00", "e")),
            ("t", [identity, ("y", "text")], ("3", "f")),
            ("u", [identity, ("y", "text")], ("4", "g")),
        ]
        assert [type(change) for change in followed.changes(stream)] == [Insert]


def test_a_type_that_is_gone_when_its_value_is_read(source: PostgresqlDatabase) -> None:
    source.execute("create type mood as enum ('sad'); create table t (id int primary key, m mood, n int)")
    with follow(source) as followed:
        source.execute("insert into t values (1, 'sad', 3)")
        source.execute("drop table t; drop type mood")
        with followed.stream() as stream:
            (change,) = followed.changes(stream)
            assert isinstance(change, Insert)
            assert change.new == ("1", "sad", "3")
            assert [column.native_type for column in change.relation.columns] == ["integer", "text", "integer"]


HOSTILE = ["a.b", 'say "hi"', "Größe 😀", "per%cent?", "select", "semi;colon' --", "n" * 63]


def test_names_that_are_hard_to_quote(source: PostgresqlDatabase) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in HOSTILE]
    source.execute(f"create schema {quoted[0]}")
    for name in quoted:
        source.execute(f"create table {quoted[0]}.{name} ({name} int primary key, x int)")
    entries = [{"name": str(TableName(name, "a.b"))} for name in HOSTILE]
    with follow(source, *entries) as followed, followed.stream() as stream:
        for name in quoted:
            source.execute(f"insert into {quoted[0]}.{name} values (1, 2)")
            (change,) = followed.changes(stream)
            assert isinstance(change, Insert)
            assert change.relation.table in [TableName(one, "a.b") for one in HOSTILE]
            assert change.relation.columns[0].name == change.relation.table.name
            assert change.new == ("1", "2")


@pytest.mark.parametrize("streams", [True, False], ids=["in pieces", "whole"])
def test_a_large_transaction_with_savepoints_rolled_back(source: PostgresqlDatabase, streams: bool) -> None:
    source.execute(f"alter database \"{source.name}\" set logical_decoding_work_mem = '64kB'")
    source.execute("create table t (id int primary key, x text); create table noted (id int primary key)")
    with follow(source) as followed:
        with closing(source.connect()) as one, one.cursor() as large, closing(source.connect()) as two:
            large.execute("begin; insert into t select g, repeat('x', 100) from generate_series(1, 3000) g")
            for number in range(5):
                large.execute(f"savepoint s{number}")
                # Described within the savepoint for the first time.
                large.execute(f"insert into noted select g from generate_series({number}0000, {number}3000) g")
                large.execute(f"savepoint inner{number}; update t set x = 'inner' where id between 1 and 500")
                if number % 2:
                    large.execute(f"rollback to savepoint inner{number}")
                if number != 4:
                    large.execute(f"rollback to savepoint s{number}")
                with two.cursor() as small:
                    small.execute(f"insert into t values ({-1 - number}, 'small')")
            large.execute("delete from t where id > 2500; commit")
            large.execute("begin; delete from t; rollback")
        with followed.stream(streams_open_transactions=streams, memory_bytes=200_000) as stream:
            for number in range(5):
                (change,) = followed.changes(stream)
                assert isinstance(change, Insert)
                assert change.new == (str(-1 - number), "small")
            changes = followed.changes(stream)
        counted = (
            "select stream_count > 0 from pg_stat_replication_slots where slot_name = %s",
            [followed.replication.slot_name],
        )
        wait_until(lambda: source.execute(*counted) == [(streams,)], "the server counted its pieces")
    rows: dict[tuple[str, str | None], str | None] = {}
    for change in changes:
        assert not isinstance(change, Truncate)
        name = change.relation.table.name
        row = change.old if isinstance(change, Delete) else change.new
        assert isinstance(row[0], str)
        if isinstance(change, Delete):
            del rows[name, row[0]]
        else:
            value = row[1] if name == "t" else None
            assert value is None or isinstance(value, str)
            rows[name, row[0]] = value
    expected = source.execute(
        "select 't', id::text, x from t where id > 0 union all select 'noted', id::text, null from noted"
    )
    assert rows == {(name, key): value for name, key, value in expected}
    assert len(changes) == 3000 + 3001 + 500 + 500


def test_what_was_copied_and_what_comes_after_make_the_whole(source: PostgresqlDatabase) -> None:
    """Rows that others write while the slot is made are in its snapshot or in its stream, and in one of them."""
    source.execute("create table t (id int primary key)")
    stop = threading.Event()

    def write(start: int) -> None:
        with closing(source.connect()) as connection, connection.cursor() as cursor:
            number = start
            while not stop.is_set():
                cursor.execute("insert into t values (%s), (%s)", (number, number + 1))
                number += 2

    with follow(source) as followed:
        threads = [threading.Thread(target=write, args=(start * 10_000_000,)) for start in range(3)]
        for thread in threads:
            thread.start()
        try:
            for attempt in range(3):
                name = f"{followed.replication.slot_name}_{attempt}"
                with create_slot(followed.connector, name) as slot:
                    with followed.connector.read_at(slot.snapshot) as session:
                        copied = session.fetch_value("select array_agg(id) from t") or []
                    slot.keep()
                source.execute("insert into t values (%s)", [-1 - attempt])
                followed.replication = followed.replication.model_copy(update={"slot": name})
                followed.position = slot.consistent_lsn
                streamed: list[int] = []
                with followed.stream() as stream:
                    while str(-1 - attempt) not in streamed:
                        transaction = take(stream)
                        assert transaction.commit_lsn >= slot.consistent_lsn
                        streamed += [
                            change.new[0] for change in transaction.iter_changes() if isinstance(change, Insert)
                        ]
                assert isinstance(copied, list)
                both = sorted([*map(str, copied), *streamed])
                assert len(set(both)) == len(both), "a row came twice"
                present = {str(one) for (one,) in source.execute("select id from t")}
                assert set(both) <= present
                # Whatever each writer wrote, it wrote in order: what came of it has no hole.
                for start in range(3):
                    mine = [int(one) for one in both if int(one) >= 0 and int(one) // 10_000_000 == start]
                    assert sorted(mine) == list(range(start * 10_000_000, start * 10_000_000 + len(mine)))
                with followed.connector.write() as session:
                    drop_slot(session, name, ends_consumer=True)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_publication_that_would_stop_the_source_is_refused_and_nothing_is_changed(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x int)")
    with (
        pytest.raises(PlanError, match="it would refuse UPDATE and DELETE"),
        follow(source, {"name": "t", "where": "x > 1"}),
    ):
        pass
    assert source.execute("select * from pg_publication") == []
    assert source.execute("select slot_name from pg_replication_slots where database = current_database()") == []
