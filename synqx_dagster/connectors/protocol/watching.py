"""What a connector can tell a sensor at little cost; a connector has these where its kind of database does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from synqx_dagster.model.table import TableName


@runtime_checkable
class ChangeCounter(Protocol):
    """A connector whose server counts changes."""

    def read_change_counter(self, table: TableName, *, timeout_seconds: float) -> str | None:
        """A text that is another one after rows of a table changed; None where there is no such table.

        It may differ although no row did (a transaction that was rolled back, a server that began to count anew).
        """
        ...


@dataclass(frozen=True)
class SourceFile:
    """A file at a source; ``mark`` tells one content from another of the same size."""

    path: str
    size: int
    mark: str


@runtime_checkable
class FileListing(Protocol):
    """A connector whose source is files."""

    def list_source_files(self, directory: str, pattern: str) -> list[SourceFile]:
        """Files right in a directory (empty: the root) whose name fits a pattern, by path."""
        ...
