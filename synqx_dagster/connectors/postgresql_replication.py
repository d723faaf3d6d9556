"""Replication connections to PostgreSQL: slots are made on them, and a publication's changes are read from them.

Guarantee: values are printed as every other session prints them, and the server is told of no position but those that
were confirmed. Source: PostgreSQL manual, Streaming Replication Protocol, and Logical Streaming Replication Parameters.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.postgresql_connect import (
    connect_timeout_of,
    prepare,
    settings_sql,
    silence_timeout_of,
    wrap_connect_errors,
)
from synqx_dagster.connectors.postgresql_errors import wrap_errors
from synqx_dagster.connectors.postgresql_replication_errors import explain_refusal, explain_stream_end
from synqx_dagster.connectors.postgresql_types import logical_type
from synqx_dagster.connectors.protocol import ConnectionConfig, CreatedSlot, NativeType
from synqx_dagster.errors import FatalError, RetryableError, SlotLostError
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    from synqx_dagster.connectors.postgresql_copy_both import CopyBoth

#: How long a new slot waits for each transaction that was open when it was asked for.
SLOT_WAIT_SECONDS = 300

#: The server hears from us at least so often, and three times within its ``wal_sender_timeout``.
_REPORT_SECONDS = 10.0
_SHORTEST_REPORT_SECONDS = 0.1

#: How long a wait for the socket takes at most: libpq may hold what the socket no longer shows.
_LONGEST_WAIT_SECONDS = 1.0

#: Streams hand out open transactions from this version on.
STREAMING_VERSION = 140_000

_NAME = re.compile(r"[a-z0-9_]{1,63}")

#: What would end a session that waits, exports a snapshot for a copy of hours, or streams. Not every version has all.
_NO_LIMITS_SQL = (
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN"
    " ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout', 'statement_timeout')"
)

_TYPES_SQL = (
    "select case when exists (select from pg_catalog.pg_type p where p.oid = t.oid::oid)"
    " then pg_catalog.format_type(t.oid::oid, t.modifier) end"
    " from unnest(%s::bigint[], %s::int[]) with ordinality as t (oid, modifier, position) order by t.position"
)


class PostgresqlReplicationSession:
    """One replication connection; see `synqx_dagster.connectors.protocol.ReplicationSession`."""

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self._action = f"replicating from {config.name!r}"
        self._stream: CopyBoth | None = None
        #: Held while the connection is used; `close` may come from another thread.
        self._lock = threading.Lock()
        self._is_closed = False
        self._confirmed_lsn = 0
        self._reported_lsn = 0
        self._reported_at = self._received_at = time.monotonic()
        self._report_seconds = _REPORT_SECONDS
        self._asked = False
        self._silence_seconds = silence_timeout_of(config)
        self._connection = _connect(config)
        # Wakes a thread that waits in `read`.
        self._awake, self._waker = socket.socketpair()
        self._awake.setblocking(False)
        self._waker.setblocking(False)

    # --- slots ----------------------------------------------------------------------------------------------

    def create_slot(self, name: str, *, temporary: bool = False) -> CreatedSlot:
        """Make a logical slot for pgoutput and export its snapshot, which lives until the session's next call."""
        kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
        with self._command(f"creating the slot {name!r}") as cursor:
            # The server waits for all transactions that are open, each with the limit of a lock.
            cursor.execute(f"SELECT pg_catalog.set_config('lock_timeout', '{SLOT_WAIT_SECONDS}s', false)")
            cursor.execute(f'CREATE_REPLICATION_SLOT "{_checked(name)}" {kind} pgoutput EXPORT_SNAPSHOT')
            slot, consistent_point, snapshot, _ = cursor.fetchone()
        return CreatedSlot(slot, _read_lsn(consistent_point), snapshot)

    # --- the stream -----------------------------------------------------------------------------------------

    def start(self, slot: str, publication: str, *, after_lsn: int, streams_open_transactions: bool) -> None:
        """Begin to read a slot, from `after_lsn` or from what the slot has confirmed, whichever is later."""
        from synqx_dagster.connectors.postgresql_copy_both import CopyBoth

        streams = streams_open_transactions and self._connection.server_version >= STREAMING_VERSION
        options = {"proto_version": "2" if streams else "1", "publication_names": f'"{_checked(publication)}"'}
        if streams:
            options["streaming"] = "on"
        rendered = ", ".join(f"{name} '{value}'" for name, value in options.items())
        with self._command(f"reading the slot {slot!r}") as cursor:
            cursor.execute("SELECT pg_catalog.set_config('lock_timeout', '0', false)")
            cursor.execute("SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
            timeout_milliseconds = cursor.fetchone()[0]
            self._check_position(cursor, after_lsn)
            place = f"{after_lsn >> 32:X}/{after_lsn & 0xFFFFFFFF:X}"
            cursor.start_replication_expert(
                f'START_REPLICATION SLOT "{_checked(slot)}" LOGICAL {place} ({rendered})', decode=False
            )
            self._stream = CopyBoth(self._connection)
        if timeout_milliseconds:
            third = timeout_milliseconds / 3000
            self._report_seconds = max(_SHORTEST_REPORT_SECONDS, min(_REPORT_SECONDS, third))
        self._confirmed_lsn = max(self._confirmed_lsn, after_lsn)
        self._received_at = time.monotonic()

    def _check_position(self, cursor: Any, after_lsn: int) -> None:
        """Refuse a server whose log has not come as far as what was stored: nothing of it would be taken for new."""
        cursor.execute("IDENTIFY_SYSTEM")
        end_lsn = _read_lsn(cursor.fetchone()[2])
        if after_lsn > end_lsn:
            raise SlotLostError(
                f"{self._action}: the source's log ends before what was stored already: it is another server than"
                " before, or one that was restored from a backup",
                stored_bytes=after_lsn,
                source_bytes=end_lsn,
            )

    def read(self, timeout_seconds: float) -> list[bytes]:
        """The messages that have come, in order; empty when none came in time."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self._streaming() as stream:
                keepalives = stream.keepalives
                payloads = stream.take()
                if payloads or stream.keepalives != keepalives:
                    self._received_at = time.monotonic()
                    self._asked = False
                self._report_if_due(stream)
                descriptor = self._connection.fileno()
            remaining = deadline - time.monotonic()
            if payloads or remaining <= 0:
                return payloads
            self._wait(descriptor, min(remaining, self._report_seconds, _LONGEST_WAIT_SECONDS))

    def keep_alive(self) -> None:
        """Let the server know that we live while nothing is read."""
        with self._streaming() as stream:
            # Nothing is read, so that nothing comes is nobody's fault.
            self._received_at = time.monotonic()
            self._report_if_due(stream)

    @property
    def wal_end(self) -> int:
        """How far the server has read its log, as it last said."""
        return self._stream.wal_end if self._stream is not None else 0

    @property
    def server_time(self) -> float:
        """What time it is at the server, in seconds since 1970."""
        return time.time() + (self._stream.clock_difference if self._stream is not None else 0.0)

    def confirm(self, lsn: int) -> None:
        """Tell the server that everything before `lsn` is stored for good; safe from any thread, never goes back."""
        if lsn > self._confirmed_lsn:
            self._confirmed_lsn = lsn
            self._wake()

    def close(self) -> None:
        """End the connection; safe from any thread, and again."""
        self._is_closed = True
        self._wake()
        with self._lock:
            if not self._connection.closed:
                self._connection.close()
            self._awake.close()
            self._waker.close()

    def _report_if_due(self, stream: CopyBoth) -> None:
        now = time.monotonic()
        stream.flush()
        silence = now - self._received_at
        if self._silence_seconds and silence > self._silence_seconds:
            if self._asked and silence > 2 * self._silence_seconds and not _is_working(self._config, self._pid()):
                raise RetryableError(
                    f"{self._action}: the server was silent for {silence:.0f} s", hint="the run may be started again"
                )
            if not self._asked:
                stream.report(self._confirmed_lsn, wants_answer=True)
                self._asked = True
            elif silence > 2 * self._silence_seconds:
                # It works at something long; it is asked about again when as much time has passed.
                self._received_at, self._asked = now, False
        due = now - self._reported_at >= self._report_seconds
        if stream.must_report or due or self._confirmed_lsn > self._reported_lsn:
            lsn = self._confirmed_lsn
            stream.report(lsn)
            self._reported_lsn, self._reported_at = lsn, now

    def _pid(self) -> int:
        pid: int = self._connection.info.backend_pid
        return pid

    def _wait(self, descriptor: int, seconds: float) -> None:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        try:
            poller.register(self._awake.fileno(), select.POLLIN)
        except ValueError:
            return  # Closed meanwhile: the next look at the stream says so.
        poller.poll(max(1, int(seconds * 1000)))
        with contextlib.suppress(OSError):
            while self._awake.recv(4096):
                pass

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    @contextlib.contextmanager
    def _streaming(self) -> Iterator[CopyBoth]:
        from synqx_dagster.connectors.postgresql_copy_both import StreamEndedError

        with self._lock:
            if self._is_closed or self._stream is None:
                raise RetryableError(f"{self._action}: the stream is closed")
            try:
                yield self._stream
            except StreamEndedError as error:
                raise explain_stream_end(error, self._action) from None

    @contextlib.contextmanager
    def _command(self, doing: str) -> Iterator[Any]:
        """A cursor for replication commands, with the refusals of these explained."""
        with self._lock:
            if self._is_closed or self._stream is not None:
                raise RetryableError(f"{self._action}: the session is closed, or streams already")
            with explain_refusal(f"{self._action}: {doing}"), self._connection.cursor() as cursor:
                yield cursor


def _connect(config: ConnectionConfig) -> Any:
    import psycopg2
    from psycopg2.extras import LogicalReplicationConnection

    timeout_seconds = connect_timeout_of(config)
    endpoint, parameters = prepare(config, timeout_seconds=timeout_seconds)
    with (
        explain_refusal(f"connection {config.name!r}", while_connecting=True),
        wrap_connect_errors(config, endpoint, timeout_seconds=timeout_seconds),
    ):
        connection = psycopg2.connect(**parameters, connection_factory=LogicalReplicationConnection)
    try:
        with wrap_errors(f"replicating from {config.name!r}"), connection.cursor() as cursor:
            cursor.execute(settings_sql(config, local=False, statement_timeout_seconds=0))
            cursor.execute(_NO_LIMITS_SQL)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_working(config: ConnectionConfig, pid: int) -> bool:
    """Whether a silent server is at work for us: it decodes what it will not send, and hears nothing meanwhile."""
    import psycopg2

    from synqx_dagster.connectors.postgresql_timed import TimedConnection

    seconds = connect_timeout_of(config)
    try:
        parameters = prepare(config, timeout_seconds=seconds)[1]
        with contextlib.closing(TimedConnection(parameters, time.monotonic() + seconds)) as asked:
            row = asked.fetch(
                "select coalesce(min(case when wait_event_type in ('Activity', 'Client') then 0 else 1 end), 0)"
                " from pg_catalog.pg_stat_activity where pid = %s",
                (pid,),
            )
    except (psycopg2.Error, TimeoutError, RetryableError, FatalError):
        return False
    return bool(row[0])


def name_types(connection: Any, types: Sequence[tuple[int, int]], action: str) -> list[NativeType]:
    """How types are spelt; one that the source no longer has is text, as which its values come."""
    if not types:
        return []
    with wrap_errors(action), connection.cursor() as cursor:
        cursor.execute(_TYPES_SQL, ([oid for oid, _ in types], [modifier for _, modifier in types]))
        spelt = [row[0] for row in cursor.fetchall()]
    return [
        NativeType("text", DataType("string")) if name is None else NativeType(name, logical_type(oid, modifier))
        for (oid, modifier), name in zip(types, spelt, strict=True)
    ]


def _read_lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FatalError(f"{name!r} is no name of a slot or a publication")
    return name
