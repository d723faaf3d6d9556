"""Reading by the MySQL connector from a real MariaDB: exact values, snapshots, limits, connections that die."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pytest

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.protocol import ReadLimits, untrusted_text
from synqx_dagster.errors import DatabaseError, RetryableError, StatementTimeoutError
from synqx_dagster.model.connection import PoolSettings
from synqx_dagster.model.table import TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.integration.connectors.mysql_tables import TARGET, load, read_all

pytestmark = pytest.mark.mysql


@pytest.fixture
def connector(mysql: MysqlDatabase) -> Iterator[MysqlConnector]:
    made = MysqlConnector(mysql.config())
    yield made
    made.close()


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
