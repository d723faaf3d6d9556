"""One transaction over the files of a directory: what it has done, and how all of it becomes true at once.

Rows are written to files that nobody sees. The commit replaces the directory's state document, which holds the ledger,
the fence and a journal of the files to publish; then it carries the journal out. Guarantee: the document's replacement
is the commit. Killed before it, nothing has happened; killed after it, whoever opens the directory next finishes the
journal. What other commits changed meanwhile in SynqX's own tables is taken in by running this transaction's
statements on them again, which must have the same results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.duckdb_types import native_type as duckdb_type
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.files_database import FilesDatabase, KnownTable, qualify
from synqx_dagster.connectors.files_layout import Snapshot, TableFiles, document_path, find_table
from synqx_dagster.connectors.files_options import FilesOptions
from synqx_dagster.connectors.files_render import write_parquet
from synqx_dagster.connectors.files_scratch import Scratch
from synqx_dagster.connectors.files_state import OWN_DIRECTORY, Journal, OwnTable, State, StoredFile
from synqx_dagster.connectors.files_store import DocumentChangedError, join
from synqx_dagster.connectors.files_types import make_column
from synqx_dagster.errors import DatabaseError, RetryableError
from synqx_dagster.model.table import Column, TableName

#: Rows of SynqX's own tables that weigh more than this lie in a file beside the state document.
INLINE_BYTES = 256 * 1024

#: How often a commit meets another one in the same directory before it gives up.
MAX_RACES = 50


@dataclass(frozen=True)
class Output:
    """A written file that becomes a table, or a part of one, when the transaction commits.

    Attributes:
        before: The table's files as they were; None where there were none.
        adds: The file is added to those; otherwise it takes their place.
        checks_before: The rows were made from those files, so that these must not have changed.
    """

    table: TableName
    columns: tuple[Column, ...]
    path: Path
    part: str
    before: TableFiles | None
    adds: bool
    checks_before: bool = False


@dataclass(frozen=True)
class _Statement:
    """A statement on SynqX's own tables, with what came of it."""

    sql: str
    parameters: tuple[object, ...]
    result: list[tuple[object, ...]]


@dataclass
class Transaction:
    """What is under way between a session's `begin` and its end."""

    database: FilesDatabase
    options: FilesOptions
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    outputs: list[Output] = field(default_factory=list)
    has_failed: bool = False
    _statements: list[_Statement] = field(default_factory=list)
    _own_changed: set[TableName] = field(default_factory=set)
    _entered: set[str] = field(default_factory=set)
    _locked: set[str] = field(default_factory=set)
    _resources: ExitStack = field(default_factory=ExitStack)
    _scratches: dict[str, Scratch | None] = field(default_factory=dict)
    _publications: list[Mapping[str, Any]] = field(default_factory=list)

    _rows_tables: int = 0

    def count_rows_table(self) -> int:
        """A new number for a table of rows that are inserted."""
        self._rows_tables += 1
        return self._rows_tables

    # --- files ------------------------------------------------------------------------------------------------------

    def make_path(self, directory: str, extension: str) -> Path:
        """A new name for a file that is to be published in a directory."""
        if directory not in self._scratches:
            self.enter(directory)
            self._scratches[directory] = self.database.store.make_scratch(directory)
        scratch = self._scratches[directory]
        if scratch is None:
            return self.database.make_path(extension)
        return scratch.path / f"{uuid.uuid4().hex}.{extension}"

    def enter(self, directory: str) -> None:
        """Finish what a killed process left in a directory, before anything is done there."""
        if directory in self._entered:
            return
        self._entered.add(directory)
        store = self.database.store
        if self.database.look(directory).state.journal is not None:
            with store.lock(directory):
                self._recover(directory)
        store.sweep(directory)

    def _recover(self, directory: str) -> Snapshot:
        """Carry out a directory's pending journal; its lock is held where there is one."""
        store = self.database.store
        while True:
            snapshot = self.database.look_again(directory)
            if snapshot.state.journal is None:
                return snapshot
            store.finish(snapshot.state.journal)
            with contextlib.suppress(DocumentChangedError):
                self._write_document(snapshot, snapshot.state.without_journal())

    def _write_document(self, snapshot: Snapshot, state: State) -> Snapshot:
        version = self.database.store.write_document(
            document_path(snapshot.directory), state.to_bytes(), snapshot.version
        )
        return dataclasses.replace(snapshot, state=state, version=version)

    # --- SynqX's own tables -----------------------------------------------------------------------------------------

    def create_own(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Make one of SynqX's own tables."""
        self.enter(table.schema or "")
        if self.database.find(table) is not None:
            raise DatabaseError(f"the table {table} is there already")
        spelt = tuple(
            dataclasses.replace(
                column,
                native_type=duckdb_type(column),
                native_dialect="duckdb",
                key_position=primary_key.index(column.name) + 1 if column.name in primary_key else None,
            )
            for column in columns
        )
        own = OwnTable(spelt, tuple(primary_key))
        with self.database.errors("writing to"):
            self.database.create_own(table, own)
        self.database.enter(KnownTable(table, spelt, own=own))
        self._own_changed.add(table)

    def run(
        self, sql: str, parameters: Sequence[object], own: Sequence[TableName], target: TableName | None
    ) -> list[tuple[object, ...]]:
        """Run a statement; one that names own tables is kept, to be run again on what another commit made of them.

        Args:
            own: SynqX's own tables that it names.
            target: The table that it changes; None for a query.
        """
        with self.database.errors("writing to" if target is not None else "reading"):
            result: list[tuple[object, ...]] = self.database.connection.execute(sql, list(parameters)).fetchall()
        if own:
            self._statements.append(_Statement(sql, tuple(parameters), result))
            if target is not None and target in own:
                self._own_changed.add(target)
        return result

    def alter_own(self, sql: str, table: TableName) -> list[tuple[object, ...]]:
        """Change the columns of one of SynqX's own tables."""
        known = self.database.find(table)
        if known is None or known.own is None:
            raise DatabaseError(f"there is no table {table}")
        result = self.run(sql, (), [table], table)
        described = self.database.connection.execute(f"DESCRIBE {qualify(table)}").fetchall()
        by_name = {column.name: column for column in known.own.columns}
        columns = tuple(by_name.get(row[0]) or make_column(row[0], row[1]) for row in described)
        known.columns = columns
        known.own = dataclasses.replace(known.own, columns=columns)
        return result

    def lock(self, directory: str) -> None:
        """Keep other commits out until the end, and see what they have done so far."""
        self.enter(directory)
        if directory not in self._locked:
            self._resources.enter_context(self.database.store.lock(directory))
            self._locked.add(directory)
        self._refresh(directory)

    def _refresh(self, directory: str) -> Snapshot:
        """Bring SynqX's own tables of a directory up to date, and run this transaction's statements on them again.

        Raises:
            RetryableError: They do not come to the same results: another transaction changed the same rows.
            DatabaseError: They cannot run any more, because another transaction wrote the same keys.
        """
        before = self.database.look(directory)
        snapshot = self._recover(directory)
        if snapshot.version == before.version:
            return snapshot
        for known in self.database.known_tables():
            if known.own is not None and (known.name.schema or "") == directory:
                self.database.forget(known.name)
                if known.name in self._own_changed and known.name.name not in before.state.own_tables:
                    # Made by this transaction; by another one too, by now.
                    if known.name.name in snapshot.state.own_tables:
                        raise DatabaseError(f"another load has made the table {known.name} at the same time")
                    with self.database.errors("writing to"):
                        self.database.create_own(known.name, known.own)
                    self.database.enter(known)
                elif self.database.find(known.name) is None:
                    raise DatabaseError(f"the table {known.name} is gone")
        for statement in self._statements:
            with self.database.errors("writing to"):
                result = self.database.connection.execute(statement.sql, list(statement.parameters)).fetchall()
            if result != statement.result:
                raise RetryableError(
                    f"{self.database.store.describe(directory)}: another load changed the same rows of SynqX's tables",
                    hint="the same load may be run again",
                )
        return snapshot

    # --- the end ----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything durable and visible.

        Raises:
            RetryableError: Files or rows that this transaction builds upon were changed by somebody else.
            CommitUnknownError: Nobody knows whether it happened.
        """
        directories = {table.schema or "" for table in self._own_changed}
        directories |= {output.table.schema or "" for output in self.outputs}
        if not directories:
            return
        if len(directories) > 1:
            raise DatabaseError(
                f"one transaction changes {len(directories)} directories", hint="a transaction is of one directory"
            )
        (directory,) = directories
        self.enter(directory)
        store = self.database.store
        publications = [self._publish(output) for output in self.outputs]
        if directory not in self._locked:
            self._resources.enter_context(store.lock(directory))
            self._locked.add(directory)
        for _ in range(MAX_RACES):
            snapshot = self._refresh(directory)
            self._check_before(snapshot)
            state = self._make_state(snapshot, publications)
            try:
                snapshot = self._write_document(snapshot, state)
            except DocumentChangedError:
                continue
            break
        else:
            raise RetryableError(f"{store.describe(directory)}: other loads keep committing at the same time")
        # Committed. What follows may be done by anybody.
        self._publications = []
        if state.journal is not None:
            store.finish(state.journal)
            with contextlib.suppress(DocumentChangedError):
                self._write_document(snapshot, state.without_journal())
        store.remove_own(directory, {own.file.path for own in state.own_tables.values() if own.file is not None})

    def _publish(self, output: Output) -> Mapping[str, Any]:
        publication = self.database.store.publish(output.path, self._final_path(output))
        self._publications.append(publication)
        return publication

    def _final_path(self, output: Output) -> str:
        name = output.before.name if output.before is not None else output.table.name
        directory = join(output.table.schema or "", name)
        if output.adds:
            return f"{directory}/{output.part}-{self.identity[:8]}.{self.options.extension}"
        return f"{directory}.{self.options.extension}"

    def _check_before(self, snapshot: Snapshot) -> None:
        for output in self.outputs:
            if output.before is None or not (output.checks_before or self._is_relocated(output)):
                continue
            now = find_table(self.database.store, snapshot, output.before.name)
            if now is None or now.files != output.before.files:
                raise RetryableError(
                    f"the files of {output.table} were changed by another process while they were loaded",
                    hint="the same load may be run again; have one writer for each table",
                )

    @staticmethod
    def _is_relocated(output: Output) -> bool:
        return output.adds and output.before is not None and not output.before.is_directory

    def _make_state(self, snapshot: Snapshot, publications: Sequence[Mapping[str, Any]]) -> State:
        store = self.database.store
        moved: list[Mapping[str, Any]] = []
        deletions: list[StoredFile] = []
        shapes = dict(snapshot.state.shapes)
        for output in self.outputs:
            shapes[output.before.name if output.before is not None else output.table.name] = output.columns
            if output.before is None:
                continue
            final = self._final_path(output)
            for data in output.before.files:
                if not output.adds and data.file.path != final:
                    deletions.append(data.file)
                elif self._is_relocated(output):
                    # The rows that are there become the first part, so that the table is one directory.
                    ending = data.file.name[len(data.stem) :]
                    target = f"{final.rpartition('/')[0]}/part-{0:010d}-{self.identity[:8]}{ending}"
                    moved.append(store.relocate(data.file, target))
        own_tables = dict(snapshot.state.own_tables)
        for table in self._own_changed:
            old = own_tables.get(table.name)
            if old is not None and old.file is not None:
                deletions.append(old.file)
            own_tables[table.name] = self._dump_own(table)
        journal = Journal((*moved, *publications), tuple(deletions))
        return State(
            transaction=self.identity,
            shapes=shapes,
            own_tables=own_tables,
            journal=journal if journal != Journal() else None,
        )

    def _dump_own(self, table: TableName) -> OwnTable:
        known = self.database.find(table)
        assert known is not None
        assert known.own is not None
        connection = self.database.connection
        items = ", ".join(f"CAST({quote(column.name)} AS VARCHAR)" for column in known.columns)
        weight = " + ".join(f"coalesce(strlen(CAST({quote(column.name)} AS VARCHAR)), 4)" for column in known.columns)
        with self.database.errors("reading"):
            size = connection.execute(f"SELECT coalesce(sum({weight}), 0) FROM {qualify(table)}").fetchall()[0][0]
            if size <= INLINE_BYTES:
                rows = tuple(connection.execute(f"SELECT {items} FROM {qualify(table)}").fetchall())
                return dataclasses.replace(known.own, rows=rows, file=None)
            path = self.make_path(table.schema or "", "parquet")
            write_parquet(connection, f"SELECT * FROM {qualify(table)}", path, "zstd")
        target = join(table.schema or "", f"{OWN_DIRECTORY}/{table.name}-{uuid.uuid4().hex}.parquet")
        return dataclasses.replace(known.own, rows=(), file=self.database.store.put(path, target))

    def end(self) -> None:
        """Let go of locks and unfinished files; of all that was done, if it did not commit."""
        try:
            for publication in self._publications:
                self.database.store.withdraw(publication)
        finally:
            self._publications = []
            self._resources.close()
            self._locked.clear()
            for scratch in self._scratches.values():
                if scratch is not None:
                    scratch.close()
            self._scratches = {}
