"""The DuckDB connector on real files: exact values both ways, one process's lock, and targets that keep their shape."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from synqx_dagster.connectors.duckdb import DuckdbConnector
from synqx_dagster.connectors.protocol import (
    ConnectionConfig,
    Connector,
    ReadLimits,
    ReadSession,
    WriteSession,
    carrier_type,
)
from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    DatabaseError,
    RetryableError,
    StatementTimeoutError,
)
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.processes import reaped

TARGET = TableName("t", "main")

#: Runs in a process of its own, which holds the file open until its standard input closes.
HOLD_SCRIPT = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ware house.duckdb"


def connect(path: Path, **options: str | int) -> DuckdbConnector:
    return DuckdbConnector(ConnectionConfig("warehouse", "duckdb", database=str(path), options=options))


def run(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """Run SQL by other means than the connector; gives the last statement's rows."""
    with closing(duckdb.connect(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
        return connection.fetchall()


@pytest.fixture
def hold(path: Path) -> Iterator[object]:
    """Opens the file in another process, to ``read`` or to ``write``."""
    with ExitStack() as stack:

        def start(mode: str) -> None:
            command = [sys.executable, "-c", HOLD_SCRIPT, str(path), mode]
            process = stack.enter_context(
                reaped(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"

        yield start


def read_all(session: ReadSession, table: TableName = TARGET) -> dict[str, list[object]]:
    columns = session.find_columns(table)
    assert columns is not None
    encoded = [session.encode(f'"{column.name}"', column.data_type, column.native_type) for column in columns]
    sql = f'SELECT {", ".join(item.sql for item in encoded)} FROM "{table.schema}"."{table.name}"'
    schema = pa.schema([(column.name, item.arrow_type) for column, item in zip(columns, encoded, strict=True)])
    return pa.Table.from_batches(list(session.iter_batches(sql, schema, batch_rows=1000)), schema).to_pydict()


def load(session: WriteSession, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> tuple[int, int]:
    session.begin()
    session.ensure_schema(TARGET)
    staging = session.create_staging(TARGET, columns, epoch=1)
    arrays = [
        pa.array(values, carrier_type(column.data_type))
        for values, column in zip(zip(*rows, strict=True), columns, strict=True)
    ]
    batch = pa.record_batch(arrays, names=[column.name for column in columns])
    counts = session.write_batches(staging, columns, [batch.slice(0, 1), batch.slice(1)])
    session.publish_replace(staging, TARGET, columns, ["id"])
    return counts


#: Type, then a value in its carrier.
VALUES: list[tuple[str, object]] = [
    ("smallint", -(2**15)),
    ("integer", 2**31 - 1),
    ("bigint", -(2**63)),
    ("real", 1.401298464324817e-45),
    ("float", 5e-324),
    ("float", -0.0),
    ("float", float("inf")),
    ("boolean", True),
    ("string", "a\0b\t\n\r\\N 'q' \"q\" 👍 é "),
    ("string", ""),
    ("string", "x" * 1_000_000),
    ("binary", bytes(range(256))),
    ("binary", b""),
    ("decimal(38,10)", "-1234567890123456789012345678.0123456789"),
    ("date", "0044-03-15 BC"),
    ("date", "-infinity"),
    ("date", "5874897-12-31"),
    ("time", "24:00:00"),
    ("timestamp", "0044-03-15 12:00:00.000001 BC"),
    ("timestamp", "infinity"),
    ("timestamptz", "2024-03-31 01:30:00.5+00"),
    ("timestamptz", "0044-03-15 12:00:00+00 BC"),
    ("uuid", "9f1c7d3e-0000-4000-8000-0123456789ab"),
    ("json", '{"a":1,  "a":12345678901234567890.5}'),
    ("json", "null"),
]


def test_every_value_makes_the_round_trip(path: Path) -> None:
    columns = [
        Column("id", DataType("integer"), False, key_position=1),
        *(Column(f"c {position}", DataType.parse(kind)) for position, (kind, _) in enumerate(VALUES)),
    ]
    values = [value for _, value in VALUES]
    connector = connect(path)
    with connector.write() as session:
        assert session.find_columns(TARGET) is None
        assert not path.exists()
        rows, written_bytes = load(session, columns, [(1, *values), (2, *[None] * len(values))])
        assert (rows, written_bytes > 1_000_000) == (2, True)
        session.commit()
        assert [(found.name, found.data_type, found.key_position) for found in session.find_columns(TARGET) or ()] == [
            (column.name, column.data_type, column.key_position) for column in columns
        ]
    with connector.read() as session:
        found = read_all(session)
    assert [str(column[0]) for column in found.values()] == ["1", *map(str, values)]
    assert [column[1] for column in found.values()] == [2, *[None] * len(values)]
    assert run(path, "SELECT table_name FROM duckdb_tables()") == [("t",)]


@pytest.mark.parametrize(
    ("native", "literal", "meaning", "text"),
    [
        ("UTINYINT", "255", "smallint", 255),
        ("UINTEGER", "4294967295", "bigint", 4294967295),
        ("UBIGINT", "18446744073709551615", "decimal(20,0)", "18446744073709551615"),
        ("HUGEINT", str(2**127 - 1), "decimal(39,0)", str(2**127 - 1)),
        ("UHUGEINT", str(2**128 - 1), "decimal(39,0)", str(2**128 - 1)),
        ("BIGNUM", "9" * 60, "decimal", "9" * 60),
        ("ENUM('a b', 'it''s')", "'it''s'", "string", "it's"),
        ("VARCHAR[]", "['a, b', NULL, '', 'NULL', 'it''s', '[x']", "string", None),
        ("INTEGER[][]", "[[1, NULL], []]", "string", "[[1, NULL], []]"),
        ("INTEGER[3]", "[1, 2, 3]", "string", "[1, 2, 3]"),
        ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': 'x, y'}", "string", "{'a': 1, 'b': 'x, y'}"),
        ("MAP(VARCHAR, INTEGER)", "map {'k, 1': 1}", "string", "{'k, 1'=1}"),
        ("INTERVAL", "INTERVAL '1 month -3 days 04:05:06.789'", "string", "1 month -3 days 04:05:06.789"),
        ("TIMESTAMP_NS", "'2024-02-29 12:00:00.123456789'", "string", "2024-02-29 12:00:00.123456789"),
        ("TIMESTAMP_S", "'2024-02-29 12:00:00'", "timestamp", "2024-02-29 12:00:00"),
        ("TIMESTAMP_MS", "'2024-02-29 12:00:00.123'", "timestamp", "2024-02-29 12:00:00.123"),
        ("TIME WITH TIME ZONE", "'12:00:00+02'", "string", "12:00:00+02"),
        ("BIT", "'0101'", "string", "0101"),
        ("UNION(n INTEGER, s VARCHAR)", "union_value(s := '1')", "string", "1"),
    ],
)
def test_types_of_its_own_are_mirrored_exactly(
    native: str, literal: str, meaning: str, text: object, path: Path
) -> None:
    run(path, f"CREATE TABLE source (id INTEGER, v {native})", f"INSERT INTO source VALUES (1, {literal}), (2, NULL)")
    connector = connect(path)
    source = TableName("source", "main")
    with connector.read() as session:
        columns = session.find_columns(source) or ()
        values = read_all(session, source)["v"]
    assert str(columns[1].data_type) == meaning
    assert values[1] is None
    if text is not None:
        assert values[0] == text
    with connector.write() as session:
        load(session, columns, [(1, values[0]), (2, None)])
        session.commit()
    same_type = "UNION" not in native
    comparison = "s.v IS NOT DISTINCT FROM t.v" if same_type else "CAST(s.v AS VARCHAR) IS NOT DISTINCT FROM t.v"
    assert run(path, f"SELECT count(*) FROM source AS s JOIN t USING (id) WHERE {comparison}") == [(2,)]
    types = run(path, "SELECT DISTINCT data_type FROM duckdb_columns() WHERE column_name = 'v'")
    assert len(types) == (1 if same_type else 2)


def test_columns_of_tables_views_and_queries(path: Path) -> None:
    run(
        path,
        "CREATE SCHEMA other",
        "CREATE TABLE other.t (a INTEGER DEFAULT 5, g INTEGER GENERATED ALWAYS AS (a + 1), c VARCHAR NOT NULL,"
        " PRIMARY KEY (c, a))",
        "CREATE VIEW v AS SELECT a FROM other.t",
    )
    connector = connect(path)
    with connector.read() as session:
        assert session.find_columns(TableName("t", "other")) == (
            Column("a", DataType("integer"), False, "INTEGER", "duckdb", 2, has_default=True),
            Column("g", DataType("integer"), True, "INTEGER", "duckdb", generated=True),
            Column("c", DataType("string"), False, "VARCHAR", "duckdb", 1),
        )
        assert session.find_columns(TableName("v")) == (Column("a", DataType("integer"), True, "INTEGER", "duckdb"),)
        assert session.find_columns(TableName("t")) is None
        assert [column.native_type for column in session.describe_query("SELECT a, 2.50 AS d FROM other.t -- end")] == [
            "INTEGER",
            "DECIMAL(3,2)",
        ]
        with pytest.raises(DatabaseError, match="nope"):
            session.describe_query("SELECT nope FROM other.t")
    found = [(item.table.schema, item.table.name, item.is_view, item.estimated_rows) for item in connector.discover()]
    assert found == [("main", "v", True, None), ("other", "t", False, 0)]
    assert [item.table.name for item in connector.discover("other")] == ["t"]


def test_a_session_is_read_only_and_sees_no_other_file(path: Path, tmp_path: Path) -> None:
    run(path, "CREATE TABLE t (v VARCHAR)")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with connect(path).read() as session:
        for statement in (
            "INSERT INTO t VALUES ('x') RETURNING v",
            f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')",
            f"COPY t TO '{tmp_path / 'out.csv'}'",
        ):
            with connect(path).read() as fresh, pytest.raises(DatabaseError):
                fresh.fetch_value(statement)
        assert session.fetch_value("SELECT count(*) FROM t") == 0


def test_limits_of_a_preview(path: Path) -> None:
    run(path, "CREATE TABLE t AS SELECT repeat('x', 1000) AS v FROM range(9000)")
    schema = pa.schema([("v", pa.string())])

    def count(limits: ReadLimits) -> int:
        with connect(path).read(limits) as session:
            return sum(batch.num_rows for batch in session.iter_batches("SELECT v FROM t", schema, batch_rows=2000))

    assert count(ReadLimits()) == 9000
    assert count(ReadLimits(max_rows=70)) == 70
    assert 0 < count(ReadLimits(max_bytes=1000)) < 9000
    slow = "SELECT sum(hash(a.range, b.range)) FROM range(1000000) AS a, range(1000000) AS b"
    with connect(path).read(ReadLimits(timeout_seconds=0.1)) as session:
        with pytest.raises(StatementTimeoutError):
            session.fetch_value(slow)
        # The time is up for the session, not for one statement.
        with pytest.raises((StatementTimeoutError, DatabaseError)):
            list(session.iter_batches(slow, pa.schema([("v", pa.string())]), batch_rows=10))


COLUMNS = (Column("id", DataType("integer"), False, key_position=1), Column("v", DataType("string")))


def test_replace_keeps_what_hangs_on_the_table(path: Path) -> None:
    run(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR UNIQUE DEFAULT 'd' CHECK (v <> 'bad'))",
        "CREATE INDEX by_v ON t (v)",
        "COMMENT ON TABLE t IS 'kept'",
        "CREATE VIEW w AS SELECT v FROM t",
        "INSERT INTO t VALUES (1, 'old'), (2, 'gone')",
    )
    connector = connect(path)
    with connector.write() as session:
        load(session, COLUMNS, [(1, "new"), (3, "old")])
        with connector.read() as reader:
            assert reader.fetch_value("SELECT string_agg(v, ',' ORDER BY v) FROM w") == "gone,old"
        session.commit()
    assert run(path, "SELECT v FROM w ORDER BY v") == [("new",), ("old",)]
    assert run(path, "SELECT comment, has_primary_key, index_count FROM duckdb_tables()")[0][:2] == ("kept", True)
    assert run(path, "SELECT index_name FROM duckdb_indexes()") == [("by_v",)]
    with connector.write() as session, pytest.raises(BadRowsError, match="CHECK"):
        load(session, COLUMNS, [(1, "bad"), (2, None)])


def test_rows_that_others_refer_to_are_refused_with_a_way_out(path: Path) -> None:
    run(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR)",
        "CREATE TABLE child (id INTEGER REFERENCES t (id))",
        "INSERT INTO t VALUES (1, 'x')",
        "INSERT INTO child VALUES (1)",
    )
    with connect(path).write() as session, pytest.raises(BadRowsError, match="foreign key"):
        load(session, COLUMNS, [(1, "y"), (2, "z")])


def test_without_a_commit_nothing_happened(path: Path) -> None:
    run(path, "CREATE TABLE other (v VARCHAR)")
    with connect(path).write() as session:
        load(session, COLUMNS, [(1, "a"), (2, "b")])
        session.rollback()
        session.rollback()
        load(session, COLUMNS, [(1, "a"), (2, "b")])
    assert run(path, "SELECT table_name FROM duckdb_tables()") == [("other",)]


def test_a_failed_statement_fails_the_commit(path: Path) -> None:
    """DuckDB itself answers such a COMMIT with success and drops the rows."""
    with connect(path).write() as session:
        session.begin()
        session.create_table(TARGET, COLUMNS, ["id"])
        assert session.execute("INSERT INTO t VALUES (?, ?)", (1, "it's ?")) == 1
        with pytest.raises(BadRowsError, match="primary key"):
            session.execute("INSERT INTO t VALUES (1, 'again')")
        with pytest.raises(DatabaseError):
            session.commit()
        assert session.find_columns(TARGET) is None


def test_refused_values_are_named_by_column_and_not_shown(path: Path) -> None:
    columns = (COLUMNS[0], Column("day", DataType("date")))
    with connect(path).write() as session, pytest.raises(BadRowsError, match="'day'") as caught:
        load(session, columns, [(1, "2024-01-01"), (2, "hush-hush")])
    assert "hush" not in str(caught.value)


def test_a_coarser_column_does_not_round(path: Path) -> None:
    run(path, "CREATE TABLE t (id INTEGER, v TIMESTAMP_S)")
    with connect(path).write() as session:
        columns = session.find_columns(TARGET) or ()
        load(session, columns, [(1, "2024-01-01 00:00:01"), (2, "infinity")])
        session.commit()
        with pytest.raises(BadRowsError, match="'v'"):
            load(session, columns, [(1, "2024-01-01 00:00:00.5"), (2, None)])


def test_the_sources_own_error_comes_through(path: Path) -> None:
    def iter_batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch([pa.array([1], pa.int32()), pa.array(["x"])], names=["id", "v"])
        raise RetryableError("the source went away")

    with connect(path).write() as session:
        session.begin()
        staging = session.create_staging(TARGET, COLUMNS, epoch=1)
        with pytest.raises(RetryableError, match="went away"):
            session.write_batches(staging, COLUMNS, iter_batches())
        session.rollback()
        session.begin()
        staging = session.create_staging(TARGET, COLUMNS, epoch=1)
        assert session.write_batches(staging, COLUMNS, []) == (0, 0)


def test_one_file_is_source_and_target_at_once(path: Path) -> None:
    run(path, "CREATE TABLE source AS SELECT range::INTEGER AS id, 'v' || range AS v FROM range(5000)")
    connector = connect(path)
    with connector.read() as read, connector.write() as write:
        assert read.fetch_value("SELECT count(*) FROM source") == 5000
        write.begin()
        staging = write.create_staging(TARGET, COLUMNS, epoch=1)
        schema = pa.schema([("id", pa.int32()), ("v", pa.string())])
        batches = read.iter_batches("SELECT id, v FROM source", schema, batch_rows=1000)
        assert write.write_batches(staging, COLUMNS, batches)[0] == 5000
        write.publish_replace(staging, TARGET, COLUMNS, ["id"])
        write.commit()
    assert run(path, "SELECT count(*) FROM t ANTI JOIN source USING (id, v)") == [(0,)]


def test_a_file_that_is_being_read_is_not_opened_anew(path: Path) -> None:
    run(path, "CREATE TABLE source AS SELECT range::INTEGER AS id FROM range(100000)")
    connector = connect(path)
    with connector.read() as read, connector.write() as write:
        batches = read.iter_batches("SELECT id FROM source", pa.schema([("id", pa.int32())]), batch_rows=1000)
        next(batches)
        with pytest.raises(RetryableError):
            write.begin()
        assert sum(batch.num_rows for batch in batches) < 100000
        write.begin()


@pytest.mark.parametrize("mode", ["read", "write"])
def test_another_processs_lock_is_retryable_and_names_the_file(mode: str, path: Path, hold: object) -> None:
    run(path, "CREATE TABLE t (v VARCHAR)")
    hold(mode)  # type: ignore[operator]  # a function of the fixture
    connector = connect(path)
    with connector.write() as session, pytest.raises(RetryableError, match=r"ware house\.duckdb is locked") as caught:
        session.begin()
    assert "PID" not in str(caught.value)
    if mode == "write":
        assert not connector.test().ok
        with pytest.raises(RetryableError), connector.read():
            pass
        return
    with connector.read() as read, connector.write() as session:
        with pytest.raises(RetryableError):
            session.begin()
        # The reader of this process lives on.
        assert read.fetch_value("SELECT count(*) FROM t") == 0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "database_missing"),
        (lambda path: path.write_text("not a database, " * 1000), "unknown"),
    ],
    ids=["missing", "other file"],
)
def test_reports_why_it_cannot_connect(make: object, reason: str, path: Path) -> None:
    make(path)  # type: ignore[operator]  # a lambda of the parameters
    report = connect(path).test()
    assert (report.ok, report.reason) == (False, reason)
    with pytest.raises(ConnectionFailedError), connect(path).read():
        pass


def test_reports_what_it_found(path: Path) -> None:
    run(path, "CREATE TABLE t (v VARCHAR)")
    connector: Connector = connect(path, memory_limit="200MB", threads=1)
    assert isinstance(connector, Connector)
    report = connector.test()
    assert (report.ok, report.can_read, report.can_write) == (True, True, True)
    assert report.server_version == f"DuckDB {duckdb.__version__}"
    with connector.read() as session:
        assert session.fetch_value("SELECT current_setting('threads')") == 1
        assert session.fetch_value("SELECT current_setting('TimeZone')") == "UTC"


def test_checks_its_configuration() -> None:
    check = DuckdbConnector.check_config
    assert check(ConnectionConfig("c", "duckdb", database="x", options={"memory_limit": "1.5GB", "threads": 2})) == []
    bad = ConnectionConfig("c", "duckdb", host="h", options={"memory_limit": "much", "threads": 0, "mode": "x"})
    assert len(check(bad)) == 5
    assert check(ConnectionConfig("c", "duckdb", database=":memory:"))
    assert check(ConnectionConfig("c", "duckdb", database="md:cloud"))
