"""The trail: appended within the transaction of the act, read page by page, exported line by line.

Guarantee: an act and its entry are durable together or not at all. Entries are numbered without a gap, each holds
the hash of the one before, and the database refuses to change or to remove them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.audit.chain import AuditEntry, first_hash, hash_entry
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.catalog.people_tables import audit, audit_head
from synqx_dagster.catalog.tables import catalog as catalog_table
from synqx_dagster.errors import IntegrityError, NotInitialisedError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

_PAGE_ROWS = 1000

#: What PostgreSQL cannot store, and what could drive the terminal of whoever reads the trail.
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: How much of each text is kept: a stranger chooses the name in a failed login.
_LIMITS = {
    "action": 64,
    "outcome": 16,
    "actor": 256,
    "actor_id": 36,
    "method": 16,
    "address": 64,
    "target_kind": 64,
    "target": 512,
    "request_id": 64,
    "run_id": 64,
    "detail": 2000,
}
_MAX_FIELDS = 200
_MAX_FIELD_CHARACTERS = 256


def append(connection: Connection, event: AuditEvent) -> int:
    """Add an entry within the caller's transaction, as the last thing that it does.

    The end of the trail is locked until the transaction ends; whoever locked other rows after it could wait for
    one who waits here.

    Returns:
        The entry's number.
    """
    return append_all(connection, [event])


def append_all(connection: Connection, events: Iterable[AuditEvent]) -> int:
    """Add entries, in their order, as `append` does; gives the number of the last one."""
    end = lock_end(connection)
    now = datetime.now(UTC)
    rows = []
    for event in events:
        entry = AuditEntry(end.number + 1, now, _storable(event), end.entry_hash, "")
        end = TrailEnd(entry.number, hash_entry(entry))
        rows.append(_row_of(replace(entry, entry_hash=end.entry_hash)))
    if rows:
        connection.execute(sa.insert(audit), rows)
        connection.execute(sa.update(audit_head).values(number=end.number, entry_hash=end.entry_hash))
    return end.number


@dataclass(frozen=True)
class TrailEnd:
    """The last entry's number and hash; keep them elsewhere, and a trail that was cut off is noticed."""

    number: int
    entry_hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.entry_hash}"


def lock_end(connection: Connection) -> TrailEnd:
    """Where the trail ends; it stays so until the transaction ends."""
    return _read_end(connection, lock=True)


def read_end(connection: Connection) -> TrailEnd:
    """Where the trail ends."""
    return _read_end(connection, lock=False)


def _read_end(connection: Connection, *, lock: bool) -> TrailEnd:
    query = sa.select(audit_head.c.number, audit_head.c.entry_hash)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise IntegrityError("The end of the audit trail is gone", hint="restore the catalog from a backup")
    if row.number:
        return TrailEnd(int(row.number), row.entry_hash)
    catalog_id = connection.execute(sa.select(catalog_table.c.catalog_id)).scalar()
    if catalog_id is None:
        raise NotInitialisedError()
    return TrailEnd(0, first_hash(catalog_id))


def _storable(event: AuditEvent) -> AuditEvent:
    texts: dict[str, Any] = {}
    for name, limit in _LIMITS.items():
        value = getattr(event, name)
        if isinstance(value, str):
            texts[name] = _cut(value, limit)
    fields = tuple(_cut(name, _MAX_FIELD_CHARACTERS) for name in event.fields[:_MAX_FIELDS])
    return replace(event, **texts, fields=fields)


def _cut(text: str, limit: int) -> str:
    text = _UNSTORABLE.sub("\ufffd", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _row_of(entry: AuditEntry) -> dict[str, Any]:
    event = entry.event
    return {
        "number": entry.number,
        "recorded_at": entry.recorded_at,
        "action": event.action,
        "outcome": event.outcome,
        "actor": event.actor,
        "actor_id": event.actor_id,
        "method": event.method,
        "address": event.address,
        "target_kind": event.target_kind,
        "target": event.target,
        "fields": json.dumps(list(event.fields), ensure_ascii=True, separators=(",", ":")),
        "request_id": event.request_id,
        "run_id": event.run_id,
        "revision": event.revision,
        "detail": event.detail,
        "previous_hash": entry.previous_hash,
        "entry_hash": entry.entry_hash,
    }


def entry_of(row: Any) -> AuditEntry:
    """A stored row as an entry.

    Raises:
        IntegrityError: The names of its fields are no list of texts: somebody changed it.
    """
    try:
        fields = json.loads(row.fields)
    except ValueError:
        fields = None
    if not isinstance(fields, list) or not all(isinstance(name, str) for name in fields):
        raise IntegrityError(f"Entry {row.number} of the audit trail is not what was written")
    event = AuditEvent(
        action=row.action,
        outcome=row.outcome,
        actor=row.actor,
        actor_id=row.actor_id,
        method=row.method,
        address=row.address,
        target_kind=row.target_kind,
        target=row.target,
        fields=tuple(fields),
        request_id=row.request_id,
        run_id=row.run_id,
        revision=None if row.revision is None else int(row.revision),
        detail=row.detail,
    )
    return AuditEntry(int(row.number), row.recorded_at, event, row.previous_hash, row.entry_hash)


@dataclass(frozen=True)
class AuditFilter:
    """Which entries are wanted; None leaves a field open. `action` may end in ``*``."""

    action: str | None = None
    actor: str | None = None
    outcome: str | None = None
    target_kind: str | None = None
    target: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """As SQL, for the table of the trail."""
        found: list[sa.ColumnElement[bool]] = []
        if self.action is not None:
            found.append(
                audit.c.action.startswith(self.action[:-1], autoescape=True)
                if self.action.endswith("*")
                else audit.c.action == self.action
            )
        for column, value in (
            (audit.c.actor, self.actor),
            (audit.c.outcome, self.outcome),
            (audit.c.target_kind, self.target_kind),
            (audit.c.target, self.target),
        ):
            if value is not None:
                found.append(column == value)
        if self.since is not None:
            found.append(audit.c.recorded_at >= self.since)
        if self.until is not None:
            found.append(audit.c.recorded_at < self.until)
        return found


class AuditTrail:
    """The trail of one catalog, each call in a transaction of its own."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def record(self, event: AuditEvent) -> int:
        """Add an entry for an act that is no write of the catalog, before or instead of the act.

        Returns:
            Its number. On return it is durable.
        """
        with self._catalog.write() as connection:
            return append(connection, event)

    def end(self) -> TrailEnd:
        """Where the trail ends."""
        with self._catalog.read() as connection:
            return read_end(connection)

    def page(
        self, wanted: AuditFilter | None = None, *, skip: int = 0, limit: int = 50, descending: bool = True
    ) -> tuple[list[AuditEntry], int]:
        """Entries, the newest first unless it is said otherwise, and how many there are in all."""
        conditions = (wanted or AuditFilter()).conditions()
        order = audit.c.number.desc() if descending else audit.c.number.asc()
        query = sa.select(audit).where(*conditions).order_by(order).offset(skip).limit(limit)
        count = sa.select(sa.func.count()).select_from(audit).where(*conditions)
        with self._catalog.read() as connection:
            rows = connection.execute(query).all()
            total = connection.execute(count).scalar_one()
        return [entry_of(row) for row in rows], int(total)

    def iter_entries(self, wanted: AuditFilter | None = None, *, after: int = 0) -> Iterator[AuditEntry]:
        """Entries in their order, in pages of their own transaction each; memory does not grow with the trail."""
        conditions = (wanted or AuditFilter()).conditions()
        while True:
            query = sa.select(audit).where(audit.c.number > after, *conditions)
            with self._catalog.read() as connection:
                rows = connection.execute(query.order_by(audit.c.number).limit(_PAGE_ROWS)).all()
            for row in rows:
                yield entry_of(row)
            if len(rows) < _PAGE_ROWS:
                return
            after = int(rows[-1].number)
