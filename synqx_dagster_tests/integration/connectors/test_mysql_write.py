"""Writing by the MySQL connector to a real MariaDB: strictness, and publishing without DDL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.errors import (
    BadRowsError,
    CommitUnknownError,
    NotPermittedError,
    RetryableError,
    TargetMismatchError,
)
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.integration.connectors.mysql_tables import TARGET, load, make_batch, read_all

COLUMNS = (Column("id", DataType("integer"), False, key_position=1), Column("v", DataType("string")))


pytestmark = pytest.mark.mysql


@pytest.fixture
def connector(mysql: MysqlDatabase) -> Iterator[MysqlConnector]:
    made = MysqlConnector(mysql.config())
    yield made
    made.close()


def test_new_tables_hold_every_logical_type(connector: MysqlConnector, mysql: MysqlDatabase) -> None:
    values: list[tuple[str, object]] = [
        ("smallint", -(2**15)),
        ("bigint", 2**63 - 1),
        ("decimal(65,30)", "1" * 35 + "." + "2" * 30),
        ("real", 1.401298464324817e-45),
        ("float", 0.1 + 0.2),
        ("boolean", True),
        ("date", "0001-01-01"),
        ("time", "24:00:00"),
        ("timestamp", "9999-12-31 23:59:59.999999"),
        ("timestamptz", "2038-01-19 03:14:07.999999+00"),
        ("json", '{"a":1,  "a":1e999}'),
        ("uuid", "9f1c7d3e-0000-4000-8000-0123456789ab"),
        ("string", "a\0b\t\n\r\x1a\\N 'q' \"q\" 👍 "),
        ("string", ""),
        ("binary", bytes(range(256))),
    ]
    columns = [COLUMNS[0], *(Column(f"c{n}", DataType.parse(kind)) for n, (kind, _) in enumerate(values))]
    with connector.write() as session:
        load(session, columns, [(1, *(value for _, value in values)), (2, *[None] * len(values))])
        made = session.find_columns(TARGET) or ()
    # Planning the next load compares spellings: they must be the server's own.
    for wanted, column in zip(columns, made, strict=True):
        same_type = wanted.data_type == column.data_type
        assert same_type or connector.native_type(wanted) == column.native_type, wanted.name
    with connector.read() as session:
        found = list(read_all(session).values())
    assert [column[0] for column in found[1:]] == [1 if value is True else value for _, value in values]
    assert [column[1] for column in found[1:]] == [None] * len(values)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
            st.none() | st.binary(max_size=40),
            st.none() | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != 0 or str(x) == "0.0"),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_bytes_and_double_make_the_round_trip(
    connector: MysqlConnector, rows: list[tuple[str | None, bytes | None, float | None]]
) -> None:
    columns = (
        COLUMNS[0],
        Column("s", DataType("string")),
        Column("b", DataType("binary")),
        Column("f", DataType("float")),
    )
    numbered = [(position, *row) for position, row in enumerate(rows)]
    with connector.write() as session:
        session.execute("DROP TABLE IF EXISTS t")
        load(session, columns, numbered)
    with connector.read() as session:
        found = read_all(session)
    assert list(zip(*found.values(), strict=True)) == numbered


@pytest.mark.parametrize(
    ("native", "value"),
    [
        ("varchar(3)", "abc  "),
        ("char(3)", "ab "),
        ("varchar(3)", "abcd"),
        ("decimal(5,2)", "1.555"),
        ("decimal(5,2)", "1234.5"),
        ("datetime", "2024-01-01 00:00:00.5"),
        ("time(3)", "00:00:00.0001"),
        ("date", "infinity"),
        ("date", "2024-02-30"),
        ("timestamp(6) NULL", "1960-01-01 00:00:00+00"),
        ("enum('a','b')", "1"),
        ("enum('a','b')", "A"),
        ("set('p','q')", "3"),
        ("year", 5),
        ("tinyint", 200),
        ("binary(2)", b"\x01"),
        ("varbinary(2)", b"\x01\x02\x03"),
        ("varchar(9) character set utf8mb3", "👍"),
        ("varchar(9) character set latin1", "ł"),
        ("double", float("nan")),
        ("double", -0.0),
        ("bit(3)", "1111"),
        ("geometry", "POINT(1"),
    ],
)
def test_what_the_server_would_change_is_refused_by_column(
    native: str, value: object, connector: MysqlConnector, mysql: MysqlDatabase
) -> None:
    mysql.execute(f"CREATE TABLE t (id int PRIMARY KEY, `the col` {native})")
    with connector.write() as session:
        columns = session.find_columns(TARGET) or ()
        staging = session.create_staging(TARGET, columns, epoch=1)
        batch = make_batch(columns, [(1, value), (2, None)])
        with pytest.raises(BadRowsError, match="the col" if native != "geometry" else "geometry") as caught:  # noqa: PT012  # by either
            session.write_batches(staging, columns, [batch])
            session.begin()
            session.publish_replace(staging, TARGET, columns, ["id"])
        assert len(str(value)) < 4 or str(value) not in str(caught.value)
        session.rollback()
    assert mysql.execute("SELECT COUNT(*) FROM t") == [(0,)]


def test_replace_keeps_what_hangs_on_the_table(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    mysql.execute("CREATE TABLE t (id int PRIMARY KEY COMMENT 'kept', v varchar(20) DEFAULT 'd', KEY by_v (v))")
    mysql.execute("CREATE TABLE child (id int, FOREIGN KEY (id) REFERENCES t (id) ON DELETE CASCADE)")
    mysql.execute("CREATE VIEW w AS SELECT v FROM t")
    mysql.execute("INSERT INTO t VALUES (1, 'old'), (2, 'gone')")
    mysql.execute("INSERT INTO child VALUES (1)")
    before = mysql.execute("SHOW CREATE TABLE t")
    with connector.write() as session:
        columns = session.find_columns(TARGET) or ()
        staging = session.create_staging(TARGET, columns, epoch=1)
        session.write_batches(staging, columns, [make_batch(columns, [(1, "new"), (3, "x")])])
        session.begin()
        session.publish_replace(staging, TARGET, columns, ["id"])
        assert mysql.execute("SELECT v FROM w ORDER BY v") == [("gone",), ("old",)]
        session.commit()
        session.drop_staging(staging)
        assert session.fetch_all("SELECT @@foreign_key_checks") == [(1,)]
    assert mysql.execute("SELECT v FROM w ORDER BY v") == [("new",), ("x",)]
    assert mysql.execute("SELECT id FROM child") == [(1,)]
    assert mysql.execute("SHOW CREATE TABLE t") == before
    assert mysql.execute("SHOW TABLES LIKE '\\_synqx%'") == []


def test_append_refuses_a_double_key_without_its_value(connector: MysqlConnector, mysql: MysqlDatabase) -> None:
    columns = (Column("id", DataType("string"), False, key_position=1),)
    with connector.write() as session:
        load(session, columns, [("hush",), ("HUSH",), ("hush ",)])
        staging = session.create_staging(TARGET, columns, epoch=2)
        session.write_batches(staging, columns, [make_batch(columns, [("hush",)])])
        session.begin()
        with pytest.raises(BadRowsError, match="PRIMARY") as caught:
            session.publish_append(staging, TARGET, columns)
        assert "hush" not in str(caught.value)
        session.rollback()
        session.execute("DELETE FROM t WHERE id = ?", ("hush",))
        session.begin()
        session.publish_append(staging, TARGET, columns)
        session.commit()
    assert mysql.execute("SELECT COUNT(*) FROM t") == [(3,)]


def test_a_table_without_transactions_is_refused_before_a_row_is_read(
    mysql: MysqlDatabase, connector: MysqlConnector
) -> None:
    mysql.execute("CREATE TABLE t (id int, v text) ENGINE=MyISAM")
    with connector.write() as session, pytest.raises(TargetMismatchError, match="MyISAM"):
        session.create_staging(TARGET, COLUMNS, epoch=1)


def test_staging_tables_of_earlier_epochs_go(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    with connector.write() as session:
        session.create_table(TARGET, COLUMNS, ["id"])
        for epoch in (1, 1, 2, 12):
            newest = session.create_staging(TARGET, COLUMNS, epoch=epoch)
        # An orphan of an old epoch leaves the newer one's table alone.
        orphaned = session.create_staging(TARGET, COLUMNS, epoch=3)
        assert sorted(row[0] for row in mysql.execute("SHOW TABLES LIKE '\\_synqx%'")) == sorted(
            [newest.name, orphaned.name]
        )


def test_an_orphan_in_mid_statement_does_not_hold_up_the_next_attempt(
    mysql: MysqlDatabase, connector: MysqlConnector
) -> None:
    with connector.write() as session, closing(mysql.connect()) as orphan, orphan.cursor() as cursor:
        session.create_table(TARGET, COLUMNS, ["id"])
        first = session.create_staging(TARGET, COLUMNS, epoch=1)
        cursor.execute("BEGIN")
        cursor.execute(f"INSERT INTO `{first.name}` VALUES (1, 'x')")
        second = session.create_staging(TARGET, COLUMNS, epoch=2)
        assert second != first
        cursor.execute("ROLLBACK")


def test_rows_of_any_size_up_to_the_servers_packet(connector: MysqlConnector, mysql: MysqlDatabase) -> None:
    rows = [(position, "x" * 400_000) for position in range(10)]
    with connector.write() as session:
        load(session, COLUMNS, rows)
        staging = session.create_staging(TARGET, COLUMNS, epoch=2)
        with pytest.raises(BadRowsError, match="larger than the server takes"):
            session.write_batches(staging, COLUMNS, [make_batch(COLUMNS, [(1, "x" * 8 * 1024 * 1024)])])
    assert mysql.execute("SELECT SUM(LENGTH(v)) FROM t") == [(4_000_000,)]


def test_without_a_commit_nothing_was_published(connector: MysqlConnector, mysql: MysqlDatabase) -> None:
    with connector.write() as session:
        load(session, COLUMNS, [(1, "a")])
        staging = session.create_staging(TARGET, COLUMNS, epoch=2)
        session.write_batches(staging, COLUMNS, [make_batch(COLUMNS, [(2, "b")])])
        session.begin()
        session.publish_replace(staging, TARGET, COLUMNS, ["id"])
    assert mysql.execute("SELECT id FROM t") == [(1,)]


def test_parameters_counts_and_locks(connector: MysqlConnector, mysql: MysqlDatabase) -> None:
    mysql.execute("CREATE TABLE t (v varchar(20), n int)")
    with connector.write() as session, connector.write() as other:
        assert session.execute("INSERT INTO t VALUES (?, ?), ('?', NULL) -- ?", ("it's \\ ?", 1)) == 2
        session.begin()
        locked = f"SELECT n FROM t WHERE v = ? {session.lock_row_suffix()}"
        assert session.fetch_all(locked, ("it's \\ ?",)) == [(1,)]
        other.execute("SET SESSION innodb_lock_wait_timeout = 1")
        other.begin()
        with pytest.raises(RetryableError, match="lock"):
            other.fetch_all(locked, ("it's \\ ?",))
        other.rollback()
        session.commit()


def test_a_lost_reply_to_commit_is_unknown(connector: MysqlConnector, mysql: MysqlDatabase) -> None:
    mysql.execute("CREATE TABLE t (id int)")
    with connector.write() as session:
        (thread_id,) = session.fetch_all("SELECT CONNECTION_ID()")[0]
        session.begin()
        session.execute("INSERT INTO t VALUES (1)")
        mysql.execute(f"KILL {thread_id}")
        with pytest.raises(CommitUnknownError):
            session.commit()
        session.rollback()
    with connector.write() as session:
        assert session.fetch_all("SELECT COUNT(*) FROM t") == [(0,)]


def test_a_user_without_rights_is_told(mysql: MysqlDatabase) -> None:
    user = f"reader_{mysql.name[-8:]}"
    mysql.execute("CREATE TABLE t (id int)")
    mysql.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'")
    mysql.execute(f"GRANT SELECT ON `{mysql.name}`.* TO '{user}'@'%'")
    connector = MysqlConnector(replace(mysql.config(), username=user, password="pw"))
    report = connector.test()
    assert (report.ok, report.can_read, report.can_write) == (True, True, False)
    with (
        connector.write() as session,
        pytest.raises(NotPermittedError, match=f"INSERT command denied to user '{user}'"),
    ):
        session.execute("INSERT INTO t VALUES (1)")
    connector.close()
    mysql.execute(f"DROP USER '{user}'@'%'")
