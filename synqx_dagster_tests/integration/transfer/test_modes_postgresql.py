"""Merges into PostgreSQL's own kinds of tables and types, each of them compared by what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import FatalError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.result import LoadResult
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping


@pytest.fixture
def databases(postgresql: PostgresqlDatabase) -> tuple[PostgresqlDatabase, PostgresqlDatabase]:
    return postgresql, postgresql.create_database()


@pytest.fixture
def pair(databases: tuple[PostgresqlDatabase, PostgresqlDatabase]) -> Iterator[tuple[Connector, Connector]]:
    connectors = tuple(connect(database.config(name)) for database, name in zip(databases, "st", strict=True))
    yield connectors[0], connectors[1]
    for connector in connectors:
        connector.close()


def merge(**fields: Any) -> Mapping:
    return make_mapping(**{"source_table": "s", "target_table": "t", "mode": "merge", **fields})


def counts(result: LoadResult) -> tuple[int, int, int]:
    return result.rows_inserted, result.rows_updated, result.rows_deleted


#: Two values of a type that the server calls equal, or cannot compare, and that are not the same.
UNLIKE = [
    ("double precision", "0", "-0"),
    ("real", "0", "-0"),
    ("numeric", "1.0", "1.00"),
    ("json", '{"a":1}', '{"a": 1}'),
    ("json", "1", "1.0"),
    ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
    ("xml", "<a/>", "<a></a>"),
    ("point", "(1,2)", "(1,3)"),
    ("interval", "1 mon", "30 days"),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("text", "a", "a "),
    ("numrange", "[1.0,2]", "[1.00,2]"),
]


@pytest.mark.parametrize("mode", ["merge", "scd2"])
def test_values_are_compared_by_what_is_stored(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector], mode: str
) -> None:
    source, target = databases
    types = [name for name, _, _ in UNLIKE if name != "xml" or _has_xml(source)]
    kept = [item for item in UNLIKE if item[0] in types]
    columns = ", ".join(f"c{at} {name}" for at, (name, _, _) in enumerate(kept))
    first = ", ".join(f"'{one}'" for _, one, _ in kept)
    source.execute(
        f"create table s (id integer primary key, {columns});"
        f" insert into s select i, {first} from generate_series(0, {len(kept)}) as i; insert into s values (99)"
    )
    mapping = merge(mode=mode)
    assert counts(load(*pair, mapping, load_id="a")) == (len(kept) + 2, 0, 0)
    assert counts(load(*pair, mapping, load_id="b")) == (0, 0, 0)
    for at, (_, _, other) in enumerate(kept):
        source.execute(f"update s set c{at} = '{other}' where id = {at}")
    opened = len(kept) if mode == "scd2" else 0
    assert counts(load(*pair, mapping, load_id="c")) == (opened, len(kept), 0)
    current = "" if mode == "merge" else " where is_current"
    texts = ", ".join(f"c{at}::text" for at in range(len(kept)))
    assert target.execute(f"select id, {texts} from t{current} order by 1") == source.execute(
        f"select id, {texts} from s order by 1"
    )


def _has_xml(database: PostgresqlDatabase) -> bool:
    import psycopg2

    try:
        database.execute("select '<a/>'::xml")
    except psycopg2.errors.FeatureNotSupported:
        return False
    return True


def test_a_key_that_is_equal_and_differs_is_written(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id numeric primary key); insert into s values (1.0), (2)")
    load(*pair, merge(), load_id="a")
    source.execute("update s set id = 1.00 where id = 1")
    assert counts(load(*pair, merge(), load_id="b")) == (0, 1, 0)
    assert sorted(row[0] for row in target.execute("select id::text from t")) == ["1.00", "2"]


def test_one_changed_column_is_enough_whatever_its_type_and_null_is_a_value(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    changes = {
        "smallint": ("1", "2"),
        "integer": ("1", "2"),
        "bigint": ("1", "2"),
        "boolean": ("true", "false"),
        "date": ("2024-01-01", "infinity"),
        "time": ("00:00", "24:00"),
        "timestamp": ("2024-01-01", "-infinity"),
        "timestamptz": ("2024-01-01 00:00+00", "2024-01-01 00:00:00.000001+00"),
        "uuid": ("00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"),
        "text": ("a", "A"),
        "bytea": ("\\x00", "\\x01"),
    }
    columns = ", ".join(f"c{at} {kind}" for at, kind in enumerate(changes))
    values = ", ".join(f"'{before}'" for before, _ in changes.values())
    source.execute(f"create table s (id integer primary key, {columns})")
    source.execute(f"insert into s select g, {values} from generate_series(1, {2 * len(changes) + 1}) g")
    source.execute("insert into s (id) values (0)")
    load(*pair, merge(), load_id="a")
    for at, (_, after) in enumerate(changes.values()):
        source.execute(f"update s set c{at} = '{after}' where id = {2 * at + 1}")
        source.execute(f"update s set c{at} = null where id = {2 * at + 2}")
    assert counts(load(*pair, merge(), load_id="b")) == (0, 2 * len(changes), 0)
    assert counts(load(*pair, merge(), load_id="c")) == (0, 0, 0)
    rows = "select id, t::text from {} as t order by id"
    assert target.execute(rows.format("t")) == source.execute(rows.format("s"))


@pytest.mark.parametrize("on_bad_row", ["fail", "quarantine"])
def test_only_a_table_that_is_made_for_merges_keeps_room_for_updates(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector], on_bad_row: str
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, name text)")
    source.execute("insert into s select g, repeat('x', 100) from generate_series(1, 1000) g")
    target.execute("create table there (id integer primary key, name text)")
    load(*pair, merge(on_bad_row=on_bad_row), load_id="a")
    load(*pair, merge(target_table="there", on_bad_row=on_bad_row), load_id="b")
    load(*pair, merge(target_table="whole", mode="replace", on_bad_row=on_bad_row), load_id="c")
    load(*pair, merge(target_table="old", mode="scd2", on_bad_row=on_bad_row), load_id="d")
    options = dict(
        target.execute("select relname, reloptions from pg_class where relname in ('t', 'there', 'whole', 'old')")
    )
    assert options == {"t": ["fillfactor=90"], "there": None, "whole": None, "old": None}
    places = "select ctid::text from t where id % 100 = 0 order by id"
    pages = [place[0].split(",")[0] for place in target.execute(places)]
    source.execute("update s set name = repeat('y', 100) where id % 100 = 0")
    assert counts(load(*pair, merge(on_bad_row=on_bad_row), load_id="e")) == (0, 10, 0)
    assert [place[0].split(",")[0] for place in target.execute(places)] == pages


@pytest.mark.parametrize("identity", ["always", "by default"])
def test_identity_keys_are_written_and_their_sequence_moves_on(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector], identity: str
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, name text); insert into s values (1, 'a'), (70, 'b')")
    target.execute(
        f"create table t (id integer generated {identity} as identity primary key, name text,"
        " twice text generated always as (name || name) stored)"
    )
    mapping = merge(
        column_mappings=[
            {"type": "direct", "source_columns": [name], "target_fields": [name]} for name in ("id", "name")
        ]
    )
    assert counts(load(*pair, mapping, load_id="a")) == (2, 0, 0)
    source.execute("update s set name = 'c' where id = 1")
    assert counts(load(*pair, mapping, load_id="b")) == (0, 1, 0)
    target.execute("insert into t (name) values ('new')")
    assert sorted(target.execute("select id, twice from t")) == [(1, "cc"), (70, "bb"), (71, "newnew")]


@pytest.mark.parametrize("kind", ["partitioned", "view", "trigger"])
def test_a_target_is_changed_in_place_whatever_it_is(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector], kind: str
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, name text); insert into s values (1, 'a'), (2, 'b')")
    if kind == "partitioned":
        target.execute(
            "create table t (id integer primary key, name text) partition by hash (id);"
            " create table t0 partition of t for values with (modulus 2, remainder 0);"
            " create table t1 partition of t for values with (modulus 2, remainder 1)"
        )
    elif kind == "view":
        target.execute(
            "create table base (id integer primary key, name text, hidden integer default 7);"
            " create view t as select id, name from base"
        )
    else:
        target.execute(
            "create table t (id integer primary key, name text); create table seen (what text);"
            " create function note() returns trigger language plpgsql as"
            " $$ begin insert into seen values (tg_op); return null; end $$;"
            " create trigger note after insert or update or delete on t for each row execute function note()"
        )
    load(*pair, merge(key=["id"], delete_missing=True), load_id="a")
    oid = target.execute("select 't'::regclass::oid")
    source.execute("update s set name = 'c' where id = 1; delete from s where id = 2; insert into s values (3, 'd')")
    assert counts(load(*pair, merge(key=["id"], delete_missing=True), load_id="b")) == (1, 1, 1)
    assert sorted(target.execute("select id, name from t")) == [(1, "c"), (3, "d")]
    assert target.execute("select 't'::regclass::oid") == oid
    if kind == "trigger":
        assert sorted(row[0] for row in target.execute("select what from seen")) == [
            "DELETE",
            "INSERT",
            "INSERT",
            "INSERT",
            "UPDATE",
        ]


def test_rows_that_move_between_partitions_are_updated_rows(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, place integer)")
    source.execute("insert into s select g, g % 2 from generate_series(1, 30) g")
    target.execute(
        "create table t (id integer not null, place integer not null) partition by list (place);"
        " create table t0 partition of t for values in (0); create table t1 partition of t for values in (1);"
        " insert into t select g, g % 2 from generate_series(11, 50) g"
    )
    source.execute("update s set place = 1 - place where id between 16 and 25")
    result = load(*pair, merge(key=["id"]))
    assert counts(result) == (10, 10, 0)
    assert [(result.target_row_count,)] == target.execute("select count(*)::int from t") == [(50,)]
    assert target.execute("select count(*) from t where place <> id % 2") == [(10,)]


def test_a_value_that_one_row_gives_up_is_free_for_another_in_a_partition_with_an_index_of_its_own(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, code text); insert into s values (60, 'k1'), (1, 'z')")
    target.execute(
        "create table t (id integer primary key, code text) partition by range (id);"
        " create table t0 partition of t for values from (0) to (100); create unique index on t0 (code);"
        " insert into t select g, 'k' || g from generate_series(1, 50) g"
    )
    assert counts(load(*pair, merge())) == (1, 1, 0)
    assert target.execute("select id, code from t where id in (1, 60) order by id") == [(1, "z"), (60, "k1")]


def test_rows_that_a_trigger_adds_are_not_taken_for_the_loads(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, name text); insert into s values (1, 'a'), (2, 'b')")
    target.execute(
        "create table t (id integer primary key, name text);"
        " create function copy_it() returns trigger language plpgsql as $$ begin"
        " insert into t values (new.id + 100, new.name) on conflict do nothing; return null; end $$;"
        " insert into t values (1, 'old');"
        " create trigger copy_it after insert or update on t"
        " for each row when (pg_trigger_depth() = 0) execute function copy_it()"
    )
    with pytest.raises(FatalError, match="the target counts 4 rows, expected 2"):
        load(*pair, merge())
    assert target.execute("select id, name from t") == [(1, "old")]


def test_a_table_that_refers_to_itself_is_checked_when_all_is_done(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, up integer); insert into s values (1, null), (2, 1)")
    target.execute("create table t (id integer primary key, up integer references t)")
    mapping = merge(delete_missing=True)
    load(*pair, mapping, load_id="a")
    # The child moves from a row that goes to one that comes.
    source.execute("insert into s values (3, null); update s set up = 3 where id = 2; delete from s where id = 1")
    assert counts(load(*pair, mapping, load_id="b")) == (1, 1, 1)


def test_current_versions_have_a_unique_index(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key, name text); insert into s values (1, 'a')")
    load(*pair, merge(mode="scd2"))
    indexes = [row[0] for row in target.execute("select indexdef from pg_indexes where tablename = 't' order by 1")]
    assert [text.partition(" USING ")[2] for text in indexes] == [
        "btree (id) WHERE is_current",
        "btree (id, valid_from)",
    ]


def test_an_earlier_versions_ledger_gets_the_columns_it_lacks(
    databases: tuple[PostgresqlDatabase, PostgresqlDatabase], pair: tuple[Connector, Connector]
) -> None:
    source, target = databases
    source.execute("create table s (id integer primary key); insert into s values (1)")
    load(*pair, merge(), load_id="a")
    target.execute(
        "alter table _synqx_ledger drop rows_inserted, drop rows_updated, drop rows_deleted;"
        " insert into _synqx_ledger select target_table, 'old' as load_id, batch, mapping, run_id, epoch, mode, lane,"
        " rows_in, rows_out, rows_quarantined, bytes, checksum, watermark, committed_at from _synqx_ledger"
    )
    earlier = load(*pair, merge(), load_id="old")
    assert (earlier.already_committed, counts(earlier)) == (True, (0, 0, 0))
    source.execute("insert into s values (2)")
    assert counts(load(*pair, merge(), load_id="b")) == (1, 0, 0)
