"""Every type of MySQL and MariaDB on every route from it: exact, refused before a row is read, or quarantined."""

from __future__ import annotations

import pytest

from synqx_dagster_tests.integration.transfer.types.conftest import MakeDatabase
from synqx_dagster_tests.integration.transfer.types.matrix import check_section, render_cases
from synqx_dagster_tests.integration.transfer.types.mysql_cases import CASES
from synqx_dagster_tests.integration.transfer.types.routes import ALLOWED
from synqx_dagster_tests.integration.transfer.types.sources import Source, Way

pytestmark = pytest.mark.mysql

WAYS = {
    "PostgreSQL, from a query": Way(("postgresql",), is_query=True),
    "PostgreSQL and back": Way(("postgresql", "mysql")),
    "MySQL": Way(("mysql",)),
    "MySQL, from a query": Way(("mysql",), is_query=True),
    "DuckDB and back": Way(("duckdb", "mysql")),
    "SQLite and back": Way(("sqlite", "mysql")),
    "Parquet and back": Way(("parquet", "mysql")),
    "CSV and back": Way(("csv", "mysql")),
    "JSON lines and back": Way(("jsonl", "mysql")),
}


@pytest.fixture(scope="module")
def source(make_database: MakeDatabase) -> Source:
    return Source(make_database("mysql"), CASES, make_database, WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_no_value_is_changed_in_silence(source: Source, name: str) -> None:
    assert source.describe_defects(name, ALLOWED) == []


def test_the_documentation_says_what_was_seen(source: Source) -> None:
    check_section("mysql", render_cases(source.cases, {name: source.run(name) for name in WAYS}))
