"""One database for all tests of the mapping compiler; each makes its own table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from synqx_dagster_tests.fix_postgresql import PostgresqlServer


@pytest.fixture(scope="module")
def connection(postgresql_server: PostgresqlServer) -> Iterator[Any]:
    database = postgresql_server.create_database()
    session = database.connect()
    yield session
    session.close()
    database.drop()
