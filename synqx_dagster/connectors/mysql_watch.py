"""MySQL connections whose calls end when the server will never answer, and not while it works.

Imports pymysql, so it is itself imported where a connection is opened. The driver is Python: the thread that waits
looks after itself, at the socket, between two packets of the network. See `synqx_dagster.connectors.silence` for what
is asked of the server.
"""

from __future__ import annotations

import contextlib
import io
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.constants import CR

from synqx_dagster.connectors.silence import Verdict
from synqx_dagster.errors import RetryableError, SynqxError

#: A result arrives in packets of the network; the driver's own 8 KiB take eight times as many calls.
_BUFFER_BYTES = 64 * 1024

#: What the thread of a session is doing when it waits for its client. MySQL's and MariaDB's words.
_WAITS_FOR_US = ("writing to net", "reading from net", "sending to client", "receiving from client")


@dataclass(frozen=True)
class Thread:
    """One session as its server knows it; another server behind the same name has another host name or port."""

    number: int
    server: tuple[object, ...]
    is_pooled: bool


@dataclass(frozen=True)
class TimeLimits:
    """Seconds, 0 for no limit.

    Attributes:
        silence: Nothing may move for so long before the server is asked whether it works.
        read: An answer may take so long, whatever the server does.
        write: A packet may take so long to be sent.
    """

    silence: float
    read: float
    write: float


def identify(connection: Any) -> Thread:
    """The thread that serves a connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID(), @@hostname, @@port")
        number, *server = cursor.fetchone()
    return Thread(int(number), tuple(server), int(number) != connection.thread_id())


def ask(open_connection: Callable[[], Any], thread: Thread) -> Verdict:
    """What became of a session, asked on another connection, which is bounded in time; ends one that is lost."""
    try:
        connection = open_connection()
    except RetryableError as error:
        # A server that refuses is there; what it does for our session it does not say.
        reason = error.context.get("reason")
        return "unreachable" if reason in ("timeout", "refused", "tunnel", "name_resolution") else "unknown"
    except SynqxError:
        return "unknown"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@hostname, @@port")
            server = tuple(cursor.fetchone())
            cursor.execute("SHOW PROCESSLIST")
            found = {int(row[0]): row for row in cursor.fetchall()}.get(thread.number)
            return _judge(found, thread, server)
    except pymysql.err.Error:
        return "unreachable"
    finally:
        connection.close()


def terminate(open_connection: Callable[[], Any], thread: Thread) -> None:
    """End a session that was given up: its server waits for us for long, and with it whoever waits for its locks."""
    if thread.is_pooled:
        return
    with (
        contextlib.suppress(SynqxError, pymysql.err.Error),
        contextlib.closing(open_connection()) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT @@hostname, @@port")
        if tuple(cursor.fetchone()) == thread.server:
            cursor.execute(f"KILL {thread.number}")


def _judge(found: tuple[Any, ...] | None, thread: Thread, server: tuple[object, ...]) -> Verdict:
    if thread.is_pooled or server != thread.server:
        return "unknown"
    if found is None:
        return "lost"
    command, state = str(found[4]).lower(), str(found[6] or "").lower()
    return "lost" if command == "sleep" or state.startswith(_WAITS_FOR_US) else "working"


class WatchedMysqlConnection(pymysql.connections.Connection):  # type: ignore[type-arg, misc, unused-ignore]
    """A pymysql connection that asks after its server once `start_watch` was called."""

    # Of the driver, and not in its stubs.
    _sock: Any
    _rfile: Any
    _read_timeout: float | None
    _write_timeout: float | None
    _current_timeout: float | None
    _force_close: Callable[[], None]

    _limits: TimeLimits | None = None

    def start_watch(self, limits: TimeLimits, question: Callable[[], Verdict], on_lost: Callable[[], None]) -> None:
        """Watch all calls from now on; nothing may be on its way. For the callables see `silence.Watch`."""
        self._limits = limits
        self.question = question
        self.on_lost = on_lost
        wake_after = [seconds for seconds in (limits.silence, limits.read, limits.write) if seconds > 0]
        self._read_timeout = self._write_timeout = self._current_timeout = min(wake_after, default=None)
        self._sock.settimeout(self._read_timeout)
        self._rfile = io.BufferedReader(_Incoming(self), _BUFFER_BYTES)

    def fileno(self) -> int:
        """The socket's descriptor."""
        descriptor: int = self._sock.fileno()
        return descriptor

    def receive_into(self, buffer: memoryview) -> int:
        """The next bytes from the server; 0 when it has closed the connection."""
        patience = _Patience(self, self._limits.read if self._limits is not None else 0, select.POLLIN)
        while True:
            try:
                count: int = self._sock.recv_into(buffer)
                return count
            except TimeoutError:
                patience.go_on()

    def _write_bytes(self, data: bytes) -> None:
        # sendall() does not tell how far it came, and counts its limit over all of the data.
        if self._limits is None:
            super()._write_bytes(data)  # type: ignore[misc, unused-ignore]  # not in the stubs
            return
        rest = memoryview(data)
        patience = _Patience(self, self._limits.write, select.POLLOUT)
        try:
            while rest:
                try:
                    rest = rest[self._sock.send(rest) :]
                    patience.restart()
                except TimeoutError:
                    patience.go_on()
        except OSError as error:
            self._force_close()
            raise pymysql.err.OperationalError(
                CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({error})"
            ) from error


class _Patience:
    """Of one wait: how long it has lasted, and whether it is worth going on."""

    def __init__(self, connection: WatchedMysqlConnection, limit_seconds: float, event: int) -> None:
        self._connection = connection
        self._event = event
        self._limit_seconds = limit_seconds
        self._start = self._asked = time.monotonic()
        self._times_unreachable = 0

    def restart(self) -> None:
        """Something has moved."""
        self._asked = time.monotonic()
        self._times_unreachable = 0

    def go_on(self) -> None:
        """Ask the server if it is time to.

        Raises:
            TimeoutError: Nothing is going to come.
        """
        limits = self._connection._limits
        assert limits is not None
        now = time.monotonic()
        if 0 < self._limit_seconds <= now - self._start:
            raise TimeoutError(f"no answer within {self._limit_seconds:g} s")
        # The system wakes us a moment early.
        if limits.silence <= 0 or now - self._asked < limits.silence * 0.9:
            return
        verdict = self._connection.question()
        self._times_unreachable = self._times_unreachable + 1 if verdict == "unreachable" else 0
        # One failed question may be a busy server, and the answer may have been on its way while we asked.
        if (verdict == "lost" or self._times_unreachable > 1) and not self._is_ready(min(0.5, limits.silence / 4)):
            self._connection.on_lost()
            raise TimeoutError(f"the server was silent for {now - self._asked:.3g} s, and the session is lost")
        if verdict != "unreachable":
            self._asked = time.monotonic()

    def _is_ready(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self._connection.fileno(), self._event)
        return bool(poller.poll(seconds * 1000))


class _Incoming(io.RawIOBase):
    """What the server sends, as a file."""

    def __init__(self, connection: WatchedMysqlConnection) -> None:
        super().__init__()
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.receive_into(memoryview(buffer))
