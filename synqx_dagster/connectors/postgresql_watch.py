"""PostgreSQL connections whose calls end when the server will never answer.

Imports psycopg2, so it is itself imported where a connection is opened. See `synqx_dagster.connectors.silence`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import connection as psycopg2_connection
from psycopg2.extensions import cursor as psycopg2_cursor

from synqx_dagster.connectors.network import USER_TIMEOUT_MILLISECONDS
from synqx_dagster.connectors.postgresql_timed import TimedConnection
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.connectors.silence import PausingReader, Verdict, Watch
from synqx_dagster.errors import RetryableError, SynqxError

#: A query for the columns of `Backend`, for the end of a SELECT. Times as numbers: their text depends on the session.
BACKEND_COLUMNS = (
    "pg_catalog.pg_backend_pid(),"
    " (select extract(epoch from backend_start)::text"
    " from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())),"
    " pg_catalog.inet_server_addr()::text, pg_catalog.inet_server_port(),"
    " extract(epoch from pg_catalog.pg_postmaster_start_time())::text"
)
BACKEND_COLUMN_COUNT = 5

_TERMINATE = (
    "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity"
    " where pid = %s and extract(epoch from backend_start)::text = %s"
)


class SilenceError(psycopg2.OperationalError):
    """The server did not answer any more."""


@dataclass(frozen=True)
class Backend:
    """One session as its server knows it.

    Attributes:
        pid: Of the server's process.
        started: When it was, as the server tells it: numbers of processes come again.
        server: Address, port and start of the server, so that another one behind the same name is not taken for it.
        is_pooled: A pooler stands in between: which process serves us changes, so it cannot be asked about.
    """

    pid: int
    started: str
    server: tuple[object, ...]
    is_pooled: bool


def identify(row: tuple[Any, ...], announced_pid: int | None) -> Backend:
    """The backend of a session.

    Args:
        row: The values of `BACKEND_COLUMNS`.
        announced_pid: What the server said on connecting; a pooler says something else. None if not known.
    """
    pid = int(row[0])
    is_pooled = announced_pid is not None and announced_pid != pid
    return Backend(pid, str(row[1]), tuple(row[2:]), is_pooled)


#: Sessions that were given up while their server could not be told, by server. They may hold locks there.
_orphans: dict[tuple[object, ...], list[Backend]] = {}
_orphans_lock = threading.Lock()


def leave_behind(backend: Backend) -> None:
    """Have a session ended when its server is next connected to."""
    if not backend.is_pooled:
        with _orphans_lock:
            orphans = _orphans.setdefault(backend.server, [])
            if backend not in orphans:
                orphans.append(backend)


def _forget(backend: Backend) -> None:
    with _orphans_lock:
        orphans = _orphans.get(backend.server, [])
        if backend in orphans:
            orphans.remove(backend)


def end_orphans(cursor: Any, backend: Backend) -> None:
    """End the sessions at a server that this process has given up without its knowing; ends none twice."""
    if not _orphans:
        return
    with _orphans_lock:
        orphans = _orphans.pop(backend.server, [])
    for orphan in orphans:
        cursor.execute(_TERMINATE, (orphan.pid, orphan.started))


@dataclass(frozen=True)
class Sideline:
    """Another connection to the same server, for asking about a session and for stopping it, in bounded time.

    libpq's own way to cancel has no time limit, and psycopg2 holds the interpreter's lock while it waits.

    Attributes:
        open_connection: Opens it.
    """

    open_connection: Callable[[], TimedConnection]

    def cancel(self, backend: Backend) -> bool:
        """Cancel what a session is doing; False if that cannot be done."""
        if backend.is_pooled:
            return False
        try:
            with contextlib.closing(self.open_connection()) as asked:
                return bool(asked.fetch("SELECT pg_catalog.pg_cancel_backend(%s)", (backend.pid,))[0])
        except (psycopg2.Error, SynqxError, TimeoutError):
            return False

    def terminate(self, backend: Backend) -> None:
        """End a session that was given up; if that cannot be done now, when the server is next connected to."""
        if backend.is_pooled:
            return
        # First of all: whoever tries again may be connected before this has found out that it cannot be.
        leave_behind(backend)
        with contextlib.suppress(psycopg2.Error, SynqxError, TimeoutError):
            with contextlib.closing(self.open_connection()) as asked:
                asked.fetch(f"select count(*) from ({_TERMINATE}) as ended", (backend.pid, backend.started))
            _forget(backend)

    def ask(self, backend: Backend) -> Verdict:
        """What became of a session."""
        try:
            with contextlib.closing(self.open_connection()) as asked:
                row = asked.fetch(load_query("postgresql_session_state"), (backend.pid,))
        except (TimeoutError, RetryableError):
            return "unreachable"  # Server, name server or tunnel.
        except SynqxError:
            return "unknown"  # What does not pass by itself says nothing of the session.
        except psycopg2.Error as error:
            # A server that refuses is there; what it does for our session it does not say.
            return "unknown" if error.pgcode is not None or "FATAL" in str(error) else "unreachable"
        return _judge(row, backend)


def _judge(row: tuple[Any, ...], backend: Backend) -> Verdict:
    state, wait_type, wait_event, started, *server = row
    if backend.is_pooled or tuple(server[:2]) != backend.server[:2]:
        return "unknown"
    if server[2] != backend.server[2] or started != backend.started:
        return "lost"  # The server was restarted, has no such session, or another one with its number.
    if state is None or state == "disabled":
        return "unknown"
    waits_for_us = wait_type == "Client" and wait_event in ("ClientRead", "ClientWrite")
    return "working" if state in ("active", "fastpath function call") and not waits_for_us else "lost"


def _describe(watch: Watch) -> str:
    return f"the server was silent for {watch.asked_after_seconds:g} s, and the session is lost"


class WatchedConnection(psycopg2_connection):
    """A psycopg2 connection whose cursors watch their calls once `start_watch` was called."""

    watch: Watch | None = None

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """A cursor that watches its calls."""
        kwargs.setdefault("cursor_factory", WatchedCursor)
        return super().cursor(*args, **kwargs)

    def start_watch(self, limit_seconds: float, backend: Backend, sideline: Sideline) -> None:
        """Watch all calls from now on."""
        stream = socket.socket(fileno=os.dup(self.fileno()))
        self.watch = Watch(stream, limit_seconds, lambda: sideline.ask(backend), lambda: sideline.terminate(backend))
        self._backend, self._sideline = backend, sideline
        weakref.finalize(self, self.watch.close)

    def cancel(self) -> None:
        """Have the call end that another thread waits in: by the server if it hears us, else by breaking off."""
        if self.watch is not None and not self.watch.tripped and not self._sideline.cancel(self._backend):
            leave_behind(self._backend)
            self.watch.break_off()

    def close(self) -> None:
        """Close the connection, and stop watching it."""
        if self.watch is not None:
            self.watch.close()
        super().close()

    @contextlib.contextmanager
    def watching(self, sink: object = None) -> Iterator[None]:
        """The body waits for the server; see `Watch.waiting`."""
        watch = self.watch
        if watch is None:
            yield
            return
        try:
            with watch.waiting(sink):
                yield
        except psycopg2.Error:
            if watch.tripped:
                # Still one of the driver's: who waits for COMMIT must take it for a lost connection.
                raise SilenceError(_describe(watch)) from None
            raise


class WatchedCursor(psycopg2_cursor):
    """A cursor that watches what goes to the server and comes from it."""

    connection: WatchedConnection

    def execute(self, query: Any, vars: Any = None) -> None:
        """As psycopg2's."""
        with self.connection.watching():
            super().execute(query, vars)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """As psycopg2's; while `file` is read or takes nothing it is not the server that is late."""
        watch = self.connection.watch
        can_write = _can(file, "writable", "write")
        if watch is not None and not can_write and _can(file, "readable", "read"):
            # Reads are by the megabyte; writes by the row: a function of ours there would cost a third of the speed.
            file = PausingReader(file, watch)
        with self.connection.watching(file if can_write else None):
            super().copy_expert(sql, file, size)


def _can(file: Any, question: str, method: str) -> bool:
    # Files of the standard library have both methods, and say which of them works.
    asked = getattr(file, question, None)
    return bool(asked()) if asked is not None else hasattr(file, method)


# --- ADBC ----------------------------------------------------------------------------------------------------------

_tags = itertools.count(1)


def next_tag() -> int:
    """A time-out for unacknowledged data, in milliseconds, that no other connection of this process has.

    The driver does not tell which socket it opened; this is how `find_tagged_socket` finds it.
    """
    return USER_TIMEOUT_MILLISECONDS + next(_tags) % 20_000


def find_tagged_socket(tag: int) -> socket.socket | None:
    """A duplicate of the socket with this tag; None for a Unix socket, and where the system cannot tell."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        return None
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            stream = socket.socket(fileno=os.dup(int(name)))
            try:
                if stream.getsockopt(socket.IPPROTO_TCP, option) == tag:
                    return stream
            except OSError:
                pass  # Not TCP.
            stream.close()
    return None


class AdbcWatch:
    """Watches the calls of one ADBC connection, from `start` on.

    Args:
        tag: What `find_tagged_socket` finds the connection by.
        limit_seconds: As of `Watch`.
    """

    def __init__(self, tag: int, limit_seconds: float, sideline: Sideline) -> None:
        self._tag = tag
        self._limit_seconds = limit_seconds
        self._sideline = sideline
        self._backend: Backend | None = None
        self._watch: Watch | None = None

    def start(self, cursor: Any) -> None:
        """Find out who serves the connection, within its transaction, and watch from now on."""
        stream = find_tagged_socket(self._tag)
        if stream is None:
            return
        try:
            cursor.execute(f"SELECT {BACKEND_COLUMNS}")
            self._backend = backend = identify(cursor.fetchone(), None)
        except BaseException:
            stream.close()
            raise
        sideline = self._sideline
        self._watch = Watch(
            stream, self._limit_seconds, lambda: sideline.ask(backend), lambda: sideline.terminate(backend)
        )

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The body waits for the server.

        Raises:
            RetryableError: The server was silent, and its session is lost; in place of the driver's error.
        """
        watch = self._watch
        if watch is None:
            yield
            return
        try:
            with watch.waiting():
                yield
        except Exception:
            if watch.tripped:
                raise RetryableError(_describe(watch), hint="the load may be run again") from None
            raise

    def cancel(self, cursor: Any) -> None:
        """Have the call end that waits on the connection; see `WatchedConnection.cancel`."""
        if self._watch is None or self._backend is None:
            cursor.cancel()  # A Unix socket: the server cannot be far.
        elif not self._watch.tripped and not self._sideline.cancel(self._backend):
            self._watch.break_off()

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
