"""Record batches as the CSV that PostgreSQL's COPY reads, streamed through a thread.

CSV and not binary COPY, because carriers are text for most types and the server reads text into whatever type
the column has. Guarantee: NULL, the empty string, every byte and every bit of a float arrive as they were; memory is
bounded by a few batches.
"""

from __future__ import annotations

import io
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.protocol import carrier_type, wait_for
from synqx_dagster.errors import BadRowsError, FatalError
from synqx_dagster.model.table import Column

if TYPE_CHECKING:
    import pyarrow as pa

#: Encoded batches that wait for the server; one is being sent while one is being made.
_WAITING = 2

#: A batch is encoded in parts of about this size. Measured: parts of 8 MiB are no faster, and take 18 MB more, some of
#: it in libpq, whose buffer grows to the size of a part.
_PART_BYTES = 1024 * 1024

#: How long a COPY may take to notice that its rows have ended early, before it is cancelled (again).
_PATIENCE_SECONDS = 0.5

_NUL = re.compile(rb"\x00")


def encode_batch(batch: pa.RecordBatch, columns: Sequence[Column], table: str) -> bytes:
    """One batch as lines of CSV.

    pyarrow quotes every text and no NULL, which is how COPY tells them apart, and prints floats with as many digits
    as it takes to read them back.

    Raises:
        BadRowsError: A text holds a NUL character, which PostgreSQL's text cannot.
    """
    import pyarrow as pa
    import pyarrow.csv

    arrays = []
    for column, array in zip(columns, batch.columns, strict=True):
        wanted = carrier_type(column.data_type)
        carrier = array if array.type == wanted else array.cast(wanted)
        if pa.types.is_binary(wanted):
            carrier = _as_hex(carrier)
        elif pa.types.is_string(wanted) and _holds_nul(carrier):
            raise BadRowsError(
                f"{table}, column {column.name!r}: text holds a NUL character, which PostgreSQL cannot store",
                hint="remove it with an expression, or quarantine the rows",
                table=table,
                column=column.name,
            )
        arrays.append(carrier)
    sink = io.BytesIO()
    pa.csv.write_csv(
        pa.RecordBatch.from_arrays(arrays, names=[str(position) for position in range(len(arrays))]),
        sink,
        pa.csv.WriteOptions(include_header=False, quoting_style="needed"),
    )
    return sink.getvalue()


def _data_bytes(array: pa.Array) -> tuple[int, memoryview]:
    """Where a string or binary array's values begin in their buffer, and the values as one run of bytes."""
    _, offsets, data = array.buffers()
    if len(array) == 0 or data is None:
        return 0, memoryview(b"")
    bounds = memoryview(offsets).cast("i")
    first, last = bounds[array.offset], bounds[array.offset + len(array)]
    return first, memoryview(data)[first:last]


def _holds_nul(array: pa.Array) -> bool:
    return _NUL.search(_data_bytes(array)[1]) is not None


def _as_hex(array: pa.Array) -> pa.Array:
    """Bytes as ``\\x`` and hex digits, by doubling the offsets into the buffer instead of visiting each value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first, data = _data_bytes(array)
    offsets = pa.Array.from_buffers(pa.int32(), len(array) + 1, [None, array.buffers()[1]], offset=array.offset)
    doubled = pc.multiply(pc.subtract(offsets.cast(pa.int64()), first), 2)
    digits = pa.LargeStringArray.from_buffers(
        len(array), doubled.buffers()[1], pa.py_buffer(data.hex().encode("ascii"))
    )
    texts = pc.binary_join_element_wise(pa.scalar("\\x", pa.large_string()), digits, pa.scalar("", pa.large_string()))
    return pc.if_else(array.is_valid(), texts, pa.scalar(None, pa.large_string()))


class _Channel:
    """Chunks on their way from one thread to another; either end may break it off."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._broken = False
        self._failure: BaseException | None = None

    def put(self, chunk: bytes) -> bool:
        """Hand over a chunk, waiting for room; False when nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < _WAITING or self._broken)
            self._chunks.append(chunk)
            self._changed.notify_all()
            return not self._broken

    def end(self, failure: BaseException | None = None) -> None:
        """No more chunks; with a failure, the reader's next read raises."""
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def read(self, _size: int = -1) -> bytes:
        """The next chunk whole, whatever its size, as psycopg2 allows; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._ended)
            if self._failure is not None:
                # psycopg2 then tells the server that the COPY failed.
                raise FatalError("the rows ended early")
            chunk = self._chunks.popleft() if self._chunks else b""
            self._changed.notify_all()
            return chunk


def stream_batches(
    batches: Iterable[pa.RecordBatch],
    columns: Sequence[Column],
    table: str,
    copy: Callable[[Any], None],
    cancel: Callable[[], None],
) -> tuple[int, int]:
    """Feed batches to a COPY that runs in a thread of its own; returns rows and bytes sent.

    The batches are pulled by the calling thread: what makes them may be bound to it (sqlite3's connections are).

    Args:
        copy: Runs the COPY to its end, reading from the file-like object that it is given.
        cancel: Has the COPY fail that waits for its server.

    Raises:
        BaseException: What `batches` or `copy` raised, whichever came first.
    """
    channel = _Channel()
    failures: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            copy(channel)
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            failures.append(error)
        finally:
            channel.abandon()
            ended.set()

    thread = threading.Thread(target=run, name="synqx-copy-in", daemon=True)
    thread.start()
    rows = size_bytes = 0
    try:
        for batch in batches:
            for part in _parts(batch):
                chunk = encode_batch(part, columns, table)
                if not channel.put(chunk):
                    break
                rows += part.num_rows
                size_bytes += len(chunk)
            else:
                continue
            break
        channel.end()
        ended.wait()
    except BaseException as error:
        channel.end(error)
        wait_for(ended, cancel, every_seconds=_PATIENCE_SECONDS)
        raise
    finally:
        if ended.is_set():
            thread.join()
    if failures:
        raise failures[0]
    return rows, size_bytes


def _parts(batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
    count = max(1, -(-batch.nbytes // _PART_BYTES))
    step = max(1, -(-batch.num_rows // count))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)
