"""The state document of a directory: what a commit replaces in one step, and the steps that follow from it.

Each directory that SynqX writes to has one, ``_synqx/state.json``. It holds the shapes of the tables that were
written there, SynqX's own small tables (ledger, fence, quarantine), and the *journal* of the last commit: which files
get which names, and which go. Guarantee: whoever replaces the document has committed; a journal that is still in it can
be carried out by anybody, any number of times, and comes to the same end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from synqx_dagster.errors import DatabaseError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

#: Where SynqX keeps its own files in a directory.
OWN_DIRECTORY = "_synqx"
DOCUMENT_NAME = "state.json"

_VERSION = 1


@dataclass(frozen=True)
class Stamp:
    """What tells one content of a file from another: its size, and its times and number or its ETag."""

    size: int
    mark: str


@dataclass(frozen=True)
class StoredFile:
    """A file of a store. ``path`` is relative to the root, with slashes; `place` is where its bytes are just now."""

    path: str
    stamp: Stamp
    place: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Journal:
    """What a commit leaves to be done.

    Attributes:
        publications: Each makes a written file visible; what is in it is the store's own.
        deletions: Files that go, if they still are those that the commit saw.
    """

    publications: tuple[Mapping[str, Any], ...] = ()
    deletions: tuple[StoredFile, ...] = ()


@dataclass(frozen=True)
class OwnTable:
    """One of SynqX's own tables. Its rows are in the document as texts, or, if they are many, in a Parquet file."""

    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...] = ()
    file: StoredFile | None = None


@dataclass(frozen=True)
class State:
    """A directory's state. ``transaction`` names the commit that wrote it."""

    transaction: str = ""
    shapes: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    own_tables: Mapping[str, OwnTable] = field(default_factory=dict)
    journal: Journal | None = None

    def without_journal(self) -> State:
        """The same state after its journal was carried out."""
        return replace(self, journal=None)

    def to_bytes(self) -> bytes:
        """The document as it is stored."""
        journal = None
        if self.journal is not None:
            journal = {
                "publications": [dict(publication) for publication in self.journal.publications],
                "deletions": [_dump_file(file) for file in self.journal.deletions],
            }
        document = {
            "synqx_files": _VERSION,
            "transaction": self.transaction,
            "tables": {name: [_dump_column(column) for column in shape] for name, shape in self.shapes.items()},
            "own_tables": {
                name: {
                    "columns": [_dump_column(column) for column in own.columns],
                    "primary_key": list(own.primary_key),
                    "rows": [list(row) for row in own.rows],
                    "file": _dump_file(own.file) if own.file is not None else None,
                }
                for name, own in self.own_tables.items()
            },
            "journal": journal,
        }
        return json.dumps(document, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> State:
        """Read a document.

        Raises:
            DatabaseError: It is not one, or a newer version wrote it.
        """
        try:
            document = json.loads(data)
            version = document["synqx_files"]
            if version != _VERSION:
                raise DatabaseError(
                    f"{where}: the state document has version {version}, this SynqX knows {_VERSION}",
                    hint="use the version of SynqX that wrote it",
                )
            journal = document["journal"]
            return cls(
                transaction=document["transaction"],
                shapes={name: tuple(map(_load_column, shape)) for name, shape in document["tables"].items()},
                own_tables={
                    name: OwnTable(
                        tuple(map(_load_column, own["columns"])),
                        tuple(own["primary_key"]),
                        tuple(tuple(row) for row in own["rows"]),
                        _load_file(own["file"]) if own["file"] is not None else None,
                    )
                    for name, own in document["own_tables"].items()
                },
                journal=None
                if journal is None
                else Journal(tuple(journal["publications"]), tuple(_load_file(file) for file in journal["deletions"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise DatabaseError(
                f"{where}: the state document is damaged",
                hint="restore it from a backup; without it SynqX does not know which loads were committed",
            ) from exc


def _dump_column(column: Column) -> dict[str, Any]:
    dumped: dict[str, Any] = {"name": column.name, "type": str(column.data_type)}
    if not column.nullable:
        dumped["nullable"] = False
    if column.native_type is not None:
        dumped["native"] = column.native_type
    if column.native_dialect is not None:
        dumped["dialect"] = column.native_dialect
    if column.key_position is not None:
        dumped["key"] = column.key_position
    return dumped


def _load_column(dumped: dict[str, Any]) -> Column:
    return Column(
        dumped["name"],
        DataType.parse(dumped["type"]),
        dumped.get("nullable", True),
        dumped.get("native"),
        dumped.get("dialect"),
        dumped.get("key"),
    )


def _dump_file(file: StoredFile) -> dict[str, Any]:
    return {"path": file.path, "size": file.stamp.size, "mark": file.stamp.mark}


def _load_file(dumped: dict[str, Any]) -> StoredFile:
    return StoredFile(dumped["path"], Stamp(dumped["size"], dumped["mark"]))
