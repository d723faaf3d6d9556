"""The planner: from a mapping and what both databases say of their tables to a load that can explain itself.

`make_plan` decides and reads nothing but its arguments. Planning changes nothing on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from synqx_dagster.connectors.protocol import Connector, CopyReadSession, DirectReadSession, ReadSession
from synqx_dagster.mapping.compile import CompiledField, CompiledMapping, Pushdown, Violation, compile_mapping
from synqx_dagster.mapping.contract import DOES_NOT_FIT
from synqx_dagster.model.mapping import KEYED_MODES, LoadMode, Mapping
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column, TableName, primary_key_of
from synqx_dagster.model.types import DataType, TypeKind
from synqx_dagster.transfer.alter import ColumnChange
from synqx_dagster.transfer.compatibility import is_plain_text, same_bytes
from synqx_dagster.transfer.direct import CommonTest, find_common_tests, find_direct
from synqx_dagster.transfer.evolve import apply_to
from synqx_dagster.transfer.facts import SOURCE_ALIAS, Facts, describe_source, relation_sql
from synqx_dagster.transfer.keys import choose_key, history_columns, is_unique, refuse_incomparable
from synqx_dagster.transfer.limits import length_predicate, most_characters
from synqx_dagster.transfer.partition import PartitionPlan
from synqx_dagster.transfer.range_plan import RangePlan
from synqx_dagster.transfer.result import Lane
from synqx_dagster.transfer.target import fit_target, plan_schema_changes, spell

if TYPE_CHECKING:
    import pyarrow as pa

TargetAction = Literal["create", "use"]
Guarantee = Literal["effectively once", "at least once"]

VIOLATIONS_COLUMN = "_synqx_violations"


@dataclass(frozen=True)
class BadRowsRead:
    """The query that fetches the rows which the passthrough lane leaves out, in the same snapshot.

    Its columns are those of `schema`: the source's used columns in their carriers, then `VIOLATIONS_COLUMN`, a text of
    one ``1`` or ``0`` for each of `violations`, in order. ``labels`` are the keys of the row's JSON.
    """

    sql: str
    schema: pa.Schema
    labels: tuple[str, ...]
    violations: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LoadPlan:
    """What a load will do, and why.

    Attributes:
        read_sql: What the source is asked: COPY's query in passthrough, the batches' query in the arrow lane.
        read_schema: Arrow schema of the batches; None in passthrough.
        relation_sql: In passthrough, what `read_sql` reads as a relation for other queries: whoever puts conditions
            on its rows may have them looked at before those that leave out the bad rows. Else None.
        transform_sql: DuckDB's query over the batches; None where they may go to the target as they arrive.
        common_tests: Batches that pass them go to the target as they arrive all the same; None: none does.
        columns: The target's columns that are filled, in the order of the mapping.
        strategy: How the rows become visible, in one sentence.
        differences: How the target differs from the mapping's output without keeping it from running.
        count_sql: Counts the source's rows on its own; None where that would run a query twice.
        key_columns: The source's key, for the quarantine.
        enforced_key: The target's own primary key guarantees `primary_key`.
        schema_changes: What happens to the target's columns before rows come, as the policy of its evolution allows.
        window: What a mapping with a cursor reads this time, in words; None without a cursor.
        deleted_flag: The staging table's extra column that says which rows the source has marked as deleted.
        history_columns: The target's columns that hold validity, in the order of `HistoryColumns.names`.
        unique_key: The target's own indexes keep it from having two rows of a key.
        ranges: How the source is read, in how many pieces; only in a plan that is made to be shown.
        partitions: By which partitions the target is loaded, in words; None where it is loaded as a whole.
        partition: Which rows of the target are replaced, in a load of partitions.
    """

    mapping_name: str
    mode: LoadMode
    lane: Lane
    lane_reason: str
    source: str
    target: TableName
    target_action: TargetAction
    strategy: str
    guarantee: Guarantee
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    enforced_key: bool
    read_sql: str
    read_schema: pa.Schema | None
    transform_sql: str | None
    bad_rows: BadRowsRead | None
    count_sql: str | None
    key_columns: tuple[str, ...]
    source_columns: tuple[Column, ...]
    compiled: CompiledMapping = field(repr=False, compare=False)
    differences: tuple[str, ...] = ()
    window: str | None = None
    schema_changes: tuple[ColumnChange, ...] = ()
    deleted_flag: Column | None = None
    history_columns: tuple[Column, ...] = ()
    unique_key: bool = False
    relation_sql: str | None = None
    ranges: RangePlan | None = field(default=None, compare=False)
    common_tests: tuple[CommonTest, ...] | None = None
    partitions: str | None = None
    partition: PartitionPlan | None = None

    @property
    def replaces_all(self) -> bool:
        """Whether no row of the target stays."""
        return self.mode == "replace" and self.partition is None

    @property
    def staged_columns(self) -> tuple[Column, ...]:
        """What is moved: `columns`, then `deleted_flag` if there is one."""
        return self.columns if self.deleted_flag is None else (*self.columns, self.deleted_flag)

    @property
    def created_key(self) -> tuple[str, ...]:
        """The primary key of a table that is created."""
        return (*self.primary_key, *(column.name for column in self.history_columns[:1]))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for people and for JSON."""
        return {
            "mapping": self.mapping_name,
            "mode": self.mode,
            "lane": self.lane,
            "lane_reason": self.lane_reason,
            "source": self.source,
            "target": str(self.target),
            "target_action": self.target_action,
            "strategy": self.strategy,
            "guarantee": self.guarantee,
            "columns": [
                {
                    "name": column.name,
                    "type": column.native_type or str(column.data_type),
                    "nullable": column.nullable,
                }
                for column in self.columns
            ],
            "primary_key": list(self.primary_key),
            "window": self.window,
            "partitions": self.partitions,
            "ranges": None if self.ranges is None else self.ranges.to_dict(),
            "read_sql": self.read_sql,
            "transform_sql": self.transform_sql,
            "bad_rows_sql": self.bad_rows.sql if self.bad_rows else None,
            "schema_changes": [str(change) for change in self.schema_changes],
            "differences": list(self.differences),
        }


def _compile(
    mapping: Mapping, schema: Schema | None, source: Connector, read: ReadSession, source_columns: Sequence[Column]
) -> CompiledMapping:
    relation = relation_sql(mapping, source)
    return compile_mapping(
        mapping,
        schema,
        source_columns,
        source_dialect=source.dialect,
        describe=lambda items: read.describe_query(f"SELECT {items} FROM {relation}"),
    )


def make_plan(
    mapping: Mapping,
    schema: Schema | None,
    source: Connector,
    target: Connector,
    read: ReadSession,
    facts: Facts,
) -> LoadPlan:
    """Decide how a load runs. `read` spells expressions, and describes those that only the source can compute."""
    compiled = _compile(mapping, schema, source, read, facts.source_columns)
    if mapping.mode in KEYED_MODES:
        compiled = compiled.keyed_by(choose_key(mapping, schema, compiled, facts, target))
    changes = plan_schema_changes(mapping, schema, compiled, facts, target)
    if facts.target_columns is not None:
        # From here on the target is what it will be when rows come.
        facts = replace(facts, target_columns=apply_to(facts.target_columns, changes))
    compiled = compiled.requiring({column.name for column in facts.target_columns or () if not column.nullable})
    columns, differences = fit_target(mapping, compiled, facts, target, changes)
    flag = spell(compiled.fields[-1].column, target) if compiled.has_deleted_flag else None
    staged = columns if flag is None else (*columns, flag)
    relation = relation_sql(mapping, source, facts.predicates)
    lane, reason, pushdown = _choose_lane(mapping, compiled, staged, source, target, read)
    target_key = primary_key_of(facts.target_columns or ())
    creates = facts.target_columns is None
    primary_key = compiled.primary_key or target_key
    refuse_incomparable(mapping, columns, primary_key, target, creates=creates)
    shared: dict[str, Any] = {
        "mapping_name": mapping.name,
        "mode": mapping.mode,
        "lane": lane,
        "lane_reason": reason,
        "source": str(mapping.source) if mapping.source is not None else "query",
        "target": mapping.target,
        "target_action": "create" if creates else "use",
        "strategy": _strategy(mapping, target, creates=creates),
        "guarantee": "effectively once",
        "partitions": None if mapping.partitions is None else f"{mapping.partitions}, by {mapping.partition_column}",
        "columns": columns,
        "primary_key": primary_key,
        "enforced_key": mapping.mode != "scd2"
        and bool(primary_key)
        and set(primary_key) == set(primary_key if creates else target_key),
        "count_sql": _count_sql(mapping, source, relation),
        "key_columns": primary_key_of(facts.source_columns) or _key_sources(compiled),
        "source_columns": facts.source_columns,
        "differences": differences,
        "compiled": compiled,
        "schema_changes": changes,
        "deleted_flag": flag,
        "history_columns": history_columns(mapping, facts, target),
        "unique_key": mapping.mode == "merge" and is_unique(primary_key, facts, creates=creates),
    }
    if pushdown is not None:
        return LoadPlan(
            **shared,
            read_sql=_copy_sql(pushdown, compiled, staged, relation, source, is_outermost=True),
            relation_sql=_copy_sql(pushdown, compiled, staged, relation, source, is_outermost=False),
            read_schema=None,
            transform_sql=None,
            bad_rows=_bad_rows_read(pushdown, compiled, facts.source_columns, relation, source, read),
        )
    direct = find_direct(compiled, staged, read, target.capabilities.direct_kinds)
    read_sql, read_schema = _read_carriers(compiled, facts.source_columns, relation, source, read, direct=direct)
    holds = {
        column.name: predicate
        for column in columns
        if (predicate := _holds(_by_name(compiled, column.name).column, column, target)) is not None
    }
    arrow_types = {item.name: item.type for item in read_schema}
    needs_transform = compiled.needs_transform(arrow_types, holds=holds)
    return LoadPlan(
        **shared,
        read_sql=read_sql,
        read_schema=read_schema,
        transform_sql=compiled.duckdb(arrow_types, holds=holds) if needs_transform else None,
        bad_rows=None,
        common_tests=find_common_tests(compiled, staged, read_schema, frozenset(holds), target)
        if needs_transform
        else None,
    )


@dataclass(frozen=True)
class PreviewPlan:
    """How a mapping's first rows are read and transformed; the target plays no part in it."""

    read_sql: str
    read_schema: pa.Schema
    transform_sql: str
    columns: tuple[Column, ...]


def plan_preview(
    mapping: Mapping,
    schema: Schema | None,
    source: Connector,
    read: ReadSession,
    *,
    holds: Callable[[DataType], str | None] | None = None,
    predicates: tuple[str, ...] = (),
    direct_kinds: frozenset[TypeKind] = frozenset(),
) -> PreviewPlan:
    """Plan to read and transform rows that go to no target; asks the source for its columns.

    Args:
        holds: What whoever takes the rows can hold, as `Connector.holds`; left out: everything.
        predicates: Conditions in the source's SQL that narrow what is read.
        direct_kinds: As in `Capabilities`.

    Raises:
        PlanError, SourceChangedError, QueryRefusedError: As for a load.
    """
    source_columns = describe_source(mapping, source, read)
    mapping = mapping.model_copy(update={"soft_delete_column": None})
    compiled = _compile(mapping, schema, source, read, source_columns)
    relation = relation_sql(mapping, source, predicates)
    columns = tuple(one.column for one in compiled.fields)
    direct = find_direct(compiled, columns, read, direct_kinds)
    sql, arrow_schema = _read_carriers(compiled, source_columns, relation, source, read, direct=direct)
    found = {column.name: holds(column.data_type) for column in columns} if holds is not None else {}
    bounds = {name: predicate for name, predicate in found.items() if predicate is not None}
    transform_sql = compiled.duckdb({item.name: item.type for item in arrow_schema}, holds=bounds)
    return PreviewPlan(sql, arrow_schema, transform_sql, columns)


# --- the strategy -------------------------------------------------------------------------------------------------


def _count_sql(mapping: Mapping, source: Connector, relation: str) -> str | None:
    """Counts the source's rows as they were read; None where it would count others, or run a query twice."""
    if mapping.source is None or not source.capabilities.snapshot_reads:
        return None
    return f"SELECT count(*) FROM {relation}"


def _strategy(mapping: Mapping, target: Connector, *, creates: bool) -> str:
    kind = target.db_type
    if mapping.mode == "merge":
        return f"stage, then merge into the table by its key in one {kind} transaction with the ledger"
    if mapping.mode == "scd2":
        return f"stage, then close and open versions in one {kind} transaction with the ledger"
    if mapping.mode == "append":
        return f"stage, then add to the table in one {kind} transaction with the ledger"
    if mapping.partitions is not None:
        return f"stage, then replace the partitions' rows in one {kind} transaction with the ledger"
    if creates:
        return f"stage, then publish as a new table in one {kind} transaction with the ledger"
    return f"stage, then replace the table's rows in one {kind} transaction with the ledger; readers see old or new"


# --- the lane -----------------------------------------------------------------------------------------------------


def _choose_lane(
    mapping: Mapping,
    compiled: CompiledMapping,
    columns: Sequence[Column],
    source: Connector,
    target: Connector,
    read: ReadSession,
) -> tuple[Lane, str, Pushdown | None]:
    if not (source.capabilities.copy_binary and target.capabilities.copy_binary):
        return (
            "arrow",
            f"{source.db_type} to {target.db_type}: only PostgreSQL speaks binary COPY on both ends"
            + (
                ""
                if source.capabilities.snapshot_reads
                else "; the source has no snapshot: each statement sees its own rows"
            ),
            None,
        )
    if not isinstance(read, CopyReadSession):
        return "arrow", "the source's session cannot stream binary COPY", None
    pushdown = compiled.pushdown(source.dialect)
    if pushdown is None:
        return (
            "arrow",
            compiled.why_not_pushdown(source.dialect) or "the mapping needs client-side work",
            None,
        )
    for compiled_field, column in zip(compiled.fields, columns, strict=True):
        if not _binary_fits(compiled_field, column):
            have = compiled_field.column.native_type or compiled_field.column.data_type
            return "arrow", f"{column.name}: {have} and {column.native_type} differ in binary form", None
    what = "with pushed-down expressions" if any(not f.is_identity for f in compiled.fields) else "unchanged"
    return (
        "passthrough",
        f"PostgreSQL to PostgreSQL, every column {what}: rows flow as binary COPY",
        _with_lengths(pushdown, compiled, columns),
    )


def _binary_fits(compiled_field: CompiledField, column: Column) -> bool:
    """Whether the source can send the column's binary form, by a cast that loses nothing if need be."""
    wanted = compiled_field.column
    if same_bytes(wanted, column) or wanted.data_type.kind not in ("string", "json"):
        return True
    if wanted.native_type is None:
        # A computed text.
        return is_plain_text(column) or (wanted.data_type.kind == "json" and column.data_type.kind == "json")
    return False


def _copy_sql(
    pushdown: Pushdown,
    compiled: CompiledMapping,
    columns: Sequence[Column],
    relation: str,
    source: Connector,
    *,
    is_outermost: bool,
) -> str:
    """The good rows as they are copied.

    Args:
        is_outermost: Nothing stands around the query: it then computes its items for rows that its WHERE let through.
    """
    expressions = []
    for pushed, compiled_field, column in zip(pushdown.fields, compiled.fields, columns, strict=True):
        sql = pushed.sql_of_good if is_outermost else pushed.sql
        if not (compiled_field.is_identity and same_bytes(compiled_field.column, column)):
            # Without its length: a cast to varchar(20) cuts in silence, the target's own length check refuses.
            cast_type = "text" if is_plain_text(column) else column.native_type
            sql = f"CAST({sql} AS {cast_type})"
        expressions.append(f"{sql} AS {source.quote(column.name)}")
    where = ""
    if pushdown.violations:
        where = "\nWHERE NOT (" + " OR ".join(f"({violation.sql})" for violation in pushdown.violations) + ")"
    return f"SELECT {', '.join(expressions)}\nFROM {relation}{where}"


def _with_lengths(pushdown: Pushdown, compiled: CompiledMapping, columns: Sequence[Column]) -> Pushdown:
    """The pushdown with a violation where a text is longer than its column; the server would cut blanks to fit."""
    violations = list(pushdown.violations)
    for pushed, compiled_field, column in zip(pushdown.fields, compiled.fields, columns, strict=True):
        most = most_characters(compiled_field.column, column)
        if most is not None:
            too_long = f"coalesce(length({pushed.sql}) > {most}, false)"
            violations.append(Violation(column.name, DOES_NOT_FIT, too_long))
    return replace(pushdown, violations=tuple(violations))


def _holds(field: Column, column: Column, target: Connector) -> str | None:
    """What a value must be to be stored exactly, as a predicate over ``{value}``."""
    predicates = [target.holds(field.data_type), length_predicate(field, column)]
    return " AND ".join(f"({predicate})" for predicate in predicates if predicate is not None) or None


# --- what is read -------------------------------------------------------------------------------------------------


def _read_carriers(
    compiled: CompiledMapping,
    source_columns: Sequence[Column],
    relation: str,
    source: Connector,
    read: ReadSession,
    extra: tuple[str, ...] = (),
    *,
    direct: frozenset[str] = frozenset(),
) -> tuple[str, pa.Schema]:
    import pyarrow as pa

    by_name = {column.name: column for column in source_columns}
    expressions: list[str] = []
    fields: list[pa.Field] = []
    for name in compiled.used_columns:
        column = by_name[name]
        value = (f"{SOURCE_ALIAS}.{source.quote(name)}", column.data_type, column.native_type)
        encoded = read.encode(*value)
        quicker = read.encode_direct(*value) if isinstance(read, DirectReadSession) else None
        if quicker is not None and (name in direct or quicker.arrow_type == encoded.arrow_type):
            encoded = quicker
        expressions.append(f"{encoded.sql} AS {source.quote(name)}")
        fields.append(pa.field(name, encoded.arrow_type))
    for computed in compiled.source_expressions:
        encoded = read.encode(computed.sql, computed.data_type, computed.native_type)
        expressions.append(f"{encoded.sql} AS {source.quote(computed.alias)}")
        fields.append(pa.field(computed.alias, encoded.arrow_type))
    if not expressions:
        # A mapping of constants alone still needs one row for each row of the source.
        expressions.append("1 AS synqx_row")
        fields.append(pa.field("synqx_row", pa.int32()))
    return f"SELECT {', '.join([*expressions, *extra])}\nFROM {relation}", pa.schema(fields)


def _bad_rows_read(
    pushdown: Pushdown,
    compiled: CompiledMapping,
    source_columns: Sequence[Column],
    relation: str,
    source: Connector,
    read: ReadSession,
) -> BadRowsRead | None:
    if not pushdown.violations:
        # Without importing Arrow, which is a third of the memory of a load that copies bytes.
        return None
    import pyarrow as pa

    flags = " || ".join(f"CASE WHEN {violation.sql} THEN '1' ELSE '0' END" for violation in pushdown.violations)
    sql, schema = _read_carriers(compiled, source_columns, relation, source, read, (f"{flags} AS {VIOLATIONS_COLUMN}",))
    any_of_them = " OR ".join(f"({violation.sql})" for violation in pushdown.violations)
    return BadRowsRead(
        # Of an equation PostgreSQL expects few rows, which is right here, and lets several workers look for them.
        f"{sql}\nWHERE CASE WHEN {any_of_them} THEN 1 ELSE 0 END = 1",
        schema.append(pa.field(VIOLATIONS_COLUMN, pa.string())),
        compiled.row_labels,
        tuple((violation.field, violation.reason) for violation in pushdown.violations),
    )


def _by_name(compiled: CompiledMapping, name: str) -> CompiledField:
    return next(compiled_field for compiled_field in compiled.fields if compiled_field.column.name == name)


def _key_sources(compiled: CompiledMapping) -> tuple[str, ...]:
    """The source columns that fill the target's key unchanged; empty if one is computed."""
    names = []
    for key in compiled.primary_key:
        sources = _by_name(compiled, key).source_columns
        if len(sources) != 1:
            return ()
        names.append(sources[0])
    return tuple(names)
