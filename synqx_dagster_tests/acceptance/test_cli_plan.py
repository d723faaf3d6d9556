"""`synqx plan`: what it refuses, by which exit code, and how much it prints."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.fix_shop import edit

COLUMNS = 200


def execute(project: Project, *statements: str) -> None:
    with closing(sqlite3.connect(project.directory / "shop.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def add_mapping(project: Project, name: str, **fields: str) -> None:
    """Declare another mapping, and apply it."""
    values = {
        "source_connection": "shop",
        "source_table": "customer",
        "target_connection": "warehouse",
        "target_table": name,
        **fields,
    }
    lines = "".join(f"{field}: {value}\n" for field, value in values.items() if value)
    project.write(f"definitions/{name}.yaml", f"kind: mapping\nname: {name}\n{lines}")
    outcome = project("apply")
    assert outcome.exit_code == 0, outcome.output


def test_statements_of_a_wide_table_are_shortened_unless_asked_for(shop: Project) -> None:
    execute(shop, f"create table wide (id integer, {', '.join(f'column_{at} text' for at in range(COLUMNS))})")
    add_mapping(shop, "wide", source_table="wide")

    short, whole = shop("plan", "wide"), shop("plan", "wide", "--sql")
    document = shop("plan", "wide", "--json").document

    sql = document["read_sql"]
    assert len(sql) > 2000
    assert f"column_{COLUMNS - 1}" in sql
    assert sql.splitlines()[0] in whole.stdout
    assert sql.splitlines()[0] not in short.stdout
    assert f"shortened from {len(sql):,} characters: --sql shows all of it" in short.stdout
    assert sql.splitlines()[1] in short.stdout, "where the rows come from is always shown"
    assert "--sql" not in whole.stdout


def test_a_short_statement_is_whole(shop: Project) -> None:
    read_sql = shop("plan", "customers", "--json").document["read_sql"]
    assert "\n".join(f"  {line}" for line in read_sql.splitlines()) in shop("plan", "customers").stdout


#: What a plan can find, as fields of a mapping and SQL for the source, and what it says: all by the same exit code.
AS_THE_DATABASES_ARE: dict[str, tuple[dict[str, str], str, str]] = {
    "table that is gone": ({"source_table": "gone"}, "", "no table gone"),
    "column that is gone": (
        {"column_mappings": "[{type: direct, source_columns: [gone], target_fields: [a]}]"},
        "",
        "'gone'",
    ),
    "type that does not become another": (
        {"target_schema": "customer"},
        "drop table customer; create table customer (id blob, name text, credit text)",
        "cannot become",
    ),
    "no key to merge by": (
        {"mode": "merge", "source_table": "keyless"},
        "create table keyless (a text)",
        "needs a key",
    ),
    "cursor without an order": (
        {"cursor": "{column: flag}", "source_table": "flags", "mode": "append"},
        "create table flags (flag boolean)",
        "no order",
    ),
    "query that the source refuses": (
        {"source_table": "", "source_query": "select gone from customer"},
        "",
        "no such column: gone",
    ),
}


@pytest.mark.parametrize(("fields", "sql", "said"), AS_THE_DATABASES_ARE.values(), ids=AS_THE_DATABASES_ARE)
def test_what_the_databases_do_not_have_exits_1(shop: Project, fields: dict[str, str], sql: str, said: str) -> None:
    execute(shop, *(sql.split("; ") if sql else []))
    add_mapping(shop, "other", **fields)

    outcome = shop("plan", "other")

    assert outcome.exit_code == 1, outcome.output
    assert said in outcome.stderr


def test_a_target_that_does_not_fit_exits_1(shop: Project, postgresql: PostgresqlDatabase) -> None:
    postgresql.execute("create schema analytics; create table analytics.customer (id smallint, name text, credit int)")
    outcome = shop("plan", "customers")
    assert outcome.exit_code == 1
    assert "columns do not fit" in outcome.stderr


def test_a_name_that_is_not_there_exits_2(shop: Project) -> None:
    assert shop("plan", "custommers").exit_code == 2


def test_a_vault_that_is_sealed_exits_3(shop: Project) -> None:
    assert shop("plan", "customers").exit_code == 0
    (shop.home / "vault.key").unlink()
    assert shop("plan", "customers").exit_code == 3


@pytest.mark.parametrize("key_type", ["json", "point"])
def test_a_key_that_the_target_cannot_compare_is_refused_before_the_copy(
    shop: Project, postgresql: PostgresqlDatabase, key_type: str
) -> None:
    postgresql.execute(f"create table documents (document {key_type} not null, id int)")
    if key_type == "json":
        shop.write(
            "definitions/document.yaml",
            "kind: schema\nname: document\ncolumns:\n  - {name: document, data_type: json, nullable: false}\n"
            "primary_key: [document]\n",
        )
        fields = {"target_schema": "document"}
    else:
        fields = {"mode": "merge", "key": "[document]"}
    add_mapping(shop, "documents_copy", source_connection="warehouse", source_table="documents", **fields)

    for command in ("plan", "run"):
        outcome = shop(command, "documents_copy")
        assert outcome.exit_code == 1, outcome.output
        assert f"'document' is {key_type}, which postgresql cannot compare" in outcome.stderr


def test_one_sqlite_file_as_source_and_target_needs_its_write_ahead_log(shop: Project) -> None:
    shop.write(
        "definitions/same.yaml",
        f"kind: connection\nname: again\ndb_type: sqlite\ndatabase: {shop.directory}/./shop.db\n",
    )
    add_mapping(shop, "copied", target_connection="again")

    for command in ("plan", "run"):
        outcome = shop(command, "copied")
        assert outcome.exit_code == 1, outcome.output
        assert "source and target are one SQLite file" in outcome.stderr
        assert "PRAGMA journal_mode=WAL" in outcome.stderr

    execute(shop, "PRAGMA journal_mode=WAL")
    outcome = shop("run", "copied", "--json")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.document["assets"][0]["rows_out"] == 4


def test_the_definition_is_to_blame_for_a_query_that_is_none(shop: Project) -> None:
    edit(shop, "source_table: customer\n", "source_query: selec id from customer\n")
    assert shop("apply").exit_code == 2
