"""Batches as CSV: the exact bytes that COPY reads, whatever the values and wherever a batch was cut."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.postgresql_csv import encode_batch, stream_batches
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

TEXT = Column("name", DataType("string"))
BLOB = Column("blob", DataType("binary"))
ROWS = st.lists(
    st.tuples(
        st.none() | st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        st.none() | st.binary(max_size=20),
    ),
    min_size=1,
    max_size=20,
)


def whole(rows: list[tuple[str | None, bytes | None]]) -> pa.RecordBatch:
    names, blobs = zip(*rows, strict=True)
    return pa.record_batch({"name": pa.array(names, pa.string()), "blob": pa.array(blobs, pa.binary())})


@settings(max_examples=150, deadline=None)
@given(ROWS, st.data())
def test_texts_and_bytes_come_out_as_they_went_in(
    rows: list[tuple[str | None, bytes | None]], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows) - 1))
    encoded = encode_batch(whole(rows).slice(start), [TEXT, BLOB], "t")
    expected = [(name, None if blob is None else "\\x" + blob.hex()) for name, blob in rows[start:]]
    lines = list(_split(encoded.decode()))
    assert lines == expected


def _split(text: str) -> Iterator[tuple[str | None, ...]]:
    """A reader of its own for two columns, after the rules of COPY's CSV."""
    position = 0
    row: list[str | None] = []
    while position < len(text):
        value: str | None = None
        if text[position] == '"':
            value = ""
            position += 1
            while text[position] != '"' or text[position + 1] == '"':
                position += text[position] == '"'
                value += text[position]
                position += 1
            position += 1
        row.append(value)
        if text[position] == "\n":
            yield tuple(row)
            row = []
        else:
            assert text[position] == ","
        position += 1


@pytest.mark.parametrize("kind", ["real", "float"])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_floats_have_all_their_digits(kind: str, data: st.DataObject) -> None:
    value = data.draw(st.floats(width=32 if kind == "real" else 64))
    arrow_type = pa.float32() if kind == "real" else pa.float64()
    batch = pa.record_batch({"n": pa.array([value], arrow_type)})
    text = encode_batch(batch, [Column("n", DataType.parse(kind))], "t").decode().strip()
    back = pa.array([float(text)], arrow_type)[0].as_py()
    assert repr(back) == repr(batch.column(0)[0].as_py())


def test_a_nul_character_names_its_column_even_in_a_later_row() -> None:
    batch = pa.record_batch({"a": ["x", "y"], "b": ["fine", "bad\0"]})
    columns = [Column("a", DataType("string")), Column("b", DataType("string"))]
    with pytest.raises(BadRowsError, match="column 'b'"):
        encode_batch(batch, columns, "t")
    # What a slice leaves out does not count.
    encode_batch(batch.slice(0, 1), columns, "t")


def test_other_arrow_types_of_the_same_values_are_taken() -> None:
    batch = pa.record_batch(
        {"name": pa.array(["a", None, ""], pa.string_view()), "blob": pa.array([b"\n", None, b""], pa.large_binary())}
    )
    assert encode_batch(batch, [TEXT, BLOB], "t") == b'"a","\\x0a"\n,\n"","\\x"\n'


def batches(count: int) -> Iterator[pa.RecordBatch]:
    for _ in range(count):
        yield pa.record_batch({"name": ["x"] * 1000})


def drain(source: Any) -> bytes:
    received = b""
    while chunk := source.read(10):
        received += chunk
    return received


def no_cancel() -> None:
    raise AssertionError("the COPY was not waiting")


def test_rows_and_bytes_are_counted_as_they_are_sent() -> None:
    sent = []
    rows, size_bytes = stream_batches(batches(5), [TEXT], "t", lambda source: sent.append(drain(source)), no_cancel)
    assert rows == 5000
    assert size_bytes == len(sent[0]) == 5000 * 4


class ServerError(Exception):
    """Stands for what COPY raises."""


def test_a_copy_that_fails_stops_the_rows_behind_it() -> None:
    pulled = []

    def endless() -> Iterator[pa.RecordBatch]:
        while True:
            pulled.append(1)
            yield from batches(1)

    def copy(source: Any) -> None:
        source.read(10)
        raise ServerError

    with pytest.raises(ServerError):
        stream_batches(endless(), [TEXT], "t", copy, no_cancel)
    assert len(pulled) < 10


def test_rows_that_fail_end_the_copy_with_an_error() -> None:
    seen: list[BaseException] = []

    def copy(source: Any) -> None:
        try:
            drain(source)
        except BaseException as error:
            seen.append(error)
            raise

    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stream_batches(broken(), [TEXT], "t", copy, no_cancel)
    assert len(seen) == 1


def test_who_interrupts_the_end_of_a_copy_waits_for_it_however_often_he_does() -> None:
    """Going on with the connection would wait for an answer that the COPY's thread takes."""
    cancelled = threading.Event()
    ended: list[bool] = []

    def copy(source: Any) -> None:
        drain(source)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        assert cancelled.wait(timeout=30)
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        stream_batches(batches(1), [TEXT], "t", copy, cancelled.set)
    assert ended == [True]
