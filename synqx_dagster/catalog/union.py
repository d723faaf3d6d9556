"""What the catalog will hold: the declared records over those that stay, and where each of them is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from synqx_dagster.catalog.documents import Definitions, locate_unwritten
from synqx_dagster.catalog.snapshot import CatalogSnapshot, is_same
from synqx_dagster.catalog.yaml_tree import FieldPath
from synqx_dagster.errors import Problem, SourceLocation
from synqx_dagster.model import Record, RecordKind

_RecordT = TypeVar("_RecordT", bound=Record)


@dataclass(frozen=True)
class RecordUnion:
    """The records as they will be.

    Attributes:
        definitions: What is declared.
        known: The catalog before; None when there is none.
        records: All of it together.
        positions: Where the declared ones stand in ``definitions``; the first one of two with one name.
    """

    definitions: Definitions
    known: CatalogSnapshot | None
    records: CatalogSnapshot
    positions: dict[tuple[RecordKind, str], int]

    @classmethod
    def of(cls, definitions: Definitions, known: CatalogSnapshot | None, *, prune: bool) -> RecordUnion:
        """Put declared records over those that stay; with ``prune`` none of the others stays."""
        positions: dict[tuple[RecordKind, str], int] = {}
        for index, record in enumerate(definitions.records):
            positions.setdefault((record.kind, record.name), index)
        declared = [definitions.records[index] for index in positions.values()]
        # What stays is not sorted anew: one write in a large catalog costs what it changes.
        staying = CatalogSnapshot(known.revision if known else 0) if known is None or prune else known
        records = staying.moved_to(staying.revision, declared, ())
        return cls(definitions, known, records, positions)

    def without(self, names: Collection[tuple[RecordKind, str]]) -> RecordUnion:
        """The same without some of the records."""
        return replace(self, records=self.records.moved_to(self.records.revision, (), names)) if names else self

    def iter_new(self, record_type: type[_RecordT]) -> Iterator[_RecordT]:
        """The declared records of a kind that are not in the catalog just so, in the order of the files."""
        for kind, name in self.positions:
            if kind == record_type.kind:
                record = self.records.find(kind, name)
                if isinstance(record, record_type) and not self.is_unchanged(record):
                    yield record

    def is_unchanged(self, record: Record) -> bool:
        """Whether the catalog has exactly this record."""
        before = self.known.find(record.kind, record.name) if self.known is not None else None
        return before is not None and is_same(before, record)

    def problem(self, record: Record, path: FieldPath, message: str, hint: str | None = None) -> Problem:
        """A problem of a record, with its place."""
        return Problem(message, self.locate(record, path), hint)

    def locate(self, record: Record, path: FieldPath = ()) -> SourceLocation:
        """Where a record, or a field of it, is written."""
        position = self.positions.get((record.kind, record.name))
        if position is None:
            return locate_unwritten(record.kind, record.name, path)
        return self.definitions.locate_at(position, path)
