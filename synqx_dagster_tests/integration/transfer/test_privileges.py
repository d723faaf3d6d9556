"""What a plan says of users that may not do what the load needs, and that what it says is enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import DatabaseError, NotPermittedError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping

ROWS = "create table source.t (id int primary key, name text); insert into source.t values (1, 'a'), (2, 'b')"


@pytest.fixture
def role(postgresql: PostgresqlDatabase) -> Iterator[str]:
    """A login without any privilege, whose name needs quotes."""
    name = f"etl-{postgresql.name[-8:]}"
    postgresql.execute(f'create schema source; create schema dst; {ROWS}; create role "{name}" login')
    yield name
    postgresql.execute(f'reassign owned by "{name}" to postgres; drop owned by "{name}"; drop role "{name}"')


@pytest.fixture
def ends(postgresql: PostgresqlDatabase, role: str) -> Iterator[Connector]:
    connector = connect(replace(postgresql.config(), username=role))
    yield connector
    connector.close()


def grants_of(error: NotPermittedError) -> list[str]:
    assert error.hint is not None
    statements = error.hint.partition(": ")[2].rstrip(";").split("; ")
    assert all(statement.startswith("GRANT ") for statement in statements), statements
    return statements


def refused(mapping: Mapping, source: Connector, target: Connector) -> NotPermittedError:
    with pytest.raises(NotPermittedError) as caught:
        plan_load(mapping, None, source, target)
    return caught.value


@pytest.mark.parametrize("mode", ["replace", "append", "merge", "scd2"])
def test_postgresql_names_user_object_and_grant_and_the_grants_are_enough(
    postgresql: PostgresqlDatabase, role: str, ends: Connector, mode: str
) -> None:
    mapping = make_mapping(source_table="source.t", target_table="dst.t", mode=mode, on_bad_row="quarantine")

    error = refused(mapping, ends, ends)

    for what in ("USAGE on the schema source", "SELECT on the table source.t", "CREATE on the schema dst"):
        assert f"the user '{role}' lacks {what}" in error.message
    assert error.exit_code == 1
    for grant in grants_of(error):
        postgresql.execute(grant)
    assert load(ends, ends, mapping).rows_out == 2

    # The same on tables that somebody else has made.
    for table in ("t", "_synqx_ledger", "_synqx_fence", "_synqx_quarantine"):
        postgresql.execute(f"alter table dst.{table} owner to postgres")
    error = refused(mapping, ends, ends)
    assert "INSERT on the table dst.t" in error.message
    assert ("UPDATE on the table dst.t" in error.message) is (mode in ("merge", "scd2"))
    assert ("DELETE on the table dst.t" in error.message) is (mode == "replace")
    assert "UPDATE on the table dst._synqx_fence" in error.message
    for grant in grants_of(error):
        postgresql.execute(grant)
    load(ends, ends, mapping, load_id="second")


def test_postgresql_knows_columns_and_owners(postgresql: PostgresqlDatabase, role: str, ends: Connector) -> None:
    postgresql.execute(f'grant usage on schema source, dst to "{role}"; grant create on schema dst to "{role}"')
    postgresql.execute(f'grant select (id) on source.t to "{role}"')
    mirror = make_mapping(source_table="source.t", target_table="dst.t")
    assert "SELECT on the table source.t" in refused(mirror, ends, ends).message
    part = make_mapping(
        source_table="source.t",
        target_table="dst.t",
        column_mappings=[{"type": "direct", "source_columns": ["id"], "target_fields": ["id"]}],
    )
    assert plan_load(part, None, ends, ends).target_action == "create"
    postgresql.execute(f'alter table source.t owner to "{role}"; revoke all on source.t from "{role}"')
    assert plan_load(mirror, None, ends, ends).target_action == "create"


def test_a_schema_that_is_missing_needs_the_database(
    postgresql: PostgresqlDatabase, role: str, ends: Connector
) -> None:
    postgresql.execute(f'grant usage on schema source to "{role}"; grant select on source.t to "{role}"')
    mapping = make_mapping(source_table="source.t", target_table="fresh.t")
    error = refused(mapping, ends, ends)
    assert f"CREATE on the database {postgresql.name}" in error.message
    for grant in grants_of(error):
        postgresql.execute(grant)
    assert load(ends, ends, mapping).rows_out == 2


def test_postgresql_names_the_user_when_a_statement_is_refused(role: str, ends: Connector) -> None:
    with ends.write() as session, pytest.raises(NotPermittedError, match=f"user '{role}'") as caught:
        session.execute("create table dst.x (id int)")
    assert isinstance(caught.value, DatabaseError)
    assert role in (caught.value.hint or "")


# --- MySQL ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def account(mysql: MysqlDatabase) -> Iterator[str]:
    name = f"etl_{mysql.name[-8:]}"
    mysql.execute("create table t (id int primary key, name varchar(20))")
    mysql.execute("insert into t values (1, 'a'), (2, 'b')")
    mysql.execute(f"create user '{name}'@'%' identified by 'pw'")
    yield name
    with contextlib.suppress(Exception):
        mysql.execute(f"drop user '{name}'@'%'")


def as_account(database: MysqlDatabase, account: str) -> Connector:
    return connect(replace(database.config(), username=account, password="pw"))


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_mysql_names_account_object_and_grant_and_the_grants_are_enough(
    mysql: MysqlDatabase, account: str, mode: str
) -> None:
    target_database = mysql.create_database()
    # Of a database of which it may do nothing an account is not even let in.
    mysql.execute(f"grant create view on `{mysql.name}`.* to '{account}'@'%'")
    mysql.execute(f"grant create view on `{target_database.name}`.* to '{account}'@'%'")
    source, target = as_account(mysql, account), as_account(target_database, account)
    mapping = make_mapping(source_table="t", target_table="t", mode=mode, on_bad_row="quarantine")

    with contextlib.closing(source), contextlib.closing(target):
        error = refused(mapping, source, target)
        assert f"the user '{account}@%' lacks SELECT on the table {mysql.name}.t" in error.message
        assert f"CREATE on the database {target_database.name}" in error.message
        rounds = 0
        while rounds < 3:
            for grant in grants_of(error):
                mysql.execute(grant)
            # Privileges on a whole database hold for the next session.
            source.close()
            target.close()
            try:
                plan_load(mapping, None, source, target)
                break
            except NotPermittedError as still:
                error, rounds = still, rounds + 1
        assert target_database.execute("show tables") == [], "a plan changes nothing"
        assert load(source, target, mapping).rows_out == 2
        assert load(source, target, mapping, load_id="second").rows_in == 2


def test_mysql_knows_privileges_on_everything_on_patterns_and_on_tables(mysql: MysqlDatabase, account: str) -> None:
    mapping = make_mapping(source_table="t", target_table="copy")
    escaped = mysql.name.replace("_", "\\_")
    mysql.execute(f"grant all on `{escaped}`.* to '{account}'@'%'")
    connector = as_account(mysql, account)
    with contextlib.closing(connector):
        assert plan_load(mapping, None, connector, connector).target_action == "create"
        mysql.execute(f"revoke all on `{escaped}`.* from '{account}'@'%'")
        mysql.execute(f"grant select (id) on t to '{account}'@'%'")
        mysql.execute(f"grant select, insert, update, delete, create, drop on *.* to '{account}'@'%'")
        connector.close()
        assert plan_load(mapping, None, connector, connector).target_action == "create"


def test_mysql_knows_what_a_role_brings(mysql: MysqlDatabase, account: str) -> None:
    role: Any = f"r_{account[-8:]}"
    mysql.execute(f"create role {role}")
    mysql.execute(f"grant all on `{mysql.name}`.* to {role}")
    mysql.execute(f"grant {role} to '{account}'@'%'")
    mysql.execute(f"set default role {role} for '{account}'@'%'")
    connector = as_account(mysql, account)
    try:
        mapping = make_mapping(source_table="t", target_table="copy")
        assert load(connector, connector, mapping).rows_out == 2
    finally:
        connector.close()
        mysql.execute(f"drop role {role}")


@pytest.mark.parametrize("grantee", ["'{account}'@'%'", "public"])
def test_mysql_knows_what_reaches_an_account_by_another_name(mysql: MysqlDatabase, account: str, grantee: str) -> None:
    """A grant on a database counts for every host that the client's matches, not for the account's alone."""
    to = grantee.format(account=account)
    if to == "public":
        (version,) = mysql.execute("select version()")[0]
        if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < (10, 11):
            pytest.skip(f"MariaDB {version} has no PUBLIC")
    mysql.execute(f"create user if not exists '{account}'@'localhost' identified by 'pw'")
    mysql.execute(f"grant all on `{mysql.name}`.* to {to}")
    connector = as_account(mysql, account)
    try:
        assert load(connector, connector, make_mapping(source_table="t", target_table="copy")).rows_out == 2
    finally:
        connector.close()
        mysql.execute(f"revoke all on `{mysql.name}`.* from {to}")
        mysql.execute(f"drop user '{account}'@'localhost'")
