"""Partitions of a mapping: which rows of the source one load reads, and which rows of the target they replace.

Guarantee: after the load the target's rows of these partitions are exactly the source's, in one transaction; rows of
other partitions, and rows whose column is NULL, are as they were. Both sides decide by the same comparison of the same
type, and what arrives is counted once more by the target's own words before anything is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from synqx_dagster.connectors.protocol import Connector, ReadSession
from synqx_dagster.errors import DataError, PlanError, RequestError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.partitions import Partitions, TimePartitions
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import TypeKind
from synqx_dagster.transfer.cursor_values import literal, quoted
from synqx_dagster.transfer.facts import SOURCE_ALIAS, relation_sql
from synqx_dagster.transfer.result import PartitionSlice, ReadWindow
from synqx_dagster.transfer.sqlite_order import MOMENTS, Spelling, find_spelling

_WHOLE_NUMBERS: frozenset[TypeKind] = frozenset({"smallint", "integer", "bigint"})
_NAMES: frozenset[TypeKind] = _WHOLE_NUMBERS | {"string", "uuid"}


@dataclass(frozen=True)
class PartitionPlan:
    """What one load reads and replaces.

    Attributes:
        predicates: Conditions over the relation ``source`` in the source's SQL, all of which hold for every row read.
        inside: A condition in the target's SQL that holds for the rows that are replaced.
        outside: Its opposite, which holds for rows without a value, too.
        source_column: What the column is called in the rows that are read.
        bounds: The first value and the first one beyond, as canonical text; or None, and `values` are the values.
        description: Which partitions, for people.
        made_by_nodes: The rows are made by the nodes of a pipeline, which alone know where they come from.
    """

    predicates: tuple[str, ...]
    inside: str
    outside: str
    source_column: str
    bounds: tuple[str, str] | None
    values: frozenset[str]
    description: str
    made_by_nodes: bool = False

    def holds(self, row: Map[str, object]) -> bool:
        """Whether a row of the source, as the quarantine keeps it, belongs to these partitions."""
        value = row.get(self.source_column)
        if self.bounds is None:
            return str(value) in self.values
        try:
            # The canonical text of an infinity, or of a year that Python does not have, is none.
            moment, (start, end) = datetime.fromisoformat(str(value)), map(datetime.fromisoformat, self.bounds)
            return start <= moment < end
        except (ValueError, TypeError):
            return False


def check_slice(mapping: Mapping, asked: ReadWindow) -> None:
    """Refuse a load of a partitioned mapping that does not say which partitions, and the other way round.

    Raises:
        RequestError: Says what to do.
    """
    if mapping.partitions is None:
        if asked.partition is not None:
            raise RequestError(
                f"mapping {mapping.name!r} has no partitions, so {asked.partition} cannot be loaded by itself",
                hint=f"`synqx run {mapping.name}`, or give the mapping `partitions` and a `partition_column`",
            )
        return
    if asked.partition is None:
        raise unnamed_partitions(f"mapping {mapping.name!r}", mapping.name)


def unnamed_partitions(what: str, name: str) -> RequestError:
    """The error of a run that does not say which partitions."""
    return RequestError(
        f"{what} is loaded by partitions, and this run does not say which",
        hint=f"`synqx backfill {name} --from KEY --to KEY`; in the web UI choose them when you materialize",
    )


def plan_partition(
    mapping: Mapping,
    asked: PartitionSlice,
    ends: tuple[Connector, Connector],
    read: ReadSession,
    source_columns: tuple[Column, ...],
    target_columns: tuple[Column, ...],
    *,
    made_by_nodes: bool = False,
) -> PartitionPlan:
    """Decide what a load of these partitions reads and replaces.

    Args:
        ends: The source and the target.
        target_columns: The target's columns that the mapping fills.
        made_by_nodes: The rows are what the nodes of a pipeline make of these partitions, and are read as they come.

    Raises:
        PlanError: The column has another type on each side, or one that does not fit the partitions.
        DataError: Rows of the source belong to no partition, because their column is NULL.
    """
    source, target = ends
    assert mapping.partitions is not None
    field = mapping.partition_column
    there = next((column for column in target_columns if column.name == field), None)
    here = next((column for column in source_columns if column.name == mapping.partition_source), None)
    if there is None or here is None:
        raise PlanError(f"mapping {mapping.name!r}: no column of the source fills the partition_column {field!r}")
    if here.data_type.kind != there.data_type.kind:
        raise PlanError(
            f"mapping {mapping.name!r}: the partition_column {there.name!r} is {here.data_type} in the source and"
            f" {there.data_type} in the target, so that a row could belong to two partitions",
            hint="give it one type on both sides, by the target's schema or a cast in a source_query",
            column=there.name,
        )
    _check_kind(mapping.partitions, there)
    predicates = () if made_by_nodes else plan_reading(mapping, mapping.partitions, asked, here, source, read)
    inside = " AND ".join(_conditions(target.quote(there.name), mapping.partitions, asked, there, target))
    return PartitionPlan(
        predicates=predicates,
        inside=inside,
        outside=f"NOT ({inside}) OR {target.quote(there.name)} IS NULL",
        source_column=here.name,
        bounds=_bounds(mapping.partitions, asked, there),
        values=frozenset(asked.values),
        description=f"{asked} by {there.name}",
        made_by_nodes=made_by_nodes,
    )


def plan_reading(
    mapping: Mapping,
    partitions: Partitions,
    asked: PartitionSlice,
    column: Column,
    source: Connector,
    read: ReadSession,
) -> tuple[str, ...]:
    """The conditions for the rows of these partitions, over the relation ``source`` of a mapping.

    Raises:
        PlanError: The column's type does not fit the partitions.
        DataError: Rows belong to no partition, because their column is NULL or SQLite cannot compare it.
    """
    _check_kind(partitions, column)
    name = f"{SOURCE_ALIAS}.{source.quote(column.name)}"
    _refuse_unplaced(mapping, source, read, column, name)
    spelling = find_spelling(mapping, source, read, column, "partition")
    return tuple(_conditions(name, partitions, asked, column, source, spelling))


def _conditions(
    name: str,
    partitions: Partitions,
    asked: PartitionSlice,
    column: Column,
    connector: Connector,
    spelling: Spelling | None = None,
) -> list[str]:
    bounds = _bounds(partitions, asked, column)
    if bounds is None:
        return [_among(name, asked.values, column, connector)]
    start, end = (_moment(text, column, connector, spelling) for text in bounds)
    return [f"{name} >= {start}", f"{name} < {end}"]


def _check_kind(partitions: Partitions, column: Column) -> None:
    kind = column.data_type.kind
    where = f"the partition_column {column.name!r}"
    is_timed = isinstance(partitions, TimePartitions)
    if kind not in (MOMENTS if is_timed else _NAMES):
        fitting = "a date, timestamp or timestamptz" if is_timed else "a text, whole number or uuid"
        raise PlanError(
            f"{where} holds {column.data_type}; {partitions.type} partitions need {fitting}", column=column.name
        )
    if not isinstance(partitions, TimePartitions) or partitions.type != "hourly":
        return
    if kind == "date":
        raise PlanError(f"{where} holds days, and hourly partitions are parts of days", column=column.name)
    if kind == "timestamp" and partitions.timezone != "UTC":
        raise PlanError(
            f"{where} holds the time of a wall clock, which shows an hour twice when it is put back",
            hint="use hourly partitions with timezone: UTC, a timestamptz, or daily ones",
            column=column.name,
        )


def _refuse_unplaced(mapping: Mapping, source: Connector, read: ReadSession, column: Column, name: str) -> None:
    """A row without a value is in no partition and would never be loaded. Where there may be some, they are counted."""
    if not column.nullable:
        return
    relation = relation_sql(mapping, source, [f"{name} IS NULL"])
    rows = int(str(read.fetch_value(f"SELECT count(*) FROM {relation}")))
    if rows:
        raise DataError(
            f"mapping {mapping.name!r}: the partition column {column.name!r} has no value in"
            f" {rows:,} row{'' if rows == 1 else 's'} of the source, which would never be loaded",
            hint="fill it and make it NOT NULL, or use a source_query that gives such rows a value",
            rows=rows,
            column=column.name,
        )


def _bounds(partitions: Partitions, asked: PartitionSlice, column: Column) -> tuple[str, str] | None:
    if not isinstance(partitions, TimePartitions):
        return None
    assert asked.start is not None
    assert asked.end is not None
    zone, kind = ZoneInfo(partitions.timezone), column.data_type.kind
    first, beyond = (_text(moment, zone, kind) for moment in (asked.start, asked.end))
    return first, beyond


def _text(moment: datetime, zone: ZoneInfo, kind: TypeKind) -> str:
    """A bound as canonical text of a kind."""
    if kind == "timestamptz":
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}+00"
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d}" if kind == "date" else f"{local:%Y-%m-%d %H:%M:%S}"


def _moment(text: str, column: Column, connector: Connector, spelling: Spelling | None) -> str:
    if connector.dialect == "sqlite":
        # Texts are compared there; those of a target are written as all that a load writes.
        return quoted((spelling or Spelling(column.data_type.kind == "timestamptz")).bound(text))
    return literal(text, column, connector.dialect)


def _among(name: str, values: tuple[str, ...], column: Column, connector: Connector) -> str:
    kind = column.data_type.kind
    literals = ", ".join(_value(value, column, connector) for value in values)
    among = f"{name} IN ({literals})"
    if kind != "string":
        return among
    # Whatever the column's collation calls equal, a value belongs to the partition of its own characters. The first
    # condition is there for an index.
    match connector.dialect:
        case "postgres":
            return f'({among} AND ({name})::text COLLATE "C" IN ({literals}))'
        case "mysql":
            # The bytes of one character set: those of a latin1 column are others than a literal's.
            exact = ", ".join(_mysql_bytes(_value(value, column, connector)) for value in values)
            return f"({among} AND {_mysql_bytes(name)} IN ({exact}))"
        case "sqlite":
            return f"({among} AND {name} COLLATE BINARY IN ({literals}))"
        case "duckdb":
            exact = ", ".join(f"encode({_value(value, column, connector)})" for value in values)
            return f"({among} AND encode({name}) IN ({exact}))"
        case dialect:
            raise PlanError(
                f"the partition_column {column.name!r} holds texts, and what {dialect} takes for equal texts is not"
                " known here",
                hint="use whole numbers, or partitions by time",
                column=column.name,
            )


def _mysql_bytes(value: str) -> str:
    return f"CAST(CONVERT({value} USING utf8mb4) AS BINARY)"


def _value(value: str, column: Column, connector: Connector) -> str:
    kind = column.data_type.kind
    if kind in _WHOLE_NUMBERS and not value.removeprefix("-").isdecimal():
        raise PlanError(
            f"the partition {value!r} is no value of the column {column.name!r}, which holds {column.data_type}",
            column=column.name,
        )
    return literal(int(value) if kind in _WHOLE_NUMBERS else value, column, connector.dialect)
