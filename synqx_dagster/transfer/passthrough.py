"""The passthrough lane: PostgreSQL's binary COPY from one server to another, without looking at the rows.

Bytes flow from ``COPY ... TO STDOUT`` through an operating system pipe into ``COPY ... FROM STDIN``; the two ends run
in two threads, and Python touches each megabyte once. Guarantee: what the source's server sent is what the target's
server parsed; a stream that was cut short is never taken for a short table.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from synqx_dagster.connectors.protocol import CopyReadSession, CopyWriteSession, wait_for
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import Column, TableName

#: Size of the pipe and of the buffers at its ends. A pipe of the default 64 KiB makes the two ends take turns.
PIPE_BYTES = 1024 * 1024

#: How long the source may take to notice that nobody reads any more, before it is cancelled (again).
PATIENCE_SECONDS = 0.5

#: ``fcntl.F_SETPIPE_SZ``; Linux only. Source: fcntl(2).
_F_SETPIPE_SZ = 1031

#: A COPY in binary format ends with a tuple of -1 fields. Source: PostgreSQL manual, COPY, File Formats.
COPY_TRAILER = b"\xff\xff"


@dataclass(frozen=True)
class Copied:
    """What one COPY moved. ``checksum`` is the CRC-32 of the stream, as eight hex digits.

    ``rows`` is what the target's server took, and equals what the source's server says it has sent.
    """

    rows: int
    bytes: int
    checksum: str


def copy_table(
    read: CopyReadSession,
    write: CopyWriteSession,
    sql: str,
    table: TableName,
    columns: Sequence[Column],
    on_bytes: Callable[[int], None],
) -> Copied:
    """Copy a query's rows into a table; returns when both servers have confirmed.

    Args:
        sql: The query; its columns have exactly the types of `columns`, in order.
        on_bytes: Told how many bytes have just gone over, about once a megabyte.

    Raises:
        SynqxError: Either end failed; the target's transaction must be rolled back.
    """
    read_end, write_end = os.pipe()
    _widen(write_end)
    producer = _Producer(read, sql, write_end)
    with os.fdopen(read_end, "rb", buffering=0) as raw:
        meter = _Meter(raw, on_bytes)
        producer.start()
        try:
            rows = write.copy_in(table, columns, cast(BinaryIO, io.BufferedReader(meter, PIPE_BYTES)))
            producer.ended.wait()
        except BaseException as error:
            # Closing our end makes the producer's next write fail; one that waits for its server is cancelled.
            raw.close()
            cancelled = threading.Event()

            def cancel() -> None:
                cancelled.set()
                read.cancel()

            wait_for(producer.ended, cancel, every_seconds=PATIENCE_SECONDS)
            if cancelled.is_set():
                raise
            if producer.error is not None and not isinstance(producer.error, BrokenPipeError):
                root = _cause(producer.error, error)
                if root is not error:
                    raise root from error
            raise
        finally:
            if producer.ended.is_set():
                producer.join()
    if producer.error is not None:
        raise producer.error
    if meter.tail[-2:] != COPY_TRAILER:
        # The server takes an end between two rows for the end of the data; the trailer tells the difference.
        raise FatalError("the source's COPY stream ended without its trailer", table=str(table))
    if producer.rows != rows:
        raise FatalError(f"{table}: the source sent {producer.rows:,} rows, the target took {rows:,}", table=str(table))
    return Copied(rows, meter.bytes, f"{meter.crc:08x}")


def _cause(producer_error: BaseException, consumer_error: BaseException) -> BaseException:
    """Which of two errors came first: a producer that broke off makes the consumer fail, and the reverse."""
    chain: BaseException | None = producer_error
    while chain is not None:
        if isinstance(chain, BrokenPipeError):
            return consumer_error
        chain = chain.__cause__ or chain.__context__
    return producer_error


class _Producer(threading.Thread):
    """Runs the source's COPY into the pipe; keeps its error for the other thread."""

    def __init__(self, read: CopyReadSession, sql: str, write_end: int) -> None:
        super().__init__(name="synqx-copy-out", daemon=True)
        self._read = read
        self._sql = sql
        self._write_end = write_end
        self.error: BaseException | None = None
        self.rows = 0
        self.ended = threading.Event()

    def run(self) -> None:
        sink = os.fdopen(self._write_end, "wb", buffering=PIPE_BYTES)
        try:
            self.rows = self._read.copy_out(self._sql, sink)
            sink.flush()
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self.error = error
        finally:
            # After a broken pipe the buffer cannot be flushed, and close() would raise for it.
            with contextlib.suppress(BrokenPipeError):
                sink.close()
            self.ended.set()


class _Meter(io.RawIOBase):
    """Counts and checksums what is read through it, and keeps the last bytes."""

    def __init__(self, raw: io.RawIOBase, on_bytes: Callable[[int], None]) -> None:
        super().__init__()
        self._raw = raw
        self._on_bytes = on_bytes
        self.bytes = 0
        self.crc = 0
        self.tail = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        count = self._raw.readinto(buffer) or 0
        if count:
            chunk = memoryview(buffer)[:count]
            self.bytes += count
            self.crc = zlib.crc32(chunk, self.crc)
            self.tail = (self.tail + bytes(chunk[-2:]))[-2:]
            self._on_bytes(count)
        return count


def _widen(descriptor: int) -> None:
    if sys.platform != "linux":
        return
    import fcntl

    # Beyond /proc/sys/fs/pipe-max-size an unprivileged process is refused; the default size works, slower.
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_BYTES)
