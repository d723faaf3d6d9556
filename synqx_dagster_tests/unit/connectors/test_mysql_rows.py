"""Rows of MySQL's text protocol: whatever the network cuts them into, they come out as they were sent."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors import mysql_rows
from synqx_dagster.connectors.mysql_rows import TextRows
from synqx_dagster.errors import BadRowsError

EOF = b"\xfe\x03\x00\x08\x00"  # three warnings, and another result follows

Row = Sequence[bytes | None]


def encode_value(value: bytes | None) -> bytes:
    if value is None:
        return b"\xfb"
    if len(value) < 251:
        return bytes([len(value)]) + value
    if len(value) < 1 << 16:
        return b"\xfc" + struct.pack("<H", len(value)) + value
    if len(value) < 1 << 24:
        return b"\xfd" + struct.pack("<I", len(value))[:3] + value
    return b"\xfe" + struct.pack("<Q", len(value)) + value


def encode_packets(payload: bytes, number: int) -> bytes:
    packets = b""
    while True:
        part, payload = payload[:0xFFFFFF], payload[0xFFFFFF:]
        packets += struct.pack("<I", len(part))[:3] + bytes([number % 256]) + part
        number += 1
        if len(part) < 0xFFFFFF:
            return packets


def encode_result(rows: Sequence[Row], end: bytes = EOF) -> bytes:
    payloads = [b"".join(map(encode_value, row)) for row in rows]
    return b"".join(encode_packets(payload, number) for number, payload in enumerate([*payloads, end]))


class Network(io.RawIOBase):
    """Hands out what was sent in pieces of given sizes, over and over; then it is closed or reset."""

    def __init__(self, data: bytes, sizes: Sequence[int], failure: OSError | None = None) -> None:
        super().__init__()
        self._data = data
        self._sizes = sizes
        self._turn = 0
        self._failure = failure

    def read1(self, size: int) -> bytes:
        size = min(size, self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        chunk, self._data = self._data[:size], self._data[size:]
        if not chunk and self._failure is not None:
            raise self._failure
        return chunk


class Connection:
    def __init__(self, rfile: Network) -> None:
        self._rfile = rfile
        self.is_closed = False

    def _force_close(self) -> None:
        self.is_closed = True


class Result:
    unbuffered_active = True
    connection: Any = object()
    warning_count = 0
    has_next: Any = None


def read(
    rows: Sequence[Row],
    schema: pa.Schema,
    sizes: Sequence[int] = (1 << 20,),
    *,
    batch_rows: int = 1000,
    end: bytes = EOF,
) -> list[pa.RecordBatch]:
    reader = TextRows(Connection(Network(encode_result(rows, end), sizes)), Result())
    batches = list(reader.iter_batches(schema, batch_rows))
    assert reader.is_over
    return batches


def bytes_schema(columns: int) -> pa.Schema:
    return pa.schema([pa.field(f"c{number}", pa.binary()) for number in range(columns)])


def values_of(batches: Sequence[pa.RecordBatch]) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


VALUES = st.one_of(
    st.none(),
    st.binary(max_size=8),
    st.sampled_from((b"", b"\xfb", b"\xff" * 250, b"x" * 251, b"y" * 300, b"\xfe" * 65_535, b"z" * 65_536)),
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), max_size=30)
    ),
    sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
    batch_rows=st.integers(1, 10),
)
def test_rows_come_out_as_they_were_sent(rows: list[list[bytes | None]], sizes: list[int], batch_rows: int) -> None:
    if sum(sizes) < 100:  # Megabytes a few bytes at a time take minutes.
        sizes.append(10_000)
    width = len(rows[0]) if rows else 1
    batches = read(rows, bytes_schema(width), sizes, batch_rows=batch_rows)
    assert values_of(batches) == [tuple(row) for row in rows]
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)


@pytest.mark.parametrize("length", [0xFFFFFF - 4, 0xFFFFFF - 3, 0xFFFFFF, 2 * 0xFFFFFF - 9, 2 * 0xFFFFFF])
def test_a_row_of_more_than_one_packet_stands_between_others(length: int) -> None:
    # The payload's length is the value's and that of the bytes which tell it: the packets end on their bounds, too.
    rows: list[Row] = [(b"before",), (b"a" * length,), (b"after",), (None,)]
    assert values_of(read(rows, bytes_schema(1), (1 << 20, 7))) == [tuple(row) for row in rows]


def test_a_batch_is_bounded_in_bytes() -> None:
    rows = [(b"x" * 100_000,)] * 100
    batches = read(rows, bytes_schema(1), batch_rows=10_000)
    assert len(batches) > 2
    assert max(batch.nbytes for batch in batches) < 2 * mysql_rows.PART_BYTES


def test_a_wide_value_takes_a_few_times_its_own_memory() -> None:
    length = 8 * 1024 * 1024
    data = encode_value(b"a" * length) + encode_value(b"b")
    octets = np.frombuffer(data, dtype=np.uint8)
    start, found, is_null = mysql_rows._find_values(octets, np.array([0]))
    tracemalloc.start()
    try:
        values = mysql_rows._gather(octets, start, found, is_null)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values.to_pylist() == [b"a" * length]
    assert peak < 3 * length


def test_values_get_their_columns_types() -> None:
    schema = pa.schema(
        [
            pa.field("whole", pa.int64()),
            pa.field("single", pa.float32()),
            pa.field("double", pa.float64()),
            pa.field("text", pa.string()),
            pa.field("octets", pa.binary()),
        ]
    )
    rows: list[Row] = [
        (b"-9223372036854775808", b"0.10000000149011612", b"1e308", "é\N{GRINNING FACE}".encode(), b"\xff\x00"),
        (None, None, None, None, None),
        (b"7", b"16777216", b"-0.5", b"", b""),
    ]
    (batch,) = read(rows, schema)
    assert batch.schema == schema
    batch.validate(full=True)
    assert values_of([batch])[0][2:] == (1e308, "é\N{GRINNING FACE}", b"\xff\x00")
    assert batch.column("single").to_pylist()[0] == struct.unpack("f", struct.pack("f", 0.1))[0]
    assert values_of([batch])[1] == (None,) * 5
    assert values_of([batch])[2] == (7, 16777216.0, -0.5, "", b"")


def test_no_row_gives_no_batch_and_the_driver_is_told_that_it_is_over() -> None:
    result = Result()
    reader = TextRows(Connection(Network(encode_result([]), (3,))), result)
    assert list(reader.iter_batches(bytes_schema(1), 10)) == []
    assert (result.unbuffered_active, result.connection, result.warning_count, bool(result.has_next)) == (
        False, None, 3, True,
    )  # fmt: skip


def test_bytes_that_are_no_text_are_refused_by_the_columns_name() -> None:
    with pytest.raises(BadRowsError, match="column 'name' holds bytes where text is declared"):
        read([(b"fine",), (b"\xff\xfe",)], pa.schema([pa.field("name", pa.string())]))


def test_a_value_of_another_type_is_refused_without_being_quoted() -> None:
    with pytest.raises(BadRowsError, match="column 'amount' holds a value that is not int64") as refused:
        read([(b"secret",)], pa.schema([pa.field("amount", pa.int64())]))
    assert "secret" not in str(refused.value)


def test_an_error_of_the_server_in_mid_result_is_raised_after_the_rows_before_it() -> None:
    error = b"\xff" + struct.pack("<H", 1317) + b"#70100Query execution was interrupted"
    reader = TextRows(Connection(Network(encode_result([(b"1",)], error), (5,))), Result())
    with pytest.raises(pymysql.err.OperationalError, match="interrupted"):
        list(reader.iter_batches(bytes_schema(1), 10))
    assert reader.is_over


@pytest.mark.parametrize("failure", [None, ConnectionResetError("reset"), TimeoutError("silent")])
@pytest.mark.parametrize("missing", [1, 9, 12])
def test_a_result_that_breaks_off_is_never_taken_for_a_short_one(failure: OSError | None, missing: int) -> None:
    connection = Connection(Network(encode_result([(b"1",), (b"2",)])[:-missing], (4,), failure))
    reader = TextRows(connection, Result())
    with pytest.raises(pymysql.err.OperationalError, match="Lost connection"):
        list(reader.iter_batches(bytes_schema(1), 1))
    assert connection.is_closed
    assert not reader.is_over


@pytest.mark.parametrize("payload", [b"\x01", b"\x05ab", b"\x01a\x01b", b"\xfc\x01", b"\xfe" + b"\xff" * 8])
def test_a_row_that_does_not_add_up_is_refused(payload: bytes) -> None:
    data = encode_packets(payload, 0) + encode_packets(EOF, 1)
    with pytest.raises(pymysql.err.InternalError, match="text protocol"):
        list(TextRows(Connection(Network(data, (100,))), Result()).iter_batches(bytes_schema(1), 10))
