"""The SQLite connector on real files: snapshots, free-form values, locks and exact targets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import (
    ConnectionConfig,
    Connector,
    ReadLimits,
    ReadSession,
    WriteSession,
    untrusted_text,
)
from synqx_dagster.connectors.sqlite import SqliteConnector
from synqx_dagster.connectors.sqlite_session import SqliteReadSession, SqliteWriteSession
from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    DatabaseError,
    RetryableError,
    StatementTimeoutError,
)
from synqx_dagster.model.connection import PoolSettings
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Characters that mean something in a URI must reach the file system as they are.
    return tmp_path / "with ?#%20 in it.db"


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    """The tests' own connection to the file, in autocommit mode."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def connect(path: Path, lock_timeout_seconds: float = 0.05) -> SqliteConnector:
    return SqliteConnector(
        ConnectionConfig("files", "sqlite", database=str(path), pool=PoolSettings(timeout_seconds=lock_timeout_seconds))
    )


def read_all(session: ReadSession, table: str, **types: str) -> dict[str, list[object]]:
    """Columns of a table through `encode` and `iter_batches`, by name."""
    encoded = {name: session.encode(f'"{name}"', DataType.parse(kind)) for name, kind in types.items()}
    sql = f'SELECT {", ".join(item.sql for item in encoded.values())} FROM "{table}"'
    schema = pa.schema([(name, item.arrow_type) for name, item in encoded.items()])
    return pa.Table.from_batches(list(session.iter_batches(sql, schema, batch_rows=1000)), schema).to_pydict()


def test_keeps_the_protocol(path: Path) -> None:
    connector: Connector = connect(path)
    assert isinstance(connector, Connector)


def test_values_arrive_as_they_are_stored(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (i INTEGER, r REAL, n NUMERIC(10,2), s TEXT, b BLOB, d DATETIME, o BOOLEAN, x)")
    file.execute(
        "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (2**63 - 1, 0.1 + 0.2, "0.99", "a\0b\t\\N'\"👍", bytes(range(256)), "2021-01-01 00:00:00", 1, -0.0),
    )
    file.execute("INSERT INTO t VALUES ('12 apples', 9e999, 1e16, 5, x'', 1612137600, 2, 1.5)")
    file.execute("INSERT INTO t DEFAULT VALUES")
    with connect(path).read() as session:
        found = read_all(
            session,
            "t",
            i="bigint",
            r="float",
            n="decimal(10,2)",
            s="string",
            b="binary",
            d="timestamp",
            o="boolean",
            x="string",
        )
    assert found == {
        "i": ["9223372036854775807", "12 apples", None],
        "r": ["0.30000000000000004", "Infinity", None],
        "n": ["0.99", "10000000000000000", None],
        "s": ["a\0b\t\\N'\"👍", "5", None],
        "b": [bytes(range(256)), b"", None],
        "d": ["2021-01-01 00:00:00", "1612137600", None],
        "o": ["true", "2", None],
        "x": ["-0.0", "1.5", None],
    }


def test_only_text_and_blobs_are_trusted(path: Path, file: sqlite3.Connection) -> None:
    with connect(path).read() as session:
        assert session.encode("x", DataType("string")).arrow_type == pa.string()
        assert session.encode("x", DataType("binary")).arrow_type == pa.binary()
        for kind in ("bigint", "date", "decimal", "boolean", "json"):
            assert session.encode("x", DataType.parse(kind)).arrow_type == untrusted_text()


@pytest.mark.parametrize(
    ("kind", "stored"), [("string", b"\xff\x00"), ("bigint", b"5"), ("binary", 5)], ids=["text", "number", "blob"]
)
def test_value_of_another_storage_class_is_refused_by_column(
    kind: str, stored: object, path: Path, file: sqlite3.Connection
) -> None:
    file.execute("CREATE TABLE t (v)")
    file.execute("INSERT INTO t VALUES (?)", (stored,))
    with connect(path).read() as session, pytest.raises(BadRowsError) as caught:
        read_all(session, "t", v=kind)
    assert caught.value.context["column"] == "v"


def test_text_that_is_not_utf8_is_refused_without_its_value(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (v TEXT)")
    file.execute("INSERT INTO t VALUES (CAST(x'7365637265740aff' AS TEXT))")
    with connect(path).read() as session, pytest.raises(BadRowsError, match="UTF-8") as caught:
        read_all(session, "t", v="string")
    assert "secret" not in str(caught.value)


def test_columns_of_tables_views_and_queries(path: Path, file: sqlite3.Connection) -> None:
    file.execute(
        'CREATE TABLE "odd ""name" (a INTEGER PRIMARY KEY, b NVARCHAR(160) NOT NULL, c NUMERIC(10,2) DEFAULT 0,'
        " g INTEGER GENERATED ALWAYS AS (a + 1) STORED, x)"
    )
    file.execute('CREATE VIEW v AS SELECT b, count(*) AS n FROM "odd ""name"')
    connector = connect(path)
    with connector.read() as session:
        columns = session.find_columns(TableName('odd "name'))
        assert columns is not None
        assert columns[:3] == (
            Column("a", DataType("bigint"), False, "INTEGER", "sqlite", 1, has_default=True),
            Column("b", DataType("string"), False, "NVARCHAR(160)", "sqlite"),
            Column("c", DataType("decimal", 10, 2), True, "NUMERIC(10,2)", "sqlite", has_default=True),
        )
        assert columns[3].generated
        assert columns[4] == Column("x", DataType("string"))
        described = session.describe_query('SELECT a AS key, c, a + 1 FROM "odd ""name";')
        assert [(column.name, str(column.data_type)) for column in described] == [
            ("key", "bigint"),
            ("c", "decimal(10,2)"),
            ("a + 1", "string"),
        ]
        # The same twice: nothing is left of the first description.
        assert session.describe_query("SELECT 1 AS one")[0].name == "one"
        assert session.find_columns(TableName("missing")) is None
        with pytest.raises(DatabaseError, match="no such column: nope"):
            session.describe_query('SELECT nope FROM "odd ""name"')
    assert [(found.table.name, found.is_view) for found in connector.discover()] == [('odd "name', False), ("v", True)]


def test_a_session_sees_one_snapshot_and_cannot_write(path: Path, file: sqlite3.Connection, tmp_path: Path) -> None:
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("CREATE TABLE t (v TEXT)")
    with connect(path).read() as session:
        file.execute("INSERT INTO t VALUES ('late')")
        assert session.fetch_value("SELECT count(*) FROM t") == 0
        with pytest.raises(DatabaseError):
            session.fetch_value("DELETE FROM t RETURNING v")
        with pytest.raises(DatabaseError):
            session.fetch_value(f"ATTACH '{tmp_path / 'other.db'}' AS other")
    assert not (tmp_path / "other.db").exists()


def test_limits_of_a_preview(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (v TEXT)")
    file.execute("BEGIN")
    file.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 5000)
    file.execute("COMMIT")
    schema = pa.schema([("v", pa.string())])

    def count(limits: ReadLimits) -> int:
        with connect(path).read(limits) as session:
            return sum(batch.num_rows for batch in session.iter_batches("SELECT v FROM t", schema, batch_rows=2000))

    assert count(ReadLimits()) == 5000
    assert count(ReadLimits(max_rows=70)) == 70
    assert count(ReadLimits(max_bytes=5000)) == 5
    with connect(path).read(ReadLimits(timeout_seconds=0.05)) as session, pytest.raises(StatementTimeoutError):
        session.fetch_value("WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r")


def test_megabyte_values_make_short_batches(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (v BLOB)")
    file.execute("BEGIN")
    file.executemany("INSERT INTO t VALUES (zeroblob(?))", [(1024 * 1024,)] * 80)
    file.execute("COMMIT")
    with connect(path).read() as session:
        schema = pa.schema([("v", pa.binary())])
        sizes = [batch.num_rows for batch in session.iter_batches("SELECT v FROM t", schema, batch_rows=32_768)]
    assert sum(sizes) == 80
    assert max(sizes[1:]) <= 16


TARGET = TableName("t")

COLUMNS = (
    Column("id", DataType("bigint"), False, key_position=1),
    Column("amount", DataType("decimal", 30, 10)),
    Column("price", DataType("decimal", 10, 2)),
    Column("note", DataType("string")),
    Column("raw", DataType("binary")),
    Column("day", DataType("date")),
    Column("ratio", DataType("float")),
    Column("ok", DataType("boolean")),
    Column("doc", DataType("json")),
)


def batch_of(*rows: Sequence[object]) -> pa.RecordBatch:
    types = [pa.int64(), *[pa.string()] * 3, pa.binary(), pa.string(), pa.float64(), pa.bool_(), pa.string()]
    arrays = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), types, strict=True)]
    return pa.record_batch(arrays, names=[column.name for column in COLUMNS])


ROW = (2**63 - 1, "12345678901234567890.0123456789", "0.99", "a\0b", b"\0\xff", "0044-03-15 BC", 0.1, True, "1.0")
NULLS = (-(2**63), *[None] * 8)


def load(session: WriteSession, batch: pa.RecordBatch) -> tuple[int, int]:
    session.begin()
    staging = session.create_staging(TARGET, COLUMNS, epoch=1)
    counts = session.write_batches(staging, COLUMNS, [batch])
    session.publish_replace(staging, TARGET, COLUMNS, ["id"])
    return counts


def test_a_load_creates_the_file_and_keeps_every_value(path: Path) -> None:
    with connect(path).write() as session:
        assert session.find_columns(TARGET) is None
        assert not path.exists()
        batch = batch_of(ROW, NULLS)
        assert load(session, batch) == (2, batch.nbytes)
        session.commit()
    types = {column.name: str(column.data_type) for column in COLUMNS}
    with connect(path).read() as session:
        found = read_all(session, "t", **types)
        columns = session.find_columns(TARGET)
    assert columns is not None
    assert [(column.data_type, column.key_position) for column in columns] == [
        (column.data_type, column.key_position) for column in COLUMNS
    ]
    rows = list(zip(*found.values(), strict=True))
    assert rows[1] == (str(2**63 - 1), *ROW[1:6], "0.1", "true", "1.0")
    assert rows[0] == (str(-(2**63)), *[None] * 8)
    with closing(sqlite3.connect(path)) as plain:
        assert [row[0] for row in plain.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")] == ["t"]


def test_replace_keeps_what_hangs_on_the_table(path: Path, file: sqlite3.Connection) -> None:
    connector = connect(path)
    with connector.write() as session:
        load(session, batch_of(NULLS))
        session.commit()
    file.execute("CREATE VIEW v AS SELECT count(*) AS n FROM t")
    file.execute("CREATE INDEX by_note ON t (note)")
    file.execute("CREATE TABLE child (id INTEGER REFERENCES t (id) ON DELETE CASCADE)")
    file.execute("INSERT INTO child VALUES (?)", (NULLS[0],))
    with connector.write() as session:
        load(session, batch_of(ROW, NULLS))
        assert file.execute("SELECT n FROM v").fetchone() == (1,)
        session.commit()
    assert file.execute("SELECT n FROM v").fetchone() == (2,)
    assert file.execute("SELECT count(*) FROM child").fetchone() == (1,)
    assert file.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'by_note'").fetchone() == (1,)


def test_without_a_commit_nothing_happened(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE other (v TEXT)")
    with connect(path).write() as session:
        load(session, batch_of(ROW))
        session.rollback()
        session.rollback()
        load(session, batch_of(ROW))
    assert file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [("other",)]


def test_append_adds_and_refuses_a_double_key_without_its_value(path: Path) -> None:
    with connect(path).write() as session:
        load(session, batch_of(ROW))
        session.commit()
        session.begin()
        staging = session.create_staging(TARGET, COLUMNS, epoch=2)
        session.write_batches(staging, COLUMNS, [batch_of(ROW)])
        with pytest.raises(BadRowsError, match=r"UNIQUE constraint failed: t\.id") as caught:
            session.publish_append(staging, TARGET, COLUMNS)
    assert str(ROW[0]) not in str(caught.value)


def test_nan_is_refused_instead_of_becoming_null(path: Path) -> None:
    with connect(path).write() as session:
        session.begin()
        columns = (Column("ratio", DataType("float")),)
        staging = session.create_staging(TARGET, columns, epoch=1)
        batch = pa.record_batch([pa.array([float("nan")])], names=["ratio"])
        with pytest.raises(BadRowsError, match="'ratio'"):
            session.write_batches(staging, columns, [batch])


def test_a_second_writer_is_told_to_come_again(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (v TEXT)")
    file.execute("BEGIN IMMEDIATE")
    with connect(path).write() as session, pytest.raises(RetryableError, match="locked"):
        session.begin()


def test_parameters_and_counts(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (v TEXT, n INTEGER)")
    with connect(path).write() as session:
        session.begin()
        assert session.execute("INSERT INTO t VALUES (?, ?), ('?', 2)", ("it's ?", 1)) == 2
        assert session.fetch_all(f"SELECT n FROM t WHERE v = ? {session.lock_row_suffix()}", ("it's ?",)) == [(1,)]
        session.commit()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "database_missing"),
        (lambda path: path.mkdir(), "database_missing"),
        (lambda path: path.write_text("not a database, " * 100), "unknown"),
    ],
    ids=["missing", "directory", "other file"],
)
def test_reports_why_it_cannot_connect(make: object, reason: str, path: Path) -> None:
    make(path)  # type: ignore[operator]  # a lambda of the parameters
    report = connect(path).test()
    assert (report.ok, report.reason) == (False, reason)
    assert report.hint
    with pytest.raises(ConnectionFailedError), connect(path).read():
        pass


def test_reports_what_it_found(path: Path, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE t (v TEXT)")
    report = connect(path).test()
    assert report.ok
    assert report.can_read
    assert report.can_write
    assert report.server_version == f"SQLite {sqlite3.sqlite_version}"
    assert report.tls is None


def test_checks_its_configuration() -> None:
    check = SqliteConnector.check_config
    assert check(ConnectionConfig("c", "sqlite", database="x.db")) == []
    assert len(check(ConnectionConfig("c", "sqlite", host="h", options={"mode": "rw"}))) == 3
    assert check(ConnectionConfig("c", "sqlite", database=":memory:"))


def test_sessions_keep_the_protocol(path: Path, file: sqlite3.Connection) -> None:
    def reads(session: ReadSession) -> ReadSession:
        return session

    def writes(session: WriteSession) -> WriteSession:
        return session

    with connect(path).read() as read, connect(path).write() as write:
        assert isinstance(reads(read), SqliteReadSession)
        assert isinstance(writes(write), SqliteWriteSession)
