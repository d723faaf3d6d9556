"""Sources of both versions that are followed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer


@pytest.fixture(params=["18", "15"], scope="session")
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
