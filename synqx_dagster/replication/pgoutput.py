"""Decodes what PostgreSQL's output plugin ``pgoutput`` sends, protocol versions 1 and 2.

Guarantee: a message is understood to its last byte, or the stream ends with an error; a value is the text that the
source printed. Source: PostgreSQL manual, Logical Replication Message Formats.

In version 2 a large transaction is sent in pieces before its end. Its messages then carry, after their kind, the number
of the (sub)transaction that they belong to; the functions here take where the rest begins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from synqx_dagster.connectors.protocol import NativeType
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.replication.changes import (
    UNCHANGED,
    Change,
    Delete,
    Insert,
    Relation,
    ReplicaIdentity,
    Row,
    Truncate,
    Update,
    Value,
)

BEGIN = ord("B")
COMMIT = ord("C")
ORIGIN = ord("O")
RELATION = ord("R")
TYPE = ord("Y")
INSERT = ord("I")
UPDATE = ord("U")
DELETE = ord("D")
TRUNCATE = ord("T")
MESSAGE = ord("M")
STREAM_START = ord("S")
STREAM_STOP = ord("E")
STREAM_COMMIT = ord("c")
STREAM_ABORT = ord("A")

#: Kinds of messages that change rows.
CHANGES = frozenset({INSERT, UPDATE, DELETE, TRUNCATE})

#: Where a message goes on after its kind, and after the number of its transaction in a piece of an open one.
PLAIN_START = 1
STREAMED_START = 5

NameTypes = Callable[[Sequence[tuple[int, int]]], list[NativeType]]

_IDENTITIES: dict[int, ReplicaIdentity] = {
    ord("d"): "default",
    ord("n"): "nothing",
    ord("f"): "full",
    ord("i"): "index",
}
_PART_OF_KEY = 1
_CASCADES = 1
_RESTARTS_IDENTITY = 2
_NEW_ROW, _KEY_ROW, _OLD_ROW = ord("N"), ord("K"), ord("O")
_TEXT, _NULL, _UNCHANGED = ord("t"), ord("n"), ord("u")

_INT16 = struct.Struct(">H")
_INT32 = struct.Struct(">I")
_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_STREAM_START = struct.Struct(">IB")
_STREAM_COMMIT = struct.Struct(">IBQQq")
_STREAM_ABORT = struct.Struct(">II")
_COLUMN_TYPE = struct.Struct(">Ii")

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

#: What a malformed message makes Python raise: UnicodeDecodeError and bytes.index()'s are ValueErrors; a moment may lie
#: outside of the calendar.
_MALFORMED = (IndexError, KeyError, ValueError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a transaction was committed: LSNs of its commit and of what follows it, and when."""

    commit_lsn: int
    end_lsn: int
    committed_at: datetime


def read_begin(payload: bytes) -> tuple[int, int]:
    """Of a transaction that begins: where it will be committed, and its number."""
    try:
        final_lsn, _, xid = _BEGIN.unpack_from(payload, PLAIN_START)
        _expect_end(payload, PLAIN_START + _BEGIN.size)
        return final_lsn, xid
    except _MALFORMED:
        raise _unreadable(payload) from None


def read_commit(payload: bytes) -> Ending:
    """How the transaction that began last was committed."""
    try:
        _, commit_lsn, end_lsn, committed_at = _COMMIT.unpack_from(payload, PLAIN_START)
        _expect_end(payload, PLAIN_START + _COMMIT.size)
        return Ending(commit_lsn, end_lsn, _moment(committed_at))
    except _MALFORMED:
        raise _unreadable(payload) from None


def read_stream_start(payload: bytes) -> int:
    """The number of the open transaction of which a piece begins."""
    try:
        xid: int = _STREAM_START.unpack_from(payload, 1)[0]
        _expect_end(payload, 1 + _STREAM_START.size)
        return xid
    except _MALFORMED:
        raise _unreadable(payload) from None


def read_stream_commit(payload: bytes) -> tuple[int, Ending]:
    """Which transaction that came in pieces was committed, and how."""
    try:
        xid, _, commit_lsn, end_lsn, committed_at = _STREAM_COMMIT.unpack_from(payload, 1)
        _expect_end(payload, 1 + _STREAM_COMMIT.size)
        return xid, Ending(commit_lsn, end_lsn, _moment(committed_at))
    except _MALFORMED:
        raise _unreadable(payload) from None


def read_stream_abort(payload: bytes) -> tuple[int, int]:
    """Of which transaction that came in pieces which part was rolled back; the same number twice: all of it."""
    try:
        xid, subxid = _STREAM_ABORT.unpack_from(payload, 1)
        _expect_end(payload, 1 + _STREAM_ABORT.size)
        return xid, subxid
    except _MALFORMED:
        raise _unreadable(payload) from None


def read_relation(payload: bytes, at: int, name_types: NameTypes) -> Relation:
    """A table as it is from here on.

    Args:
        payload: The message.
        at: Where it goes on after its kind and transaction.
        name_types: Says what types stand for.
    """
    try:
        (oid,) = _INT32.unpack_from(payload, at)
        schema, at = _read_name(payload, at + 4)
        name, at = _read_name(payload, at)
        identity = _IDENTITIES[payload[at]]
        (count,) = _INT16.unpack_from(payload, at + 1)
        at += 3
        names: list[str] = []
        keys: list[bool] = []
        types: list[tuple[int, int]] = []
        for _ in range(count):
            keys.append(bool(payload[at] & _PART_OF_KEY))
            column, at = _read_name(payload, at + 1)
            names.append(column)
            types.append(_COLUMN_TYPE.unpack_from(payload, at))
            at += _COLUMN_TYPE.size
        _expect_end(payload, at)
    except _MALFORMED:
        raise _unreadable(payload) from None
    positions = iter(range(1, count + 1))
    has_key = identity in ("default", "index")
    columns = tuple(
        Column(
            column,
            native.data_type,
            nullable=not (is_key and has_key),
            native_type=native.native_type,
            native_dialect="postgres",
            key_position=next(positions) if is_key and has_key else None,
        )
        for column, is_key, native in zip(names, keys, name_types(types), strict=True)
    )
    key = tuple(column for column, is_key in zip(names, keys, strict=True) if is_key)
    # An empty name stands for pg_catalog.
    return Relation(oid, TableName(name, schema or "pg_catalog"), identity, columns, key)


def read_truncate(payload: bytes, at: int, relations: Mapping[int, Relation]) -> Truncate:
    """Tables that were emptied at once."""
    try:
        (count,) = _INT32.unpack_from(payload, at)
        flags = payload[at + 4]
        _expect_end(payload, at + 5 + 4 * count)
        oids = struct.unpack_from(f">{count}I", payload, at + 5)
        found = tuple(relations[oid] for oid in oids)
        return Truncate(found, bool(flags & _CASCADES), bool(flags & _RESTARTS_IDENTITY))
    except _MALFORMED:
        raise _unreadable(payload) from None


def check_skipped(payload: bytes) -> None:
    """Look whether a message that says nothing of rows is of a kind that is known.

    Raises:
        FatalError: It is not.
    """
    if not payload or payload[0] not in (ORIGIN, TYPE, MESSAGE):
        raise _unreadable(payload)


def iter_changes(
    messages: Iterable[bytes],
    relations: Mapping[int, Relation],
    relation_of: Callable[[bytes, int], Relation],
    *,
    start: int,
    aborted: frozenset[bytes],
) -> Iterator[Change]:
    """The changes of one transaction, in order.

    Args:
        messages: Its changes, and the descriptions of tables between them.
        relations: Tables by OID as they were described before.
        relation_of: Reads the description of a table.
        start: `PLAIN_START` or `STREAMED_START`.
        aborted: Numbers of subtransactions that were rolled back, as the four bytes that stand in a message.

    Raises:
        FatalError: A message cannot be read.
    """
    # A description that was sent in a subtransaction that was rolled back still counts: the source does not send it
    # again, unless the rollback has changed the table back.
    unpack_oid = _INT32.unpack_from
    described: Relation | None = None
    hosts: tuple[int, ...] = ()
    for payload in messages:
        try:
            kind = payload[0]
            if kind == RELATION:
                relation = relation_of(payload, start)
                relations = {**relations, relation.oid: relation}
                continue
            if aborted and payload[1:5] in aborted:
                continue
            if kind == TRUNCATE:
                yield read_truncate(payload, start, relations)
                continue
            (oid,) = unpack_oid(payload, start)
            relation = relations[oid]
            if relation is not described:
                described, hosts = relation, _host_columns(relation)
            width = len(relation.columns)
            row_kind = payload[start + 4]
            row, at = _read_row(payload, start + 5, width)
            change: Change
            if hosts:
                row = _with_masks(row, hosts)
            if kind == INSERT and row_kind == _NEW_ROW:
                change = Insert(relation, row)
            elif kind == UPDATE and row_kind == _NEW_ROW:
                change = Update(relation, None, False, row)
            elif kind == UPDATE and row_kind in (_KEY_ROW, _OLD_ROW):
                if payload[at] != _NEW_ROW:
                    raise _unreadable(payload)
                new, at = _read_row(payload, at + 1, width)
                if hosts:
                    new = _with_masks(new, hosts)
                change = Update(relation, row, row_kind == _KEY_ROW, new)
            elif kind == DELETE and row_kind in (_KEY_ROW, _OLD_ROW):
                change = Delete(relation, row, row_kind == _KEY_ROW)
            else:
                raise _unreadable(payload)
            if at != len(payload):
                raise _unreadable(payload)
        except _MALFORMED:
            raise _unreadable(payload) from None
        yield change


def _read_row(payload: bytes, at: int, width: int) -> tuple[Row, int]:
    """The values of a row, and where it ends, which may be behind the end of a message that was cut off."""
    if payload[at] << 8 | payload[at + 1] != width:
        raise _unreadable(payload)
    at += 2
    unpack_length = _INT32.unpack_from
    values: list[Value] = []
    append = values.append
    for _ in range(width):
        kind = payload[at]
        if kind == _TEXT:
            start = at + 5
            at = start + unpack_length(payload, at + 1)[0]
            append(payload[start:at].decode())
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            at += 1
        else:
            raise _unreadable(payload)
    return tuple(values), at


def _host_columns(relation: Relation) -> tuple[int, ...]:
    return tuple(number for number, column in enumerate(relation.columns) if column.native_type == "inet")


def _with_masks(row: Row, hosts: Sequence[int]) -> Row:
    """A row whose addresses have a mask, as in a cast to text, by which they are copied; the log leaves out a host's.

    It is the only type of PostgreSQL's own that is a text and has two.
    """
    values = list(row)
    for number in hosts:
        value = values[number]
        if isinstance(value, str) and "/" not in value:
            values[number] = f"{value}/{128 if ':' in value else 32}"
    return tuple(values)


def _read_name(payload: bytes, at: int) -> tuple[str, int]:
    end = payload.index(0, at)
    return payload[at:end].decode(), end + 1


def _expect_end(payload: bytes, at: int) -> None:
    if at != len(payload):
        raise _unreadable(payload)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _unreadable(payload: bytes) -> FatalError:
    kind = chr(payload[0]) if payload and 32 < payload[0] < 127 else "?"
    return FatalError(
        f"the source's log holds a message of kind {kind!r} and {len(payload)} bytes that cannot be read",
        hint="a database whose encoding is SQL_ASCII may hold text that is not UTF-8; else the message was cut off, or"
        " is of a newer protocol",
        kind=kind,
        bytes=len(payload),
    )
