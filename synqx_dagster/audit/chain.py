"""The chain: what an entry's hash is made of, and where a trail is not what was written. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from synqx_dagster.audit.event import AuditEvent


@dataclass(frozen=True)
class AuditEntry:
    """One entry. ``entry_hash`` is over all of the rest, ``previous_hash`` included."""

    number: int
    recorded_at: datetime
    event: AuditEvent
    previous_hash: str
    entry_hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what `hash_entry` hashes, and the hash."""
        return {**_document(self), "entry_hash": self.entry_hash}


def _document(entry: AuditEntry) -> dict[str, Any]:
    event = entry.event
    return {
        "number": entry.number,
        "recorded_at": entry.recorded_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "action": event.action,
        "outcome": event.outcome,
        "actor": event.actor,
        "actor_id": event.actor_id,
        "method": event.method,
        "address": event.address,
        "target_kind": event.target_kind,
        "target": event.target,
        "fields": list(event.fields),
        "request_id": event.request_id,
        "run_id": event.run_id,
        "revision": event.revision,
        "detail": event.detail,
        "previous_hash": entry.previous_hash,
    }


def hash_entry(entry: AuditEntry) -> str:
    """SHA-256, in hex, of the entry without its hash: JSON in ASCII, keys sorted, without blanks."""
    text = json.dumps(_document(entry), ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def first_hash(catalog_id: str) -> str:
    """What the first entry of a catalog's trail holds as the hash before it."""
    return hashlib.sha256(f"synqx audit v1\n{catalog_id}".encode()).hexdigest()


@dataclass(frozen=True)
class Break:
    """The first place at which a trail is not what was written."""

    number: int
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What a look at a whole trail found.

    Attributes:
        entries: How many were read.
        end_hash: Hash of the last one that fits.
        broken: None where all of it fits.
    """

    entries: int
    end_hash: str
    broken: Break | None = None


def verify_chain(
    entries: Iterable[AuditEntry],
    *,
    catalog_id: str,
    expected: Iterable[tuple[int, str]] = (),
) -> Verdict:
    """Read a trail from its first entry on, and stop at the first that does not fit.

    Args:
        entries: In the order of their numbers.
        catalog_id: The catalog that they are of.
        expected: Numbers and hashes that somebody knows from another place; 0 stands for the beginning.
    """
    previous, count = first_hash(catalog_id), 0
    known: dict[int, set[str]] = {}
    for number, entry_hash in expected:
        known.setdefault(number, set()).add(entry_hash)
    if known.pop(0, {previous}) != {previous}:
        return Verdict(0, previous, Break(1, "the trail is of another catalog"))
    for entry in entries:
        wanted = count + 1
        reason = None
        if entry.number < wanted:
            reason = "it stands there twice"
        elif entry.number > wanted:
            # The one that is missing is told, and not the one behind the gap.
            return Verdict(count, previous, Break(wanted, f"it is missing; the next one is {entry.number}"))
        elif entry.previous_hash != previous:
            reason = "it does not follow the entry before it: one of the two was put in, exchanged or written again"
        elif hash_entry(entry) != entry.entry_hash:
            reason = "it was changed"
        elif known.get(wanted, {entry.entry_hash}) != {entry.entry_hash}:
            reason = "it is not the one that was noted: the trail was written again"
        if reason is not None:
            return Verdict(count, previous, Break(entry.number, reason))
        previous, count = entry.entry_hash, wanted
    last_known = max(known, default=0)
    if last_known > count:
        return Verdict(count, previous, Break(count + 1, f"the trail ends at {count} and was cut off after it"))
    return Verdict(count, previous)
