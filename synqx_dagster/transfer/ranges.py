"""How a large table is cut into ranges: conditions that together take in every row of the table once.

Two ways to cut. By *key*: the bounds are values of the primary key, so a row is in the same range whenever it is looked
for, and a load that died may go on with the ranges that it had not committed. By *position*: PostgreSQL's pages, which
needs no key and reads fastest, and holds for one snapshot only, because an update moves a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from synqx_dagster.connectors.protocol import Connector, ReadSession
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.table import Column, TableName, primary_key_of
from synqx_dagster.model.types import TypeKind
from synqx_dagster.transfer.cursor_values import is_endless, literal
from synqx_dagster.transfer.estimate import estimate_size
from synqx_dagster.transfer.facts import SOURCE_ALIAS

#: A table that is believed to have more rows than this is loaded in ranges of this size, so that a crash costs minutes.
DEFAULT_RANGE_ROWS = 10_000_000

#: More ranges than this cost more in transactions than a repeated range would.
MAX_RANGES = 1_000

#: Rows that are looked at to find bounds of keys that are not numbers.
SAMPLE_ROWS = 100_000

_NUMBERS: frozenset[TypeKind] = frozenset({"smallint", "integer", "bigint"})
_SAMPLED: frozenset[TypeKind] = frozenset({"string", "uuid", "decimal", "date", "timestamp", "timestamptz"})

#: From this version on PostgreSQL reads a range of pages without reading the rest of the table.
_RANGE_SCAN_VERSION = 140_000


@dataclass(frozen=True)
class Ranges:
    """How a table is cut.

    Attributes:
        predicates: One condition for each range, over the relation ``source``.
        by: ``key`` or ``position``.
    """

    predicates: tuple[str, ...]
    by: Literal["key", "position"]


@dataclass(frozen=True)
class Cut:
    """A way to cut a table that has been chosen, and not gone yet.

    Attributes:
        most: How many ranges there will be; fewer where a sample has fewer values.
        by: As in `Ranges`, as far as a sample gives bounds at all.
        make: Asks the source for the bounds; None where there are none.
    """

    most: int
    by: Literal["key", "position"]
    make: Callable[[], Ranges | None]


@dataclass(frozen=True)
class Whole:
    """A table that is not cut, and why."""

    reason: str


def choose_cut(
    mapping: Mapping,
    source: Connector,
    read: ReadSession,
    source_columns: Sequence[Column],
    rows: int | None = None,
    *,
    may_count: bool = True,
) -> Cut | Whole:
    """Choose how the source table of a mapping is cut.

    Takes a few look-ups in catalogs and indexes; `Cut.make` may take longer. The rows of the session's snapshot are in
    exactly one range each.

    Args:
        rows: What the source guesses of its rows, if it has been asked already.
        may_count: Rows may be counted where the source has no guess.
    """
    if mapping.source is None:
        return Whole("a source query is read as a whole")
    cutter = _Cutter(mapping.source, source, read, source_columns)
    if rows is None:
        rows = cutter.estimate_rows()
    range_rows = mapping.range_rows or DEFAULT_RANGE_ROWS
    if rows is None and mapping.range_rows is not None:
        # Somebody asks for ranges, and the database keeps no statistics. The span of a key says nothing of its rows.
        if not may_count:
            return Whole(
                "the source keeps no count of its rows;"
                f" the load counts them, and reads more than {range_rows:,} in ranges"
            )
        rows = cutter.count_rows()
    wants_to_resume = rows is not None and rows > range_rows
    parts = mapping.parallelism
    if rows is not None and wants_to_resume:
        parts = max(parts, min(-(-rows // range_rows), MAX_RANGES))
    if parts == 1:
        has = "nobody knows how many rows it has" if rows is None else f"it has about {rows:,} rows"
        return Whole(f"{has}, and range_rows is {range_rows:,}")
    if not wants_to_resume and (by_position := cutter.by_position(parts)) is not None:
        return by_position
    return cutter.by_key(parts, rows) or cutter.by_position(parts) or Whole(cutter.why_whole())


class _Cutter:
    def __init__(self, table: TableName, source: Connector, read: ReadSession, columns: Sequence[Column]) -> None:
        self.table = table
        self.source = source
        self.read = read
        self.qualified = source.qualify(table)
        self.is_postgres = source.dialect == "postgres" and source.capabilities.copy_binary
        key = primary_key_of(tuple(columns))
        self.key = next((column for column in columns if column.name == key[0]), None) if key else None

    def estimate_rows(self) -> int | None:
        """About how many rows the table has; None where nobody can tell without counting."""
        return estimate_size(self.table, self.source, self.read).rows

    def count_rows(self) -> int:
        """How many rows the table has."""
        return int(str(self._fetch(f"SELECT count(*) FROM {self.qualified}")))

    def why_whole(self) -> str:
        """Why neither the key nor the pages can be cut."""
        if self.key is None:
            return "it has no primary key to cut it by"
        if self.key.data_type.kind in _NUMBERS:
            return f"the values of its key {self.key.name!r} are too few to cut it by"
        return f"its key begins with {self.key.name!r}, and a {self.key.data_type} of {self.source.db_type} is no bound"

    def by_position(self, parts: int) -> Cut | None:
        """Ranges of pages; None where the server cannot read them apart."""
        if not self.is_postgres:
            return None
        if int(str(self._fetch("SELECT pg_catalog.current_setting('server_version_num')"))) < _RANGE_SCAN_VERSION:
            return None
        pages = self._fetch(
            "SELECT pg_catalog.pg_relation_size(oid) / pg_catalog.current_setting('block_size')::integer"
            f" FROM pg_catalog.pg_class WHERE oid = {self._regclass()} AND relkind IN ('r', 'm')"
        )
        if pages is None or int(str(pages)) < parts:
            return None
        count = int(str(pages))
        bounds = [f"'({count * number // parts},0)'::tid" for number in range(1, parts)]
        ranges = Ranges(_between(f"{SOURCE_ALIAS}.ctid", bounds), "position")
        return Cut(parts, "position", lambda: ranges)

    def by_key(self, parts: int, rows: int | None) -> Cut | None:
        """Ranges of the primary key's first column; None where its values cannot be cut."""
        if self.key is None:
            return None
        if self.key.data_type.kind in _NUMBERS:
            found = self._number_bounds()
            if found is None:
                return None
            least, most = found
            width = (most - least + parts) // parts
            numbers = [least + width * number for number in range(1, parts)]
            bounds = [str(number) for number in numbers if number <= most]
            ranges = self._by_bounds(self.key, bounds)
            return None if ranges is None else Cut(len(ranges.predicates), "key", lambda: ranges)
        if self.is_postgres and self.key.data_type.kind in _SAMPLED:
            key = self.key
            return Cut(parts, "key", lambda: self._by_sample(key, parts, rows or 0))
        return None

    def _by_bounds(self, key: Column, bounds: Sequence[str]) -> Ranges | None:
        if not bounds:
            return None
        return Ranges(_between(f"{SOURCE_ALIAS}.{self.source.quote(key.name)}", bounds), "key")

    def _by_sample(self, key: Column, parts: int, rows: int) -> Ranges | None:
        ranges = self._by_bounds(key, self._sampled_bounds(key, parts, rows))
        if ranges is None and (by_position := self.by_position(parts)) is not None:
            return by_position.make()
        return ranges

    def _number_bounds(self) -> tuple[int, int] | None:
        if self.key is None or self.key.data_type.kind not in _NUMBERS:
            return None
        name = self.source.quote(self.key.name)
        least = self._fetch(f"SELECT min({name}) FROM {self.qualified}")
        most = self._fetch(f"SELECT max({name}) FROM {self.qualified}")
        return None if least is None or most is None else (int(str(least)), int(str(most)))

    def _sampled_bounds(self, key: Column, parts: int, rows: int) -> list[str]:
        percent = min(100.0, max(0.001, 100.0 * SAMPLE_ROWS / max(rows, 1)))
        encoded = self.read.encode("found.bound", key.data_type, key.native_type)
        bounds: list[str] = []
        for number in range(1, parts):
            value = self._fetch(
                f"SELECT {encoded.sql} FROM (SELECT percentile_disc({number / parts:.6f}) WITHIN GROUP"
                f" (ORDER BY {SOURCE_ALIAS}.{self.source.quote(key.name)}) AS bound FROM {self.qualified}"
                # The same sample each time, so that the bounds are in order.
                f" AS {SOURCE_ALIAS} TABLESAMPLE SYSTEM ({percent:.6f}) REPEATABLE (1)) AS found"
            )
            if value is None or is_endless(str(value)):
                continue
            if (bound := literal(str(value), key, self.source.dialect)) not in bounds:
                bounds.append(bound)
        return bounds

    def _fetch(self, sql: str) -> object:
        return self.read.fetch_value(sql)

    def _regclass(self) -> str:
        return "'" + self.qualified.replace("'", "''") + "'::regclass"


def _between(expression: str, bounds: Sequence[str]) -> tuple[str, ...]:
    """Conditions for below the first bound, between each two, and from the last one on."""
    predicates = [f"{expression} < {bounds[0]}"]
    predicates += [f"{expression} >= {lower} AND {expression} < {upper}" for lower, upper in itertools.pairwise(bounds)]
    return (*predicates, f"{expression} >= {bounds[-1]}")
