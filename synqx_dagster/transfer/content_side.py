"""One side of a comparison: its rows digested by its own database, or here, over what the engine's reader delivers.

Guarantee: all that one side answers comes from one snapshot, and a number of one side and the same number of the
other stand for the same rows, wherever they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from synqx_dagster.connectors.checksum import (
    NO_DIGEST,
    PORTABLE,
    ChecksumForm,
    ChecksumReadSession,
    ChecksumValue,
    duckdb_digest,
    duckdb_text,
)
from synqx_dagster.connectors.protocol import ReadSession
from synqx_dagster.errors import DatabaseError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.arrow import BATCH_ROWS, Prefetch, Transform

if TYPE_CHECKING:
    import pyarrow as pa

#: Values are shown to so many characters.
SHOWN_CHARACTERS = 200

_BIGINT = DataType("bigint")
_STRING = DataType("string")
_SUM = DataType("decimal", 38, 0)


class Checksum(NamedTuple):
    """The rows of one range: how many, and the sum of their digests."""

    rows: int
    total: int


class KeyedRow(NamedTuple):
    """One row: its key as text, and its digest."""

    key: tuple[str | None, ...]
    digest: int


class RowValues(NamedTuple):
    """The columns of one row: a digest of each, and its text if that was asked for."""

    digests: tuple[int, ...]
    texts: tuple[str | None, ...]


@dataclass(frozen=True)
class Ranges:
    """Rows by the lowest `bits` of their key's digest: all of them, or those of some ranges only."""

    bits: int
    only: tuple[int, ...] | None = None

    @property
    def mask(self) -> int:
        """What a key's digest is cut with."""
        return (1 << self.bits) - 1

    def condition(self, key_digest: str) -> str:
        """SQL for a row of these ranges; empty for all rows."""
        return "" if self.only is None else f"({key_digest} & {self.mask}) IN ({', '.join(map(str, self.only))})"


class Speller(Protocol):
    """How a side spells what is computed of a row, in the SQL of whoever computes it."""

    def text(self, position: int) -> str:
        """A column's text in its form."""
        ...

    def digest(self, positions: Sequence[int]) -> str:
        """The digest of some columns."""
        ...


@dataclass(frozen=True)
class Side:
    """Rows that can be asked for digests. ``key`` are positions of columns; without a key the whole row is one.

    Attributes:
        run: Runs a query whose select list is made of pairs of an expression and its type.
        rows_from: What stands behind FROM.
    """

    speller: Speller
    run: Callable[[str, Sequence[tuple[str, DataType]], str], Iterator[tuple[object, ...]]]
    columns: int
    key: tuple[int, ...]

    def total(self) -> Checksum:
        """Count and sum of all rows.

        Raises:
            DatabaseError: Rows are too large for their database to digest.
        """
        digest = self.speller.digest(range(self.columns))
        ((rows, total),) = self.run(
            f"SELECT {digest} AS digest FROM {{rows}}", [("count(*)", _BIGINT), ("sum(digest)", _SUM)], ""
        )
        found = Checksum(int(str(rows)), int(str(total or 0)))
        if found.total >= NO_DIGEST:
            raise DatabaseError(
                f"the database cannot digest rows that are larger than it takes at once: {found.total // NO_DIGEST:,}",
                hint="raise max_allowed_packet there",
                rows=found.total // NO_DIGEST,
            )
        return found

    def checksums(self, bits: int, within: Ranges | None = None) -> dict[int, Checksum]:
        """Count and sum of each range of `bits` bits, of all rows or of those in wider ranges only."""
        digest, key_digest = self._digests()
        where = f" WHERE {within.condition(key_digest)}" if within is not None else ""
        # The digest in one aggregate only: PostgreSQL and MariaDB compute it once for each.
        answer = self.run(
            f"SELECT ({key_digest} & {Ranges(bits).mask}) AS bucket, {digest} AS digest FROM {{rows}}{where}",
            [("bucket", _BIGINT), ("count(*)", _BIGINT), ("sum(digest)", _SUM)],
            " GROUP BY bucket",
        )
        return {int(str(bucket)): Checksum(int(str(rows)), int(str(total))) for bucket, rows, total in answer}

    def rows(self, ranges: Ranges) -> list[KeyedRow]:
        """Key and digest of each row of the ranges."""
        digest, key_digest = self._digests()
        keys = "".join(f", {self.speller.text(position)} AS k{number}" for number, position in enumerate(self.key))
        names = [(f"k{number}", _STRING) for number in range(len(self.key))]
        return [
            KeyedRow(tuple(None if text is None else str(text) for text in key), int(str(found)))
            for found, *key in self.run(
                f"SELECT {digest} AS digest{keys} FROM {{rows}} WHERE {ranges.condition(key_digest)}",
                [("digest", _BIGINT), *names],
                "",
            )
        ]

    def values(self, digests: Collection[int], ranges: Ranges, *, with_texts: bool) -> dict[int, RowValues]:
        """The columns of the rows that have these digests, by digest."""
        digest, key_digest = self._digests()
        columns = range(self.columns)
        inner = "".join(f", {self.speller.digest([position])} AS d{position}" for position in columns)
        outer = [(f"d{position}", _BIGINT) for position in columns]
        if with_texts:
            inner += "".join(
                f", substr({self.speller.text(position)}, 1, {SHOWN_CHARACTERS}) AS t{position}" for position in columns
            )
            outer += [(f"t{position}", _STRING) for position in columns]
        wanted = ", ".join(map(str, digests))
        found: dict[int, RowValues] = {}
        for row_digest, *rest in self.run(
            f"SELECT {digest} AS digest{inner} FROM {{rows}}"
            f" WHERE {ranges.condition(key_digest)} AND {digest} IN ({wanted})",
            [("digest", _BIGINT), *outer],
            "",
        ):
            found[int(str(row_digest))] = RowValues(
                tuple(int(str(value)) for value in rest[: self.columns]),
                tuple(None if text is None else str(text) for text in rest[self.columns :]),
            )
        return found

    def _digests(self) -> tuple[str, str]:
        digest = self.speller.digest(range(self.columns))
        return digest, self.speller.digest(self.key) if self.key else digest


# --- in the database ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatabaseSpeller:
    """A session that can digest its own rows."""

    session: ChecksumReadSession
    scheme: str
    values: tuple[ChecksumValue, ...]

    def text(self, position: int) -> str:
        """A column's text."""
        return self.session.checksum_text(self.values[position]) or ""

    def digest(self, positions: Sequence[int]) -> str:
        """The digest of some columns."""
        return self.session.checksum_digest(self.scheme, [self.values[position] for position in positions])


def database_side(
    session: ReadSession,
    scheme: str,
    values: Sequence[ChecksumValue],
    relation: str,
    key: tuple[int, ...],
) -> Side:
    """A side whose database does the work; only sums, and rows that differ, leave it."""

    def run(inner: str, items: Sequence[tuple[str, DataType]], suffix: str) -> Iterator[tuple[object, ...]]:
        import pyarrow as pa

        encoded = [session.encode(expression, data_type) for expression, data_type in items]
        # Named, because DuckDB and PostgreSQL name what has no name alike, and Arrow keeps no two of a name apart.
        listed = ", ".join(f"{item.sql} AS c{number}" for number, item in enumerate(encoded))
        schema = pa.schema([(f"c{number}", item.arrow_type) for number, item in enumerate(encoded)])
        sql = f"SELECT {listed} FROM ({inner.replace('{rows}', relation)}) AS digests{suffix}"
        for batch in session.iter_batches(sql, schema, batch_rows=BATCH_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    if not isinstance(session, ChecksumReadSession):
        raise TypeError("the session cannot digest rows")
    return Side(DatabaseSpeller(session, scheme, tuple(values)), run, len(values), key)


# --- here ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalSpeller:
    """DuckDB over columns named t0, t1, ..., the texts of the values in these forms."""

    forms: tuple[ChecksumForm, ...]

    def text(self, position: int) -> str:
        """A column's text."""
        return f"t{position}"

    def digest(self, positions: Sequence[int]) -> str:
        """The digest of some columns."""
        return duckdb_digest([(f"t{position}", self.forms[position]) for position in positions])


@dataclass(frozen=True)
class LocalRead:
    """How a side's rows reach this process.

    Attributes:
        sql: What the database is asked; each question about the side asks it again, in the same snapshot.
        schema: Arrow schema of its batches.
        rows_sql: DuckDB's relation over ``source``, the batches, with columns c0, c1, ...
        types: Arrow type of each of these.
    """

    sql: str
    schema: pa.Schema
    rows_sql: str
    types: tuple[pa.DataType, ...]


def local_side(session: ReadSession, read: LocalRead, forms: Sequence[ChecksumForm], key: tuple[int, ...]) -> Side:
    """A side whose rows are streamed into this process and digested by DuckDB, batch by batch."""

    texts = ", ".join(
        f"{duckdb_text('c' + str(position), arrow_type, form)} AS t{position}"
        for position, (arrow_type, form) in enumerate(zip(read.types, forms, strict=True))
    )
    rows = f"(SELECT {texts} FROM {read.rows_sql}) AS texts"

    def run(inner: str, items: Sequence[tuple[str, DataType]], suffix: str) -> Iterator[tuple[object, ...]]:
        listed = ", ".join(f"CAST({expression} AS VARCHAR)" for expression, _ in items)
        sql = f"SELECT {listed} FROM ({inner.replace('{rows}', rows)}) AS digests{suffix}"
        batches = session.iter_batches(read.sql, read.schema, batch_rows=BATCH_ROWS)
        with Prefetch(batches, session.cancel) as prefetch, Transform(sql, read.schema) as transform:
            for batch in transform.run(iter(prefetch)):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    return Side(LocalSpeller(tuple(forms)), run, len(forms), key)


def common_scheme(first: Sequence[str], second: Sequence[str]) -> str:
    """The fastest scheme that both sides have; `PORTABLE` is always one."""
    return next((scheme for scheme in first if scheme in second), PORTABLE)


def column_values(
    columns: Sequence[Column], quoted: Sequence[str], forms: Sequence[ChecksumForm]
) -> list[ChecksumValue]:
    """The columns of a relation as values to digest."""
    return [ChecksumValue(name, column, form) for name, column, form in zip(quoted, columns, forms, strict=True)]
