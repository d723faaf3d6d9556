"""Every type of SQLite on every route from it: exact, refused, quarantined, or the load ends and changes nothing."""

from __future__ import annotations

import pytest

from synqx_dagster_tests.integration.transfer.types.conftest import MakeDatabase
from synqx_dagster_tests.integration.transfer.types.embedded_cases import SQLITE_CASES
from synqx_dagster_tests.integration.transfer.types.matrix import check_section, render_cases
from synqx_dagster_tests.integration.transfer.types.routes import ALLOWED
from synqx_dagster_tests.integration.transfer.types.sources import Source, Way

pytestmark = pytest.mark.mysql

WAYS = {
    "PostgreSQL and back": Way(("postgresql", "sqlite")),
    "MySQL and back": Way(("mysql", "sqlite")),
    "DuckDB and back": Way(("duckdb", "sqlite")),
    "SQLite": Way(("sqlite",)),
}


@pytest.fixture(scope="module")
def source(make_database: MakeDatabase) -> Source:
    return Source(make_database("sqlite"), SQLITE_CASES, make_database, WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_no_value_is_changed_in_silence(source: Source, name: str) -> None:
    # Of a value whose type is not its column's the reading side knows only when it meets it.
    assert source.describe_defects(name, (*ALLOWED, "ended")) == []


def test_the_documentation_says_what_was_seen(source: Source) -> None:
    check_section("sqlite", render_cases(source.cases, {name: source.run(name) for name in WAYS}))
