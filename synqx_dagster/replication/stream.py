"""The committed transactions of a source, one after the other, read ahead by a thread.

Guarantee: transactions come in the order of their commits and none is left out; the source is told that something is
stored only when `ChangeStream.confirm` said so. While the consumer is busy, for minutes too, the source hears that we
live.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from synqx_dagster.connectors.protocol import ReplicationConnector, ReplicationSession, wait_for
from synqx_dagster.replication.transactions import AssembledTransaction, Assembler

#: What transactions may hold of memory before they are put on disk, or no more is read.
DEFAULT_MEMORY_BYTES = 64 * 1024 * 1024

#: How long the reading thread waits for messages, or for room, before it looks round.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class StreamLag:
    """How far what is confirmed lies behind what the source has sent; nothing behind: zero.

    What the source has written and not yet sent is not in it: see `synqx_dagster.replication.slot.find_slot`.

    Attributes:
        bytes: Of the source's log.
        seconds: Since the commit of the oldest transaction that is not confirmed, by the source's clock.
    """

    bytes: int
    seconds: float


class ChangeStream:
    """What `open_stream` gives. For one consumer; `confirm`, `idle_lsn` and `lag` are safe from any thread."""

    def __init__(self, session: ReplicationSession, assembler: Assembler, *, after_lsn: int, memory_bytes: int) -> None:
        self._session = session
        self._assembler = assembler
        self._memory_bytes = memory_bytes
        self._after_lsn = after_lsn
        self._changed = threading.Condition()
        self._ready: deque[AssembledTransaction] = deque()
        #: Ends and commit times of transactions that were read and are not confirmed, in order.
        self._pending: deque[tuple[int, datetime]] = deque()
        self._queued_bytes = 0
        self._taken_bytes = 0
        self._confirmed_lsn = after_lsn
        self._read_lsn = after_lsn
        self._last_end_lsn = after_lsn
        self._failure: BaseException | None = None
        self._is_closing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synqx-replication", daemon=True)
        self._thread.start()

    # --- for the consumer -----------------------------------------------------------------------------------

    def next_transaction(self, timeout_seconds: float) -> AssembledTransaction | None:
        """The next committed transaction that has changes; close it, or read it to its end.

        None when none came in time; at once when those that were taken and not closed hold so much memory that they
        should be stored first.

        Raises:
            RetryableError: The connection was lost; what came before was given. A new stream goes on where the last
                transaction was confirmed.
            SlotLostError: The source has given up the slot.
            FatalError: The log cannot be understood.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                if self._taken_bytes > self._memory_bytes // 2:
                    return None
                if self._ready:
                    transaction = self._ready.popleft()
                    self._queued_bytes -= transaction.held_bytes
                    self._taken_bytes += transaction.held_bytes
                    transaction.on_freed = self._free
                    self._changed.notify_all()
                    return transaction
                if self._failure is not None:
                    raise self._failure
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)

    def confirm(self, lsn: int) -> None:
        """Say that all before `lsn` is stored for good: the source may forget it. Never goes back."""
        with self._changed:
            self._confirmed_lsn = max(self._confirmed_lsn, lsn)
            while self._pending and self._pending[0][0] <= lsn:
                self._pending.popleft()
        self._session.confirm(lsn)

    @property
    def confirmed_lsn(self) -> int:
        """What was confirmed last."""
        return self._confirmed_lsn

    @property
    def idle_lsn(self) -> int | None:
        """What may be confirmed although no transaction ends there; None when something is to be stored first.

        The source has read its log so far, and all that concerns us before was given and confirmed. An idle database's
        slot moves by confirming it.
        """
        with self._changed:
            if self._pending or self._read_lsn <= self._confirmed_lsn:
                return None
            return self._read_lsn

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was read waits to be taken or confirmed."""
        with self._changed:
            return not self._pending

    def lag(self) -> StreamLag:
        """How far what is confirmed lies behind what the source has sent."""
        with self._changed:
            if not self._pending:
                return StreamLag(0, 0.0)
            oldest = self._pending[0][1].timestamp()
            behind = max(self._last_end_lsn, self._read_lsn) - self._confirmed_lsn
        return StreamLag(max(0, behind), max(0.0, self._session.server_time - oldest))

    def close(self) -> None:
        """End the connection and the thread, and free what was not taken."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        wait_for(self._ended, self._session.close, every_seconds=0.05)
        self._session.close()
        for transaction in self._ready:
            transaction.close()
        self._ready.clear()
        self._assembler.close()

    def _free(self, freed_bytes: int) -> None:
        with self._changed:
            self._taken_bytes -= freed_bytes
            self._changed.notify_all()

    # --- the reading thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_closing:
                if self._has_room():
                    payloads = self._session.read(_LOOK_SECONDS)
                    self._publish(self._assembler.feed(payloads), self._session.wal_end)
                else:
                    self._session.keep_alive()
                    with self._changed:
                        self._changed.wait(_LOOK_SECONDS)
        except BaseException as error:  # noqa: BLE001  # raised where transactions are awaited
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            self._ended.set()

    def _has_room(self) -> bool:
        """Whether more may be read. Puts on disk what is too large to be held while it is incomplete."""
        open_bytes = self._assembler.held_bytes
        while open_bytes > self._memory_bytes // 4:
            self._assembler.spill_largest()
            open_bytes = self._assembler.held_bytes
        with self._changed:
            waiting = self._queued_bytes + self._taken_bytes
            # With nothing to wait for it goes on, however little it was given.
            return waiting == 0 or waiting + open_bytes <= self._memory_bytes

    def _publish(self, complete: list[AssembledTransaction], read_lsn: int) -> None:
        with self._changed:
            for transaction in complete:
                if transaction.commit_lsn < self._after_lsn:
                    # Stored already: the slot was confirmed less than the target holds.
                    transaction.close()
                elif transaction.change_count == 0:
                    # Of other tables, or all rolled back. Before version 15 the source sends these too.
                    transaction.close()
                    self._read_lsn = max(self._read_lsn, transaction.end_lsn)
                else:
                    self._ready.append(transaction)
                    self._queued_bytes += transaction.held_bytes
                    self._pending.append((transaction.end_lsn, transaction.committed_at))
                    self._last_end_lsn = transaction.end_lsn
            self._read_lsn = max(self._read_lsn, read_lsn)
            if complete:
                self._changed.notify_all()


@contextmanager
def open_stream(
    connector: ReplicationConnector,
    slot: str,
    publication: str,
    *,
    after_lsn: int,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    spill_directory: Path | None = None,
    streams_open_transactions: bool = True,
) -> Iterator[ChangeStream]:
    """Follow a slot: gives the transactions that committed at or after `after_lsn`, and after what the slot confirmed.

    Args:
        connector: The source's.
        slot: The slot's name; nobody else may read it meanwhile.
        publication: Which tables.
        after_lsn: The target's position.
        memory_bytes: What transactions may hold of memory; a larger one goes to disk.
        spill_directory: Where to; left out: the system's directory for temporary files.
        streams_open_transactions: Have a large transaction sent before its end, where the server can (version 14).

    Raises:
        SlotInUseError: Somebody else reads the slot.
        SlotLostError: There is no such slot, or the source has given it up.
        ConnectionFailedError, NotPermittedError: As the connection.
    """
    with connector.replicate() as session:
        session.start(slot, publication, after_lsn=after_lsn, streams_open_transactions=streams_open_transactions)
        assembler = Assembler(connector.name_types, spill_directory=spill_directory)
        stream = ChangeStream(session, assembler, after_lsn=after_lsn, memory_bytes=memory_bytes)
        try:
            yield stream
        finally:
            stream.close()
