"""Sources of both versions that are followed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer


# Whole lives on 15 are in test_versions.py, and what is looked at there in integration/monitor.
@pytest.fixture(params=["18", pytest.param("15", marks=pytest.mark.slow)], scope="session")
def source_server(request: pytest.FixtureRequest) -> PostgresqlServer:
    """A server of each version that is tested with."""
    name = "postgresql_server" if request.param == "18" else "postgresql_15_server"
    server: PostgresqlServer = request.getfixturevalue(name)
    return server


@pytest.fixture
def source(source_server: PostgresqlServer) -> Iterator[PostgresqlDatabase]:
    """A database of the test's own."""
    database = source_server.create_database()
    try:
        yield database
    finally:
        database.drop()
