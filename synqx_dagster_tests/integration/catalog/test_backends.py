"""What both backends must do alike, and what only a server can get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from synqx_dagster.catalog import engine as engine_module
from synqx_dagster.catalog import tables
from synqx_dagster.catalog.apply import apply_changes, plan_changes, rollback
from synqx_dagster.catalog.revisions import digest_of
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import CatalogVersionError, ConfigurationError, RetryableError
from synqx_dagster.settings import Settings
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping, pipeline, schedule, schema

CANARY = "hunter2-canary"


@contextmanager
def counted(catalog: Catalog) -> Iterator[list[str]]:
    """The statements that a block runs."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement != "begin":
            statements.append(statement)

    event.listen(catalog._engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(catalog._engine, "before_cursor_execute", note)


def test_a_life(any_catalog: Catalog) -> None:
    """Apply, change, remove, go back; with text that databases like to change."""
    odd = "ünï\U0001f600 'quoted' \"x\" \\ % :name \u2028 {}"
    values = {"db_type": "postgresql", "host": "h", "database": odd, "username": "u", "password": CANARY}
    project = [
        connection("shop", **values),
        connection("warehouse"),
        schema("customer", description=odd),
        mapping("customers", target_schema="customer"),
        pipeline("main", "customers"),
        schedule("nightly", pipeline="main"),
    ]

    def apply(*records: object, prune: bool = False) -> int:
        plan = plan_changes(any_catalog, definitions(*records), prune=prune)  # type: ignore[arg-type]
        return apply_changes(any_catalog, plan, author="ada", reason=odd)

    assert apply(*project) == 1
    assert apply(*project) == 1
    assert apply(mapping("customers", mode="append")) == 2
    assert apply(*project[:3], prune=True) == 3
    assert rollback(any_catalog, 2, author="ada", reason=None) == 4
    assert any_catalog.snapshot(4).to_dict()["mappings"] == any_catalog.snapshot(2).to_dict()["mappings"]
    assert any_catalog.snapshot(1).get_schema("customer").description == odd
    assert any_catalog.snapshot(3).mappings == {}
    assert [info.reason for info in any_catalog.history()] == ["roll back to revision 2", odd, odd, odd]
    for revision in (1, 4):
        shop = any_catalog.snapshot(revision).get_connection("shop")
        assert any_catalog.resolve_secret(shop, "password") == CANARY
    any_catalog.save_test("shop", {"ok": True, "message": odd})
    any_catalog.save_test("shop", {"ok": False, "message": odd})
    found = any_catalog.find_test("shop")
    assert found is not None
    assert (found.last_test_status, found.message) == ("failed", odd)


def test_an_unreadable_old_version_is_counted(any_catalog: Catalog) -> None:
    """A version that cannot be read any more is one, and keeps nobody from running the others."""
    ends = [connection("shop"), connection("warehouse"), mapping("a"), mapping("b")]
    for records in ([*ends, pipeline("p", "a")], ends, [*ends, pipeline("p", "a", "b")]):
        plan = plan_changes(any_catalog, definitions(*records), prune=True)
        apply_changes(any_catalog, plan, author="ada", reason=None)
    table, body = tables.record_version, '{"later": 1}'
    with any_catalog.write() as database:
        first = sa.and_(table.c.valid_from == 1, table.c.valid_to == 2)
        database.execute(sa.update(table).where(first).values(body=body, digest=digest_of("pipeline", body)))

    assert [any_catalog.find_version("pipeline", "p", revision) for revision in range(4)] == [0, 1, 0, 2]
    assert any_catalog.find_version("pipeline", "nobody", 3) == 0
    old, new = any_catalog.versions("pipeline", "p")
    assert [(item.number, item.valid_from, item.valid_to) for item in (old, new)] == [(1, 1, 2), (2, 3, None)]
    assert new.decode() == any_catalog.snapshot().get_pipeline("p")
    with pytest.raises(CatalogVersionError, match="pipeline 'p' was written by a newer version"):
        old.decode()


@pytest.mark.slow
def test_a_large_catalog_is_read_in_parts(any_catalog: Catalog) -> None:
    """10,000 mappings: a run's own records cost a few indexed queries, whatever else is there."""
    count = 10_000
    records = [
        connection("shop"),
        connection("warehouse"),
        schema("customer"),
        *(mapping(f"m{number}", target_schema="customer") for number in range(count)),
        pipeline("p", "m7", "m8"),
        schedule("s", pipeline="p", mapping=["m9"]),
    ]
    plan = plan_changes(any_catalog, definitions(*records))
    with counted(any_catalog) as statements:
        apply_changes(any_catalog, plan, author="a", reason=None)
    assert len(statements) < 150, "a revision is written in batches"
    apply_changes(
        any_catalog, plan_changes(any_catalog, definitions(mapping("m7", mode="append"))), author="a", reason=None
    )

    with counted(any_catalog) as statements:
        found = any_catalog.snapshot_for(schedules=["s"])
    assert sorted(found.mappings) == ["m7", "m8", "m9"]
    assert len(found) == 8
    assert len(statements) <= 6
    with counted(any_catalog) as latest:
        assert any_catalog.latest_revision() == 2
    assert len(latest) == 1
    if any_catalog._address.path is not None:
        for statement in {*statements, *latest}:
            assert "SCAN" not in _explain(any_catalog, statement), statement


def _explain(catalog: Catalog, statement: str) -> str:
    with catalog.read() as database:
        rows = database.exec_driver_sql(f"explain query plan {statement}", ("s",) * statement.count("?")).all()
    return "\n".join(row.detail for row in rows)


# --- a server's own ways -------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(postgresql: PostgresqlDatabase) -> Iterator[str]:
    """The address of a database whose user ``guarded`` must give a password over TCP."""
    server = postgresql.server
    rules = server.data_directory / "pg_hba.conf"
    before = rules.read_text()
    server.execute(f"set password_encryption = 'scram-sha-256'; create role guarded login password '{CANARY}'")
    rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + before)
    server.reload()
    try:
        yield f"127.0.0.1:{server.tcp_port}/{postgresql.name}"
    finally:
        rules.write_text(before)
        server.reload()
        postgresql.execute("drop owned by guarded")
        server.execute("drop role guarded")


def refused(url: str, home: Path) -> str:
    messages = set()
    for act in (Catalog.open, Catalog.initialise):
        with pytest.raises(ConfigurationError) as caught:
            act(Settings(home=home, catalog_url=url))
        assert caught.value.__cause__ is None
        messages.add(str(caught.value))
    (message,) = messages
    assert CANARY not in message
    assert "SYNQX_CATALOG_URL" in message
    return message


def test_wrong_credentials(guarded: str, tmp_path: Path) -> None:
    wrong = f"postgresql://guarded:wrong-{CANARY}@{guarded}"
    assert f"postgresql://guarded@{guarded} cannot be reached: the user name or the password is wrong" in refused(
        wrong, tmp_path
    )
    assert "the server asks for a password" in refused(f"postgresql://guarded@{guarded}", tmp_path)
    by_option = f"postgresql://guarded@{guarded}?password=wrong-{CANARY}"
    assert "the password is wrong" in refused(by_option, tmp_path)


def test_right_credentials_without_rights(guarded: str, postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    url = f"postgresql://guarded:{CANARY}@{guarded}"
    with pytest.raises(ConfigurationError, match="lacks a privilege"):
        Catalog.initialise(Settings(home=tmp_path, catalog_url=url))
    postgresql.execute("grant create, usage on schema public to guarded")
    Catalog.initialise(Settings(home=tmp_path, catalog_url=url)).close()


def test_places_that_are_not_there(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    address = f"127.0.0.1:{postgresql.server.tcp_port}"
    assert "there is no such database" in refused(f"postgresql://postgres:{CANARY}@{address}/nope", tmp_path)
    assert "does not resolve" in refused(f"postgresql://postgres:{CANARY}@no.such.host.invalid/db", tmp_path)
    assert "no server socket" in refused(f"postgresql://postgres:{CANARY}@/db?host={tmp_path}", tmp_path)
    assert "does not know" in refused(f"postgresql://postgres:{CANARY}@{address}/db?sslmodus=require", tmp_path)
    assert "TLS failed" in refused(f"postgresql://postgres:{CANARY}@{address}/postgres?sslmode=require", tmp_path)


def test_a_writer_that_waits_too_long_may_try_again(any_catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "LOCK_TIMEOUT_SECONDS", 0.2)
    plan = plan_changes(any_catalog, definitions(schema("a")))
    with Catalog.open(any_catalog.settings) as other, other.write() as database:
        database.execute(sa.text("update synqx_catalog set created_at = created_at"))
        with (
            Catalog.open(any_catalog.settings) as waiting,
            pytest.raises(RetryableError, match="Somebody else is changing the catalog"),
        ):
            apply_changes(waiting, plan, author="a", reason=None)
    assert apply_changes(any_catalog, plan, author="a", reason=None) == 1


def test_a_server_that_comes_back(postgresql: PostgresqlDatabase, tmp_path: Path, cheap_vault: None) -> None:
    with Catalog.initialise(Settings(home=tmp_path, catalog_url=postgresql.uri)) as catalog:
        postgresql.server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [postgresql.name]
        )
        assert catalog.latest_revision() == 0
