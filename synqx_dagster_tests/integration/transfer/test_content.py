"""Comparisons of content find exactly what somebody changed behind the engine's back, whatever the databases are."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.errors import DatabaseError, TargetMismatchError
from synqx_dagster.transfer import content
from synqx_dagster.transfer.content import verify_content
from synqx_dagster.transfer.content_plan import ContentRequest
from synqx_dagster.transfer.content_report import ContentReport
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping, make_schema
from synqx_dagster_tests.integration.transfer.types.databases import Database, Duckdb, Mysql, Postgresql, Sqlite

pytestmark = pytest.mark.mysql

FAMILIES = ("postgresql", "mysql", "sqlite", "duckdb")
ROWS = 40

#: How each family declares the columns of the table under test.
TYPES = {
    "postgresql": "id bigint primary key, a text, b text, n numeric(12,3), x float8, r real, d date, ts timestamp,"
    " flag boolean, raw bytea, u uuid, j json",
    "mysql": "id bigint primary key, a longtext, b longtext, n decimal(12,3), x double, r float, d date,"
    " ts datetime(6), flag boolean, raw longblob, u uuid, j longtext",
    "sqlite": "id bigint primary key, a text, b text, n decimal(12,3), x real, r real, d date, ts timestamp,"
    " flag boolean, raw blob, u uuid, j json text",
    "duckdb": "id bigint primary key, a varchar, b varchar, n decimal(12,3), x double, r float, d date, ts timestamp,"
    " flag boolean, raw blob, u uuid, j json",
}
BYTES = {"postgresql": "'\\x{}'::bytea", "mysql": "x'{}'", "sqlite": "x'{}'", "duckdb": "from_hex('{}')"}


@dataclass
class Pair:
    """A source and a target that was loaded from it."""

    source: Database
    target: Database

    def verify(self, **options: Any) -> ContentReport:
        mapping = make_mapping(source_table="t", target_table="t", **options.pop("mapping", {}))
        with closing(connect(self.source.config)) as source, closing(connect(self.target.config)) as target:
            return verify_content(ContentRequest(mapping, None, source, target, **options))

    def found(self, **options: Any) -> list[tuple[str, str | None, tuple[str, ...]]]:
        """Kind, key and columns of each difference."""
        report = self.verify(**options)
        assert report.passed == (not report.differences)
        return [(one.kind, one.key[0], tuple(c.column for c in one.columns)) for one in report.differences]


def fill(database: Database) -> None:
    rows = []
    for number in range(ROWS):
        raw = BYTES[database.family].format(f"00ff{number:02x}")
        rows.append(
            f"({number}, 'text {number}', 'other {number}', {number}.250, {number}.1, {number}.5,"
            f" '2024-02-{number % 28 + 1:02d}', '2024-02-29 12:00:00.{number:06d}',"
            f" {'true' if number % 2 else 'false'}, {raw}, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a{number:02d}',"
            f" '[{number}]')"
        )
    rows.append("(100, null, '', null, null, null, null, null, null, null, null, null)")
    database.run(f"create table t ({TYPES[database.family]})", f"insert into t values {', '.join(rows)}")


@pytest.fixture
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Database]:
    numbers = itertools.count()

    def make(family: str) -> Database:
        if family == "postgresql":
            postgresql: PostgresqlDatabase = request.getfixturevalue("postgresql")
            return Postgresql(postgresql.create_database())
        if family == "mysql":
            mysql: MysqlDatabase = request.getfixturevalue("mysql")
            return Mysql(mysql.create_database())
        path = tmp_path / f"{next(numbers)}.{family}"
        return Duckdb(path) if family == "duckdb" else Sqlite(path)

    return make


def make_pair(make_database: Callable[[str], Database], source: str, target: str, **fields: Any) -> Pair:
    pair = Pair(make_database(source), make_database(target))
    fill(pair.source)
    with closing(connect(pair.source.config)) as reads, closing(connect(pair.target.config)) as writes:
        load(reads, writes, make_mapping(source_table="t", target_table="t", **fields))
    return pair


#: Every family on either side, and PostgreSQL with its own digests; the other pairs take minutes together.
QUICK = {
    ("postgresql", "postgresql"),
    ("postgresql", "mysql"),
    ("mysql", "duckdb"),
    ("duckdb", "sqlite"),
    ("sqlite", "postgresql"),
}
PAIRS = [
    pytest.param(pair, id="-".join(pair), marks=[] if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(FAMILIES, FAMILIES)
]

#: What is done to rows of the target behind the engine's back, and the columns in which it must be found. ``{}`` is
#: the row, one for each change. Row 100 has NULL in all columns but ``b``, which is empty.
CHANGES: dict[str, tuple[str, ...]] = {
    "set a = 'texT {}'": ("a",),
    "set a = 'text {} '": ("a",),
    "set a = ''": ("a",),
    "set a = null": ("a",),
    "set a = 'te\u0301xt {}'": ("a",),
    "set a = b, b = 'text {}'": ("a", "b"),
    # A comma, or a digit, that moves from one column to the next.
    "set a = 'text', b = ' {}other {}'": ("a", "b"),
    "set a = 'text {},8:other {}', b = null": ("a", "b"),
    "set x = {next_double}": ("x",),
    "set x = null": ("x",),
    "set r = {next_real}": ("r",),
    "set n = {}.251": ("n",),
    "set n = -{}.25": ("n",),
    "set d = '2023-02-09'": ("d",),
    "set ts = '2024-02-29 12:00:00.1'": ("ts",),
    "set ts = '2024-02-29 13:00:00'": ("ts",),
    "set flag = {false} where id = {} and flag = {true}": ("flag",),
    "set flag = null": ("flag",),
    "set raw = {raw}": ("raw",),
    "set u = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380bff'": ("u",),
    "set j = '[ {}]'": ("j",),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, make_database: Callable[[str], Database]) -> Pair:
    return make_pair(make_database, *request.param)


def test_every_change_is_found_with_its_key_and_columns(pair: Pair) -> None:
    assert pair.found() == []

    # MySQL's boolean is a number, and stays one elsewhere.
    family = pair.target.family
    is_number = "mysql" in (family, pair.source.family)
    words = {"true": "1" if is_number else "true", "false": "0" if is_number else "false"}
    expected = []
    for row, (change, columns) in zip(itertools.count(11), CHANGES.items(), strict=False):
        if "{true}" in change:
            row = ROWS - 1
        words["raw"] = BYTES[family].format("00ff")
        words["next_double"] = repr(math.nextafter(row + 0.1, math.inf))
        # 23 bits of a real follow its first one.
        words["next_real"] = repr(row + 0.5 + 2.0 ** (int(math.log2(row)) - 23))
        sql = re.sub(r"\{(\w*)\}", lambda word, row=row: words.get(word[1]) or str(row), change)
        pair.target.run(f"update t {sql}" if " where " in sql else f"update t {sql} where id = {row}")
        expected.append(("different", str(row), columns))
    pair.target.run(
        "update t set a = 'text 3' where id = 2",
        "update t set a = 'text 2' where id = 3",
        "update t set b = '~', a = '~' where id = 100",
        f"update t set flag = {words['false']}, n = 0, x = 0 where id = 100",
        "delete from t where id = 4",
        "insert into t (id, a) values (-5, 'x')",
        "update t set id = 77 where id = 7",
    )
    expected += [("different", "2", ("a",)), ("different", "3", ("a",))]
    expected += [("different", "100", ("a", "b", "n", "x", "flag"))]
    expected += [("missing", "4", ()), ("extra", "-5", ()), ("missing", "7", ()), ("extra", "77", ())]
    assert pair.found() == sorted(expected, key=lambda one: int(one[1]))

    pair.target.run("delete from t")
    assert pair.found() == [("missing", str(row), ()) for row in [*range(ROWS), 100]]


def test_history_is_compared_by_its_current_versions(make_database: Callable[[str], Database]) -> None:
    for target in ("postgresql", "sqlite"):
        pair = make_pair(make_database, "postgresql", target, mode="scd2", key=["id"])
        pair.source.run("update t set a = 'new' where id = 7")
        with closing(connect(pair.source.config)) as reads, closing(connect(pair.target.config)) as writes:
            mapping = make_mapping(source_table="t", target_table="t", mode="scd2", key=["id"])
            load(reads, writes, mapping, load_id="load-2")
        scd2 = {"mode": "scd2", "key": ["id"]}
        assert pair.found(mapping=scd2) == []
        pair.target.run("update t set a = 'other' where id = 7 and is_current = true")
        assert pair.found(mapping=scd2) == [("different", "7", ("a",))]


@pytest.mark.parametrize("target", ["postgresql", "sqlite"])
def test_what_a_merge_keeps_is_no_fault(make_database: Callable[[str], Database], target: str) -> None:
    source = make_database("postgresql")
    fill(source)
    source.run("alter table t add gone boolean", "update t set gone = id in (1, 2)")
    pair = Pair(source, make_database(target))
    merge = {"mode": "merge", "soft_delete_column": "gone"}
    with closing(connect(pair.source.config)) as reads, closing(connect(pair.target.config)) as writes:
        load(reads, writes, make_mapping(source_table="t", target_table="t", **merge))
    assert pair.found(mapping=merge) == []

    pair.source.run("delete from t where id = 3")
    report = pair.verify(mapping=merge)
    assert report.passed
    assert [(one.kind, one.key) for one in report.differences] == [("extra", ("3",))]
    assert "which the load mode keeps" in report.description
    assert not pair.verify(mapping={**merge, "delete_missing": True}).passed
    pair.target.run("update t set a = null where id = 5")
    assert not pair.verify(mapping=merge).passed


def test_a_computed_field_is_compared_where_it_can_be_computed(make_database: Callable[[str], Database]) -> None:
    fields = {
        "column_mappings": [
            {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]},
            {"type": "expression", "expression": "upper(a) || '-' || id", "target_fields": ["shout"]},
            {"type": "hash", "source_columns": ["b"], "target_fields": ["masked"]},
        ]
    }
    for source, target, place in (
        ("postgresql", "postgresql", "database"),
        ("postgresql", "duckdb", "database"),
        ("sqlite", "duckdb", "here"),
    ):
        pair = make_pair(make_database, source, target, **fields)
        report = pair.verify(mapping=fields)
        assert (report.passed, report.source.computed_in) == (True, place)
        pair.target.run("update t set masked = 'x' where id = 9")
        assert pair.found(mapping=fields) == [("different", "9", ("masked",))]


@pytest.mark.parametrize("target", ["postgresql", "duckdb"])
def test_rows_in_quarantine_are_not_missed(make_database: Callable[[str], Database], target: str) -> None:
    pair = Pair(make_database("postgresql"), make_database(target))
    rows = "('1', 1), ('two', 2), ('3', 3), ('4', 4), ('4', 5), ('6', 6)"
    pair.source.run("create table t (code text, n int)", f"insert into t values {rows}")
    schema = make_schema("code", code="integer", n="integer")
    mapping = make_mapping(source_table="t", target_table="t", target_schema="schema", on_bad_row="quarantine")
    with closing(connect(pair.source.config)) as source, closing(connect(pair.target.config)) as writes:
        load(source, writes, mapping, schema)
        report = verify_content(ContentRequest(mapping, schema, source, writes))
        assert (report.passed, report.source.rows, report.target.rows, report.set_aside) == (True, 5, 3, 2)
        pair.target.run("delete from t where code = 6")
        report = verify_content(ContentRequest(mapping, schema, source, writes))
    assert [(one.kind, one.key) for one in report.differences] == [("missing", ("6",))]


@pytest.mark.parametrize("target", FAMILIES)
def test_without_a_key_rows_are_counted(make_database: Callable[[str], Database], target: str) -> None:
    pair = Pair(make_database("postgresql"), make_database(target))
    pair.source.run("create table t (a text, n int)", "insert into t values ('x', 1), ('x', 1), (null, 2), ('', null)")
    with closing(connect(pair.source.config)) as reads, closing(connect(pair.target.config)) as writes:
        load(reads, writes, make_mapping(source_table="t", target_table="t"))
    assert pair.verify().passed
    pair.target.run("update t set n = 3 where n = 2")
    report = pair.verify()
    assert (report.missing, report.extra, report.different, report.key) == (1, 1, 0, ())
    pair.target.run("update t set n = 2 where n = 3", "insert into t values ('x', 1)")
    assert (pair.verify().missing, pair.verify().extra) == (0, 1)


def test_values_are_shown_only_if_asked_for(make_database: Callable[[str], Database]) -> None:
    pair = make_pair(make_database, "postgresql", "sqlite")
    pair.target.run("update t set x = 1.5, a = 'changed' where id = 7")
    assert "changed" not in repr(pair.verify()) + pair.verify().description + repr(pair.verify().to_dict())
    (difference,) = pair.verify(show_values=True).differences
    assert [(one.column, one.source, one.target) for one in difference.columns] == [
        ("a", "text 7", "changed"),
        ("x", "7.1", "1.5"),
    ]


def test_what_cannot_be_compared_says_so(make_database: Callable[[str], Database]) -> None:
    pair = Pair(make_database("postgresql"), make_database("postgresql"))
    fill(pair.source)
    with pytest.raises(TargetMismatchError, match="the target has no table t"):
        pair.verify()


def test_ranges_are_split_until_they_are_small(
    make_database: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "FIRST_RANGE_ROWS", 3000)
    monkeypatch.setattr(content, "RANGE_ROWS", 50)
    monkeypatch.setattr(content, "READ_ROWS", 400)
    pair = Pair(make_database("postgresql"), make_database("duckdb"))
    pair.source.run("create table t (id int primary key, a text)")
    pair.source.run("insert into t select i, 'text ' || i from generate_series(1, 5000) as i")
    with closing(connect(pair.source.config)) as reads, closing(connect(pair.target.config)) as writes:
        load(reads, writes, make_mapping(source_table="t", target_table="t"))
    pair.target.run("update t set a = 'other' where id in (17, 4001)", "delete from t where id = 2500")
    expected = [("different", "17", ("a",)), ("missing", "2500", ()), ("different", "4001", ("a",))]
    assert pair.found() == expected

    pair.target.run("update t set a = 'all'")
    report = pair.verify(limit=5)
    assert not report.complete
    assert not report.passed
    assert len(report.differences) == 5
    assert 300 < report.different < 450
    assert "at least" in report.description


def test_a_row_that_mysql_cannot_take_at_once_is_an_error(mysql: MysqlDatabase) -> None:
    # The server of the tests takes eight megabytes at once; hexadecimal digits of five are more.
    pair = Pair(Mysql(mysql), Mysql(mysql.create_database()))
    for database in (pair.source, pair.target):
        database.run("create table t (id int primary key, raw longblob)", "insert into t values (1, 'a')")
        database.run("insert into t values (2, repeat('x', 5000000))")
    with pytest.raises(DatabaseError, match="cannot digest rows that are larger than it takes at once: 1 "):
        pair.verify()
