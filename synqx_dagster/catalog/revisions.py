"""Revisions and versioned rows: how records are read at a revision and how a new revision is written.

Guarantee: what an earlier revision says never changes. A new revision only closes the versions that it replaces
and adds its own, so it costs what it changed. Every function works within the caller's transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pydantic
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import tables
from synqx_dagster.errors import (
    CatalogVersionError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    NotInitialisedError,
)
from synqx_dagster.model import RECORD_TYPES, Record, RecordKind

#: Values in one IN (...): well below the least limit of a backend (SQLite: 32766 variables).
_CHUNK = 500

MAX_AUTHOR_CHARACTERS = 256
MAX_REASON_CHARACTERS = 10_000

RecordKey = tuple[RecordKind, str]
_T = TypeVar("_T")


@dataclass(frozen=True)
class RevisionInfo:
    """One revision: who changed the catalog when and why, and how many records."""

    number: int
    created_at: datetime
    author: str
    reason: str | None
    created_records: int
    changed_records: int
    removed_records: int


@dataclass(frozen=True)
class RevisionChanges:
    """What a new revision does. Records in ``created`` and ``changed`` hold no literal secret."""

    created: Sequence[Record] = ()
    changed: Sequence[Record] = ()
    removed: Sequence[RecordKey] = ()


# --- bodies -------------------------------------------------------------------------------------------------


def encode_body(record: Record) -> str:
    """A record as JSON in ASCII, the same on every backend.

    Every field is written, so that a default that changes later does not change what was applied. Keys keep their
    order: in the columns of a pipeline's node it means something.

    Raises:
        ConfigurationError: A number in it is not finite.
    """
    try:
        return json.dumps(record.model_dump(mode="json"), separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        # A literal secret refuses to be written; its text is in neither exception.
        raise ConfigurationError(f"The {record.kind} {record.name!r} holds a value that cannot be stored") from exc


def digest_of(kind: str, body: str) -> str:
    """SHA-256 of a body and its kind, in hex."""
    return hashlib.sha256(f"{kind}\n{body}".encode()).hexdigest()


def decode_body(kind: str, name: str, body: str, digest: str) -> Record:
    """The record that `encode_body` wrote.

    Raises:
        IntegrityError: The body is not what was written.
        CatalogVersionError: It has fields that this version does not know.
    """
    if digest_of(kind, body) != digest:
        raise IntegrityError(
            f"The stored {kind} {name!r} is not what was written", hint="restore the catalog from a backup"
        )
    record_type = next((record_type for known, record_type in RECORD_TYPES.items() if known == kind), None)
    try:
        if record_type is not None:
            return record_type.model_validate_json(body)
    except pydantic.ValidationError as exc:
        raise _unreadable(kind, name) from exc
    raise _unreadable(kind, name)


def _unreadable(kind: str, name: str) -> CatalogVersionError:
    return CatalogVersionError(
        f"The {kind} {name!r} was written by a newer version of SynqX",
        hint="install the version of SynqX that the others use",
    )


# --- reading ------------------------------------------------------------------------------------------------


def read_latest(connection: Connection) -> int:
    """Number of the latest revision; 0 when there is none."""
    number = connection.execute(sa.select(sa.func.max(tables.revision.c.number))).scalar()
    return int(number or 0)


def resolve_revision(connection: Connection, revision: int | None) -> int:
    """A revision's number; None is the latest.

    Raises:
        NotFoundError: There is no such revision.
    """
    latest = read_latest(connection)
    if revision is None:
        return latest
    if not 0 <= revision <= latest:
        raise NotFoundError(
            f"There is no revision {revision}",
            hint=f"revisions go from 1 to {latest}" if latest else "nothing has been applied yet",
        )
    return revision


def read_history(connection: Connection, limit: int) -> list[RevisionInfo]:
    """The latest revisions, newest first."""
    query = sa.select(tables.revision).order_by(tables.revision.c.number.desc()).limit(limit)
    return [RevisionInfo(**row) for row in connection.execute(query).mappings()]


def read_revisions(connection: Connection, numbers: Iterable[int]) -> dict[int, RevisionInfo]:
    """Some revisions by their numbers."""
    found: dict[int, RevisionInfo] = {}
    for chunk in _chunks(sorted(set(numbers))):
        query = sa.select(tables.revision).where(tables.revision.c.number.in_(chunk))
        found |= {row["number"]: RevisionInfo(**row) for row in connection.execute(query).mappings()}
    return found


def iter_records(
    connection: Connection, revision: int, kind: RecordKind | None = None, names: Iterable[str] | None = None
) -> Iterator[Record]:
    """Records as they were at a revision: all, those of a kind, or those of a kind and some names."""
    query = _select_records(revision, kind)
    queries = [query]
    if names is not None:
        queries = [query.where(tables.record.c.name.in_(chunk)) for chunk in _chunks(sorted(set(names)))]
    for query in queries:
        for row in connection.execute(query):
            yield decode_body(row.kind, row.name, row.body, row.digest)


def iter_bodies(connection: Connection, revision: int, kind: RecordKind) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and bodies of one kind as JSON has them; unchecked, for who looks for a few of many."""
    for row in connection.execute(_select_records(revision, kind)):
        yield row.name, json.loads(row.body)


def _select_records(revision: int, kind: RecordKind | None) -> sa.Select[Any]:
    record, version = tables.record, tables.record_version
    query = (
        sa.select(record.c.kind, record.c.name, version.c.body, version.c.digest)
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .where(
            version.c.valid_from <= revision,
            sa.or_(version.c.valid_to.is_(None), version.c.valid_to > revision),
        )
    )
    return query if kind is None else query.where(record.c.kind == kind)


@dataclass(frozen=True)
class RecordVersion:
    """One version of a record: the revisions that have it, from `valid_from` up to and without `valid_to`."""

    number: int
    valid_from: int
    valid_to: int | None
    kind: RecordKind
    name: str
    body: str
    digest: str

    def decode(self) -> Record:
        """What the record was; read only when it is asked for, because an old version may be past reading.

        Raises:
            IntegrityError, CatalogVersionError: As `decode_body`.
        """
        return decode_body(self.kind, self.name, self.body, self.digest)


def read_versions(connection: Connection, kind: RecordKind, name: str) -> list[RecordVersion]:
    """Every version of a record, the oldest first."""
    record, version = tables.record, tables.record_version
    query = (
        sa.select(version.c.valid_from, version.c.valid_to, version.c.body, version.c.digest)
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .where(record.c.kind == kind, record.c.name == name)
        .order_by(version.c.valid_from)
    )
    return [
        RecordVersion(number, row.valid_from, row.valid_to, kind, name, row.body, row.digest)
        for number, row in enumerate(connection.execute(query), 1)
    ]


def count_versions(connection: Connection, kind: RecordKind, name: str, revision: int) -> int:
    """Which version of a record a revision has: 1 for the first; 0 where the record is not there."""
    record, version = tables.record, tables.record_version
    is_there = sa.or_(version.c.valid_to.is_(None), version.c.valid_to > revision)
    query = (
        sa.select(sa.func.count().label("begun"), sa.func.max(sa.case((is_there, 1), else_=0)).label("is_there"))
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .where(record.c.kind == kind, record.c.name == name, version.c.valid_from <= revision)
    )
    row = connection.execute(query).one()
    return int(row.begun) if row.is_there else 0


def read_removed_names(connection: Connection, kind: RecordKind) -> list[str]:
    """Names of records of a kind that are in no current version."""
    record, version = tables.record, tables.record_version
    current = sa.select(version.c.record_id).where(version.c.valid_to.is_(None))
    query = sa.select(record.c.name).where(record.c.kind == kind, record.c.record_id.not_in(current))
    return sorted(connection.execute(query).scalars())


def read_written_by(connection: Connection, author: str) -> list[tuple[RecordKind, str, str | None]]:
    """Kind, name and reason of the records whose current version an author has written."""
    record, version, revision = tables.record, tables.record_version, tables.revision
    query = (
        sa.select(record.c.kind, record.c.name, revision.c.reason)
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .join(revision, revision.c.number == version.c.valid_from)
        .where(version.c.valid_to.is_(None), revision.c.author == author)
        .order_by(record.c.kind, record.c.name)
    )
    return [(kind, name, reason) for kind, name, reason in connection.execute(query)]


def read_names(
    connection: Connection, revision: int, kind: RecordKind, among: Collection[str] | None = None
) -> list[str]:
    """Names of one kind at a revision: all of them, or those among some."""
    record, version = tables.record, tables.record_version
    query = (
        sa.select(record.c.name)
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .where(
            record.c.kind == kind,
            version.c.valid_from <= revision,
            sa.or_(version.c.valid_to.is_(None), version.c.valid_to > revision),
        )
    )
    if among is not None:
        query = query.where(record.c.name.in_(among))
    return list(connection.execute(query).scalars())


# --- writing ------------------------------------------------------------------------------------------------


def lock_catalog(connection: Connection) -> None:
    """Keep other writers waiting until this transaction ends (SQLite: they already do)."""
    query = sa.select(tables.catalog.c.catalog_id).with_for_update()
    if connection.execute(query).first() is None:
        raise NotInitialisedError()


def check_base(connection: Connection, base_revision: int) -> None:
    """Refuse to build on a revision that is not the latest.

    Raises:
        ConflictError: Somebody else was first.
    """
    latest = read_latest(connection)
    if latest != base_revision:
        raise ConflictError(
            f"The catalog has moved from revision {base_revision} to {latest} in the meantime; nothing was changed",
            hint="look at what the others changed and apply again",
            base_revision=base_revision,
            latest_revision=latest,
        )


def ensure_record_ids(connection: Connection, keys: Iterable[RecordKey]) -> dict[RecordKey, int]:
    """Ids of records by kind and name; a record that has never been gets one. The caller holds the catalog's lock."""
    wanted = set(keys)
    found = find_record_ids(connection, wanted)
    missing = sorted(wanted - found.keys())
    if missing:
        connection.execute(sa.insert(tables.record), _numbered(connection, missing))
        found |= find_record_ids(connection, missing)
    return found


def _numbered(connection: Connection, keys: Sequence[RecordKey]) -> list[dict[str, Any]]:
    """Rows of new records, which go on counting where their kinds have got to."""
    record = tables.record
    kinds = {kind for kind, _ in keys}
    query = sa.select(record.c.kind, sa.func.max(record.c.number)).where(record.c.kind.in_(kinds))
    last: dict[str, int] = {kind: int(number) for kind, number in connection.execute(query.group_by(record.c.kind))}
    rows = []
    for kind, name in keys:
        last[kind] = last.get(kind, 0) + 1
        rows.append({"kind": kind, "name": name, "number": last[kind]})
    return rows


def find_record_ids(connection: Connection, keys: Iterable[RecordKey]) -> dict[RecordKey, int]:
    """Ids of records by kind and name, also of those that are no more; those that never were are left out."""
    return _look_up(connection, tables.record.c.record_id, keys)


def find_record_numbers(connection: Connection, keys: Iterable[RecordKey]) -> dict[RecordKey, int]:
    """The same of their numbers."""
    return _look_up(connection, tables.record.c.number, keys)


def _look_up(connection: Connection, column: sa.Column[Any], keys: Iterable[RecordKey]) -> dict[RecordKey, int]:
    names_by_kind: dict[RecordKind, list[str]] = {}
    for kind, name in keys:
        names_by_kind.setdefault(kind, []).append(name)
    found: dict[RecordKey, int] = {}
    record = tables.record
    for kind, names in names_by_kind.items():
        for chunk in _chunks(names):
            query = sa.select(record.c.name, column).where(record.c.kind == kind, record.c.name.in_(chunk))
            found |= {(kind, name): int(value) for name, value in connection.execute(query)}
    return found


def write_revision(
    connection: Connection,
    *,
    base_revision: int,
    changes: RevisionChanges,
    record_ids: dict[RecordKey, int],
    author: str,
    reason: str | None,
) -> int:
    """Write one revision. The caller holds the catalog's lock and has called `check_base`.

    Returns:
        Its number, one more than ``base_revision``.
    """
    number = base_revision + 1
    connection.execute(
        sa.insert(tables.revision),
        {
            "number": number,
            "created_at": datetime.now(UTC),
            "author": author,
            "reason": reason,
            "created_records": len(changes.created),
            "changed_records": len(changes.changed),
            "removed_records": len(changes.removed),
        },
    )
    ended = [*((record.kind, record.name) for record in changes.changed), *changes.removed]
    version = tables.record_version
    for chunk in _chunks([record_ids[key] for key in ended]):
        closed = connection.execute(
            sa.update(version)
            .where(version.c.record_id.in_(chunk), version.c.valid_to.is_(None))
            .values(valid_to=number)
        )
        if closed.rowcount != len(chunk):
            raise IntegrityError("The catalog's current records are not those of its latest revision")
    rows = []
    for record in [*changes.created, *changes.changed]:
        body = encode_body(record)
        rows.append(
            {
                "record_id": record_ids[record.kind, record.name],
                "valid_from": number,
                "body": body,
                "digest": digest_of(record.kind, body),
            }
        )
    if rows:
        connection.execute(sa.insert(version), rows)
    return number


def check_author(author: str, reason: str | None) -> None:
    """Refuse what every backend cannot store.

    Raises:
        ConfigurationError: The author is empty, or one of the two is too long or not text.
    """
    if not author.strip():
        raise ConfigurationError("A change of the catalog needs an author")
    for what, text, limit in (
        ("author", author, MAX_AUTHOR_CHARACTERS),
        ("reason", reason or "", MAX_REASON_CHARACTERS),
    ):
        if len(text) > limit:
            raise ConfigurationError(f"The {what} is longer than {limit} characters")
        if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigurationError(f"The {what} is not valid text")


def _chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
