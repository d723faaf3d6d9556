"""Loads from PostgreSQL to PostgreSQL: exact rows, what survives, what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from synqx_dagster.errors import (
    BadRowsError,
    DatabaseError,
    PlanError,
    SourceChangedError,
    TargetMismatchError,
)
from synqx_dagster.transfer import duplicates
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster.transfer.result import LoadRequest, Progress
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import (
    Connectors,
    Databases,
    connect,
    load,
    make_mapping,
    make_schema,
)

PEOPLE = """
create table people (
    id integer primary key, full_name text, email varchar(80), born date, balance numeric, note json, tag uuid);
insert into people
select i, 'Ada ' || i || ' Löve', case when i % 7 = 0 then null else 'A' || i || '@x.org' end,
       date '1900-01-01' + i, i / 3.0, json_build_object('i', i), md5(i::text)::uuid
from generate_series(1, 2000) as i;
"""

CHECKSUM = "select count(*), md5(string_agg(t::text, E'\\n' order by t::text)) from {} as t"


@pytest.fixture
def pair(postgresql: PostgresqlDatabase) -> Databases:
    """A source and a target database on one server."""
    return postgresql, postgresql.create_database()


@pytest.fixture
def connectors(pair: Databases) -> Iterator[Connectors]:
    source, target = connect(pair[0].config("source")), connect(pair[1].config("target"))
    yield source, target
    source.close()
    target.close()


def test_a_mirror_is_equal_to_its_source(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute(PEOPLE)
    result = load(*connectors, make_mapping(source_table="people", target_table="copy.people"))
    assert (result.lane, result.rows_in, result.rows_out, result.rows_quarantined) == ("passthrough", 2000, 2000, 0)
    assert target.execute(CHECKSUM.format("copy.people")) == source.execute(CHECKSUM.format("people"))
    types = "select column_name, data_type, character_maximum_length, is_nullable from information_schema.columns"
    assert target.execute(
        f"{types} where table_schema = 'copy' and table_name = 'people' order by 1"
    ) == source.execute(f"{types} where table_name = 'people' order by 1")
    assert all(check.passed for check in result.checks)
    assert {check.name for check in result.checks} == {"contract", "row_count", "not_null_keys", "unique_keys"}


def test_replace_twice_leaves_the_second_rows_and_one_ledger_entry_each(
    pair: Databases, connectors: Connectors
) -> None:
    source, target = pair
    source.execute(PEOPLE)
    mapping = make_mapping(source_table="people", target_table="people")
    load(*connectors, mapping, load_id="a")
    source.execute("delete from people where id > 10; update people set full_name = 'Bob' where id = 1")
    load(*connectors, mapping, load_id="b")
    assert target.execute(CHECKSUM.format("people")) == source.execute(CHECKSUM.format("people"))
    ledger = "select load_id, epoch, rows_out from _synqx_ledger order by epoch"
    assert target.execute(ledger) == [("a", 1, 2000), ("b", 2, 10)]


def test_the_same_load_again_changes_nothing(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute(PEOPLE)
    mapping = make_mapping(source_table="people", target_table="log", mode="append")
    first = load(*connectors, mapping, load_id="a")
    again = load(*connectors, mapping, load_id="a", run_id="run-2")
    assert (first.already_committed, again.already_committed) == (False, True)
    assert again.rows_out == first.rows_out == 2000
    assert target.execute("select count(*) from log") == [(2000,)]


def test_append_adds(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute("create table events (at timestamptz, what text); insert into events values (now(), 'a')")
    mapping = make_mapping(source_table="events", target_table="events", mode="append")
    for load_id in "abc":
        load(*connectors, mapping, load_id=load_id)
    assert target.execute("select count(*) from events") == [(3,)]


def test_an_empty_source_empties_the_target(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute("create table t (id int primary key); insert into t values (1)")
    mapping = make_mapping(source_table="t", target_table="t")
    load(*connectors, mapping, load_id="a")
    source.execute("delete from t")
    result = load(*connectors, mapping, load_id="b")
    assert (result.rows_in, result.target_row_count) == (0, 0)
    assert target.execute("select count(*) from t") == [(0,)]


SCHEMA = make_schema(
    id="integer",
    first_name="string",
    rest="string",
    email={"data_type": "string", "nullable": False},
    mail_hash="string",
)
COLUMN_MAPPINGS = [
    {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]},
    {
        "type": "split",
        "source_columns": ["full_name"],
        "target_fields": ["first_name", "rest"],
        "config": {"delimiter": " "},
    },
    {"type": "expression", "expression": "lower(email)", "target_fields": ["email"]},
    {"type": "hash", "source_columns": ["email"], "target_fields": ["mail_hash"]},
]


def test_bad_rows_are_quarantined_and_the_rest_arrives(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute(PEOPLE)
    mapping = make_mapping(
        source_table="people",
        target_table="person",
        on_bad_row="quarantine",
        column_mappings=COLUMN_MAPPINGS,
    )
    result = load(*connectors, mapping, SCHEMA)
    assert result.lane == "passthrough"
    assert (result.rows_in, result.rows_out, result.rows_quarantined) == (2000, 2000 - 285, 285)
    assert [check.name for check in result.checks if not check.passed] == ["contract"]
    assert target.execute(CHECKSUM.format("person")) == source.execute(
        CHECKSUM.format(
            "(select id, split_part(full_name, ' ', 1), substr(full_name, strpos(full_name, ' ') + 1), lower(email),"
            " encode(sha256(convert_to(email, 'UTF8')), 'hex') from people where email is not null)"
        )
    )
    rows = target.execute(
        "select column_name, reason, source_key, source_row from _synqx_quarantine"
        " order by (source_key::json->>'id')::int"
    )
    assert len(rows) == 285
    column, reason, key, row = rows[0]
    assert (column, reason, json.loads(key)) == ("email", "email: is null", {"id": 7})
    assert json.loads(row)["full_name"] == "Ada 7 Löve"


def test_both_lanes_quarantine_the_same_rows_in_the_same_words(
    pair: Databases,
    connectors: Connectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = pair
    source.execute(PEOPLE)
    mapping = make_mapping(
        source_table="people", target_table="person", on_bad_row="quarantine", column_mappings=COLUMN_MAPPINGS
    )
    seen = []
    for lane in ("passthrough", "arrow"):
        if lane == "arrow":
            monkeypatch.setattr(
                type(connectors[1]),
                "capabilities",
                dataclasses.replace(connectors[1].capabilities, copy_binary=False),
            )
        result = load(*connectors, mapping, SCHEMA, load_id=lane)
        assert result.lane == lane
        seen.append(
            (
                target.execute(CHECKSUM.format("person")),
                target.execute(
                    "select column_name, reason, source_key, source_row::jsonb from _synqx_quarantine order by 3"
                ),
            )
        )
    assert seen[0] == seen[1]


def test_failing_on_bad_rows_names_them_and_leaves_the_target(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute(PEOPLE)
    target.execute(
        "create table person (id int primary key, first_name text, rest text, email text not null, mail_hash text)"
    )
    target.execute("insert into person values (1, 'keep', 'me', 'x', 'y')")
    mapping = make_mapping(source_table="people", target_table="person", column_mappings=COLUMN_MAPPINGS)
    with pytest.raises(BadRowsError, match=r"285 of 2,000 rows .*email: is null \(285 rows\)"):
        load(*connectors, mapping, SCHEMA)
    assert target.execute("select first_name from person") == [("keep",)]
    assert target.execute("select count(*) from _synqx_ledger") == [(0,)]


def test_rows_that_share_a_key_are_quarantined_together(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute(
        "create table t (id int, v text); insert into t values (1, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (3, 'd')"
    )
    schema = make_schema(id="integer", v="string")
    mapping = make_mapping(source_table="t", target_table="t", on_bad_row="quarantine")
    result = load(*connectors, mapping, schema)
    assert (result.rows_out, result.rows_quarantined) == (1, 4)
    assert target.execute("select * from t") == [(2, "c")]
    assert target.execute("select distinct reason from _synqx_quarantine") == [("id: the key occurs more than once",)]
    with pytest.raises(BadRowsError):
        load(*connectors, mapping.model_copy(update={"on_bad_row": "fail"}), schema, load_id="b")
    assert target.execute("select * from t") == [(2, "c")]


def test_a_wrong_key_is_told_instead_of_being_quarantined_whole(
    pair: Databases,
    connectors: Connectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = pair
    monkeypatch.setattr(duplicates, "MAX_ROWS", 10)
    source.execute("create table t (id int, v int); insert into t select 1, i from generate_series(1, 11) as i")
    schema = make_schema(id="integer", v="integer")
    with pytest.raises(BadRowsError, match="11 rows of id: the key occurs more than once") as caught:
        load(*connectors, make_mapping(source_table="t", target_table="t", on_bad_row="quarantine"), schema)
    assert "primary_key" in str(caught.value.hint)
    assert target.execute("select tablename from pg_tables where tablename = 't'") == []


def test_replace_keeps_what_hangs_on_the_target(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute(PEOPLE)
    mapping = make_mapping(source_table="people", target_table="people")
    load(*connectors, mapping, load_id="a")
    target.execute("create index people_email on people (lower(email)); comment on table people is 'everyone'")
    target.execute("create role reader; grant select on people to reader")
    load(*connectors, mapping, load_id="b")
    target.execute("create view adults as select id from people where born < '1905-01-01'")
    load(*connectors, mapping, load_id="c")
    assert target.execute("select count(*) from adults") == source.execute(
        "select count(*) from people where born < '1905-01-01'"
    )
    assert ("people_email",) in target.execute("select indexname from pg_indexes where tablename = 'people'")
    assert ("people_pkey",) in target.execute("select indexname from pg_indexes where tablename = 'people'")
    assert target.execute("select obj_description('people'::regclass)") == [("everyone",)]
    assert target.execute("select has_table_privilege('reader', 'people', 'select')") == [(True,)]
    target.execute("drop owned by reader; drop role reader")


def test_a_vanished_source_column_is_named_before_the_target_is_touched(
    pair: Databases, connectors: Connectors
) -> None:
    source, target = pair
    source.execute(PEOPLE)
    source.execute("alter table people rename column full_name to fullname")
    mapping = make_mapping(source_table="people", target_table="person", column_mappings=COLUMN_MAPPINGS)
    with pytest.raises(SourceChangedError, match="full_name"):
        load(*connectors, mapping, SCHEMA)
    assert target.execute("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]


def test_a_missing_source_table_is_named(connectors: Connectors) -> None:
    with pytest.raises(SourceChangedError, match=r"nowhere\.at_all"):
        load(*connectors, make_mapping(source_table="nowhere.at_all", target_table="t"))


def test_a_target_that_does_not_fit_is_listed_column_by_column(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute("create table t (id bigint, name text, price numeric(12,4), extra text)")
    target.execute("create table t (id integer, naem text, price numeric(12,2), must text not null, extra text)")
    with pytest.raises(TargetMismatchError) as caught:
        plan_load(make_mapping(source_table="t", target_table="t"), None, *connectors)
    message = caught.value.message
    for piece in ("id: the mapping gives bigint, the table has integer", "name: the mapping fills it", "'naem'"):
        assert piece in message
    assert "price: the mapping gives numeric(12,4), the table has numeric(12,2)" in message
    assert "must: the table requires it" in message
    assert "extra" not in message


def test_a_type_that_the_target_lacks_is_refused_when_planning(connectors: Connectors, pair: Databases) -> None:
    pair[0].execute(f'create table t ("{"x" * 63}" int)')
    mapping = make_mapping(
        source_table="t",
        target_table="t",
        column_mappings=[{"type": "direct", "source_columns": ["x" * 63], "target_fields": ["é" * 32]}],
    )
    with pytest.raises(PlanError, match="64 bytes long"):
        plan_load(mapping, None, *connectors)


def test_progress_is_reported_by_phase(pair: Databases, connectors: Connectors) -> None:
    pair[0].execute(PEOPLE)
    seen: list[Progress] = []
    mapping = make_mapping(source_table="people", target_table="people")
    pair[0].execute("analyze people")
    result = run_load(LoadRequest(mapping, None, *connectors, "run", "load", seen.append))
    phases = [progress.phase for progress in seen]
    assert {progress.total_rows for progress in seen if progress.phase == "copy"} == {2000}
    assert all(progress.total_bytes for progress in seen if progress.phase == "copy")
    assert set(result.phase_seconds) == {"plan", "stage", "copy", "check", "publish", "commit"}
    assert [phase for phase in ("plan", "copy", "publish", "commit") if phase in phases] == [
        "plan",
        "copy",
        "publish",
        "commit",
    ]
    assert seen[-1].rows == 2000


def test_an_error_of_the_source_query_leaves_the_target(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute("create table t (id int); insert into t values (1), (0)")
    target.execute("create table t (id int); insert into t values (42)")
    mapping = make_mapping(source_query="select 10 / id as id from t order by id desc", target_table="t")
    with pytest.raises(DatabaseError):
        load(*connectors, mapping)
    assert target.execute("select id from t") == [(42,)]
    assert target.execute("select tablename from pg_tables where tablename like '%staging%'") == []


@pytest.mark.parametrize("lane", ["passthrough", "arrow"])
def test_what_a_table_that_exists_forbids_is_quarantined(pair: Databases, connectors: Connectors, lane: str) -> None:
    source, target = pair
    source.execute("create table limited (id integer, code text, note text)")
    source.execute(
        "insert into limited values (1, 'abc', 'x'), (2, 'abcd', 'x'), (3, 'ab  ', 'x'), (4, 'ab', null), (5, null, '')"
    )
    text = "character varying(3)" if lane == "passthrough" else "character(3)"
    target.execute(f"create table limited (id integer, code {text}, note text not null)")
    mapping = make_mapping(source_table="limited", target_table="public.limited", on_bad_row="quarantine")
    result = load(*connectors, mapping)
    assert (result.lane, result.rows_out, result.rows_quarantined) == (lane, 2, 3)
    assert target.execute("select id, code::text, note from limited order by id") == [(1, "abc", "x"), (5, None, "")]
    assert target.execute("select (source_row::json->>'id')::int, reason from _synqx_quarantine order by 1") == [
        (2, "code: does not fit the target"),
        (3, "code: does not fit the target"),
        (4, "note: is null"),
    ]


def test_a_table_whose_types_change_values_is_refused(pair: Databases, connectors: Connectors) -> None:
    source, target = pair
    source.execute("create table rounded (price text, label text, spans interval[])")
    target.execute("create table rounded (price money, label name, spans interval(0)[])")
    with pytest.raises(TargetMismatchError, match=r"(?s)price.*money.*label.*name.*spans.*interval\(0\)\[\]"):
        load(*connectors, make_mapping(source_table="rounded", target_table="public.rounded"))


def test_a_column_that_vanished_from_a_mirrored_source_is_named_before_the_target_is_touched(
    pair: Databases, connectors: Connectors
) -> None:
    source, target = pair
    source.execute("create table shrinking (id integer, phone text)")
    source.execute("insert into shrinking values (1, '1'), (2, '2')")
    mapping = make_mapping(source_table="shrinking", target_table="public.shrinking")
    load(*connectors, mapping, load_id="before")
    target.execute("alter table shrinking add loaded_at timestamptz default now()")
    load(*connectors, mapping, load_id="with a column of the table's own")
    source.execute("alter table shrinking drop phone")
    with pytest.raises(SourceChangedError, match="no column 'phone'"):
        load(*connectors, mapping, load_id="after")
    assert target.execute("select phone from shrinking order by id") == [("1",), ("2",)]
    chosen = make_mapping(
        source_table="shrinking",
        target_table="public.shrinking",
        column_mappings=[{"type": "direct", "source_columns": ["id"], "target_fields": ["id"]}],
    )
    assert load(*connectors, chosen, load_id="chosen").rows_out == 2


@pytest.mark.parametrize(
    "query",
    [
        "select id from t -- the end",
        "select id from t; -- the end",
        "select id /* ) */ from t;",
        "with u as (select id from t) select id from u order by id limit 5",
        "select id from t union all select id + 10 from t",
    ],
)
def test_a_query_is_taken_as_people_write_it(pair: Databases, connectors: Connectors, query: str) -> None:
    source, target = pair
    source.execute("create table t (id int); insert into t values (1), (2)")
    load(*connectors, make_mapping(source_query=query, target_table="t"))
    expected = source.execute(f"select id from ({query.partition(';')[0]}\n) as q order by 1")
    assert target.execute("select id from t order by 1") == expected
