"""Writes the messages that PostgreSQL's pgoutput sends, from the manual's formats and nothing of the decoder's."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from synqx_dagster.connectors.protocol import NativeType
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import UNCHANGED, Relation, Row

TYPES = {25: NativeType("text", DataType("string")), 20: NativeType("bigint", DataType("bigint"))}
OIDS = {"text": 25, "bigint": 20}
_IDENTITY_LETTERS = {"default": b"d", "nothing": b"n", "full": b"f", "index": b"i"}


def name_types(types: Sequence[tuple[int, int]]) -> list[NativeType]:
    """What the types of these messages stand for."""
    return [TYPES[oid] for oid, _ in types]


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _head(kind: bytes, xid: int | None) -> bytes:
    return kind if xid is None else kind + struct.pack(">I", xid)


def row(values: Row) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            assert isinstance(value, str)
            data = value.encode()
            parts.append(b"t" + struct.pack(">I", len(data)) + data)
    return b"".join(parts)


def relation(one: Relation, xid: int | None = None) -> bytes:
    columns = b"".join(
        bytes([column.name in one.key]) + _name(column.name) + struct.pack(">Ii", OIDS[column.native_type or ""], -1)
        for column in one.columns
    )
    names = _name(one.table.schema or "") + _name(one.table.name)
    count = struct.pack(">H", len(one.columns))
    oid = struct.pack(">I", one.oid)
    return _head(b"R", xid) + oid + names + _IDENTITY_LETTERS[one.replica_identity] + count + columns


def insert(one: Relation, new: Row, xid: int | None = None) -> bytes:
    return _head(b"I", xid) + struct.pack(">I", one.oid) + b"N" + row(new)


def update(one: Relation, old: Row | None, old_is_key: bool, new: Row, xid: int | None = None) -> bytes:
    before = b"" if old is None else (b"K" if old_is_key else b"O") + row(old)
    return _head(b"U", xid) + struct.pack(">I", one.oid) + before + b"N" + row(new)


def delete(one: Relation, old: Row, old_is_key: bool, xid: int | None = None) -> bytes:
    return _head(b"D", xid) + struct.pack(">I", one.oid) + (b"K" if old_is_key else b"O") + row(old)


def truncate(relations: Sequence[Relation], cascade: bool, restarts: bool, xid: int | None = None) -> bytes:
    oids = b"".join(struct.pack(">I", one.oid) for one in relations)
    return _head(b"T", xid) + struct.pack(">IB", len(relations), cascade + 2 * restarts) + oids


def begin(commit_lsn: int, microseconds: int, xid: int) -> bytes:
    return b"B" + struct.pack(">QqI", commit_lsn, microseconds, xid)


def commit(commit_lsn: int, end_lsn: int, microseconds: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, microseconds)


def stream_start(xid: int, is_first: bool) -> bytes:
    return b"S" + struct.pack(">IB", xid, is_first)


STREAM_STOP = b"E"


def stream_commit(xid: int, commit_lsn: int, end_lsn: int, microseconds: int) -> bytes:
    return b"c" + struct.pack(">IBQQq", xid, 0, commit_lsn, end_lsn, microseconds)


def stream_abort(xid: int, subxid: int) -> bytes:
    return b"A" + struct.pack(">II", xid, subxid)


def origin() -> bytes:
    return b"O" + struct.pack(">Q", 77) + _name("elsewhere")


def type_name(xid: int | None = None) -> bytes:
    return _head(b"Y", xid) + struct.pack(">I", 99_999) + _name("public") + _name("mood")


def logical_message(xid: int | None = None) -> bytes:
    return _head(b"M", xid) + struct.pack(">BQ", 1, 5) + _name("synqx") + struct.pack(">I", 2) + b"hi"
