"""Every type of PostgreSQL on every route from it: exact, refused before a row is read, or quarantined."""

from __future__ import annotations

import pytest

from synqx_dagster_tests.integration.transfer.types.conftest import MakeDatabase
from synqx_dagster_tests.integration.transfer.types.databases import TABLE
from synqx_dagster_tests.integration.transfer.types.matrix import check_section, render_cases
from synqx_dagster_tests.integration.transfer.types.postgresql_cases import CASES
from synqx_dagster_tests.integration.transfer.types.routes import ALLOWED, LANE_COLUMN
from synqx_dagster_tests.integration.transfer.types.sources import Source, Way

pytestmark = pytest.mark.mysql

WAYS = {
    "PostgreSQL, passthrough lane": Way(("postgresql",), "passthrough"),
    "PostgreSQL, from a query": Way(("postgresql",), "passthrough", is_query=True),
    "PostgreSQL, arrow lane": Way(("postgresql",), "arrow"),
    "MySQL and back": Way(("mysql", "postgresql")),
    "DuckDB and back": Way(("duckdb", "postgresql")),
    "SQLite and back": Way(("sqlite", "postgresql")),
    "Parquet and back": Way(("parquet", "postgresql")),
    "CSV and back": Way(("csv", "postgresql")),
    "JSON lines and back": Way(("jsonl", "postgresql")),
}


@pytest.fixture(scope="module")
def source(make_database: MakeDatabase) -> Source:
    made = Source(make_database("postgresql"), CASES, make_database, WAYS)
    made.database.run(f"alter table {TABLE} add {LANE_COLUMN} inet")
    return made


@pytest.mark.parametrize("name", WAYS)
def test_no_value_is_changed_in_silence(source: Source, name: str) -> None:
    assert source.describe_defects(name, ALLOWED) == []


def test_the_documentation_says_what_was_seen(source: Source) -> None:
    check_section("postgresql", render_cases(source.cases, {name: source.run(name) for name in WAYS}))
