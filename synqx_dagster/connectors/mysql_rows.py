"""A result of MySQL's text protocol as record batches, taken apart column by column and not value by value.

Guarantee: every row that the server sent is in exactly one batch, in order; a value that its column's Arrow type cannot
carry unchanged raises `BadRowsError` naming the column, it is never adapted. A result that breaks off raises.

The driver's own loop costs 18 microseconds for a row of 16 columns. Here a row costs one step of a Python loop, which
finds where it begins; the rest is done for thousands of rows at a time. Source of the format: MySQL source code
documentation, Client/Server Protocol, Text Resultset and Protocol Basics.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from synqx_dagster.connectors.mysql_values import to_array

if TYPE_CHECKING:
    import pyarrow as pa

#: What is taken apart at a time; the tables of positions that it needs weigh about as much again for each column.
PART_BYTES = 2 * 1024 * 1024

_READ_BYTES = 256 * 1024

#: From this mean length on each value is copied by itself: a table of positions weighs twenty times as much as they do.
_WIDE_BYTES = 256

#: A payload of this length goes on in the next packet.
_FULL_PACKET = 0xFFFFFF
_HEADER_BYTES = 4
_EOF, _ERROR = 0xFE, 0xFF
#: First byte of a value: its length if below, else NULL or how many bytes tell the length.
_NULL = 0xFB
_LENGTH_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}
_header = struct.Struct("<I").unpack_from


class TextRows:
    """The rows of a query that a pymysql connection has sent unbuffered and not yet read.

    Args:
        connection: Its `_rfile` stands at the first row.
        result: What the driver knows of the result; told when it is over, so that the connection can be used again.
    """

    def __init__(self, connection: Any, result: Any) -> None:
        self._connection = connection
        self._result = result
        self._pending = bytearray()
        self.is_over = False

    def iter_batches(self, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of exactly `schema`, of up to so many rows and about `PART_BYTES`.

        Raises:
            BadRowsError: A value is not of its column's type.
            pymysql.Error: The server ended the query, or the connection is lost.
        """
        starts: list[int] = []
        at = 0
        while not self.is_over:
            data = self._pending
            known = len(starts)
            at, is_long = _find_packets(data, at, starts)
            if len(starts) == known and not is_long:
                self._receive()
                continue
            after = at + _HEADER_BYTES
            if len(starts) > known and self._is_last(starts[-1], at):
                after = starts.pop()
                self._finish(bytes(data[after:at]))
            if starts and (self.is_over or is_long or at >= PART_BYTES or len(starts) >= batch_rows):
                rows = bytes(memoryview(data)[:at])
                starts.append(after)
                for first in range(0, len(starts) - 1, batch_rows):
                    yield _take_apart(rows, starts[first : first + batch_rows + 1], schema)
                del self._pending[:at]
                starts, at = [], 0
            if is_long:
                yield self._read_long_row(schema)

    def _is_last(self, start: int, end: int) -> bool:
        # Both end the result, so only the newest packet can be one.
        first = self._pending[start] if end > start else _EOF
        return first == _ERROR or (first == _EOF and end - start < 9)

    def _finish(self, payload: bytes) -> None:
        """End the result as the driver would."""
        from pymysql.protocol import EOFPacketWrapper, MysqlPacket

        self.is_over = True
        result = self._result
        result.unbuffered_active = False
        result.connection = None
        packet = MysqlPacket(payload, "utf8mb4")
        packet.check_error()
        end = EOFPacketWrapper(packet)
        result.warning_count, result.has_next = end.warning_count, end.has_next

    def _receive(self) -> None:
        """Append what the server sends next; waits for some."""
        from pymysql.constants import CR
        from pymysql.err import OperationalError

        try:
            chunk = self._connection._rfile.read1(_READ_BYTES)
        except OSError as error:
            self._connection._force_close()
            raise OperationalError(
                CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({error})"
            ) from error
        if not chunk:
            self._connection._force_close()
            raise OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server during query")
        self._pending += chunk

    def _read_long_row(self, schema: pa.Schema) -> pa.RecordBatch:
        """One row of 16 MiB or more, whose packets begin what is pending."""
        payload = bytearray()
        size = _FULL_PACKET
        while size == _FULL_PACKET:
            while len(self._pending) < _HEADER_BYTES:
                self._receive()
            size = _header(self._pending)[0] & _FULL_PACKET
            while len(self._pending) < _HEADER_BYTES + size:
                self._receive()
            payload += memoryview(self._pending)[_HEADER_BYTES : _HEADER_BYTES + size]
            del self._pending[: _HEADER_BYTES + size]
        return _take_apart(bytes(payload), [0, len(payload) + _HEADER_BYTES], schema)


def _find_packets(data: bytearray, at: int, starts: list[int]) -> tuple[int, bool]:
    """Note where the payloads of all whole packets from `at` on begin.

    Returns where the first packet begins that is not whole, and whether it is the first part of a long one.
    """
    end = len(data)
    while at + _HEADER_BYTES <= end:
        size = _header(data, at)[0] & _FULL_PACKET
        following = at + _HEADER_BYTES + size
        if size == _FULL_PACKET:
            return at, True
        if following > end:
            break
        starts.append(at + _HEADER_BYTES)
        at = following
    return at, False


def _take_apart(data: bytes, starts: list[int], schema: pa.Schema) -> pa.RecordBatch:
    """Rows whose payloads begin at all but the last of `starts`, with a header between one and the next."""
    import pyarrow as pa

    octets = np.frombuffer(data, dtype=np.uint8)
    bounds = np.array(starts, dtype=np.int64)
    position = bounds[:-1]
    columns = []
    try:
        for field in schema:
            position, length, is_null = _find_values(octets, position)
            columns.append(to_array(_gather(octets, position, length, is_null), field))
            position = position + length
    except IndexError:
        raise _malformed() from None
    if not np.array_equal(position, bounds[1:] - _HEADER_BYTES):
        raise _malformed()
    return pa.record_batch(columns, schema=schema)


def _malformed() -> Exception:
    from pymysql.err import InternalError

    return InternalError("the server sent a row that is not in the text protocol's format")


def _find_values(octets: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of one value in each row: where it begins behind its length, how long it is, and whether it is NULL.

    None instead of the last means that no value is NULL.
    """
    first = octets[position]
    length = first.astype(np.int64)
    start = position + 1
    special = first >= _NULL
    if not special.any():
        return start, length, None
    for marker, count in _LENGTH_BYTES.items():
        rows = np.flatnonzero(first == marker)
        if len(rows):
            digits = octets[start[rows][:, None] + np.arange(count)].astype(np.int64)
            length[rows] = (digits << (8 * np.arange(count))).sum(axis=1)
            if length[rows].min() < 0 or length[rows].max() > len(octets):
                raise _malformed()
            start[rows] += count
    is_null = first == _NULL
    length[is_null] = 0
    return start, length, is_null if is_null.any() else None


def _gather(octets: np.ndarray, start: np.ndarray, length: np.ndarray, is_null: np.ndarray | None) -> pa.Array:
    """Values of one column, brought together as a binary array."""
    import pyarrow as pa

    count = len(start)
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(length, out=offsets[1:])
    total = int(offsets[-1])
    if total > count * _WIDE_BYTES:
        ends = np.minimum(start + length, len(octets))
        values = np.concatenate([octets[first:end] for first, end in zip(start.tolist(), ends.tolist(), strict=True)])
        if len(values) != total:
            raise _malformed()
    elif count and total == count * int(length[0]) and (length == length[0]).all():
        # Dates, flags, keys of one width: a table of positions without repetition.
        values = octets[start[:, None] + np.arange(int(length[0]))]
    else:
        values = octets[np.repeat(start - offsets[:-1], length) + np.arange(total)]
    validity = None if is_null is None else pa.py_buffer(np.packbits(~is_null, bitorder="little").tobytes())
    return pa.Array.from_buffers(
        pa.large_binary(), count, [validity, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values))]
    )
