"""The connection of DATABASE_URL that a server finds ready."""

from __future__ import annotations

import logging

import pytest

from synqx_dagster.api.seeding import CONNECTION_NAME, read_url, seed_catalog
from synqx_dagster.catalog.apply import apply_changes, plan_removal
from synqx_dagster.catalog.listing import find_stored
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.model import LiteralSecret
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

PASSWORD = "canary p@ss"


@pytest.fixture
def database(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    found = postgresql.create_database()
    found.execute("create table users (id integer primary key); create table orders (id integer)")
    found.execute('create schema sales; create table sales.users (id integer); create table " odd " (id integer)')
    found.execute('create table "or-ders" (id integer)')
    return found


def url_of(database: PostgresqlDatabase) -> str:
    return f"postgres://{database.username}:canary%20p%40ss@127.0.0.1:{database.port}/{database.name}?sslmode=prefer"


def test_the_first_start_makes_the_connection_and_assets(any_catalog: Catalog, database: PostgresqlDatabase) -> None:
    environ = {"DATABASE_URL": url_of(database)}
    made = seed_catalog(any_catalog, environ)
    assert (made.revision, made.warning) == (1, None)
    snapshot = any_catalog.snapshot()
    connection = snapshot.get_connection(CONNECTION_NAME)
    assert (connection.host, connection.port, connection.database) == ("127.0.0.1", database.port, database.name)
    assert any_catalog.resolve_secret(connection, "password") == PASSWORD
    assert {name: asset.table for name, asset in snapshot.assets.items()} == {
        "odd": "public. odd ",
        "or-ders": "public.or-ders",
        "orders": "public.orders",
        "users": "public.users",
        "sales.users": "sales.users",
    }
    first = find_stored(any_catalog, "asset", 1)
    assert first is not None
    assert any_catalog.history()[0].author == "system"

    assert seed_catalog(any_catalog, environ).revision is None, "once"
    plan = plan_removal(any_catalog, [("connection", CONNECTION_NAME), *(("asset", name) for name in snapshot.assets)])
    apply_changes(any_catalog, plan, author="ann", reason=None)
    assert seed_catalog(any_catalog, environ).revision is None, "who removed it does not want it back"


@pytest.mark.parametrize(
    "url",
    [
        "canary p@ss",
        "postgresql://u:canary p@ss@host:port/db",
        "mysql://u:canary p@ss@127.0.0.1/db",
        "postgresql://u:canary%20p%40ss@127.0.0.1:1/db",
        "postgresql://u:canary%20p%40ss@127.0.0.1:70000/db",
        "postgresql://u:canary%20p%40ss@no-such-host.invalid/db",
        "postgresql://u:canary%20p%40ss@127.0.0.1/db?sslmode=canary p@ss",
        "postgresql://[canary p@ss",
    ],
)
def test_a_wrong_url_is_a_warning_without_the_password(
    catalog: Catalog, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = seed_catalog(catalog, {"DATABASE_URL": url})
    assert made.revision is None
    assert made.warning is not None
    assert catalog.latest_revision() == 0
    told = caplog.text + made.warning
    assert "DATABASE_URL" in told
    assert "canary" not in told
    assert "p%40ss" not in told


def test_without_the_variable_nothing_is_made(catalog: Catalog) -> None:
    assert seed_catalog(catalog, {}) == seed_catalog(catalog, {"DATABASE_URL": ""})
    assert catalog.latest_revision() == 0


def test_parts_of_a_url_become_fields() -> None:
    connection = read_url("postgresql+psycopg2://ann@/shop?host=/run/pg&port=6543&password=x&sslmode=verify-full")
    assert (connection.host, connection.port, connection.username) == ("/run/pg", 6543, "ann")
    assert isinstance(connection.password, LiteralSecret)
    assert connection.tls is not None
    assert connection.tls.mode == "verify-full"
