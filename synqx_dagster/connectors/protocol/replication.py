"""What a source's connector needs so that its changes can be followed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from synqx_dagster.model.types import DataType


@dataclass(frozen=True, slots=True)
class WalMessage:
    """One message of the stream. LSNs are bytes from the log's beginning; ``sent_at`` is the server's, in seconds."""

    lsn: int
    wal_end: int
    sent_at: float
    payload: bytes


@dataclass(frozen=True)
class CreatedSlot:
    """A slot that was made: changes of transactions that committed at or after ``consistent_lsn`` come through it.

    ``snapshot`` shows exactly the rows before these; other sessions can use it until the session's next call.
    """

    name: str
    consistent_lsn: int
    snapshot: str


@dataclass(frozen=True)
class NativeType:
    """A type of the source: its spelling with modifiers, and what its values mean here."""

    native_type: str
    data_type: DataType


class ReplicationSession(Protocol):
    """One replication connection; not thread-safe, but for `confirm` and `close`."""

    def create_slot(self, name: str, *, temporary: bool = False) -> CreatedSlot:
        """Make a logical slot for pgoutput and export its snapshot."""
        ...

    def start(self, slot: str, publication: str, *, after_lsn: int, streams_open_transactions: bool) -> None:
        """Begin to read a slot.

        Raises:
            RetryableError: Somebody else reads it.
            FatalError: The slot is lost or not there.
        """
        ...

    def read(self, timeout_seconds: float) -> WalMessage | None:
        """The next message; None when none came in time. Answers the server's keepalives, with what is confirmed."""
        ...

    @property
    def wal_end(self) -> int:
        """How far the server's log had got when it last said so; what it had sent before that has been read."""
        ...

    def confirm(self, lsn: int) -> None:
        """Tell the server that everything before `lsn` is stored for good; it may then forget it."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


@runtime_checkable
class ReplicationConnector(Protocol):
    """A connector whose changes can be followed."""

    def replicate(self) -> AbstractContextManager[ReplicationSession]:
        """Open a replication connection."""
        ...

    def name_types(self, types: Sequence[tuple[int, int]]) -> list[NativeType]:
        """What pairs of a type's OID and modifier stand for."""
        ...
