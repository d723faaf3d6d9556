"""Folded rows as record batches for a staging table, exactly as a copy by the transfer engine would bring them.

Into PostgreSQL the source's own text goes as it is, because what printed it reads it. Everywhere else it becomes the
carriers of `connectors.protocol.carriers`, and where a mapping or the target asks for it, DuckDB runs the mapping's
query over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import (
    DELETED_PART,
    OLD_KEY_PREFIX,
    PART_COLUMN,
    UPDATED_PART,
    WHOLE_PART,
    ChangingWriteSession,
    LinesWriteSession,
    StagedParts,
    carrier_type,
)
from synqx_dagster.errors import BadRowsError, SourceChangedError
from synqx_dagster.mapping.compile import CompiledMapping
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import UNCHANGED, Row, Value
from synqx_dagster.replication.copy_lines import encode_lines
from synqx_dagster.replication.fold import Folded, Key, Positions
from synqx_dagster.replication.history import LOG_WIDTH
from synqx_dagster.replication.target_plan import SOURCE_DIALECT, TargetPlan
from synqx_dagster.transfer.arrow import Transform, split_bad_rows
from synqx_dagster.transfer.quarantine import BadRowSpool

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of one record batch.
BATCH_ROWS = 16_384

#: Rows whose lines are made at a time.
LINE_ROWS = 4_096


@dataclass(frozen=True)
class _Part:
    """Rows of one part: which of their values are known, and to which target columns these lead."""

    number: int
    rows: Sequence[Row]
    origins: Sequence[Key] | None
    known: Positions | None


@dataclass(frozen=True)
class Staged:
    """What is to be staged: what the parts mean, those of them that must find a row, and their rows."""

    meaning: StagedParts
    must_find: StagedParts
    parts: Sequence[_Part]
    deleted: Sequence[Key]


class Stager:
    """Turns what was folded of one table into batches; keeps what a mapping's queries need from piece to piece.

    Close it with the `ExitStack` that it is given.
    """

    def __init__(self, plan: TargetPlan, target_dialect: str, stack: ExitStack) -> None:
        self._plan = plan
        self._stack = stack
        compiled = plan.compiled
        self._fields = [one.column for one in compiled.fields]
        arrow_types = {name: carrier_type(self._type_of(name)) for name in compiled.used_columns}
        needs_transform = compiled.needs_transform(arrow_types, holds=plan.holds)
        #: The source's text goes into the staging table as it is.
        self._as_text = target_dialect == SOURCE_DIALECT and not needs_transform and not self._widens_reals()
        self._transform: Transform | None = None
        if needs_transform:
            import pyarrow as pa

            schema = pa.schema([(name, arrow_types[name]) for name in compiled.used_columns])
            sql = compiled.duckdb(arrow_types, holds=plan.holds)
            self._transform = stack.enter_context(Transform(sql, schema))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The staging table's columns as `WriteSession.write_batches` is to be told of them."""
        changed = self._plan.changed
        by_name = {column.name: column for column in changed.columns}
        columns = [*changed.columns]
        columns.append(Column(PART_COLUMN, DataType("smallint"), False))
        columns += [_renamed(by_name[name], f"{OLD_KEY_PREFIX}{position}") for position, name in enumerate(changed.key)]
        return tuple(columns)

    def plan_parts(self, folded: Folded) -> Staged:
        """What is to be staged.

        Raises:
            SourceChangedError: A field is made of several columns, of which the log leaves out some.
        """
        parts: list[_Part] = []
        moved: dict[int, tuple[str, ...]] = {}
        partial: dict[int, tuple[str, ...]] = {}
        must_find: dict[int, tuple[str, ...]] = {}
        if folded.updated:
            parts.append(_Part(UPDATED_PART, folded.updated, None, None))
        if folded.whole:
            parts.append(_Part(WHOLE_PART, folded.whole, None, None))
        for known, found in folded.moved.items():
            number = len(parts) + 1
            parts.append(_Part(number, [row for row, _ in found], [origin for _, origin in found], known))
            known_names = self._known_targets(known)
            moved[number] = tuple(
                column.name for column in self._plan.changed.columns if column.name not in known_names
            )
        for rows_by_known, is_needed in ((folded.partial, True), (folded.marked, False)):
            for known, rows in rows_by_known.items():
                number = len(parts) + 1
                parts.append(_Part(number, rows, None, known))
                partial[number] = self._known_targets(known)
                if is_needed:
                    must_find[number] = partial[number]
        meaning = StagedParts(len(folded.deleted), len(folded.updated), len(folded.whole), moved, partial)
        return Staged(meaning, StagedParts(moved=moved, partial=must_find), parts, folded.deleted)

    def write(self, session: ChangingWriteSession, staging: TableName, staged: Staged) -> None:
        """Write the rows into the staging table."""
        if self._as_text and isinstance(session, LinesWriteSession):
            for names, lines in self._iter_lines(staged):
                session.copy_lines(staging, names, lines)
        else:
            session.write_batches(staging, self.columns, self._iter_batches(staged.parts, staged.deleted))

    def _widens_reals(self) -> bool:
        """Whether a real becomes a double: of the number that is stored, not of its text, which is shorter."""
        columns = self._plan.changed.columns[self._plan.log_columns :]
        pairs = zip(self._fields, columns, strict=False)
        return any(one.data_type.kind == "real" and column.data_type.kind != "real" for one, column in pairs)

    # --- what is known ----------------------------------------------------------------------------------------

    def _type_of(self, name: str) -> DataType:
        return next(column.data_type for column in self._plan.relation.columns if column.name == name)

    def _known_sources(self, known: Positions) -> frozenset[str]:
        columns = self._plan.relation.columns
        log = LOG_WIDTH if self._plan.log_columns else 0
        return frozenset(columns[at - log].name for at in known if log <= at < log + len(columns))

    def _known_targets(self, known: Positions) -> tuple[str, ...]:
        """Target columns whose values can be told from these values of a row."""
        sources = self._known_sources(known)
        plan = self._plan
        columns = plan.changed.columns
        found = [column.name for column in columns[: plan.log_columns]]
        for one in plan.compiled.fields:
            there = sources.intersection(one.source_columns)
            if len(there) == len(one.source_columns):
                found.append(one.column.name)
            elif there:
                raise SourceChangedError(
                    f"{plan.table.source}: the field {one.column.name!r} is made of several columns, and the log leaves"
                    " out one that is large and has not changed",
                    hint="at the source: ALTER TABLE ... REPLICA IDENTITY FULL; then copy the table again",
                    table=str(plan.table.source),
                    column=one.column.name,
                )
        # Marks are always known.
        found += [column.name for column in columns[len(columns) - plan.mark_columns :]]
        return tuple(found)

    # --- lines ------------------------------------------------------------------------------------------------

    def _iter_lines(self, staged: Staged) -> Iterator[tuple[list[str], Iterator[bytes]]]:
        """The columns and lines of each part; what is not known of its rows is left out."""
        plan = self._plan
        columns = [column.name for column in plan.changed.columns]
        positions = self._row_positions()
        olds = [f"{OLD_KEY_PREFIX}{at}" for at in range(len(plan.changed.key))]
        for part in staged.parts:
            known = None if part.known is None else frozenset(part.known)
            kept = [at for at, position in enumerate(positions) if known is None or position in known]
            names = [columns[at] for at in kept]
            rows = _picked(part.rows, [positions[at] for at in kept], len(part.rows[0]))
            if part.origins is not None:
                names += olds
                keys = part.origins if len(olds) > 1 else [(key,) for key in part.origins]
                rows = [(*row, *key) for row, key in zip(rows, keys, strict=True)]
            yield [*names, PART_COLUMN], _lines_of(rows, part.number)
        if staged.deleted:
            keys = staged.deleted if len(olds) > 1 else [(key,) for key in staged.deleted]
            yield [*plan.changed.key, PART_COLUMN], _lines_of(keys, DELETED_PART)

    def _row_positions(self) -> list[int]:
        """Where in a folded row the value of each target column is."""
        plan = self._plan
        log, width = plan.log_columns, len(plan.relation.columns)
        used = dict(zip(plan.compiled.used_columns, plan.used_positions, strict=True))
        fields = [log + used[one.source_columns[0]] for one in plan.compiled.fields]
        return [*range(log), *fields, *range(log + width, log + width + plan.mark_columns)]

    # --- batches ----------------------------------------------------------------------------------------------

    def _iter_batches(self, parts: Sequence[_Part], deleted: Sequence[Key]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            for start in range(0, len(part.rows), BATCH_ROWS):
                rows = part.rows[start : start + BATCH_ROWS]
                origins = None if part.origins is None else part.origins[start : start + BATCH_ROWS]
                yield self._batch(part, rows, origins)
        for start in range(0, len(deleted), BATCH_ROWS):
            yield self._batch_of_keys(deleted[start : start + BATCH_ROWS])

    def _batch(self, part: _Part, rows: Sequence[Row], origins: Sequence[Key] | None) -> pa.RecordBatch:
        import pyarrow as pa

        plan = self._plan
        values: list[Sequence[Value]] = list(zip(*rows, strict=True))
        count = len(rows)
        columns = plan.changed.columns
        log, width, marks = plan.log_columns, len(plan.relation.columns), plan.mark_columns
        known = None if part.known is None else frozenset(part.known)
        arrays: list[pa.Array] = []
        arrays += [self._array(values[at], columns[at]) for at in range(log)]
        arrays += self._field_arrays(values[log : log + width], log, known, count)
        # Whether it is deleted, which MySQL keeps as a number, and when.
        kinds = [DataType("boolean"), None]
        arrays += [
            self._array(values[log + width + at], columns[len(columns) - marks + at], kinds[at]) for at in range(marks)
        ]
        arrays.append(pa.repeat(pa.scalar(part.number, pa.int16()), count))
        arrays += self._old_keys(origins, count)
        return self._record_batch(arrays)

    def _field_arrays(
        self, values: Sequence[Sequence[Value]], offset: int, known: frozenset[int] | None, count: int
    ) -> list[pa.Array]:
        """The target fields in order; NULL where a value is not known."""
        plan = self._plan
        used = dict(zip(plan.compiled.used_columns, plan.used_positions, strict=True))
        if self._transform is not None:
            return self._transformed(values, offset, known, count)
        fields = self._plan.changed.columns[plan.log_columns :]
        arrays = []
        for one, column in zip(plan.compiled.fields, fields, strict=False):
            at = used[one.source_columns[0]]
            if known is not None and at + offset not in known:
                arrays.append(self._nulls(column, count))
            else:
                arrays.append(self._array(values[at], column, one.column.data_type))
        return arrays

    def _transformed(
        self, values: Sequence[Sequence[Value]], offset: int, known: frozenset[int] | None, count: int
    ) -> list[pa.Array]:
        import pyarrow as pa

        plan = self._plan
        assert self._transform is not None
        compiled: CompiledMapping = plan.compiled
        sources = []
        for name, at in zip(compiled.used_columns, plan.used_positions, strict=True):
            data_type = self._type_of(name)
            if known is not None and at + offset not in known:
                sources.append(pa.nulls(count, carrier_type(data_type)))
            else:
                sources.append(to_carrier(values[at], data_type))
        batch = pa.RecordBatch.from_arrays(sources, names=list(compiled.used_columns))
        with BadRowSpool() as spool:
            good = list(split_bad_rows(self._transform.run(iter([batch])), spool, ()))
            if spool.rows:
                raise BadRowsError(
                    f"{plan.table.target} cannot hold {spool.rows:,} changed rows of {plan.table.source} as they are:"
                    f" {spool.describe()}",
                    hint="correct them at the source, or map the column to a type that holds them; then copy the table"
                    " again",
                    rows=spool.rows,
                    table=str(plan.table.target),
                )
        table = pa.Table.from_batches(good)
        return [column.combine_chunks() for column in table.columns]

    def _old_keys(self, origins: Sequence[Key] | None, count: int) -> list[pa.Array]:
        plan = self._plan
        by_name = {column.name: column for column in plan.changed.columns}
        columns = [by_name[name] for name in plan.changed.key]
        if origins is None:
            return [self._nulls(column, count) for column in columns]
        return self._key_arrays(origins, columns)

    def _batch_of_keys(self, keys: Sequence[Key]) -> pa.RecordBatch:
        import pyarrow as pa

        plan = self._plan
        by_name = {column.name: column for column in plan.changed.columns}
        found = dict(
            zip(
                plan.changed.key,
                self._key_arrays(keys, [by_name[name] for name in plan.changed.key]),
                strict=True,
            )
        )
        count = len(keys)
        arrays = [
            found[column.name] if column.name in found else self._nulls(column, count)
            for column in plan.changed.columns
        ]
        arrays.append(pa.repeat(pa.scalar(DELETED_PART, pa.int16()), count))
        arrays += [self._nulls(by_name[name], count) for name in plan.changed.key]
        return self._record_batch(arrays)

    def _key_arrays(self, keys: Sequence[Key], columns: Sequence[Column]) -> list[pa.Array]:
        """A key's values are told in the source's types; they pass unchanged into the target's."""
        values: list[Sequence[Value]] = [keys] if len(columns) == 1 else list(zip(*keys, strict=True))
        types = {one.column.name: one.column.data_type for one in self._plan.compiled.fields}
        return [
            self._array(column_values, column, types[column.name])
            for column_values, column in zip(values, columns, strict=True)
        ]

    def _array(self, values: Sequence[Value], column: Column, data_type: DataType | None = None) -> pa.Array:
        """Values of one column; `data_type` is what the source says of them, where it differs from the target's."""

        return to_carrier(values, data_type or column.data_type)

    def _nulls(self, column: Column, count: int) -> pa.Array:
        import pyarrow as pa

        return pa.nulls(count, carrier_type(column.data_type))

    def _record_batch(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        import pyarrow as pa

        # One type for each column in all batches of a statement, whichever part they are of.
        wanted = [carrier_type(column.data_type) for column in self.columns]
        arrays = [array.cast(kind) for array, kind in zip(arrays, wanted, strict=True)]
        return pa.RecordBatch.from_arrays(list(arrays), names=[f"c{at}" for at in range(len(arrays))])


def _picked(rows: Sequence[Row], positions: Sequence[int], width: int) -> Sequence[Sequence[Value]]:
    """The values at these positions of each row."""
    if list(positions) == list(range(width)):
        return rows
    if len(positions) == 1:
        return [(row[positions[0]],) for row in rows]
    pick = itemgetter(*positions)
    return [pick(row) for row in rows]


def _lines_of(rows: Sequence[Sequence[Value]], part: int) -> Iterator[bytes]:
    for start in range(0, len(rows), LINE_ROWS):
        yield encode_lines(rows[start : start + LINE_ROWS], f"\t{part}")


def to_carrier(values: Sequence[Value], data_type: DataType) -> pa.Array:
    """A column's values, as PostgreSQL prints them, in their carrier."""
    import pyarrow as pa
    import pyarrow.compute as pc

    convert = _CONVERSIONS.get(data_type.kind)
    if convert is not None:
        return convert(values)
    texts = pa.array(values, pa.string())
    wanted = carrier_type(data_type)
    if texts.type == wanted:
        return texts
    try:
        return pc.cast(texts, wanted)
    except pa.ArrowInvalid:
        # Arrow quotes the value.
        raise BadRowsError(f"the log holds a value that is not {data_type}") from None


def _booleans(values: Sequence[Value]) -> pa.Array:
    import pyarrow as pa

    known: dict[Value, bool] = {"t": True, "f": False, "true": True, "false": False}
    return pa.array([None if value is None else known[value] for value in values], pa.bool_())


def _bytes(values: Sequence[Value]) -> pa.Array:
    import pyarrow as pa

    return pa.array(
        [None if value is None or value is UNCHANGED else bytes.fromhex(value[2:]) for value in values], pa.binary()
    )


_CONVERSIONS: dict[str, Callable[[Sequence[Value]], pa.Array]] = {"boolean": _booleans, "binary": _bytes}


def _renamed(column: Column, name: str) -> Column:
    return replace(column, name=name)
