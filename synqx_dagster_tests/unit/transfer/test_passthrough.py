"""The pipe between two COPYs: whole streams pass, broken ones never look whole."""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import pytest

from synqx_dagster.errors import DatabaseError, FatalError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.transfer.passthrough import COPY_TRAILER, Copied, copy_table

TABLE = TableName("t")
ROWS = 7


class Source:
    """Sends what it is given, then fails if asked to."""

    def __init__(self, chunks: Sequence[bytes], error: Exception | None = None, rows: int = ROWS) -> None:
        self.chunks = chunks
        self.error = error
        self.rows = rows

    def copy_out(self, sql: str, sink: BinaryIO) -> int:
        for chunk in self.chunks:
            sink.write(chunk)
        if self.error is not None:
            raise self.error
        return self.rows

    def cancel(self) -> None:
        raise AssertionError("the source was not waiting")


class WaitingSource(Source):
    """Sends a little, then waits until it is cancelled."""

    def __init__(self) -> None:
        super().__init__([b"x" * 1_500_000])
        self.cancelled = threading.Event()

    def copy_out(self, sql: str, sink: BinaryIO) -> int:
        super().copy_out(sql, sink)
        assert self.cancelled.wait(timeout=30)
        raise DatabaseError("canceling statement due to user request")

    def cancel(self) -> None:
        self.cancelled.set()


class Target:
    """Takes everything, or fails after some bytes."""

    def __init__(self, fail_after_bytes: int | None = None, error: BaseException | None = None) -> None:
        self.received = b""
        self.fail_after_bytes = fail_after_bytes
        self.error = error

    def copy_in(self, table: TableName, columns: Sequence[Column], source: BinaryIO) -> int:
        while chunk := source.read(8192):
            self.received += chunk
            if self.fail_after_bytes is not None and len(self.received) >= self.fail_after_bytes:
                assert self.error is not None
                raise self.error
        return ROWS


def copy(source: Source, target: Target, on_bytes: Callable[[int], None] = lambda count: None) -> Copied:
    return copy_table(source, target, "SELECT 1", TABLE, (), on_bytes)


def test_a_whole_stream_arrives_byte_for_byte() -> None:
    data = bytes(range(256)) * 40_000 + COPY_TRAILER
    chunks = [data[at : at + 100_003] for at in range(0, len(data), 100_003)]
    counts: list[int] = []
    target = Target()
    copied = copy(Source(chunks), target, counts.append)
    assert target.received == data
    assert copied == Copied(ROWS, len(data), f"{zlib.crc32(data):08x}")
    assert sum(counts) == len(data)


def test_a_stream_without_its_trailer_is_refused() -> None:
    with pytest.raises(FatalError, match="without its trailer"):
        copy(Source([b"PGCOPY\n\xff\r\n\x00 rows"]), Target())


def test_a_target_that_took_fewer_rows_than_were_sent_is_refused() -> None:
    with pytest.raises(FatalError, match="the source sent 8 rows, the target took 7"):
        copy(Source([b"rows", COPY_TRAILER], rows=ROWS + 1), Target())


def test_the_source_failing_in_mid_stream_is_the_error_that_is_raised() -> None:
    error = RetryableError("the source went away")
    with pytest.raises(RetryableError, match="the source went away"):
        copy(Source([b"x" * 3_000_000], error), Target())


def test_the_source_failing_is_raised_even_when_the_stream_looks_whole() -> None:
    with pytest.raises(RetryableError):
        copy(Source([b"row", COPY_TRAILER], RetryableError("no end of command")), Target())


def test_the_target_failing_in_mid_stream_is_the_error_that_is_raised() -> None:
    endless = [b"x" * 1_000_000] * 20
    with pytest.raises(DatabaseError, match="disk full"):
        copy(Source(endless), Target(5_000_000, DatabaseError("disk full")))


def test_a_source_that_waits_for_its_server_is_cancelled_when_the_target_fails() -> None:
    source = WaitingSource()
    with pytest.raises(KeyboardInterrupt):
        copy(source, Target(1, KeyboardInterrupt()))
    assert source.cancelled.is_set()
    assert "synqx-copy-out" not in [thread.name for thread in threading.enumerate()]


def test_no_thread_is_left_behind() -> None:
    with pytest.raises(DatabaseError):
        copy(Source([b"x" * 1_000_000] * 20), Target(1, DatabaseError("refused")))
    assert "synqx-copy-out" not in [thread.name for thread in threading.enumerate()]


class InterruptedSource(Source):
    """Sends everything; while it waits for its server's last word, somebody presses Ctrl-C twice."""

    def __init__(self) -> None:
        super().__init__([b"rows", COPY_TRAILER])
        self.cancelled = threading.Event()
        self.ended = False

    def copy_out(self, sql: str, sink: BinaryIO) -> int:
        rows = super().copy_out(sql, sink)
        sink.close()
        for _ in range(2):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)
        assert self.cancelled.wait(timeout=30)
        self.ended = True
        return rows

    def cancel(self) -> None:
        self.cancelled.set()


def test_who_interrupts_the_end_of_a_copy_waits_for_its_source() -> None:
    source = InterruptedSource()
    with pytest.raises(KeyboardInterrupt):
        copy(source, Target())
    assert source.ended
