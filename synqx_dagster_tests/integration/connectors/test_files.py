"""Files as sources and targets: what names stand for, what bad files say, what a round trip keeps."""

from __future__ import annotations

import decimal
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.files import FilesConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, ReadLimits
from synqx_dagster.errors import DatabaseError, DataError, RetryableError, SynqxError, TargetMismatchError
from synqx_dagster.model.connection import OptionValue
from synqx_dagster.model.table import TableName
from synqx_dagster_tests.contract.loading import ID, NAME, Rows, column, load, names_in, read_all
from synqx_dagster_tests.fix_s3 import S3Prefix

ORDERS = TableName("orders")


def files(directory: Path, **options: OptionValue) -> FilesConnector:
    return FilesConnector(ConnectionConfig("files", "files", database=str(directory), options=options))


def rows_of(connector: FilesConnector, table: TableName = ORDERS) -> list[tuple[Any, ...]]:
    """A table's rows as text and NULL, in the order of the files."""
    with connector.read() as session:
        columns = session.find_columns(table)
        assert columns is not None
        names = [connector.quote(item.name) for item in columns]
        schema = pa.schema([pa.field(item.name, pa.string()) for item in columns])
        items = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in names)
        rows: list[tuple[Any, ...]] = []
        for batch in session.iter_batches(f"SELECT {items} FROM {connector.qualify(table)}", schema, batch_rows=100):
            rows.extend(zip(*(values.to_pylist() for values in batch.columns), strict=True))
    return rows


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_table_is_a_file_or_a_directory_or_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("id\n1\n")
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales" / "a.csv").write_text("id\n2\n")
    (tmp_path / "sales" / "b.csv.gz").write_bytes(gzip.compress(b"id\n3\n"))
    (tmp_path / "sales" / ".hidden.csv").write_text("id\n9\n")
    (tmp_path / "plain.txt").write_text("id\n4\n")
    connector = files(tmp_path, format="csv")
    assert rows_of(connector) == [("1",)]
    assert rows_of(connector, TableName("sales")) == [("2",), ("3",)]
    assert rows_of(connector, TableName("a", "sales")) == [("2",)]
    assert rows_of(connector, TableName("sales/*.csv*")) == [("2",), ("3",)]
    assert rows_of(connector, TableName("plain.txt")) == [("4",)]
    assert rows_of(connector, TableName("ORDERS")) == [("1",)]
    found = [str(item.table) for item in connector.discover()]
    assert found == ["orders", "sales.a", "sales.b"]
    with connector.read() as session:
        assert session.find_columns(TableName("nothing")) is None


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("id\n1\n")
    (tmp_path / "orders.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"orders\.csv, orders\.jsonl"):
        rows_of(files(tmp_path))


@pytest.mark.parametrize(
    "name", ["../secret.csv", "a/../../secret.csv", "/etc/passwd", "link.csv", "_synqx/state.json"]
)
def test_no_name_leads_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.csv").write_text("password\nx\n")
    root = tmp_path / "root"
    load(files(root, format="csv"), Rows((ID, NAME)), table=ORDERS)
    (root / "link.csv").symlink_to(tmp_path / "secret.csv")
    (root / "out").symlink_to(tmp_path)
    for table in (TableName(name), TableName("secret", "out"), TableName("secret", "..")):
        with files(root).read() as session:
            try:
                assert session.find_columns(table) is None
            except DatabaseError:
                continue
    assert [str(item.table) for item in files(root).discover()] == ["orders"]


def test_files_of_one_directory_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "part-1.csv").write_text("id,name\n1,a\n")
    (tmp_path / "orders" / "part-2.csv").write_text("id,title\n1,a\n")
    with pytest.raises(DataError, match=r"part-2\.csv and .*part-1\.csv have different headers: name .*title"):
        rows_of(files(tmp_path))
    (tmp_path / "items").mkdir()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "items" / "part-1.parquet")
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "items" / "part-2.parquet")
    with pytest.raises(DataError, match=r"id \(VARCHAR, BIGINT\)"):
        rows_of(files(tmp_path), TableName("items"))


# --- CSV -----------------------------------------------------------------------------------------------------------


def test_null_and_the_empty_text_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text('a,b\n,""\n"",\n\\N,"\\N"\n')
    assert rows_of(files(tmp_path)) == [(None, ""), ("", None), ("\\N", "\\N")]
    assert rows_of(files(tmp_path, null_text="\\N")) == [("", ""), ("", ""), (None, "\\N")]


@pytest.mark.parametrize("encoding", ["latin-1", "windows-1252", "utf-16"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    text = "é" if encoding != "utf-16" else "é😀"
    codec = {"windows-1252": "cp1252"}.get(encoding, encoding)
    (tmp_path / "orders.csv").write_bytes(f"näme\n{text}\n".encode(codec))
    connector = files(tmp_path, encoding=encoding)
    assert rows_of(connector) == [(text,)]
    with connector.read() as session:
        columns = session.find_columns(ORDERS)
    assert columns is not None
    assert [item.name for item in columns] == ["näme"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,name\n1,a\n2\n", r"orders\.csv, line 3: 1 fields where the header has 2"),
        (b"id,name\n1,a\n2,b,s3cret\n", r"orders\.csv, line 3: 3 fields where the header has 2"),
        (b"id,name\n1,a\n2,\xffs3cret\n", r"orders\.csv, line 3: bytes that are not"),
        (b'id,name\n1,"s3cret\n2,b\n', r"orders\.csv, line 2: a quote is not closed"),
        (b"id,name\n1,a\x00s3cret\n", r"orders\.csv.*NUL"),
        (b"id,id\n1,2\n", r"orders\.csv, line 1: the header names 'id' twice"),
        (b"id,\n1,2\n", r"orders\.csv, line 1: a column of the header has no name"),
        (b"", r"orders\.csv is empty"),
    ],
    ids=["short", "long", "encoding", "quote", "nul", "double", "nameless", "empty"],
)
def test_bad_csv_is_refused_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "orders.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        rows_of(files(tmp_path))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["orders.csv.gz", "orders.jsonl.gz"])
def test_cut_compressed_files_are_refused(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({"id": number, "text": os.urandom(8).hex()}) for number in range(20_000)]
    whole = gzip.compress("\n".join(lines).encode() if "jsonl" in name else b"id\n" + b"1\n" * 2_000_000)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}: the gzip data are cut|{name}: the compressed data are cut"):
        rows_of(files(tmp_path))


# --- JSON lines ----------------------------------------------------------------------------------------------------


def test_json_numbers_keep_their_digits(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_text(
        '{"n": 123456789012345678901234567890, "d": 1.50, "o": {"a" : 1.10, "b": [1, 2e400]}}\n'
        '\n{"d": 0.1000000000000000055511151231257827, "late": true, "n": null, "o": "t"}\n'
    )
    assert rows_of(files(tmp_path)) == [
        ("123456789012345678901234567890", "1.50", '{"a" : 1.10, "b": [1, 2e400]}', None),
        (None, "0.1000000000000000055511151231257827", "t", "true"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "not one JSON object"),
        (b'{"a": 1', "not one JSON object"),
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "s3cret\x00"}', "not one JSON object"),
        (b'{"A": 1}', "differ in case alone"),
    ],
)
def test_bad_json_lines_are_refused_with_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "orders.jsonl").write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        rows_of(files(tmp_path))
    assert "orders.jsonl" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# --- Parquet -------------------------------------------------------------------------------------------------------


def test_parquet_types_are_read_as_they_are(tmp_path: Path) -> None:
    table = pa.table(
        {
            "amount": pa.array([decimal.Decimal("1.50")], pa.decimal128(38, 2)),
            "whole": pa.array([2**64 - 1], pa.uint64()),
            "zoned": pa.array([0], pa.timestamp("us", tz="Europe/Berlin")),
            "fine": pa.array([1], pa.timestamp("ns")),
            "word": pa.array(["a"]).dictionary_encode(),
            "list": pa.array([[1, None]]),
        }
    )
    pq.write_table(table, tmp_path / "orders.parquet")
    connector = files(tmp_path)
    with connector.read() as session:
        columns = session.find_columns(ORDERS)
    assert columns is not None
    assert [str(item.data_type) for item in columns] == [
        "decimal(38,2)",
        "decimal(20,0)",
        "timestamptz",
        "string",
        "string",
        "json",
    ]
    assert rows_of(connector) == [
        ("1.50", "18446744073709551615", "1970-01-01 00:00:00+00", "1970-01-01 00:00:00.000000001", "a", "[1,null]")
    ]


def test_what_duckdb_would_round_is_refused_by_name(tmp_path: Path) -> None:
    wide = pa.table({"amount": pa.array([decimal.Decimal("1.5")], pa.decimal256(60, 10))})
    pq.write_table(wide, tmp_path / "orders.parquet")
    with pytest.raises(DataError, match="'amount' is a decimal of 60 digits"):
        rows_of(files(tmp_path))
    for nanoseconds in (1_000, 1_001):
        old = pa.table({"at": pa.array([nanoseconds], pa.timestamp("ns"))})
        pq.write_table(old, tmp_path / "orders.parquet", use_deprecated_int96_timestamps=True)
        if nanoseconds == 1_000:
            assert rows_of(files(tmp_path)) == [("1970-01-01 00:00:00.000001",)]
        else:
            with pytest.raises(DataError, match="'at' holds INT96 timestamps finer than microseconds"):
                rows_of(files(tmp_path))


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "orders.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(DataError, match=r"orders\.parquet is not a Parquet file"):
        rows_of(files(tmp_path))


# --- files that change ---------------------------------------------------------------------------------------------


def test_a_file_that_grows_under_a_read_is_retried(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("id\n" + "1\n" * 1000)
    connector = files(tmp_path)
    schema = pa.schema([pa.field("id", pa.string())])
    with connector.read() as session:
        assert session.find_columns(ORDERS) is not None
        batches = session.iter_batches("SELECT id FROM orders", schema, batch_rows=100)
        next(batches)
        with path.open("a") as file:
            file.write("2\n")
        with pytest.raises(RetryableError, match=r"orders\.csv was changed while it was read"):
            list(batches)


def test_an_object_that_changes_under_a_read_is_retried(s3: S3Prefix) -> None:
    connector = FilesConnector(s3.config())
    line = b"x" * 1000 + b"\n"
    s3.put("orders.csv", b"id\n" + line * 12_000)
    with connector.read() as session:
        assert session.find_columns(ORDERS) is not None
        s3.put("orders.csv", b"id\n" + line * 12_001)
        with pytest.raises(RetryableError, match=r"orders\.csv was changed while it was read"):
            session.fetch_value("SELECT count(*) FROM orders")
    connector.close()


# --- writing -------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=12)
ROW = st.tuples(st.none() | TEXT, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.binary(max_size=6))


@pytest.mark.parametrize(
    "options", [{"format": "parquet"}, {"format": "csv", "compression": "gzip"}, {"format": "jsonl"}], ids=str
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(ROW, max_size=8))
def test_what_is_written_is_read_again(
    tmp_path: Path, options: dict[str, OptionValue], values: list[tuple[Any, ...]]
) -> None:
    connector = files(tmp_path, **options)
    columns = (ID, column("text", "string"), column("number", "bigint"), column("bytes", "binary"))
    rows = [(number, *row) for number, row in enumerate(values)]
    load(connector, Rows(columns, rows), table=ORDERS)
    assert read_all(connector, ORDERS) == rows


def test_files_have_the_names_that_the_documentation_says(tmp_path: Path) -> None:
    connector = files(tmp_path, format="csv", compression="zstd")
    load(connector, Rows((ID, NAME), [(1, "a")]), table=TableName("orders", "sales"))
    assert [path.name for path in (tmp_path / "sales").glob("*.*")] == ["orders.csv.zst"]
    load(connector, Rows((ID, NAME), [(2, "b")]), table=TableName("orders", "sales"), append=True)
    parts = sorted(path.name for path in (tmp_path / "sales" / "orders").iterdir())
    assert [name.startswith("part-") and name.endswith(".csv.zst") for name in parts] == [True, True]
    assert not (tmp_path / "sales" / "orders.csv.zst").exists()
    load(connector, Rows((ID, NAME), [(3, "c")]), table=TableName("orders", "sales"))
    assert [path.name for path in (tmp_path / "sales").glob("*.*")] == ["orders.csv.zst"]
    assert not (tmp_path / "sales" / "orders").exists()
    assert names_in(connector, TableName("orders", "sales")) == ["c"]


def test_a_table_of_another_format_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("id\n1\n")
    with files(tmp_path).write() as session, pytest.raises(TargetMismatchError, match="orders is csv"):
        session.find_columns(ORDERS)


def test_rows_that_statements_change_are_not_written_over_those_of_others(tmp_path: Path) -> None:
    connector = files(tmp_path)
    load(connector, Rows((ID, NAME), [(1, "a")]), table=ORDERS)
    with connector.write() as session:
        session.begin()
        session.execute('UPDATE "."."orders" SET name = \'b\'')
        load(files(tmp_path), Rows((ID, NAME), [(1, "c")]), table=ORDERS)
        with pytest.raises(RetryableError, match="changed by another process"):
            session.commit()
    assert names_in(connector, ORDERS) == ["c"]


def test_loads_of_two_tables_in_one_directory_do_not_disturb_each_other(tmp_path: Path, s3: S3Prefix) -> None:
    for connector in (files(tmp_path), FilesConnector(s3.config())):
        with connector.write() as one, connector.write() as two:
            for session, name in ((one, "a"), (two, "b")):
                session.begin()
                session.create_table(TableName(name), (ID,), ("id",))
                session.create_table(TableName(f"_synqx_{name}"), (ID,), ("id",))
                session.execute(f'INSERT INTO "."."_synqx_{name}" VALUES (?)', (1,))
            one.commit()
            two.commit()
        with connector.write() as session:
            assert session.fetch_all('SELECT count(*) FROM "."."_synqx_a", "."."_synqx_b"') == [(1,)]
        assert [item.table.name for item in connector.discover()] == ["a", "b"]
        connector.close()


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_columns_are_added_and_widened(tmp_path: Path, file_format: str) -> None:
    connector = files(tmp_path, format=file_format)
    load(connector, Rows((ID, column("name", "string", nullable=False)), [(1, "a")]), table=ORDERS)
    with connector.write() as session:
        session.begin()
        session.execute('ALTER TABLE "."."orders" ADD COLUMN "at" DATE')
        session.execute('ALTER TABLE "."."orders" ALTER COLUMN "id" TYPE BIGINT')
        session.execute('ALTER TABLE "."."orders" ALTER COLUMN "name" DROP NOT NULL')
        session.commit()
        columns = session.find_columns(ORDERS)
    assert columns is not None
    assert [(item.name, str(item.data_type), item.nullable) for item in columns[1:]] == [
        ("name", "string", True),
        ("at", "date", True),
    ]
    assert str(columns[0].data_type) == "bigint"
    assert rows_of(connector) == [("1", "a", None)]
    with connector.write() as session, pytest.raises(DatabaseError, match="no views, indexes or other objects"):
        session.execute('CREATE VIEW v AS SELECT * FROM "."."orders"')


def test_a_text_that_somebody_changed_is_not_rounded(tmp_path: Path) -> None:
    connector = files(tmp_path, format="csv")
    load(connector, Rows((ID, NAME), [(1, "a")]), table=ORDERS)
    (tmp_path / "orders.csv").write_text("id,name\n1.5,a\n")
    with pytest.raises(DataError, match="column 'id' holds text that is not a value of its type"):
        rows_of(connector)


def test_a_preview_reads_no_more_than_the_first_rows_of_json_lines(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_text('{"id": 1}\n' * 5_000 + "broken\n")
    with files(tmp_path).read(ReadLimits(max_rows=10)) as session:
        assert session.find_columns(ORDERS) is not None


# --- connections ---------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_connection_is_said(tmp_path: Path, s3: S3Prefix) -> None:
    missing = FilesConnector(ConnectionConfig("x", "files", database=str(tmp_path / "missing"))).test()
    assert (missing.ok, missing.reason) == (False, "database_missing")
    config = s3.config()
    bucket = FilesConnector(
        ConnectionConfig(
            "x", "files", username="k", password="s3cret", options={**config.options, "url": "s3://no-such-bucket/x"}
        )
    )
    report = bucket.test()
    assert (report.ok, report.reason) == (False, "database_missing")
    bucket.close()
    nobody = FilesConnector(
        ConnectionConfig(
            "x", "files", username="k", password="s3cret", options={**config.options, "endpoint": "http://127.0.0.1:9"}
        )
    )
    report = nobody.test()
    assert (report.ok, report.reason) == (False, "refused")
    assert "s3cret" not in f"{report}{nobody.config}"
    nobody.close()


def test_cloud_metadata_is_no_endpoint() -> None:
    options: dict[str, OptionValue] = {"url": "s3://warehouse/x", "endpoint": "http://169.254.169.254"}
    connector = FilesConnector(ConnectionConfig("x", "files", username="k", password="p", options=options))
    with pytest.raises(SynqxError, match="must not be connected to"):
        connector.discover()
    assert not connector.test().ok
