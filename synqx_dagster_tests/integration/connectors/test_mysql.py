"""The MySQL connector on a real MariaDB: exact values, snapshots, strictness, and publishing without DDL."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.protocol import (
    ConnectionConfig,
    Connector,
    ReadLimits,
    ReadSession,
    WriteSession,
    carrier_type,
    untrusted_text,
)
from synqx_dagster.errors import (
    BadRowsError,
    CommitUnknownError,
    ConnectionFailedError,
    DatabaseError,
    RetryableError,
    StatementTimeoutError,
    TargetMismatchError,
)
from synqx_dagster.model.connection import PoolSettings
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_mysql import MysqlDatabase, MysqlServer

pytestmark = pytest.mark.mysql

TARGET = TableName("t")


@pytest.fixture
def connector(mysql: MysqlDatabase) -> Iterator[MysqlConnector]:
    made = MysqlConnector(mysql.config())
    yield made
    made.close()


def read_all(session: ReadSession, table: TableName = TARGET) -> dict[str, list[object]]:
    columns = session.find_columns(table)
    assert columns is not None
    encoded = [session.encode(f"`{column.name}`", column.data_type, column.native_type) for column in columns]
    sql = f"SELECT {', '.join(item.sql for item in encoded)} FROM `{table.name}`"
    schema = pa.schema([(column.name, item.arrow_type) for column, item in zip(columns, encoded, strict=True)])
    return pa.Table.from_batches(list(session.iter_batches(sql, schema, batch_rows=1000)), schema).to_pydict()


def make_batch(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> pa.RecordBatch:
    arrays = [
        pa.array(values, carrier_type(column.data_type))
        for values, column in zip(zip(*rows, strict=True), columns, strict=True)
    ]
    return pa.record_batch(arrays, names=[column.name for column in columns])


def load(session: WriteSession, columns: Sequence[Column], rows: Sequence[Sequence[object]], epoch: int = 1) -> None:
    """What the engine does with a target whose DDL commits."""
    if session.find_columns(TARGET) is None:
        session.create_table(TARGET, columns, ["id"])
    staging = session.create_staging(TARGET, columns, epoch=epoch)
    assert session.write_batches(staging, columns, [make_batch(columns, rows)])[0] == len(rows)
    session.begin()
    session.publish_replace(staging, TARGET, columns, ["id"])
    session.commit()
    session.drop_staging(staging)


# --- reading --------------------------------------------------------------------------------------------------------

#: Native type, literal, logical type, what arrives.
SOURCES: list[tuple[str, str, str, object]] = [
    ("tinyint(1)", "2", "smallint", 2),
    ("tinyint(1)", "-1", "smallint", -1),
    ("tinyint unsigned", "255", "smallint", 255),
    ("smallint unsigned", "65535", "integer", 65535),
    ("mediumint", "-8388608", "integer", -8388608),
    ("int", "-2147483648", "integer", -2147483648),
    ("int unsigned", "4294967295", "bigint", 4294967295),
    ("int(5) unsigned zerofill", "42", "bigint", 42),
    ("bigint", "-9223372036854775808", "bigint", -(2**63)),
    ("bigint unsigned", "18446744073709551615", "decimal(20,0)", "18446744073709551615"),
    ("decimal(65,30)", "'-12345678901234567890123456789012345.123456789012345678901234567890'", "decimal(65,30)", None),
    ("decimal(8,2) zerofill", "1.5", "decimal(8,2)", "1.50"),
    ("float", "'0.1'", "real", struct.unpack("f", struct.pack("f", 0.1))[0]),
    ("float", "16777217", "real", 16777216.0),
    ("double", "0.1e0 + 0.2e0", "float", 0.1 + 0.2),
    ("double", "'5e-324'", "float", 5e-324),
    ("double", "'1.7976931348623157e308'", "float", 1.7976931348623157e308),
    ("date", "'0000-00-00'", "date", "0000-00-00"),
    ("date", "'2024-00-00'", "date", "2024-00-00"),
    ("date", "'9999-12-31'", "date", "9999-12-31"),
    ("time(6)", "'-838:59:59.000001'", "time", "-838:59:59.000001"),
    ("time", "'24:00:00'", "time", "24:00:00"),
    ("datetime(6)", "'2024-02-29 12:00:00.000001'", "timestamp", "2024-02-29 12:00:00.000001"),
    ("datetime", "'0000-00-00 00:00:00'", "timestamp", "0000-00-00 00:00:00"),
    ("timestamp(3) NULL", "'2024-03-31 02:30:00.5'", "timestamptz", "2024-03-31 02:30:00.5+00"),
    ("year", "2155", "smallint", 2155),
    ("char(5)", "'ab'", "string", "ab"),
    ("varchar(20) character set latin1", "'grüße €'", "string", "grüße €"),
    ("varchar(20) character set utf8mb3", "'łódź'", "string", "łódź"),
    ("varchar(20)", "'tab\\t nl\\n \\\\N ''q'' 👍 '", "string", "tab\t nl\n \\N 'q' 👍 "),
    ("longtext", "CONCAT('a', CHAR(0), 'b')", "string", "a\0b"),
    ("text", "''", "string", ""),
    ("enum('it''s','b,c','')", "'b,c'", "string", "b,c"),
    ("set('p','q','r')", "'r,p'", "string", "p,r"),
    ("bit(10)", "b'101'", "string", "0000000101"),
    ("bit(64)", "~0", "string", "1" * 64),
    ("json", '\'{"a":1,  "a":12345678901234567890.5}\'', "json", '{"a":1,  "a":12345678901234567890.5}'),
    ("json", "'null'", "json", "null"),
    ("uuid", "'9F1C7D3E-0000-4000-8000-0123456789AB'", "uuid", "9f1c7d3e-0000-4000-8000-0123456789ab"),
    ("inet6", "'2001:db8::1'", "string", "2001:db8::1"),
    ("geometry", "ST_GeomFromText('POINT(0.1 -2)')", "string", "POINT(0.1 -2)"),
    ("point", "ST_GeomFromText('POINT(0.1 -2)', 4326)", "string", "SRID=4326;POINT(0.1 -2)"),
    ("blob", "x'00ff27'", "binary", b"\x00\xff'"),
    ("binary(3)", "x'01'", "binary", b"\x01\0\0"),
    ("varbinary(10)", "''", "binary", b""),
]


def test_every_value_arrives_and_can_be_written_back(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    names = [f"c {position}" for position in range(len(SOURCES))]
    types = ", ".join(f"`{name}` {native}" for name, (native, *_) in zip(names, SOURCES, strict=True))
    with closing(mysql.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = '', time_zone = '+00:00'")
        cursor.execute(f"CREATE TABLE s (id int PRIMARY KEY, {types}) ROW_FORMAT=DYNAMIC")
        cursor.execute(f"INSERT INTO s VALUES (1, {', '.join(literal for _, literal, *_ in SOURCES)})")
        cursor.execute("INSERT INTO s (id) VALUES (2)")
    with connector.read() as session:
        columns = session.find_columns(TableName("s")) or ()
        found = read_all(session, TableName("s"))
    assert [str(column.data_type) for column in columns[1:]] == [meaning for _, _, meaning, _ in SOURCES]
    expected = [literal.strip("'") if arrives is None else arrives for _, literal, _, arrives in SOURCES]
    assert [values[0] for values in found.values()][1:] == expected
    assert [values[1] for values in found.values()][1:] == [None] * len(SOURCES)
    # A mirrored table keeps each type, and its values are the same by the server's own comparison.
    with connector.write() as session:
        load(session, columns, list(zip(*found.values(), strict=True)))
        assert [column.native_type for column in session.find_columns(TARGET) or ()] == [
            column.native_type for column in columns
        ]
    for name, (native, *_) in zip(names, SOURCES, strict=True):
        # The mirrored column has the table's character set, and the same characters.
        was, now = f"HEX(s.`{name}`)", f"HEX(t.`{name}`)"
        if "character set" in native:
            was = f"HEX(CONVERT(s.`{name}` USING utf8mb4))"
        differing = f"SELECT {was}, {now} FROM s JOIN t USING (id) WHERE NOT {was} <=> {now}"
        assert mysql.execute(differing) == [], native


def test_dates_and_times_are_cast_before_they_count(connector: MysqlConnector) -> None:
    """A zero date must not pass for a date because both are text."""
    with connector.read() as session:
        for kind in ("date", "time", "timestamp", "timestamptz"):
            assert session.encode("x", DataType(kind)).arrow_type == untrusted_text()
        assert session.encode("x", DataType("decimal")).arrow_type == pa.string()


def test_columns_of_tables_views_and_queries(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    mysql.execute(
        "CREATE TABLE `odd ``name` (b varchar(20) NOT NULL, a bigint AUTO_INCREMENT, d int DEFAULT 5, j json,"
        " g int GENERATED ALWAYS AS (d + 1) STORED, n int NOT NULL, UNIQUE (a), PRIMARY KEY (b, a))"
    )
    mysql.execute("CREATE VIEW v AS SELECT a, j FROM `odd ``name`")
    sibling = mysql.create_database()
    sibling.execute("CREATE TABLE elsewhere (id int)")
    with connector.read() as session:
        columns = session.find_columns(TableName("odd `name")) or ()
        assert [
            (column.name, column.key_position, column.nullable, column.has_default, column.generated)
            for column in columns
        ] == [
            ("b", 1, False, False, False),
            ("a", 2, False, True, False),
            ("d", None, True, True, False),
            ("j", None, True, False, False),
            ("g", None, True, False, True),
            ("n", None, False, False, False),
        ]
        assert columns[3].native_type == "json"
        assert session.find_columns(TableName("missing")) is None
        assert session.find_columns(TableName("ODD `NAME")) is None
        assert [column.name for column in session.find_columns(TableName("elsewhere", sibling.name)) or ()] == ["id"]
        described = session.describe_query(
            "SELECT a AS k, d + 0.50 AS x, CAST(1 AS UNSIGNED) AS u, NOW(3) AS t, b, x'00' AS y, 1e0 AS f"
            " FROM `odd ``name` -- end"
        )
        assert [(column.name, str(column.data_type)) for column in described] == [
            ("k", "bigint"),
            ("x", "decimal(13,2)"),
            ("u", "bigint"),
            ("t", "timestamp"),
            ("b", "string"),
            ("y", "binary"),
            ("f", "float"),
        ]
        with pytest.raises(DatabaseError, match="nope"):
            session.describe_query("SELECT nope FROM v")
        with pytest.raises(DatabaseError, match="Duplicate column name"):
            session.describe_query("SELECT a, a FROM v")
    assert [(found.table, found.is_view) for found in connector.discover()] == [
        (TableName("odd `name"), False),
        (TableName("v"), True),
    ]
    assert [found.table for found in connector.discover(sibling.name)] == [TableName("elsewhere", sibling.name)]


def test_a_session_sees_one_snapshot_and_cannot_write(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    mysql.execute("CREATE TABLE t (v int)")
    with connector.read() as session:
        mysql.execute("INSERT INTO t VALUES (1)")
        assert session.fetch_value("SELECT COUNT(*) FROM t") == 0
        with pytest.raises(DatabaseError, match="not permitted"):
            session.fetch_value("DELETE FROM t")
    with connector.read() as session:
        assert session.fetch_value("SELECT COUNT(*) FROM t") == 1
        assert session.fetch_value("SELECT @@time_zone") == "+00:00"


def test_limits_of_a_preview(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    schema = pa.schema([("v", pa.int64())])
    query = "SELECT seq FROM seq_1_to_50000"

    def count(limits: ReadLimits) -> int:
        with connector.read(limits) as session:
            return sum(batch.num_rows for batch in session.iter_batches(query, schema, batch_rows=2000))

    assert count(ReadLimits()) == 50000
    assert count(ReadLimits(max_rows=70)) == 70
    assert 0 < count(ReadLimits(max_bytes=100)) < 50000
    with connector.read(ReadLimits(timeout_seconds=0.2)) as session, pytest.raises(StatementTimeoutError):
        session.fetch_value("SELECT SLEEP(20) + MAX(seq) FROM seq_1_to_10")
    # The limit goes with the session, not with the pooled connection.
    with connector.read() as session:
        assert session.fetch_value("SELECT SLEEP(0.4)") == 0


def test_a_read_that_is_broken_off_leaves_no_rows_behind(connector: MysqlConnector) -> None:
    schema = pa.schema([("v", pa.int64())])
    with connector.read() as session:
        batches = session.iter_batches("SELECT seq FROM seq_1_to_1000000", schema, batch_rows=100)
        assert next(batches).num_rows > 0
        batches.close()
    with connector.read() as session:
        assert session.fetch_value("SELECT 7") == 7


def test_a_killed_read_is_retryable(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    with connector.read() as session:
        thread_id = session.fetch_value("SELECT CONNECTION_ID()")
        batches = session.iter_batches(
            "SELECT seq, REPEAT('x', 1000) FROM seq_1_to_1000000",
            pa.schema([("v", pa.int64()), ("x", pa.string())]),
            batch_rows=100,
        )
        next(batches)
        mysql.execute(f"KILL {thread_id}")
        with pytest.raises(RetryableError):
            list(batches)
    with connector.read() as session:
        assert session.fetch_value("SELECT 7") == 7


def test_a_connection_that_died_in_the_pool_is_replaced(mysql: MysqlDatabase, connector: MysqlConnector) -> None:
    with connector.read() as session:
        thread_id = session.fetch_value("SELECT CONNECTION_ID()")
    mysql.execute(f"KILL {thread_id}")
    with connector.read() as session:
        assert session.fetch_value("SELECT 7") == 7


def test_an_exhausted_pool_says_so(mysql: MysqlDatabase) -> None:
    config = replace(mysql.config(), pool=PoolSettings(size=1, max_overflow=0, timeout_seconds=0.1))
    connector = MysqlConnector(config)
    with connector.read(), pytest.raises(RetryableError, match="in use"), connector.read():
        pass
    connector.close()


# --- writing --------------------------------------------------------------------------------------------------------

COLUMNS = (Column("id", DataType("integer"), False, key_position=1), Column("v", DataType("string")))


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


def test_a_user_without_rights_is_told(mysql: MysqlDatabase, mysql_server: MysqlServer) -> None:
    user = f"reader_{mysql.name[-8:]}"
    mysql.execute("CREATE TABLE t (id int)")
    mysql.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'")
    mysql.execute(f"GRANT SELECT ON `{mysql.name}`.* TO '{user}'@'%'")
    connector = MysqlConnector(replace(mysql.config(), username=user, password="pw"))
    report = connector.test()
    assert (report.ok, report.can_read, report.can_write) == (True, True, False)
    with connector.write() as session, pytest.raises(DatabaseError, match="not permitted"):
        session.execute("INSERT INTO t VALUES (1)")
    connector.close()
    mysql.execute(f"DROP USER '{user}'@'%'")


# --- connecting -----------------------------------------------------------------------------------------------------


def test_reports_what_it_found(mysql: MysqlDatabase, mysql_server: MysqlServer) -> None:
    connector: Connector = MysqlConnector(mysql.config())
    assert isinstance(connector, Connector)
    report = connector.test()
    assert report.ok, report.message
    assert report.server_version is not None
    assert report.server_version.startswith("MariaDB 1")
    assert (report.can_read, report.can_write) == (True, True)
    assert report.tls is not None
    assert report.tls.startswith("TLS")
    assert report.latency_seconds is not None
    assert report.latency_seconds < 5


def test_connects_over_a_socket_and_with_a_verified_server(mysql: MysqlDatabase, mysql_server: MysqlServer) -> None:
    over_socket = replace(mysql.config(options={"unix_socket": mysql_server.unix_socket}), host=None, port=None)
    assert MysqlConnector(over_socket).test().tls == "off"
    verified = mysql.config(options={"ssl_ca": str(mysql_server.authority_file)})
    assert (MysqlConnector(verified).test().tls or "").startswith("TLS")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong-hush"}, "authentication"),
        ({"username": "nobody"}, "authentication"),
        ({"database": "nowhere"}, "database_missing"),
        ({"port": 1}, "refused"),
        ({"host": "host.invalid"}, "name_resolution"),
        ({"options": {"ssl_mode": "verify_identity"}}, "tls"),
        ({"host": None, "options": {"unix_socket": "/nowhere.sock"}}, "refused"),
    ],
    ids=["password", "user", "database", "port", "host", "certificate", "socket"],
)
def test_reports_why_it_cannot_connect(change: dict[str, object], reason: str, mysql: MysqlDatabase) -> None:
    config: ConnectionConfig = replace(mysql.config(), **change)  # type: ignore[arg-type]  # fields by name
    report = MysqlConnector(config).test()
    assert (report.ok, report.reason) == (False, reason), report.message
    assert "hush" not in f"{report}"
    with pytest.raises(ConnectionFailedError) as caught, MysqlConnector(config).read():
        pass
    assert caught.value.reason == reason


def test_a_silent_server_ends_the_test_in_time(mysql_server: MysqlServer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        config = ConnectionConfig(
            "c", "mysql", host="127.0.0.1", port=silent.getsockname()[1], database="d", username="u"
        )
        report = MysqlConnector(config).test(timeout_seconds=0.3)
    assert (report.ok, report.reason) == (False, "timeout")
    for thread in threading.enumerate():
        if thread.name == "synqx-test":
            thread.join(5)
