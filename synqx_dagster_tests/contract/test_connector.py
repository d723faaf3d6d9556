"""What every connector promises, tested on each of them against a real database.

Here: names and metadata, statements and transactions, the connection. Values and publishing have modules of their own
beside this one.
"""

from __future__ import annotations

import pytest

from synqx_dagster.connectors.protocol import Connector, SharedWriteSession
from synqx_dagster.errors import SynqxError
from synqx_dagster.model.table import TableName, primary_key_of
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.contract.loading import (
    ID,
    NAME,
    TABLE,
    Rows,
    column,
    load,
    names_in,
    read_all,
    read_with,
    spelt,
    stage,
)

# --- metadata -----------------------------------------------------------------------------------------------


def test_columns_are_found_with_key_and_nullability(connector: Connector) -> None:
    columns = (
        column("b", "bigint", nullable=False),
        column("a", "string", nullable=False),
        column("c", "decimal(9,3)"),
    )
    load(connector, Rows(columns), key=("a", "b"))
    with connector.write() as session:
        found = session.find_columns(TABLE)
        assert session.find_columns(TableName("missing")) is None
    assert found is not None
    assert [item.name for item in found] == ["b", "a", "c"]
    assert [item.nullable for item in found] == [False, False, True]
    assert primary_key_of(found) == ("a", "b")
    assert [item.data_type for item in found] == [item.data_type for item in columns]
    assert all(item.native_dialect == connector.dialect for item in found)
    with connector.read() as reader:
        assert reader.find_columns(TABLE) == found


def test_only_sessions_that_can_share_a_staging_table_are_said_to(connector: Connector) -> None:
    with connector.write() as session:
        assert isinstance(session, SharedWriteSession) == connector.capabilities.shares_staging


def test_a_query_is_described_by_its_own_names(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.read() as session:
        described = session.describe_query(f'SELECT name AS "Full Name", id FROM {_from(connector)} WHERE id > 5')
    assert [item.name for item in described] == ["Full Name", "id"]
    assert described[0].data_type == DataType("string")


def _from(connector: Connector) -> str:
    return connector.qualify(TABLE)


def test_what_is_loaded_is_discovered(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    if connector.capabilities.has_objects:
        with connector.write() as session:
            session.execute(f"CREATE VIEW {connector.quote('names')} AS SELECT name FROM {connector.qualify(TABLE)}")
    found = {item.table.name: item for item in connector.discover()}
    assert set(found) == ({"customer", "names"} if connector.capabilities.has_objects else {"customer"})
    assert not found["customer"].is_view
    assert [item.name for item in found["customer"].columns] == ["id", "name"]
    if connector.capabilities.has_objects:
        assert found["names"].is_view


HOSTILE_NAMES = [
    'quo"te',
    "back`tick",
    "per%cent %s",
    "what?",
    "select",
    "Mixed Case",
    "naïve-名前",
    "a;b--c",
    "'x'",
    "a\\b",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_only_names(connector: Connector, name: str) -> None:
    table = TableName(name)
    rows = Rows((ID, column(name, "string")), [(1, "x")])
    load(connector, rows, table=table)
    load(connector, rows, table=table)
    assert [row[1] for row in read_all(connector, table)] == ["x"]
    with connector.write() as session:
        session.execute(f"UPDATE {connector.qualify(table)} SET {connector.quote(name)} = ?", ("y",))
    assert [row[1] for row in read_all(connector, table)] == ["y"]


def test_the_longest_name_works_and_a_longer_one_is_known_to_be_too_long(connector: Connector) -> None:
    longest = connector.capabilities.max_identifier_bytes or 200
    table = TableName("t" * longest)
    load(connector, Rows((ID, column("c" * longest, "string")), [(1, "x")]), table=table)
    assert [row[1] for row in read_all(connector, table)] == ["x"]


def test_a_nul_is_never_part_of_a_name(connector: Connector) -> None:
    with pytest.raises(SynqxError):
        connector.quote("a\0b")


# --- statements and transactions ----------------------------------------------------------------------------


def test_parameters_are_values_whatever_they_hold(connector: Connector) -> None:
    load(connector, Rows((ID, NAME)))
    texts = ["?", "%s", "100%", "it's", 'say "hi"', "back\\slash", "", "😀", "a;b", None]
    table = connector.qualify(TABLE)
    with connector.write() as session:
        for number, text in enumerate(texts):
            affected = session.execute(f"INSERT INTO {table} (id, name) VALUES (?, ?)", (number, text))
            assert affected in (1, -1)
        rows = session.fetch_all(f"SELECT name, '?%' FROM {table} WHERE id >= ? ORDER BY id", (0,))
    assert rows == [(text, "?%") for text in texts]


def test_a_locked_row_can_be_read_and_changed_by_its_session(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    table = connector.qualify(TABLE)
    with connector.write() as session:
        session.begin()
        rows = session.fetch_all(f"SELECT name FROM {table} WHERE id = ? {session.lock_row_suffix()}", (1,))
        assert rows == [("one",)]
        session.execute(f"UPDATE {table} SET name = ? WHERE id = ?", ("uno", 1))
        session.commit()
    assert names_in(connector) == ["uno"]


def test_a_read_session_sees_one_snapshot(connector: Connector) -> None:
    if not connector.capabilities.concurrent_writers:
        pytest.skip("one process at a time")
    load(connector, Rows((ID, NAME), [(1, "one")]))
    table = connector.qualify(TABLE)
    with connector.read() as reader:
        assert reader.fetch_value(f"SELECT count(*) FROM {table}") == 1
        with connector.write() as session:
            session.execute(f"INSERT INTO {table} (id, name) VALUES (2, 'two')")
        assert reader.fetch_value(f"SELECT count(*) FROM {table}") == 1
        assert [row[1] for row in read_with(connector, reader)] == ["one"]
    assert names_in(connector) == ["one", "two"]


def test_readers_see_the_old_rows_until_the_commit(connector: Connector) -> None:
    if not connector.capabilities.concurrent_writers:
        pytest.skip("one process at a time")
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        # An outer reader keeps the engine from taking the table away; an inner one must not wait for it.
        with connector.read() as reader:
            assert reader.fetch_value(f"SELECT count(*) FROM {connector.qualify(TABLE)}") == 1
            staging = stage(connector, session, Rows((ID, NAME), [(2, "two"), (3, "three")]))
            if connector.capabilities.transactional_ddl:
                session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
            assert names_in(connector) == ["one"]
        if not connector.capabilities.transactional_ddl:
            session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
        session.commit()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)
    assert names_in(connector) == ["two", "three"]


def test_a_session_goes_on_after_a_refused_statement(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.begin()
        with pytest.raises(SynqxError):
            session.execute("SELECT * FROM there_is_no_such_table")
        session.rollback()
        session.rollback()
        session.begin()
        session.execute(f"UPDATE {connector.qualify(TABLE)} SET name = 'uno'")
        session.commit()
    assert names_in(connector) == ["uno"]


# --- the connection -----------------------------------------------------------------------------------------


def test_a_connection_that_works_says_so(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    report = connector.test()
    assert report.ok, report.message
    assert report.reason is None
    assert report.server_version
    assert report.latency_seconds is not None
    assert 0 <= report.latency_seconds < 5
    assert (report.can_read, report.can_write) == (True, True)


def test_a_closed_connector_may_be_used_again(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    connector.close()
    assert names_in(connector) == ["one"]


def test_a_configuration_is_checked_without_connecting(connector: Connector) -> None:
    cls = type(connector)
    assert cls.check_config(connector.config) == []
    odd = {"no_such_option": "x"}
    problems = cls.check_config(type(connector.config)(**{**vars(connector.config), "options": odd}))
    assert any("no_such_option" in problem for problem in problems)
    assert cls.check_config(type(connector.config)("empty", connector.db_type))
