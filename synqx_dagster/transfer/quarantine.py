"""Bad rows: kept aside while a load runs, then written beside the target in the transaction of the good ones.

``_synqx_quarantine`` lies in the target's schema and holds one row for each bad source row: the row as a JSON object,
the first column that breaks the contract, all reasons, the source's key, and the run. After a `replace` it holds just
what that load refused, as the target holds just what it accepted. Any other load replaces what an earlier one said of
the rows that it refuses once more, known by their keys, and leaves the others.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Literal, cast

from synqx_dagster.connectors.protocol import Connector, PublishedWriteSession, WriteSession
from synqx_dagster.errors import DatabaseError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

QUARANTINE_TABLE = "_synqx_quarantine"

#: Bad rows beyond this many bytes wait on disk (an unlinked temporary file) until the good ones are written.
SPOOL_MEMORY_BYTES = 16 * 1024 * 1024

#: Rows of one record batch in the spool and on the way out of it.
BATCH_ROWS = 1_000

#: Rows that one statement deletes by their text.
_CLEARED_AT_ONCE = 200

#: What `Quarantine.fetch_rows` tells of a row.
ROW_FIELDS = ("run_id", "column_name", "reason", "source_key", "source_row")

#: Where a long text is no operand of a comparison.
_COMPARES_NO_LONG_TEXTS = frozenset({"oracle"})

#: How many kinds of breach an error message lists.
LISTED_REASONS = 10


@dataclass(frozen=True)
class Breach:
    """One way in which a row breaks the contract. ``reason`` never holds a value of the row."""

    column: str
    reason: str

    def __str__(self) -> str:
        return f"{self.column}: {self.reason}"


@dataclass(frozen=True)
class BadRow:
    """A source row that breaks the contract: the row and its key as JSON objects, and every breach."""

    row: str
    breaches: tuple[Breach, ...]
    source_key: str | None = None


def key_of(row: str, key_columns: Sequence[str]) -> str | None:
    """The key's part of a row, both as JSON objects; None where no key tells the row from others.

    That is so without a key, where a column of it was not read, and where one is NULL.
    """
    values = json.loads(row)
    if not key_columns or any(values.get(name) is None for name in key_columns):
        return None
    return json.dumps({name: values[name] for name in key_columns}, ensure_ascii=False)


class BadRowSpool:
    """Holds bad rows in order until they can be written; memory is bounded, the rest is on disk.

    Use as a context manager: leaving it frees the disk.
    """

    def __init__(self) -> None:
        # An unlinked file: nothing is left behind by a kill, and nobody else can open it.
        self._file: IO[bytes] = cast(
            IO[bytes],
            tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES),  # noqa: SIM115
        )
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._pending: list[BadRow] = []
        self.rows = 0
        #: Bad rows of the same load that lie elsewhere already; their breaches are in `counts`.
        self.collected_rows = 0
        self.counts: Counter[Breach] = Counter()

    @property
    def total_rows(self) -> int:
        """All bad rows of the load."""
        return self.rows + self.collected_rows

    def __enter__(self) -> BadRowSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, bad_row: BadRow) -> None:
        """Keep one bad row."""
        self.rows += 1
        self.counts.update(bad_row.breaches)
        self._pending.append(bad_row)
        if len(self._pending) >= BATCH_ROWS:
            self._flush()

    def absorb(self, batches: Iterable[pa.RecordBatch], counts: Counter[Breach]) -> None:
        """Keep what another spool gave (`iter_batches`), whose breaches are these."""
        self._flush()
        for batch in batches:
            self._write(batch)
            self.rows += batch.num_rows
        self.counts.update(counts)

    def describe(self) -> str:
        """What is wrong with how many rows, most frequent first, such as ``email: is null (12 rows)``."""
        parts = [
            f"{breach} ({count:,} row{'' if count == 1 else 's'})"
            for breach, count in self.counts.most_common(LISTED_REASONS)
        ]
        if len(self.counts) > LISTED_REASONS:
            parts.append(f"and {len(self.counts) - LISTED_REASONS} more")
        return "; ".join(parts)

    def iter_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as record batches of `spool_schema`; ends the spool's writing."""
        import pyarrow as pa

        self._flush()
        if self._writer is None:
            return
        self._writer.close()
        self._file.seek(0)
        with pa.ipc.open_stream(self._file) as reader:
            yield from reader

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._pending:
            return
        self._write(
            pa.record_batch(
                [
                    pa.array([bad.breaches[0].column for bad in self._pending], pa.string()),
                    pa.array(["; ".join(map(str, bad.breaches)) for bad in self._pending], pa.string()),
                    pa.array([bad.source_key for bad in self._pending], pa.string()),
                    pa.array([bad.row for bad in self._pending], pa.string()),
                ],
                schema=spool_schema(),
            )
        )
        self._pending.clear()

    def _write(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa

        try:
            if self._writer is None:
                self._writer = pa.ipc.new_stream(self._file, spool_schema())
            self._writer.write_batch(batch)
        except OSError as error:
            raise RetryableError(
                f"{self.rows:,} bad rows have no room in a temporary file in {tempfile.gettempdir()}:"
                f" {os.strerror(error.errno or 0)}",
                hint="make room there, or set TMPDIR to a directory that has more",
            ) from error


def spool_schema() -> pa.Schema:
    """Columns of a spooled batch: ``column_name``, ``reason``, ``source_key``, ``source_row``."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("column_name", "reason", "source_key", "source_row")])


def quarantine_columns(dialect: str) -> tuple[Column, ...]:
    """The quarantine's columns as a database of this dialect spells them."""

    def name(column: str) -> Column:
        return Column(column, DataType("string"), False, "varchar(255)", dialect)

    return (
        name("target_table"),
        name("mapping"),
        name("run_id"),
        name("load_id"),
        Column("column_name", DataType("string")),
        Column("reason", DataType("string")),
        Column("source_key", DataType("string")),
        Column("source_row", DataType("string")),
    )


class Quarantine:
    """The quarantine of one target table, over one write session."""

    def __init__(
        self, connector: Connector, session: WriteSession, target: TableName, table: TableName | None = None
    ) -> None:
        self._connector = connector
        self._session = session
        self._target = target
        #: Where the rows go; a load in ranges collects them in a table of its own first.
        self.table = table or TableName(QUARANTINE_TABLE, target.schema)

    def ensure_table(self) -> None:
        """Create the table if it is missing, in a transaction of its own; see that its rows can be deleted again."""
        if self._session.find_columns(self.table) is not None:
            self.repair_table()
            return
        try:
            self._session.begin()
            self.create_table()
            self._session.commit()
        except (DatabaseError, RetryableError):
            # Another load in this schema may have made it just now.
            self._session.rollback()
            if self._session.find_columns(self.table) is None:
                raise

    def create_table(self) -> None:
        """Create the table, within the open transaction if there is one."""
        self._session.ensure_schema(self.table)
        self._session.create_table(self.table, quarantine_columns(self._connector.dialect), ())
        if isinstance(self._session, PublishedWriteSession):
            self._session.identify_rows(self.table)

    def repair_table(self) -> None:
        """Let the rows be deleted of a table that an earlier version made, and that a publication holds.

        In a transaction of its own; does nothing where there is no table.
        """
        session = self._session
        if not isinstance(session, PublishedWriteSession) or not session.is_unidentified(self.table):
            return
        session.begin()
        try:
            session.identify_rows(self.table)
            session.commit()
        except BaseException:
            session.rollback()
            raise

    def count_breaches(self) -> tuple[int, Counter[Breach]]:
        """How many rows the table has, and what is wrong with them."""
        rows = self._session.fetch_all(
            f"SELECT reason, count(*) FROM {self._connector.qualify(self.table)} GROUP BY reason"
        )
        counts: Counter[Breach] = Counter()
        for reason, count in rows:
            for breach in str(reason).split("; "):
                column, _, text = breach.partition(": ")
                counts[Breach(column, text)] += int(str(count))
        return sum(int(str(count)) for _, count in rows), counts

    def take_over(self, collected: TableName) -> int:
        """Add the rows that were collected in another table, within the open transaction.

        That table is dropped with it, unless a DROP would commit.
        """
        names = ", ".join(self._connector.quote(column.name) for column in quarantine_columns(self._connector.dialect))
        rows = self._session.execute(
            f"INSERT INTO {self._connector.qualify(self.table)} ({names})"
            f" SELECT {names} FROM {self._connector.qualify(collected)}"
        )
        if self._connector.capabilities.transactional_ddl:
            self._session.drop_staging(collected)
        return rows

    def find_keys(self, *, limit: int) -> list[str]:
        """Source keys of the target's rows, each once, as JSON; at most `limit`."""
        if self._session.find_columns(self.table) is None:
            return []
        rows = self._fetch("SELECT DISTINCT source_key", "AND source_key IS NOT NULL", limit)
        return [str(key) for (key,) in rows]

    def clear_keyed(self, load_id: str) -> int:
        """Remove the target's rows that have a key and are of other loads; within the open transaction.

        Returns:
            The rows removed.
        """
        return self._session.execute(
            f"DELETE FROM {self._connector.qualify(self.table)}"
            " WHERE target_table = ? AND load_id <> ? AND source_key IS NOT NULL",
            (self._target.name, load_id),
        )

    def replace_earlier(self, *, mapping: str, load_id: str, by: Literal["source_key", "source_row"]) -> int:
        """Remove what earlier loads of a mapping said of the rows that this one refused; within the open transaction.

        A merge reads its newest rows again each time, and finds the same ones bad.

        Args:
            mapping: The mapping's name.
            load_id: Of this load.
            by: What one row is known by: its key where that is the source's own, or all of its values where it is one
                that a rule has been told, of which there may be many. Rows without a key are left alone.

        Returns:
            How many of this load's rows were in quarantine before.
        """
        if self._connector.dialect in _COMPARES_NO_LONG_TEXTS:
            return 0
        table = self._connector.qualify(self.table)
        of_mapping = f"FROM {table} WHERE target_table = ? AND mapping = ? AND load_id"
        named = (self._target.name, mapping, load_id)
        # DISTINCT keeps MySQL from merging the inner query with a DELETE from the same table, which it refuses.
        earlier, own = (
            f"SELECT {by} FROM (SELECT DISTINCT {by} {of_mapping} {sign} ? AND source_key IS NOT NULL) found"
            for sign in ("<>", "=")
        )
        counted = f"SELECT count(*) {of_mapping} = ? AND source_key IS NOT NULL AND {by} IN ({earlier})"
        ((known,),) = self._session.fetch_all(counted, (*named, *named))
        if known:
            removed = f"DELETE {of_mapping} <> ? AND source_key IS NOT NULL AND {by} IN ({own})"
            self._session.execute(removed, (*named, *named))
        return int(str(known))

    def clear_rows(self, holds: Callable[[Mapping[str, object]], bool]) -> int:
        """Remove those of the target's rows whose source row holds a condition; within the open transaction.

        Returns:
            The rows removed.
        """
        if self._session.find_columns(self.table) is None:
            return 0
        table = self._connector.qualify(self.table)
        found = self._session.fetch_all(
            f"SELECT DISTINCT source_row FROM {table} WHERE target_table = ?", (self._target.name,)
        )
        rows = [str(row) for (row,) in found if holds(json.loads(str(row)))]
        removed = 0
        for start in range(0, len(rows), _CLEARED_AT_ONCE):
            part = rows[start : start + _CLEARED_AT_ONCE]
            removed += self._session.execute(
                f"DELETE FROM {table} WHERE target_table = ? AND source_row IN ({', '.join('?' * len(part))})",
                (self._target.name, *part),
            )
        return removed

    def summarise(self) -> list[tuple[str, str, int]]:
        """Mapping, reason and number of the target's rows, the most frequent first."""
        if self._session.find_columns(self.table) is None:
            return []
        rows = self._session.fetch_all(
            f"SELECT mapping, reason, count(*) FROM {self._connector.qualify(self.table)}"
            " WHERE target_table = ? GROUP BY mapping, reason ORDER BY count(*) DESC, mapping, reason",
            (self._target.name,),
        )
        return [(str(mapping), str(reason), int(str(count))) for mapping, reason, count in rows]

    def fetch_rows(self, *, limit: int) -> list[dict[str, str | None]]:
        """The target's rows, at most `limit`, each with the fields that `ROW_FIELDS` lists."""
        if self._session.find_columns(self.table) is None:
            return []
        rows = self._fetch(f"SELECT {', '.join(ROW_FIELDS)}", "ORDER BY run_id, column_name, source_key", limit)
        return [
            {name: None if value is None else str(value) for name, value in zip(ROW_FIELDS, row, strict=True)}
            for row in rows
        ]

    def _fetch(self, select: str, rest: str, limit: int) -> list[tuple[object, ...]]:
        """The first rows of a query over the target's part of the table, as the database's dialect limits them."""
        import sqlglot

        sql = f"{select} FROM {self._connector.qualify(self.table)} WHERE target_table = ? {rest}"
        query = sqlglot.parse_one(sql, dialect=self._connector.dialect)
        assert isinstance(query, sqlglot.exp.Select)
        return self._session.fetch_all(query.limit(limit).sql(self._connector.dialect), (self._target.name,))

    def clear(self) -> int:
        """Remove what earlier loads of this target refused; within the open transaction. Returns the rows removed."""
        if self._session.find_columns(self.table) is None:
            return 0
        return self._session.execute(
            f"DELETE FROM {self._connector.qualify(self.table)} WHERE target_table = ?", (self._target.name,)
        )

    def write(self, spool: BadRowSpool, *, mapping: str, run_id: str, load_id: str) -> int:
        """Write the spooled rows within the open transaction; returns how many."""
        import pyarrow as pa

        columns = quarantine_columns(self._connector.dialect)
        schema = pa.schema([(column.name, pa.string()) for column in columns])
        constants = (self._target.name, mapping, run_id, load_id)

        def iter_rows() -> Iterator[pa.RecordBatch]:
            for batch in spool.iter_batches():
                fixed = [pa.repeat(pa.scalar(value, pa.string()), batch.num_rows) for value in constants]
                yield pa.record_batch([*fixed, *batch.columns], schema=schema)

        rows, _ = self._session.write_batches(self.table, columns, iter_rows())
        return rows
