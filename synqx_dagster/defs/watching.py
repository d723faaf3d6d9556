"""What a sensor sees at a source, and what it has seen before: a cheap look, and a cursor without any data in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from synqx_dagster.connectors.protocol import ChangeCounter, Connector, FileListing, ReadLimits, SourceFile
from synqx_dagster.errors import ConfigurationError, SourceChangedError
from synqx_dagster.model import Sensor
from synqx_dagster.model.table import TableName

#: A look that takes longer is given up: Dagster ends the evaluation of a sensor after 60 s.
PROBE_SECONDS = 20.0
#: Files that one sensor can tell apart.
MAX_FILES = 10_000
#: Runs that one look asks for; further files are taken by the next one.
MAX_RUNS = 50
DEFAULT_STABLE_SECONDS = 30


def digest(*parts: object) -> str:
    """A short text that stands for values: a cursor is shown in the web UI, and holds no cell value."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()[:16]


# --- a table ------------------------------------------------------------------------------------------------------


def probe_table(connector: Connector, sensor: Sensor) -> str:
    """A text that is another one when a table has changed.

    Raises:
        SourceChangedError: There is no such table or column.
        ConfigurationError: The connection's server does not count changes.
        RetryableError, DatabaseError: As a read session.
    """
    table = sensor.source
    assert table is not None
    if sensor.column is not None:
        return digest("max", _read_greatest(connector, table, sensor.column))
    if not isinstance(connector, ChangeCounter):
        raise ConfigurationError(f"sensor {sensor.name!r}: {connector.db_type} does not count changes")
    counter = connector.read_change_counter(table, timeout_seconds=PROBE_SECONDS)
    if counter is None:
        raise SourceChangedError(
            f"there is no table {table}", hint="a view has no count of changes: give a column", table=str(table)
        )
    return digest("count", counter)


def _read_greatest(connector: Connector, table: TableName, column_name: str) -> object:
    with connector.read(ReadLimits(timeout_seconds=PROBE_SECONDS)) as session:
        columns = session.find_columns(table)
        if columns is None:
            raise SourceChangedError(f"there is no table {table}", table=str(table))
        column = next((column for column in columns if column.name == column_name), None)
        if column is None:
            raise SourceChangedError(
                f"the table {table} has no column {column_name!r}", table=str(table), column=column_name
            )
        greatest = f"max({connector.quote(column.name)})"
        encoded = session.encode(greatest, column.data_type, column.native_type)
        return session.fetch_value(f"select {encoded.sql} as greatest from {connector.qualify(table)}")


@dataclass(frozen=True)
class TableCursor:
    """What was last seen of a table, and how many changes before it."""

    seen: str
    changes: int = 0

    def to_json(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps({"seen": self.seen, "changes": self.changes})

    @classmethod
    def from_json(cls, text: str | None) -> TableCursor | None:
        """Read what `to_json` wrote; None when there is none, or somebody else wrote it."""
        try:
            values = json.loads(text or "null")
            return cls(str(values["seen"]), int(values["changes"]))
        except (ValueError, TypeError, KeyError):
            return None


# --- files --------------------------------------------------------------------------------------------------------


def probe_files(connector: Connector, sensor: Sensor) -> list[SourceFile]:
    """The files that a sensor looks at.

    Raises:
        ConfigurationError: The connection has no files, or there are more than a sensor can tell apart.
        RetryableError, DatabaseError: The directory cannot be listed.
    """
    if not isinstance(connector, FileListing):
        raise ConfigurationError(f"sensor {sensor.name!r}: {connector.db_type} has no files to look for")
    files = connector.list_source_files(sensor.directory or "", sensor.pattern or "*")
    if len(files) > MAX_FILES:
        raise ConfigurationError(
            f"sensor {sensor.name!r}: there are {len(files)} files, more than the {MAX_FILES} that it can tell apart",
            hint="move files away that were loaded, or give a pattern that fits fewer",
        )
    return files


@dataclass
class FilesCursor:
    """What was seen of files, each by a digest of its path, size and mark, so that the cursor stays small.

    Attributes:
        waiting: Files that may still be written, and since when (a Unix time) they look like this.
        taken: Files that were taken.
    """

    waiting: dict[str, float] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def take(self, files: Sequence[SourceFile], *, now: float, stable_seconds: float) -> list[tuple[SourceFile, str]]:
        """Files that have stayed the same for so long and were not taken before, at most `MAX_RUNS`; moves the cursor.

        A file whose content is another one than when it was taken is a new one. What is gone is forgotten.

        Returns:
            Each file, and the key of its run.
        """
        taken: list[tuple[SourceFile, str]] = []
        waiting: dict[str, float] = {}
        kept: set[str] = set()
        for file in files:
            look = digest(file.path, file.size, file.mark)
            if look in self.taken:
                kept.add(look)
                continue
            since = self.waiting.get(look)
            if since is not None and now - since >= stable_seconds and len(taken) < MAX_RUNS:
                taken.append((file, look))
                kept.add(look)
            else:
                waiting[look] = now if since is None else since
        self.waiting, self.taken = waiting, kept
        return taken

    def to_json(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps({"waiting": self.waiting, "taken": sorted(self.taken)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | None) -> FilesCursor:
        """Read what `to_json` wrote; an empty one when there is none, or somebody else wrote it."""
        try:
            values: Any = json.loads(text or "{}")
            waiting = {str(look): float(since) for look, since in values["waiting"].items()}
            return cls(waiting, {str(look) for look in values["taken"]})
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()
