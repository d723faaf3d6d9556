"""What is compared and where: the form of each column, and whether a side's own database can digest its rows.

The source's side is the mapping's own output: its pushdown where the source can compute it, else the transform of the
arrow lane over what the engine's reader delivers. Rows that break the contract are left out of it, as a load does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from synqx_dagster.connectors.checksum import ChecksumForm, ChecksumReadSession
from synqx_dagster.connectors.protocol import Connector, ReadSession, carrier_type
from synqx_dagster.errors import FatalError, TargetMismatchError
from synqx_dagster.mapping.compile import Pushdown
from synqx_dagster.mapping.duckdb_casts import text_of_date
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column
from synqx_dagster.transfer.content_side import (
    LocalRead,
    Side,
    column_values,
    common_scheme,
    database_side,
    local_side,
)
from synqx_dagster.transfer.facts import Facts, describe_source, relation_sql
from synqx_dagster.transfer.partition import plan_partition
from synqx_dagster.transfer.plan import LoadPlan, make_plan
from synqx_dagster.transfer.result import PartitionSlice

_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_FLOATS = frozenset({"real", "float"})
_PLAIN = frozenset({"date", "time", "timestamp", "timestamptz", "uuid"})

_EXPECTED = "expected"


@dataclass(frozen=True)
class ContentRequest:
    """One comparison.

    Attributes:
        limit: How many differences are listed; they are counted all the same.
        show_values: Whether the listed ones carry cell values.
        partition: Of a mapping with partitions: those that are compared.
    """

    mapping: Mapping
    schema: Schema | None
    source: Connector
    target: Connector
    limit: int = 100
    show_values: bool = False
    partition: PartitionSlice | None = None


@dataclass(frozen=True)
class ContentPlan:
    """Both sides, ready to be asked.

    Attributes:
        names: The target's columns that are compared.
        key: Those of them that tell rows apart; empty where nothing does.
        source_reason: Why the source's side is computed here; None where its database does it. So `target_reason`.
        allows_extra: Rows of the target that the source does not have are no fault.
        sets_aside: Rows of the source that share a key are kept out of the target.
    """

    source: Side
    target: Side
    source_name: str
    names: tuple[str, ...]
    forms: tuple[ChecksumForm, ...]
    key: tuple[str, ...]
    source_reason: str | None
    target_reason: str | None
    allows_extra: bool
    sets_aside: bool

    def show_text(self, position: int, text: str | None) -> str | None:
        """A column's text for people: of a float its number, not its bits."""
        if text is None or self.forms[position] != "float":
            return text
        try:
            return repr(struct.unpack(">d", bytes.fromhex(text))[0])
        except (ValueError, struct.error):
            return text


def plan_content(request: ContentRequest, source: ReadSession, target: ReadSession) -> ContentPlan:
    """Decide how each side is digested; asks both databases for their columns.

    Raises:
        TargetMismatchError: The target is not there, or its columns do not fit.
        PlanError, SourceChangedError, QueryRefusedError: As for a load.
    """
    mapping = request.mapping
    held = target.find_columns(mapping.target)
    if held is None:
        raise TargetMismatchError(
            f"mapping {mapping.name!r}: the target has no table {mapping.target}",
            hint=f"`synqx run {mapping.name}` makes and fills it",
            table=str(mapping.target),
        )
    facts = Facts(describe_source(mapping, request.source, source), held)
    plan = make_plan(mapping, request.schema, request.source, request.target, source, facts)
    if request.partition is not None:
        ends = request.source, request.target
        part = plan_partition(mapping, request.partition, ends, source, facts.source_columns, plan.columns)
        facts = replace(facts, predicates=part.predicates)
        made = make_plan(mapping, request.schema, request.source, request.target, source, facts)
        plan = replace(made, partition=part)
    names = tuple(column.name for column in plan.columns)
    fields = [compiled_field.column for compiled_field in plan.compiled.target_fields]
    forms = tuple(choose_form(field, column) for field, column in zip(fields, plan.columns, strict=True))
    key = plan.primary_key if plan.primary_key and set(plan.primary_key) <= set(names) else ()
    positions = tuple(names.index(name) for name in key)

    expected = _find_expected(request, plan, source, forms)
    held_rows = _Relation(_held_sql(request, plan), plan.columns)
    reason = _why_not(held_rows, target, forms, request.target)
    actual = held_rows if reason is None else _streamed(held_rows, target, request.target.quote, reason)
    scheme = common_scheme(
        _schemes(source) if isinstance(expected, _Relation) else (),
        _schemes(target) if isinstance(actual, _Relation) else (),
    )

    def side(session: ReadSession, connector: Connector, found: _Relation | _Local) -> Side:
        if isinstance(found, _Local):
            return local_side(session, found.read, forms, positions)
        values = column_values(found.columns, [connector.quote(name) for name in names], forms)
        return database_side(session, scheme, values, found.sql, positions)

    return ContentPlan(
        source=side(source, request.source, expected),
        target=side(target, request.target, actual),
        source_name=plan.source,
        names=names,
        forms=forms,
        key=key,
        source_reason=expected.reason if isinstance(expected, _Local) else None,
        target_reason=actual.reason if isinstance(actual, _Local) else None,
        allows_extra=mapping.mode != "replace" and not mapping.delete_missing,
        sets_aside=mapping.on_bad_row == "quarantine" and bool(key),
    )


def choose_form(field: Column, column: Column) -> ChecksumForm:
    """How a field of the mapping and the target's column that holds it are compared."""
    kinds = {field.data_type.kind, column.data_type.kind}
    if "boolean" in kinds and kinds <= {"boolean", *_INTEGERS}:
        return "boolean"
    if kinds <= _INTEGERS:
        return "integer"
    if kinds <= {*_INTEGERS, "decimal"}:
        return "decimal"
    if kinds <= _FLOATS:
        return "float"
    if kinds == {"binary"}:
        return "binary"
    return "plain" if len(kinds) == 1 and kinds <= _PLAIN else "text"


# --- the two ways to digest ---------------------------------------------------------------------------------------


class _Relation(NamedTuple):
    """Rows as SQL of their own database, with the compared columns under the target's names."""

    sql: str
    columns: tuple[Column, ...]


class _Local(NamedTuple):
    """Rows as they are read into this process, and why."""

    read: LocalRead
    reason: str


def _find_expected(
    request: ContentRequest, plan: LoadPlan, session: ReadSession, forms: Sequence[ChecksumForm]
) -> _Relation | _Local:
    """The mapping's output."""
    source = request.source
    if plan.lane == "passthrough":
        # The very rows that a load copies, without the rows that break the contract.
        flag = None if plan.deleted_flag is None else source.quote(plan.deleted_flag.name)
        relation = _Relation(_without_deleted(f"(\n{plan.relation_sql}\n) {_EXPECTED}", flag), plan.columns)
        reason = _why_not(relation, session, forms, source)
        return relation if reason is None else _streamed(relation, session, source.quote, reason)
    if request.mapping.on_bad_row == "quarantine" and plan.transform_sql is not None:
        return _transformed(plan, "only the transform knows which rows are quarantined")
    pushdown = plan.compiled.pushdown(source.dialect)
    if pushdown is None:
        why = plan.compiled.why_not_pushdown(source.dialect) or "the mapping needs client-side work"
        return _transformed(plan, why)
    relation = _pushed_down(request, plan, pushdown)
    reason = _why_not(relation, session, forms, source)
    return relation if reason is None else _transformed(plan, reason)


def _held_sql(request: ContentRequest, plan: LoadPlan) -> str:
    """The target's rows; of a table that keeps history, the current versions."""
    target, mapping = request.target, request.mapping
    qualified = target.qualify(mapping.target)
    if plan.partition is not None:
        return f"(SELECT * FROM {qualified} WHERE {plan.partition.inside}) held"
    if mapping.mode != "scd2":
        return qualified
    return f"(SELECT * FROM {qualified} WHERE {target.quote(mapping.history.is_current)} = TRUE) held"


def _without_deleted(relation: str, flag: str | None) -> str:
    """The rows of a relation that the source has not marked as deleted."""
    return relation if flag is None else f"(SELECT * FROM {relation} WHERE NOT {flag}) {_EXPECTED}"


def _pushed_down(request: ContentRequest, plan: LoadPlan, pushdown: Pushdown) -> _Relation:
    source = request.source
    expressions = ", ".join(f"{field.sql} AS {source.quote(field.name)}" for field in pushdown.fields)
    sql = f"SELECT {expressions}\nFROM {relation_sql(request.mapping, source, _predicates(plan))}"
    if pushdown.violations:
        sql += "\nWHERE NOT (" + " OR ".join(f"({violation.sql})" for violation in pushdown.violations) + ")"
    columns = [
        Column(field.name, field.data_type, native_type=field.native_type, native_dialect=source.dialect)
        for field in pushdown.fields
    ]
    flag = source.quote(columns.pop().name) if plan.compiled.has_deleted_flag else None
    return _Relation(_without_deleted(f"(\n{sql}\n) {_EXPECTED}", flag), tuple(columns))


def _predicates(plan: LoadPlan) -> tuple[str, ...]:
    return () if plan.partition is None else plan.partition.predicates


def _transformed(plan: LoadPlan, reason: str) -> _Local:
    """What the arrow lane would write, as relation over its batches."""
    import pyarrow as pa

    if plan.read_schema is None:
        raise FatalError("the plan does not say what the batches of the arrow lane look like")
    count = len(plan.compiled.fields)
    if plan.transform_sql is not None:
        # By position: a field may have any name. Two columns follow that tell of bad rows.
        names = ", ".join([*(f"c{number}" for number in range(count)), "errors", "bad_row"])
        good = "errors IS NULL" + (f" AND NOT c{count - 1}" if plan.compiled.has_deleted_flag else "")
        rows = f"(SELECT * FROM (\n{plan.transform_sql}\n) AS {_EXPECTED}({names}) WHERE {good}) AS {_EXPECTED}"
        types = tuple(carrier_type(one.column.data_type) for one in plan.compiled.target_fields)
    else:
        positions = {field.name: position for position, field in enumerate(plan.read_schema)}
        taken = [positions[one.source_columns[0]] for one in plan.compiled.fields]
        arriving = ", ".join(f"a{position}" for position in range(len(plan.read_schema)))
        listed = ", ".join(f"a{position} AS c{number}" for number, position in enumerate(taken))
        rows = f"(SELECT {listed} FROM source AS arriving({arriving})) AS {_EXPECTED}"
        types = tuple(plan.read_schema.field(position).type for position in taken)
    # Dates may arrive as days; they are compared as the texts that other databases print.
    dates = {field.name for field in plan.read_schema if pa.types.is_date(field.type)}
    days = [number for number, one in enumerate(plan.compiled.fields[: len(types)]) if dates & set(one.source_columns)]
    if days:
        texts = ", ".join(f"{text_of_date(f'c{number}')} AS c{number}" for number in days)
        rows = f"(SELECT * REPLACE ({texts}) FROM {rows}) AS {_EXPECTED}"
        types = tuple(pa.string() if number in days else kind for number, kind in enumerate(types))
    return _Local(LocalRead(plan.read_sql, plan.read_schema, rows, types), reason)


def _why_not(
    relation: _Relation, session: ReadSession, forms: Sequence[ChecksumForm], connector: Connector
) -> str | None:
    """Why a database cannot digest its own rows; None when it can."""
    if not isinstance(session, ChecksumReadSession):
        return f"{connector.db_type} has no digests"
    if not session.checksum_schemes():
        return f"this {connector.db_type} server cannot tell what its texts mean"
    values = column_values(relation.columns, [connector.quote(column.name) for column in relation.columns], forms)
    for value in values:
        if session.checksum_text(value) is None:
            return f"{connector.db_type} cannot spell a {value.form} exactly: column {value.column.name!r}"
    return None


def _streamed(relation: _Relation, session: ReadSession, quote: Callable[[str], str], reason: str) -> _Local:
    import pyarrow as pa

    encoded = [session.encode(quote(column.name), column.data_type, column.native_type) for column in relation.columns]
    listed = ", ".join(f"{item.sql} AS c{number}" for number, item in enumerate(encoded))
    schema = pa.schema([(f"c{number}", item.arrow_type) for number, item in enumerate(encoded)])
    read = LocalRead(f"SELECT {listed} FROM {relation.sql}", schema, "source", tuple(schema.types))
    return _Local(read, reason)


def _schemes(session: ReadSession) -> tuple[str, ...]:
    return session.checksum_schemes() if isinstance(session, ChecksumReadSession) else ()
