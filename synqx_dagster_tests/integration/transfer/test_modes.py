"""What the modes merge and scd2 promise, on every kind of target: keys, duplicates, deletions, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import BadRowsError, DataError, PlanError, TargetMismatchError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster.transfer.result import LoadResult
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, connect, load, make_mapping, make_schema
from synqx_dagster_tests.integration.transfer.modes import KINDS, Target, make_target

Pair = tuple[Connector, Connector]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return make_target(request.param, request, tmp_path)


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    postgresql.execute(
        "create table item (id integer primary key, name text, gone boolean);"
        " insert into item values (1, 'one'), (2, 'two'), (3, 'three')"
    )
    return postgresql


@pytest.fixture
def pair(source: PostgresqlDatabase, target: Target) -> Iterator[Pair]:
    connectors = connect(source.config("source")), connect(target.config)
    yield connectors
    for connector in connectors:
        connector.close()


def item(**fields: Any) -> Mapping:
    given = {"source_table": "item", "target_table": "item", "mode": "merge"}
    return make_mapping(**{**given, **fields})


DIRECT = [
    {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]},
    {"type": "direct", "source_columns": ["name"], "target_fields": ["name"]},
]


def counts(result: LoadResult) -> tuple[int, int, int]:
    return result.rows_inserted, result.rows_updated, result.rows_deleted


def rows(target: Target, pair: Pair, columns: str = "id, name", table: str = "item") -> list[tuple[object, ...]]:
    pair[1].close()
    return sorted(target.fetch(f"select {columns} from {table}"), key=repr)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_merge_without_a_key_is_refused_before_anything_is_touched(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    mapping = make_mapping(source_query="select id, name from item", target_table="item", mode="merge")
    with pytest.raises(PlanError, match=r"merge needs a key.*key: "):
        load(*pair, mapping)
    pair[1].close()
    assert target.tables() == set()


@pytest.mark.parametrize("mode", ["merge", "scd2"])
def test_a_key_that_nothing_fills_is_refused(pair: Pair, mode: str) -> None:
    with pytest.raises(PlanError, match="nothing fills the field 'code', which is in the key"):
        load(*pair, item(mode=mode, key=["code"]))


def test_a_json_key_is_refused(source: PostgresqlDatabase, pair: Pair) -> None:
    source.execute("create table j (doc json)")
    with pytest.raises(PlanError, match="'doc' is json"):
        load(*pair, item(source_table="j", key=["doc"]))


def test_the_key_of_the_mapping_wins_and_becomes_the_primary_key(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    load(*pair, item(key=["name"]), load_id="a")
    source.execute("update item set id = id + 10 where id < 3")
    plan = plan_load(item(key=["name"]), None, *pair)
    assert (plan.primary_key, plan.enforced_key, plan.differences) == (("name",), True, ())
    assert counts(load(*pair, item(key=["name"]), load_id="b")) == (0, 2, 0)
    assert rows(target, pair) == [(11, "one"), (12, "two"), (3, "three")]


def test_null_in_a_key_is_a_bad_row(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    source.execute("insert into item values (4, null)")
    with pytest.raises(BadRowsError, match="name: is null"):
        load(*pair, item(key=["name"]))
    result = load(*pair, item(key=["name"], on_bad_row="quarantine"))
    assert (counts(result), result.rows_quarantined) == ((3, 0, 0), 1)


def test_keys_that_occur_twice_are_refused_or_set_aside(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    load(*pair, item(key=["name"]), load_id="a")
    source.execute("insert into item values (4, 'one'), (5, 'five')")
    with pytest.raises(BadRowsError, match=r"\(name\): the key occurs more than once, for 1 key of"):
        load(*pair, item(key=["name"]), load_id="b")
    result = load(*pair, item(key=["name"], on_bad_row="quarantine"), load_id="c")
    assert (counts(result), result.rows_quarantined) == ((1, 0, 0), 2)
    assert rows(target, pair) == [(1, "one"), (2, "two"), (3, "three"), (5, "five")]
    found = target.fetch("select source_key, reason from _synqx_quarantine")
    assert found == [('{"name": "one"}', "name: the key occurs more than once")] * 2


def test_a_target_whose_rows_break_the_key_is_refused(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    target.fetch("create table item (id integer, name varchar(20), gone varchar(5))")
    for values in ("(1, 'x', null)", "(1, 'y', null)", "(null, 'z', null)", "(null, 'z', null)"):
        target.fetch(f"insert into item values {values}")
    mapping = item(key=["id"], column_mappings=DIRECT)
    before = rows(target, pair)
    with pytest.raises(TargetMismatchError, match=r"by \(id\) 1 keys occur more than once"):
        load(*pair, mapping, load_id="a")
    assert rows(target, pair) == before
    target.fetch("delete from item where name = 'y'")
    plan = plan_load(mapping, None, *pair)
    assert "slower: no unique index on (id)" in plan.differences
    assert counts(load(*pair, mapping, load_id="b")) == (2, 1, 0)
    assert rows(target, pair) == sorted([(1, "one"), (2, "two"), (3, "three"), (None, "z"), (None, "z")], key=repr)


def test_checks_of_an_appended_key_count_what_breaks_it(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    target.fetch("create table item (id integer, name varchar(20))")
    for values in ("(null, 'z')", "(null, 'z')", "(1, 'x')"):
        target.fetch(f"insert into item values {values}")
    result = load(
        *pair,
        item(mode="append", target_schema="schema", column_mappings=DIRECT),
        make_schema(id="integer", name="string"),
    )
    checks = {check.name: check for check in result.checks}
    assert {name for name, check in checks.items() if not check.passed} == {"not_null_keys", "unique_keys"}
    nulls, doubles = checks["not_null_keys"], checks["unique_keys"]
    assert (nulls.description, nulls.metadata) == ("id: NULL in 2 rows", {"null_rows": 2})
    # NULL twice is a key that occurs twice, too.
    assert (doubles.description, doubles.metadata) == ("id: 2 keys occur more than once", {"double_keys": 2})
    assert len(rows(target, pair)) == 6, "the checks judge, and the load stays"


def test_a_unique_index_of_the_target_is_seen(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    target.fetch("create table item (id integer, name varchar(20), gone varchar(5))")
    target.fetch("create unique index by_name on item (name)")
    plan = plan_load(item(key=["name", "id"], column_mappings=DIRECT), None, *pair)
    assert plan.unique_key
    assert not [line for line in plan.differences if "slower" in line]


# The PostgreSQL of the tests has no ICU, so no collation that folds.
@pytest.mark.parametrize("target", ["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)], indirect=True)
def test_keys_are_matched_by_the_uniqueness_of_the_target(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    if target.kind == "mysql":
        target.fetch(
            "create table item (id integer, name varchar(20) character set latin1 collate latin1_general_ci"
            " primary key)"
        )
    else:
        target.fetch("create table item (id integer, name text)")
        target.fetch("create unique index folded on item (name collate nocase)")
    mapping = item(key=["name"], column_mappings=DIRECT)
    load(*pair, mapping, load_id="a")
    source.execute("update item set name = 'ONE' where id = 1; update item set id = 22 where id = 2")
    assert counts(load(*pair, mapping, load_id="b")) == (0, 2, 0)
    assert rows(target, pair) == [(1, "ONE"), (22, "two"), (3, "three")]
    source.execute("insert into item values (4, 'One')")
    with pytest.raises(BadRowsError, match=r"\(name\): the key occurs more than once"):
        load(*pair, mapping, load_id="c")


@pytest.mark.parametrize("target", ["duckdb"], indirect=True)
def test_duckdb_keys_are_bytes_whatever_the_collation(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    target.fetch("create table item (id integer, name varchar collate nocase primary key)")
    source.execute("insert into item values (4, 'ONE')")
    mapping = item(key=["name"], column_mappings=DIRECT)
    assert counts(load(*pair, mapping, load_id="a")) == (4, 0, 0)
    assert counts(load(*pair, mapping, load_id="b")) == (0, 0, 0)


# --- rows ---------------------------------------------------------------------------------------------------------


def test_columns_that_the_mapping_does_not_fill_keep_their_values(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    target.fetch("create table item (id integer primary key, name varchar(20), kind varchar(9) default 'new')")
    target.fetch("insert into item values (1, 'uno', 'old')")
    assert counts(load(*pair, item(column_mappings=DIRECT))) == (2, 1, 0)
    assert rows(target, pair, "id, name, kind") == [(1, "one", "old"), (2, "two", "new"), (3, "three", "new")]


def test_an_empty_source_changes_nothing_unless_what_is_missing_is_deleted(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    load(*pair, item(), load_id="a")
    source.execute("delete from item")
    assert counts(load(*pair, item(), load_id="b")) == (0, 0, 0)
    assert len(rows(target, pair)) == 3
    result = load(*pair, item(delete_missing=True), load_id="c")
    assert (counts(result), result.target_row_count) == ((0, 0, 3), 0)


def test_a_row_in_quarantine_is_missing(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    source.execute("alter table item alter name drop not null")
    schema = make_schema(id="integer", name={"data_type": "string", "nullable": False})
    mapping = item(delete_missing=True, on_bad_row="quarantine", column_mappings=DIRECT)
    load(*pair, mapping, schema, load_id="a")
    source.execute("update item set name = null where id = 2")
    for load_id in ("b", "c"):
        load(*pair, mapping, schema, load_id=load_id)
        assert rows(target, pair) == [(1, "one"), (3, "three")]
        # All rows of the source were read, so the quarantine holds what is bad now.
        assert len(target.fetch("select * from _synqx_quarantine")) == 1


@pytest.mark.parametrize("mode", ["merge", "scd2"])
def test_a_row_that_stays_bad_is_in_quarantine_once(
    source: PostgresqlDatabase, target: Target, pair: Pair, mode: str
) -> None:
    source.execute("insert into item values (4, null), (5, null)")
    mapping = item(mode=mode, key=["name"], on_bad_row="quarantine", column_mappings=DIRECT)
    found = []
    for load_id, change in (
        ("a", "select 1"),
        ("b", "update item set id = 7 where id = 5"),
        ("c", "insert into item values (6, null)"),
    ):
        source.execute(change)
        result = load(*pair, mapping, load_id=load_id)
        found.append((result.rows_quarantined, result.rows_quarantined_before))
    assert found == [(2, 0), (2, 1), (3, 2)]
    pair[1].close()
    rows_left = target.fetch("select load_id, source_key from _synqx_quarantine")
    # What was not read again stays.
    assert sorted((str(load_id), str(key)) for load_id, key in rows_left) == [
        ("a", '{"id": 5}'),
        ("c", '{"id": 4}'),
        ("c", '{"id": 6}'),
        ("c", '{"id": 7}'),
    ]


def test_each_mapping_keeps_its_own_rows_in_quarantine(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    source.execute("insert into item values (4, null)")
    for name in ("one", "two"):
        load(*pair, item(name=name, key=["name"], on_bad_row="quarantine"), load_id=name)
    pair[1].close()
    assert len(target.fetch("select * from _synqx_quarantine")) == 2


@pytest.mark.parametrize(
    ("declared", "deleted", "kept"),
    [
        ("boolean", "true", "false"),
        ("integer", "-1", "0"),
        ("numeric(6,2)", "0.01", "0.00"),
        ("numeric", "'NaN'", "-0.0"),
        ("double precision", "'NaN'", "'-0'"),
        ("timestamp", "'epoch'", "null"),
        ("text", "''", "null"),
    ],
)
def test_what_a_soft_delete_column_says(
    source: PostgresqlDatabase, target: Target, pair: Pair, declared: str, deleted: str, kept: str
) -> None:
    if target.kind in ("mysql", "duckdb") and declared != "boolean":
        pytest.skip("the source's side of it is the same for all targets of the arrow lane")
    source.execute(
        f"create table marked (id integer primary key, name text, mark {declared});"
        f" insert into marked values (1, 'one', {kept}), (2, 'two', null), (3, 'three', {deleted})"
    )
    mapping = item(source_table="marked", soft_delete_column="mark", column_mappings=DIRECT)
    assert counts(load(*pair, mapping, load_id="a")) == (2, 0, 0)
    source.execute(f"update marked set mark = {deleted} where id = 1; update marked set mark = {kept} where id = 3")
    result = load(*pair, mapping, load_id="b")
    assert (counts(result), result.lane) == (
        (1, 0, 1),
        "passthrough" if target.kind == "postgresql" else "arrow",
    )
    assert rows(target, pair) == [(2, "two"), (3, "three")]
    assert [column.name for column in result.columns] == ["id", "name"]


def test_a_value_that_a_deleted_row_had_is_free(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    target.fetch("create table item (id integer primary key, name varchar(20) unique)")
    mapping = item(delete_missing=True, key=["id"], column_mappings=DIRECT)
    load(*pair, mapping, load_id="a")
    source.execute("delete from item where id = 1; insert into item values (4, 'one')")
    assert counts(load(*pair, mapping, load_id="b")) == (1, 0, 1)


def test_a_row_to_which_others_refer_is_not_deleted(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    target.fetch("create table item (id integer primary key, name varchar(20))")
    target.fetch("create table part (item integer, constraint part_of_item foreign key (item) references item (id))")
    mapping = item(delete_missing=True, column_mappings=DIRECT)
    load(*pair, mapping, load_id="a")
    pair[1].close()
    target.fetch("insert into part values (1)")
    source.execute("delete from item where id = 1; update item set name = 'zwei' where id = 2")
    named = {"postgresql": "part_of_item", "mysql": "part_of_item", "sqlite": "part", "duckdb": "foreign key"}
    with pytest.raises(DataError, match=named[target.kind]):
        load(*pair, mapping, load_id="b")
    assert rows(target, pair) == [(1, "one"), (2, "two"), (3, "three")]
    assert rows(target, pair, "item", "part") == [(1,)]


# MySQL's own database is the source.
@pytest.mark.parametrize("target", ["postgresql", "sqlite", "duckdb"], indirect=True)
def test_rows_come_from_mysql_too(mysql: MysqlDatabase, target: Target) -> None:
    mysql.execute("create table item (id int primary key, name varchar(20), gone tinyint(1) not null default 0)")
    mysql.execute("insert into item values (1, 'one', 0), (2, 'two', 1), (3, 'x ', 0)")
    pair = connect(mysql.config("source")), connect(target.config)
    mapping = item(soft_delete_column="gone", column_mappings=DIRECT)
    assert counts(load(*pair, mapping, load_id="a")) == (2, 0, 0)
    mysql.execute("update item set name = 'x' where id = 3")
    assert counts(load(*pair, mapping, load_id="b")) == (0, 1, 0)
    assert rows(target, pair) == [(1, "one"), (3, "x")]
    pair[0].close()


# --- history ------------------------------------------------------------------------------------------------------


HISTORY = "id, name, valid_from is null, valid_to is null, is_current"


def plain(found: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [(*row[:2], *map(bool, row[2:])) for row in found]


def test_history_keeps_versions(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    mapping = item(mode="scd2", delete_missing=True, column_mappings=DIRECT)
    assert counts(load(*pair, mapping, load_id="a")) == (3, 0, 0)
    source.execute("update item set name = 'zwei' where id = 2; delete from item where id = 3")
    assert counts(load(*pair, mapping, load_id="b")) == (1, 1, 1)
    assert counts(load(*pair, mapping, load_id="c")) == (0, 0, 0)
    source.execute("insert into item values (3, 'three')")
    assert counts(load(*pair, mapping, load_id="d")) == (1, 0, 0)
    assert plain(rows(target, pair, HISTORY)) == [
        (1, "one", False, True, True),
        (2, "two", False, False, False),
        (2, "zwei", False, True, True),
        (3, "three", False, False, False),
        (3, "three", False, True, True),
    ]


@pytest.mark.parametrize("listed", [False, True])
def test_a_schema_may_list_the_columns_of_the_history(target: Target, pair: Pair, listed: bool) -> None:
    columns: dict[str, Any] = {"id": "integer", "name": "string"}
    if listed:
        columns |= {"valid_from": {"data_type": "timestamptz", "nullable": False}, "valid_to": "timestamptz"}
        columns |= {"is_current": "boolean"}
    result = load(*pair, item(mode="scd2", target_schema="schema"), make_schema(**columns))
    assert counts(result) == (3, 0, 0)
    assert [column.name for column in result.columns] == ["id", "name"]


def test_a_field_under_the_name_of_a_history_column_is_refused(source: PostgresqlDatabase, pair: Pair) -> None:
    source.execute("alter table item add valid_to date")
    with pytest.raises(PlanError, match="'valid_to': SynqX keeps the column of this name itself"):
        load(*pair, item(mode="scd2"), load_id="a")
    other = item(mode="scd2", history={"valid_from": "von", "valid_to": "bis", "is_current": "gilt"})
    assert counts(load(*pair, other, load_id="b")) == (3, 0, 0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("", "valid_from: the mapping fills it, the table does not have it"),
        (", valid_from date, valid_to date, is_current {boolean}", "valid_from"),
        (", valid_from {moment} not null, valid_to {moment} not null, is_current {boolean}", "valid_to"),
    ],
)
def test_a_target_that_cannot_keep_history_is_refused(target: Target, pair: Pair, columns: str, message: str) -> None:
    moment = {"mysql": "datetime(6)", "postgresql": "timestamptz"}.get(target.kind, "timestamp")
    spelt = columns.format(moment=moment, boolean="tinyint(1)" if target.kind == "mysql" else "boolean")
    target.fetch(f"create table item (id integer, name varchar(20){spelt})")
    with pytest.raises(TargetMismatchError, match=message):
        load(*pair, item(mode="scd2", column_mappings=DIRECT))


def existing_history(target: Target, key: str) -> None:
    moment = "datetime(6)" if target.kind == "mysql" else "timestamp"
    boolean = "tinyint(1)" if target.kind == "mysql" else "boolean"
    target.fetch(
        f"create table item (id integer, name varchar(20), valid_from {moment} not null, valid_to {moment},"
        f" is_current {boolean} not null, primary key ({key}))"
    )


def test_a_unique_index_on_the_key_alone_is_refused(target: Target, pair: Pair) -> None:
    existing_history(target, "id")
    with pytest.raises(TargetMismatchError, match=r"on \(id\) allows one version of each key"):
        load(*pair, item(mode="scd2", column_mappings=DIRECT))


def test_a_version_begins_after_all_that_are_there_whatever_the_clock_says(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    existing_history(target, "id, valid_from")
    target.fetch("insert into item values (1, 'uno', '2999-12-31 23:59:59.999999', null, true)")
    mapping = item(mode="scd2", column_mappings=DIRECT)
    assert counts(load(*pair, mapping, load_id="a")) == (3, 1, 0)
    source.execute("update item set name = 'eins' where id = 1")
    assert counts(load(*pair, mapping, load_id="b")) == (1, 1, 0)
    pair[1].close()
    found = target.fetch(f"select {target.text('valid_from')} from item where id = 1 order by valid_from")
    assert [datetime.fromisoformat(str(text)) for (text,) in found] == [
        datetime(2999, 12, 31, 23, 59, 59, 999_999),
        datetime(3000, 1, 1),
        datetime(3000, 1, 1, microsecond=1),
    ]


def test_a_history_without_an_end_of_time_is_refused(target: Target, pair: Pair) -> None:
    existing_history(target, "id, valid_from")
    target.fetch("insert into item values (1, 'uno', '2024-01-01 00:00:00', '9999-12-31 23:59:59.999999', true)")
    with pytest.raises(TargetMismatchError, match="a moment after which no version can begin"):
        load(*pair, item(mode="scd2", column_mappings=DIRECT))


def test_two_current_versions_of_a_key_are_refused(target: Target, pair: Pair) -> None:
    existing_history(target, "id, valid_from")
    target.fetch("insert into item values (1, 'uno', '2024-01-01 00:00:00', null, true)")
    target.fetch("insert into item values (1, 'due', '2024-01-02 00:00:00', null, true)")
    with pytest.raises(TargetMismatchError, match="1 keys have more than one current version"):
        load(*pair, item(mode="scd2", column_mappings=DIRECT))


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        ("merge", "after_publish"),
        pytest.param("merge", "after_commit", marks=pytest.mark.slow),
        pytest.param("scd2", "mid_copy", marks=pytest.mark.slow),
        pytest.param("scd2", "before_commit", marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_a_retry_is_exact(
    source: PostgresqlDatabase, target: Target, pair: Pair, mode: str, place: str
) -> None:
    mapping = item(mode=mode, delete_missing=True, column_mappings=DIRECT)
    load(*pair, mapping, load_id="a")
    source.execute(
        "update item set name = 'zwei' where id = 2; delete from item where id = 3;"
        " insert into item select i, 'n' || i from generate_series(10, 500) as i"
    )
    pair[1].close()
    configs = (source.config("source"), target.config)
    assert ChildLoad(*configs, mapping, failpoints=f"{place}=kill", load_id="b").wait() is None
    retried = load(*pair, mapping, load_id="b", run_id="run-2")
    assert retried.already_committed == (place == "after_commit")
    assert counts(retried) == ((491, 1, 1) if mode == "merge" else (492, 1, 1))
    assert counts(load(*pair, mapping, load_id="c")) == (0, 0, 0)
    current = "" if mode == "merge" else " where is_current"
    expected = sorted(source.execute("select id, name from item"), key=repr)
    assert rows(target, pair, table=f"item{current}") == [tuple(row) for row in expected]
    assert target.tables() == {"item"}
    assert target.fetch("select count(*) from _synqx_ledger") == [(3,)]
