"""Puts the messages of the log together to committed transactions.

Guarantee: a transaction is given once it is committed, with what was not rolled back of it. What is held in memory is
known to the byte and can be put on disk at any time; there it has no name, so it is gone with the process that wrote
it.
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import IO

from synqx_dagster.errors import FatalError, RetryableError
from synqx_dagster.replication import pgoutput
from synqx_dagster.replication.changes import Change, Relation
from synqx_dagster.replication.pgoutput import Ending, NameTypes

#: What a message takes in memory beyond its bytes: the object's head and its place in a list.
_MESSAGE_BYTES = 48

#: What a committed transaction takes beyond its messages. Measured: 1,000 to 1,100.
_TRANSACTION_BYTES = 1100

_FILE_BUFFER_BYTES = 128 * 1024
_LENGTH = struct.Struct("=I")

#: The number of the subtransaction that a change belongs to, in a piece of an open transaction.
_SUBTRANSACTION = itemgetter(slice(1, 5))

#: Tells how many bytes of memory were taken, or freed.
Account = Callable[[int], None]


class MessageBuffer:
    """Messages in their order, in memory or on disk; written first, then read once."""

    __slots__ = ("_directory", "_file", "_messages", "held_bytes")

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._messages: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.held_bytes = 0

    def extend(self, payloads: list[bytes]) -> None:
        """Add messages."""
        if self._file is None:
            self._messages += payloads
            self.held_bytes += sum(map(len, payloads)) + _MESSAGE_BYTES * len(payloads)
        else:
            self._write(self._file, payloads)

    def spill(self) -> None:
        """Move what is held to disk, where all that follows goes too.

        Raises:
            RetryableError: The disk is full, or cannot be written to.
        """
        if self._file is None:
            try:
                # Without a name: nothing of it is left when this process ends, however it ends.
                self._file = tempfile.TemporaryFile(  # noqa: SIM115  # closed by close()
                    dir=self._directory, buffering=_FILE_BUFFER_BYTES
                )
            except OSError as error:
                raise _disk_error(error, self._directory) from None
            self._write(self._file, self._messages)
            self._messages = []
            self.held_bytes = 0

    def _write(self, file: IO[bytes], payloads: list[bytes]) -> None:
        pack = _LENGTH.pack
        try:
            for payload in payloads:
                file.write(pack(len(payload)) + payload)
        except OSError as error:
            raise _disk_error(error, self._directory) from None

    def __iter__(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._messages
            return
        try:
            self._file.seek(0)
            read = self._file.read
            while head := read(_LENGTH.size):
                yield read(_LENGTH.unpack(head)[0])
        except (OSError, struct.error) as error:
            raise _disk_error(error, self._directory) from None

    def close(self) -> None:
        """Free what is held, in memory and on disk."""
        self._messages = []
        self.held_bytes = 0
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                # What could not be flushed to a full disk is not wanted any more.
                self._file = None
            self._file = None


def _disk_error(error: Exception, directory: Path | None) -> RetryableError:
    reason = getattr(error, "strerror", None) or "a file was cut off"
    return RetryableError(
        f"a large transaction cannot be put on disk: {reason}",
        hint=f"make room in {directory or tempfile.gettempdir()}, or set TMPDIR to a directory with more",
    )


class AssembledTransaction:
    """A committed transaction; see `synqx_dagster.replication.changes.Transaction`."""

    __slots__ = (
        "_aborted",
        "_buffer",
        "_is_closed",
        "_relation_of",
        "_relations",
        "_start",
        "change_count",
        "commit_lsn",
        "committed_at",
        "end_lsn",
        "on_freed",
    )

    def __init__(
        self,
        ending: Ending,
        changes: tuple[MessageBuffer, int],
        relations: Mapping[int, Relation],
        relation_of: Callable[[bytes, int], Relation],
        *,
        start: int,
        aborted: frozenset[bytes] = frozenset(),
    ) -> None:
        self.commit_lsn = ending.commit_lsn
        self.end_lsn = ending.end_lsn
        self.committed_at: datetime = ending.committed_at
        self._buffer, self.change_count = changes
        self._relations = relations
        self._relation_of = relation_of
        self._start = start
        self._aborted = aborted
        self._is_closed = False
        #: Called with what is freed.
        self.on_freed: Account | None = None

    @property
    def held_bytes(self) -> int:
        """How much memory its messages take."""
        return 0 if self._is_closed else self._buffer.held_bytes + _TRANSACTION_BYTES

    def iter_changes(self) -> Iterator[Change]:
        """Its changes in order; at their end what it held is freed."""
        yield from pgoutput.iter_changes(
            self._buffer, self._relations, self._relation_of, start=self._start, aborted=self._aborted
        )
        self.close()

    def close(self) -> None:
        """Free what it holds."""
        freed = self.held_bytes
        self._is_closed = True
        self._buffer.close()
        if self.on_freed is not None and freed:
            self.on_freed(freed)


class _OpenTransaction:
    """A transaction that has not ended; `start` is where its messages go on after their kind."""

    def __init__(self, directory: Path | None, relations: Mapping[int, Relation], start: int) -> None:
        self.buffer = MessageBuffer(directory)
        #: Tables as they were described before it.
        self.before = relations
        #: What it was told of tables itself.
        self.described: dict[int, Relation] = {}
        self.start = start
        self.change_count = 0
        #: Changes by subtransaction, and the subtransactions that were rolled back.
        self.counts: dict[bytes, int] = {}
        self.aborted: set[bytes] = set()


class Assembler:
    """Takes messages in the order of the log, gives transactions in the order of their commits."""

    def __init__(self, name_types: NameTypes, *, spill_directory: Path | None = None) -> None:
        self._name_types = name_types
        self._directory = spill_directory
        #: Tables as the committed transactions have described them; replaced and never changed, as others hold it.
        self._relations: Mapping[int, Relation] = {}
        #: Descriptions by their bytes: one that comes again is the same object.
        self._known: dict[bytes, Relation] = {}
        self._plain: _OpenTransaction | None = None
        self._streamed: dict[int, _OpenTransaction] = {}
        #: The streamed transaction of which a piece is being sent.
        self._piece: _OpenTransaction | None = None

    @property
    def held_bytes(self) -> int:
        """How much memory the transactions take that have not ended."""
        return sum(transaction.buffer.held_bytes for transaction in self._iter_open())

    def spill_largest(self) -> None:
        """Put on disk what takes the most memory of the transactions that have not ended."""
        largest = max(self._iter_open(), key=lambda transaction: transaction.buffer.held_bytes, default=None)
        if largest is not None:
            largest.buffer.spill()

    def close(self) -> None:
        """Forget the transactions that have not ended."""
        for transaction in self._iter_open():
            transaction.buffer.close()
        self._plain = self._piece = None
        self._streamed.clear()

    def _iter_open(self) -> Iterator[_OpenTransaction]:
        if self._plain is not None:
            yield self._plain
        yield from self._streamed.values()

    def feed(self, payloads: Sequence[bytes]) -> list[AssembledTransaction]:
        """Take messages; gives the transactions that they end, those without changes too.

        Raises:
            FatalError: A message cannot be read, or stands where it must not.
            RetryableError: What is on disk cannot be written.
        """
        complete: list[AssembledTransaction] = []
        changes = pgoutput.CHANGES
        run: list[bytes] = []
        for payload in payloads:
            kind = payload[0] if payload else 0
            if kind in changes:
                run.append(payload)
                continue
            if run:
                self._add(run)
                run = []
            if kind == pgoutput.RELATION:
                self._describe(payload)
            elif (ended := self._control(kind, payload)) is not None:
                complete.append(ended)
        if run:
            self._add(run)
        return complete

    def _add(self, run: list[bytes]) -> None:
        """Take changes that follow each other."""
        current = self._piece or self._plain
        if current is None:
            raise _misplaced(run[0][0])
        current.buffer.extend(run)
        current.change_count += len(run)
        if current is self._piece:
            for subtransaction, count in Counter(map(_SUBTRANSACTION, run)).items():
                current.counts[subtransaction] = current.counts.get(subtransaction, 0) + count

    def _describe(self, payload: bytes) -> None:
        current = self._piece or self._plain
        if current is None:
            raise _misplaced(pgoutput.RELATION)
        current.buffer.extend([payload])
        relation = self._relation_of(payload, current.start)
        current.described[relation.oid] = relation

    def _relation_of(self, payload: bytes, start: int) -> Relation:
        key = payload[start:]
        relation = self._known.get(key)
        if relation is None:
            relation = self._known[key] = pgoutput.read_relation(payload, start, self._name_types)
        return relation

    def _control(self, kind: int, payload: bytes) -> AssembledTransaction | None:
        """Take a message that begins, ends or interrupts a transaction; gives the one that it ends."""
        inside = self._piece is not None
        if kind == pgoutput.BEGIN and self._plain is None and not inside:
            pgoutput.read_begin(payload)
            self._plain = _OpenTransaction(self._directory, self._relations, pgoutput.PLAIN_START)
        elif kind == pgoutput.COMMIT and self._plain is not None:
            ended, self._plain = self._plain, None
            return self._end(ended, pgoutput.read_commit(payload))
        elif kind == pgoutput.STREAM_START and self._plain is None and not inside:
            xid = pgoutput.read_stream_start(payload)
            if xid not in self._streamed:
                self._streamed[xid] = _OpenTransaction(self._directory, self._relations, pgoutput.STREAMED_START)
            self._piece = self._streamed[xid]
        elif kind == pgoutput.STREAM_STOP and inside:
            self._piece = None
        elif kind == pgoutput.STREAM_COMMIT and self._plain is None and not inside:
            xid, ending = pgoutput.read_stream_commit(payload)
            committed = self._streamed.pop(xid, None)
            if committed is None:
                raise _misplaced(kind)
            return self._end(committed, ending)
        elif kind == pgoutput.STREAM_ABORT and self._plain is None and not inside:
            self._abort(*pgoutput.read_stream_abort(payload))
        else:
            pgoutput.check_skipped(payload)
        return None

    def _end(self, ended: _OpenTransaction, ending: Ending) -> AssembledTransaction:
        if ended.described:
            self._relations = {**self._relations, **ended.described}
        return AssembledTransaction(
            ending,
            (ended.buffer, ended.change_count),
            ended.before,
            self._relation_of,
            start=ended.start,
            aborted=frozenset(ended.aborted),
        )

    def _abort(self, xid: int, subxid: int) -> None:
        transaction = self._streamed.get(xid)
        if transaction is None:
            # The server says so too of a transaction that was rolled back before anything of it was sent.
            return
        if subxid == xid:
            transaction.buffer.close()
            del self._streamed[xid]
            return
        subtransaction = subxid.to_bytes(4, "big")
        if subtransaction not in transaction.aborted:
            transaction.aborted.add(subtransaction)
            transaction.change_count -= transaction.counts.pop(subtransaction, 0)


def _misplaced(kind: int) -> FatalError:
    return FatalError(
        f"the source's log holds a message of kind {chr(kind)!r} where none may be",
        hint="the run may be started again; if it stays so, the source speaks another protocol",
        kind=chr(kind),
    )
