"""What a source's log says: relations, changes of rows, transactions."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

from synqx_dagster.model.table import Column, TableName


class Unchanged(enum.Enum):
    """Stands for a value that the source did not send because it is large and has not changed. It is not NULL."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED

#: A value as the source prints it (DateStyle ISO, time zone UTC, bytea in hex), NULL, or not sent.
Value = str | None | Unchanged
Row = tuple[Value, ...]

ReplicaIdentity = Literal["default", "nothing", "full", "index"]


@dataclass(frozen=True)
class Relation:
    """A table as the log describes it at some point; a changed table has another description from then on.

    `key` are the columns of its replica identity: all of them for ``full``, none for ``nothing``.
    """

    oid: int
    table: TableName
    replica_identity: ReplicaIdentity
    columns: tuple[Column, ...]
    key: tuple[str, ...]


# Changes are not frozen: to make one that is takes four times as long, and there are millions. Nobody changes them.


@dataclass(slots=True)
class Insert:
    """A new row."""

    relation: Relation
    new: Row


@dataclass(slots=True)
class Update:
    """A changed row.

    `old` is None where the key has not changed and the identity is not ``full``; else the row as it was, of which
    only the key's columns count where `old_is_key`.
    """

    relation: Relation
    old: Row | None
    old_is_key: bool
    new: Row


@dataclass(slots=True)
class Delete:
    """A row that is gone; of `old` only the key's columns count where `old_is_key`."""

    relation: Relation
    old: Row
    old_is_key: bool


@dataclass(slots=True)
class Truncate:
    """Tables that were emptied at once."""

    relations: tuple[Relation, ...]
    cascade: bool
    restarts_identity: bool


Change = Insert | Update | Delete | Truncate


class Transaction(Protocol):
    """A committed transaction of the source. Its changes may lie on disk; they can be read once, in order."""

    @property
    def commit_lsn(self) -> int:
        """Where it was committed: transactions come in the order of this."""
        ...

    @property
    def end_lsn(self) -> int:
        """What to confirm once it is stored."""
        ...

    @property
    def committed_at(self) -> datetime:
        """When it was committed, by the source's clock; aware."""
        ...

    @property
    def change_count(self) -> int:
        """How many changes it has."""
        ...

    def iter_changes(self) -> Iterator[Change]:
        """Its changes in order; each relation before its first change."""
        ...

    def close(self) -> None:
        """Free what it holds; may be called again."""
        ...


def format_lsn(lsn: int) -> str:
    """An LSN as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """An LSN from PostgreSQL's text.

    Raises:
        ValueError: It is none.
    """
    high, separator, low = text.partition("/")
    if not separator:
        raise ValueError(f"{text!r} is not an LSN")
    return (int(high, 16) << 32) | int(low, 16)
