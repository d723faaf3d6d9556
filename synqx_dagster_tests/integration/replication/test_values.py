"""A value comes through the log as the server prints it to a session that copies it, however the database is set."""

from __future__ import annotations

from synqx_dagster.replication.changes import Insert
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.following import follow
from synqx_dagster_tests.integration.transfer.types.databases import Postgresql, column_names, fill
from synqx_dagster_tests.integration.transfer.types.postgresql_cases import CASES, SETUP


def test_every_type_comes_as_its_text(source: PostgresqlDatabase) -> None:
    # Its own settings are nothing like ours.
    every = Postgresql(source)
    every.run(SETUP)
    fill(every, CASES, "origin")
    every.run("create table every (like origin including all)")
    names = column_names(CASES)
    texts = ", ".join(
        one.text.format(name) if one.text else f"{name}::text" for name, one in zip(names, CASES, strict=True)
    )
    expected = {str(row[0]): row[1:] for row in every.rows(f"select id, {texts} from origin")}
    types = dict(every.column_types("every"))
    with follow(source, "every") as followed, followed.stream() as stream:
        every.run("insert into every select * from origin")
        changes = followed.changes(stream)
    seen = {}
    for change in changes:
        assert isinstance(change, Insert)
        columns = change.relation.columns
        assert {column.name: column.native_type for column in columns} == types
        by_name = dict(zip((column.name for column in columns), change.new, strict=True))
        seen[by_name["id"]] = tuple(by_name[name] for name in names)
    assert seen.keys() == expected.keys()
    for key, row in expected.items():
        for one, wanted, got in zip(CASES, row, seen[key], strict=True):
            # A cast drops the blanks of a char(n); a boolean's cast to text spells it out.
            if one.kind == "boolean" and wanted is not None:
                wanted = wanted[0]
            assert got == wanted, f"{one.name}: {str(got)[:100]!r} is not {str(wanted)[:100]!r}"


def test_generated_columns_come_from_version_18_on(source: PostgresqlDatabase, source_server: object) -> None:
    source.execute(
        "create table t (id int primary key generated always as identity, n int,"
        " twice int generated always as (n * 2) stored)"
    )
    version = int(source.execute("show server_version_num")[0][0])
    if version >= 180_000:
        source.execute("alter table t add virtual int generated always as (n * 3) virtual")
    with follow(source, "t") as followed, followed.stream() as stream:
        source.execute("insert into t (n) values (5)")
        (change,) = followed.changes(stream)
    assert isinstance(change, Insert)
    assert change.new == (("1", "5", "10") if version >= 180_000 else ("1", "5"))
