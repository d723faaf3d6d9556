"""What a source's connector needs so that its changes can be followed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from synqx_dagster.model.types import DataType


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
    """One replication connection; not thread-safe, but for `confirm` and `close`.

    Guarantee: the server is never told that more is stored than `confirm` was.
    """

    def create_slot(self, name: str, *, temporary: bool = False) -> CreatedSlot:
        """Make a logical slot for pgoutput and export its snapshot.

        Raises:
            RetryableError: Transactions that were open for too long, or no free slot.
            ConfigurationError: There is a slot of this name, or the server's ``wal_level`` is not ``logical``.
        """
        ...

    def start(self, slot: str, publication: str, *, after_lsn: int, streams_open_transactions: bool) -> None:
        """Begin to read a slot.

        Raises:
            SlotInUseError: Somebody else reads it.
            SlotLostError: The server has given it up, or it is not there.
        """
        ...

    def read(self, timeout_seconds: float) -> list[bytes]:
        """The messages that have come, in order; empty when none came in time.

        Answers the server's keepalives with what is confirmed, and with nothing else.

        Raises:
            RetryableError: The connection was lost, or the server ended it.
            SlotLostError: The server has given up the slot.
        """
        ...

    def keep_alive(self) -> None:
        """Let the server know that we live while nothing is read; at least every second, by the thread that reads."""
        ...

    @property
    def wal_end(self) -> int:
        """How far the server has read its log, as it last said; what was committed before came through `read`."""
        ...

    @property
    def server_time(self) -> float:
        """What time it is at the server, in seconds since 1970, as far as its messages tell."""
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
