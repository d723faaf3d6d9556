"""Reads and answers a replication stream on a connection that psycopg2 has opened, by libpq's own functions.

Guarantee: the server is told of no position but those given to `CopyBoth.report`.

psycopg2's own ``read_message`` answers keepalives by itself, and then moves the position that counts as stored to the
server's own whenever the last message read began before what was confirmed. That of a table's description begins at
0, and those of a long transaction before the transactions that committed meanwhile: who has read further than he has
stored would lose what lies between. See docs/decisions/replication-stream.md.
"""

from __future__ import annotations

import ctypes
import struct
import time
from functools import cache
from typing import Any

#: A message of the server: kind, and for data where it begins, the end of the log and the sender's clock.
_DATA = ord("w")
_KEEPALIVE = ord("k")
_DATA_HEADER_BYTES = 25
_SENT_AT = struct.Struct(">q")
_KEEPALIVE_BODY = struct.Struct(">QqB")

#: A message to the server: written, flushed and applied positions, our clock, whether it shall answer at once.
_REPORT = struct.Struct(">cQQQqB")

#: PostgreSQL's clock counts microseconds from 2000-01-01.
EPOCH_SECONDS = 946_684_800

#: What is taken from libpq's buffer before the caller gets its turn.
_BATCH_MESSAGES = 5000
_BATCH_BYTES = 1024 * 1024

#: Fields of an error report. Source: src/include/postgres_ext.h.
_SQLSTATE_FIELD = ord("C")
_PRIMARY_FIELD = ord("M")
_DETAIL_FIELD = ord("D")


class StreamEndedError(Exception):
    """The server or the network ended the stream; what the server said of it."""

    def __init__(self, message: str, *, sqlstate: str | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.detail = detail


@cache
def _libraries() -> tuple[Any, Any]:
    """libpq as psycopg2 is linked with it: once holding the interpreter's lock in calls, once letting it go.

    A name is looked up in a library and in what it was linked with, so no second libpq can be met.
    """
    from psycopg2 import _psycopg

    holding, releasing = ctypes.PyDLL(_psycopg.__file__), ctypes.CDLL(_psycopg.__file__)
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "PQfreemem": (None, [pointer]),
        "PQconsumeInput": (ctypes.c_int, [pointer]),
        "PQsetnonblocking": (ctypes.c_int, [pointer, ctypes.c_int]),
        "PQputCopyData": (ctypes.c_int, [pointer, text, ctypes.c_int]),
        "PQflush": (ctypes.c_int, [pointer]),
        "PQgetResult": (pointer, [pointer]),
        "PQresultErrorField": (text, [pointer, ctypes.c_int]),
        "PQclear": (None, [pointer]),
        "PQerrorMessage": (text, [pointer]),
    }
    for library in (holding, releasing):
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return holding, releasing


class CopyBoth:
    """The stream of a connection on which ``START_REPLICATION`` has succeeded; for one thread at a time."""

    def __init__(self, connection: Any) -> None:
        # What is called for each message holds the interpreter's lock: to let it go would be to wait for it again.
        self._lib, self._blocking = _libraries()
        self._pointer = ctypes.c_void_p(connection.pgconn_ptr)
        self._buffer = ctypes.c_void_p()
        # Without declared arguments a call takes half as long, and is given what it must be given.
        self._get = self._lib.PQgetCopyData
        #: The server's position, as its last keepalive said; see `ReplicationSession.wal_end`.
        self.wal_end = 0
        #: The server's clock minus ours, in seconds.
        self.clock_difference = 0.0
        #: How many keepalives have come.
        self.keepalives = 0
        #: Whether a keepalive asked for an answer that was not given yet.
        self.must_report = False
        self._must_flush = False
        self._ended: StreamEndedError | None = None
        if self._lib.PQsetnonblocking(self._pointer, 1) != 0:
            raise self._failure()

    def take(self) -> list[bytes]:
        """What has come and was not taken yet; does not wait.

        Raises:
            StreamEndedError: The stream has ended.
        """
        if self._ended is not None:
            raise self._ended
        payloads = self._take_buffered()
        if not payloads:
            if not self._lib.PQconsumeInput(self._pointer):
                raise self._failure()
            payloads = self._take_buffered()
        return payloads

    def _take_buffered(self) -> list[bytes]:
        get, free, string_at = self._get, self._lib.PQfreemem, ctypes.string_at
        pointer, buffer = self._pointer, self._buffer
        reference = ctypes.byref(buffer)
        payloads: list[bytes] = []
        append = payloads.append
        last = b""
        total_bytes = 0
        while total_bytes < _BATCH_BYTES and len(payloads) < _BATCH_MESSAGES:
            length = get(pointer, reference, 1)
            if length <= 0:
                if length < 0:
                    self._ended = self._end(length)
                    if not payloads:
                        raise self._ended
                break
            message = string_at(buffer, length)
            free(buffer)
            if message[0] == _DATA and length > _DATA_HEADER_BYTES:
                append(message[_DATA_HEADER_BYTES:])
                total_bytes += length
                last = message
            elif message[0] == _KEEPALIVE and length >= 1 + _KEEPALIVE_BODY.size:
                position, sent_at, wants_answer = _KEEPALIVE_BODY.unpack_from(message, 1)
                self.keepalives += 1
                self.wal_end = max(self.wal_end, position)
                self.must_report = self.must_report or bool(wants_answer)
                self._set_clock(sent_at)
            else:
                raise StreamEndedError("the server sent a message of an unknown kind")
        if last:
            self._set_clock(_SENT_AT.unpack_from(last, 17)[0])
        return payloads

    def _set_clock(self, sent_at: int) -> None:
        self.clock_difference = sent_at / 1e6 + EPOCH_SECONDS - time.time()

    def report(self, stored_lsn: int, *, wants_answer: bool = False) -> None:
        """Tell the server what is stored; does not wait.

        Raises:
            StreamEndedError: The connection is lost.
        """
        self.must_report = False
        now = int((time.time() - EPOCH_SECONDS) * 1e6)
        message = _REPORT.pack(b"r", stored_lsn, stored_lsn, stored_lsn, now, int(wants_answer))
        # 0 says that the system takes nothing now. Then nothing is lost: the next report says as much and more.
        if self._blocking.PQputCopyData(self._pointer, message, len(message)) < 0:
            raise self._failure()
        self._must_flush = True
        self.flush()

    def flush(self) -> None:
        """Send what the system did not take before."""
        if self._must_flush:
            state = self._blocking.PQflush(self._pointer)
            if state < 0:
                raise self._failure()
            self._must_flush = state != 0

    def _end(self, length: int) -> StreamEndedError:
        if length != -1:
            return self._failure()
        result = self._blocking.PQgetResult(self._pointer)
        if not result:
            return StreamEndedError("the server ended the stream")
        try:
            return StreamEndedError(
                self._field(result, _PRIMARY_FIELD) or "the server ended the stream",
                sqlstate=self._field(result, _SQLSTATE_FIELD) or None,
                detail=self._field(result, _DETAIL_FIELD),
            )
        finally:
            self._lib.PQclear(result)

    def _field(self, result: int, field: int) -> str:
        value: bytes | None = self._lib.PQresultErrorField(result, field)
        return (value or b"").decode("utf-8", "replace")

    def _failure(self) -> StreamEndedError:
        text: bytes = self._lib.PQerrorMessage(self._pointer) or b""
        return StreamEndedError(text.decode("utf-8", "replace").strip() or "the connection was lost")
