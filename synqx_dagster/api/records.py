"""Reading and writing records of every kind: what all routes of records stand on.

Guarantee: a write is one revision with the caller as its author, or nothing. Of two writes of one record that know
nothing of each other one is refused; writes of different records do not disturb each other.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synqx_dagster.api.problems import ApiError
from synqx_dagster.api.record_bodies import BodyDocument, moved_problems, read_body
from synqx_dagster.api.secret_fields import keep_secrets, refuse_moved_secrets, refuse_own_secrets
from synqx_dagster.audit.actor import current_actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.apply import apply_changes, plan_changes, plan_removal
from synqx_dagster.catalog.changes import Change, ChangePlan
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.listing import ListQuery, RecordPage, StoredRecord, find_stored, list_records
from synqx_dagster.catalog.revisions import RecordKey
from synqx_dagster.catalog.snapshot import CatalogSnapshot, not_found
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConflictError
from synqx_dagster.model import Record, RecordKind
from synqx_dagster.model.base import with_article
from synqx_dagster.people.identity import Client, Identity

#: Writers of this process come one after the other; those of other processes are met so often at most.
_MAX_TRIES = 20
_PAUSE_SECONDS = 0.02

_ID = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Writer:
    """Who writes, and from where."""

    identity: Identity
    client: Client


@dataclass(frozen=True)
class Edit:
    """What a request makes of the catalog: records as they shall be, and those that shall be no more."""

    records: tuple[Record, ...] = ()
    documents: tuple[BodyDocument, ...] = ()
    removed: tuple[RecordKey, ...] = ()


@dataclass(frozen=True)
class Precondition:
    """The versions that `If-Match` allows; None where the header was not sent."""

    etags: frozenset[str] | None = None

    @classmethod
    def parse(cls, header: str | None) -> Precondition:
        """Read ``If-Match``: ``*``, or strong tags in quotes. A weak one never matches (RFC 9110, 13.1.1)."""
        if header is None:
            return cls()
        if header.strip() == "*":
            return cls(frozenset({"*"}))
        return cls(frozenset(re.findall(r'(?<![Ww]/)"([^"]*)"', header)))

    def allows(self, etag: str) -> bool:
        """Whether a version is one of them."""
        return self.etags is None or "*" in self.etags or etag in self.etags

    def require(self, etag: str, what: str) -> None:
        """Refuse a version that is none of them.

        Args:
            etag: Of what is stored.
            what: Says what was changed, and by whom.

        Raises:
            ApiError: 412, with the version that is stored.
        """
        if not self.allows(etag):
            raise ApiError(
                412,
                what,
                hint="GET it again, look at what changed, and send its new ETag as If-Match",
                headers={"ETag": f'"{etag}"'},
            )


@dataclass
class Draft:
    """One record as a request describes it, before it is checked.

    Attributes:
        kind: Of the record.
        values: The request's fields, or what a route made of them.
        also: Called with the snapshot and the record that was made; gives what else the same revision changes.
        check: Called with the record as it is and as it will be; raises where a change is not allowed.
        moved: Where fields of the record stood in the request, if somewhere else.
    """

    kind: RecordKind
    values: Mapping[str, Any]
    also: Callable[[CatalogSnapshot, Record], Edit] | None = None
    check: Callable[[Record, Record], None] | None = None
    moved: Mapping[str, str] = field(default_factory=dict)


class RecordService:
    """Records of one catalog. Safe to share between threads."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._turn = threading.Lock()

    # --- reading ------------------------------------------------------------------------------------------------

    def page(self, query: ListQuery) -> RecordPage:
        """A page of a list."""
        return list_records(self.catalog, query)

    def find(self, kind: RecordKind, reference: str) -> StoredRecord | None:
        """The record of an id or, where it is none, of a name; None where there is none."""
        stored = None
        if _ID.fullmatch(reference):
            stored = find_stored(self.catalog, kind, int(reference))
        return stored or find_stored(self.catalog, kind, reference)

    def get(
        self, kind: RecordKind, reference: str, visible: Callable[[Record], bool] = lambda record: True
    ) -> StoredRecord:
        """The record of an id or a name.

        Raises:
            NotFoundError: There is none, or it is not visible.
        """
        stored = self.find(kind, reference)
        if stored is None or not visible(stored.record):
            names = [name for name, record in self.catalog.latest_snapshot().of_kind(kind).items() if visible(record)]
            raise not_found(kind, reference, names)
        return stored

    # --- writing --------------------------------------------------------------------------------------------------

    def create(self, draft: Draft, writer: Writer) -> StoredRecord:
        """Make a record.

        Raises:
            InvalidInputError: The values, together with what is in the catalog, have problems.
            ConflictError: There is a record of this name.
            ApiError: 403 where it would belong to others.
        """
        with moved_problems(draft.moved):
            return self._create(draft, writer)

    def _create(self, draft: Draft, writer: Writer) -> StoredRecord:
        incoming = read_body(self.catalog, draft.kind, draft.values)
        # A name is all that is needed of it before it is checked.
        name = str(incoming.values.get("name"))

        def make(snapshot: CatalogSnapshot) -> Edit:
            record = incoming.build(draft.kind, incoming.values)
            if snapshot.find(draft.kind, record.name) is not None:
                raise ConflictError(
                    f"There is {with_article(draft.kind)} {record.name!r} already", hint="PUT changes it"
                )
            refuse_own_secrets(self.catalog.settings, None, record)
            return self._edit(draft, incoming.document, snapshot, record)

        self.write(make, writer, reason=f"create {draft.kind} {name[:200]}")
        return _still_there(find_stored(self.catalog, draft.kind, name), draft.kind, name)

    def replace(self, start: StoredRecord, draft: Draft, precondition: Precondition, writer: Writer) -> StoredRecord:
        """Declare a record anew, whole; what is left out gets its default, and a secret that is left out stays.

        Args:
            start: The record as it was when the request came in.
            draft: What it shall be.
            precondition: What it must have been.
            writer: Who asks for it.

        Raises:
            InvalidInputError: As `create`; also where the name would be another.
            ConflictError: Somebody else changed it while this was going on.
            ApiError: 412 where it is of another version than `precondition` says, 403 where it belongs to others.
        """
        with moved_problems(draft.moved):
            return self._replace(start, draft, precondition, writer)

    def _replace(self, start: StoredRecord, draft: Draft, precondition: Precondition, writer: Writer) -> StoredRecord:
        self._require(precondition, start)
        before_name = start.record.name
        incoming = read_body(self.catalog, draft.kind, {"name": before_name, **draft.values}, renames=before_name)

        def make(snapshot: CatalogSnapshot) -> Edit:
            before = self._unchanged(start, precondition)
            record = incoming.build(draft.kind, keep_secrets(before, incoming.values))
            refuse_own_secrets(self.catalog.settings, before, record)
            refuse_moved_secrets(before, record)
            if draft.check is not None:
                draft.check(before, record)
            return self._edit(draft, incoming.document, snapshot, record)

        self.write(make, writer, reason=f"change {draft.kind} {before_name}")
        return _still_there(find_stored(self.catalog, draft.kind, start.number), draft.kind, before_name)

    def change(
        self,
        stored: StoredRecord,
        update: Callable[[Record], Record],
        writer: Writer,
        *,
        reason: str,
        precondition: Precondition | None = None,
    ) -> StoredRecord:
        """Change some fields of a record, whatever the others are by now; checked as a whole.

        Args:
            stored: The record as it was when the request came in.
            update: Gives the record as it shall be.
            writer: Who asks for it.
            reason: Of the revision.
            precondition: What it must still be.

        Raises:
            InvalidInputError, ConflictError, ApiError: As `replace`.
        """
        kind, name = stored.record.kind, stored.record.name
        if precondition is not None:
            self._require(precondition, stored)

        def make(snapshot: CatalogSnapshot) -> Edit:
            if precondition is not None and precondition.etags is not None:
                self._unchanged(stored, precondition)
            before = snapshot.find(kind, name)
            if before is None:
                raise not_found(kind, name, snapshot.of_kind(kind))
            record = update(before)
            return Edit((record,), (BodyDocument.of(record),))

        self.write(make, writer, reason=reason)
        return _still_there(find_stored(self.catalog, kind, stored.number), kind, name)

    def remove(
        self,
        stored: StoredRecord,
        precondition: Precondition,
        writer: Writer,
        *,
        with_it: Callable[[CatalogSnapshot], tuple[RecordKey, ...]] = lambda snapshot: (),
    ) -> None:
        """Remove a record, and what belongs to it.

        Raises:
            InUseError: Others refer to it.
            ConflictError, ApiError: As `replace`.
        """
        self._require(precondition, stored)
        key = (stored.record.kind, stored.record.name)

        def make(snapshot: CatalogSnapshot) -> Edit:
            self._unchanged(stored, precondition)
            return Edit(removed=(key, *with_it(snapshot)))

        self.write(make, writer, reason=f"remove {key[0]} {key[1]}")

    def write(self, make: Callable[[CatalogSnapshot], Edit], writer: Writer, *, reason: str) -> int:
        """Write what `make` makes of the latest revision; made anew when somebody else was first.

        Args:
            make: Must raise where the record that the request is about is not what the request knew.

        Returns:
            Number of the revision; of the latest where nothing differs.

        Raises:
            ConflictError: Others were first, again and again.
            ApiError: 403 where a record belongs to others.
        """
        for attempt in range(_MAX_TRIES):
            with self._turn:
                snapshot = self.catalog.latest_snapshot()
                plan = self._plan(make(snapshot))
                self._require_owner(snapshot, plan, writer.identity)
                try:
                    if plan.base_revision == snapshot.revision:
                        return self._apply(plan, writer, reason)
                except ConflictError:
                    pass  # Another process was first; what it did may be of no concern here.
            time.sleep(_PAUSE_SECONDS * min(attempt + 1, 10))
        raise ConflictError("Others kept changing the catalog; nothing was changed", hint="try again in a moment")

    def _plan(self, edit: Edit) -> ChangePlan:
        parts = []
        if edit.records:
            parts.append(plan_changes(self.catalog, Definitions(edit.records, edit.documents)))
        if edit.removed:
            parts.append(plan_removal(self.catalog, edit.removed))
        bases = {part.base_revision for part in parts}
        # Parts of two revisions make no plan; a base that never was is refused, and all is made anew.
        base = bases.pop() if len(bases) == 1 else -1
        return ChangePlan(base, tuple(change for part in parts for change in part.changes))

    def _apply(self, plan: ChangePlan, writer: Writer, reason: str) -> int:
        return apply_changes(self.catalog, plan, author=writer.identity.username, reason=reason)

    def _require_owner(self, snapshot: CatalogSnapshot, plan: ChangePlan, identity: Identity) -> None:
        for change in plan.changes:
            for record in (snapshot.find(change.kind, change.name), change.record):
                if record is not None and not identity.owns(record.writers):
                    self._record_denial(change, record)
                    raise ApiError(
                        403,
                        f"The {change.kind} {change.name!r} belongs to {', '.join(record.writers)}",
                        hint="one of its owners, or an admin, may change it",
                    )

    def _record_denial(self, change: Change, record: Record) -> None:
        event = AuditEvent(
            f"{change.kind}.write",
            "denied",
            "",
            target_kind=change.kind,
            target=change.name,
            detail=f"belongs to {', '.join(record.writers)}"[:500],
        )
        AuditTrail(self.catalog).record(current_actor().signs(event))

    def _require(self, precondition: Precondition, stored: StoredRecord) -> None:
        name = f"{stored.record.kind} {stored.record.name!r}"
        precondition.require(stored.etag, f"The {name} was changed by {stored.updated_by} in the meantime")

    def _unchanged(self, start: StoredRecord, precondition: Precondition) -> Record:
        """The record, if it is still what it was when the request came in."""
        now = find_stored(self.catalog, start.record.kind, start.number)
        if now is not None and now.etag == start.etag:
            return now.record
        if precondition.etags is not None and now is not None:
            self._require(Precondition(frozenset({start.etag})), now)
        raise ConflictError(
            f"The {start.record.kind} {start.record.name!r} was {'removed' if now is None else 'changed'} by somebody"
            " else in the meantime; nothing was changed",
            hint="GET it again, and send its ETag as If-Match",
        )

    def _edit(self, draft: Draft, document: BodyDocument, snapshot: CatalogSnapshot, record: Record) -> Edit:
        more = draft.also(snapshot, record) if draft.also is not None else Edit()
        return Edit((record, *more.records), (document, *more.documents), more.removed)


def _still_there(stored: StoredRecord | None, kind: RecordKind, name: str) -> StoredRecord:
    if stored is None:
        raise ConflictError(f"The {kind} {name!r} was written, and removed by somebody else at once")
    return stored
