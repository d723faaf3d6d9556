"""What is wrong with a mapping as far as that can be known without connecting to anything."""

from __future__ import annotations

from collections.abc import Iterator

from synqx_dagster.errors import PlanError, Problem, QueryRefusedError, SourceLocation
from synqx_dagster.mapping.casts import check_cast
from synqx_dagster.mapping.constants import make_constant, type_of_constant
from synqx_dagster.mapping.expressions import parse_expression
from synqx_dagster.mapping.names import nearest
from synqx_dagster.mapping.operations import TEXT
from synqx_dagster.mapping.query import parse_query
from synqx_dagster.model.mapping import (
    ColumnMapping,
    ConstantMapping,
    ExpressionMapping,
    HashMapping,
    JoinMapping,
    SplitMapping,
)
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.schema import Schema


def check_mapping(mapping: MappingRecord, schema: Schema | None, *, source_dialect: str) -> list[Problem]:
    """Find fields that the schema lacks or that nothing fills, impossible casts, and SQL that is refused.

    Returns:
        Every problem, in the order of the record; ``location.field`` is a path such as
        ``column_mappings[2].expression``.
    """
    return list(_problems(mapping, mapping.filled_part(schema), source_dialect))


def _problems(mapping: MappingRecord, schema: Schema | None, dialect: str) -> Iterator[Problem]:
    if mapping.source_query is not None:
        try:
            parse_query(mapping.source_query, dialect)
        except QueryRefusedError as exc:
            yield _problem("source_query", exc.message, exc.hint)
    for index, column_mapping in enumerate(mapping.column_mappings or ()):
        path = f"column_mappings[{index}]"
        yield from _unknown_fields(column_mapping, schema, path)
        yield from _wrong_values(column_mapping, schema, path, dialect)
    if mapping.column_mappings is not None and schema is not None:
        filled = set(mapping.target_fields)
        for column in schema.columns:
            if column.name not in filled and not schema.is_nullable(column):
                yield _problem(
                    "column_mappings",
                    f"nothing fills the field {column.name!r}, which the schema {schema.name!r} requires",
                    "add a column mapping for it, or declare it nullable",
                )


def _unknown_fields(column_mapping: ColumnMapping, schema: Schema | None, path: str) -> Iterator[Problem]:
    if schema is None:
        return
    names = [column.name for column in schema.columns]
    for position, name in enumerate(column_mapping.target_fields):
        if name not in names:
            yield _problem(
                f"{path}.target_fields[{position}]",
                f"the schema {schema.name!r} has no column {name!r}",
                nearest(name, names),
            )


def _wrong_values(column_mapping: ColumnMapping, schema: Schema | None, path: str, dialect: str) -> Iterator[Problem]:
    types = {column.name: column.data_type for column in schema.columns} if schema is not None else {}
    try:
        if isinstance(column_mapping, ExpressionMapping):
            part = "expression"
            parse_expression(column_mapping.expression, dialect)
        elif isinstance(column_mapping, ConstantMapping):
            part = "value"
            name = column_mapping.target_fields[0]
            data_type = types.get(name) or type_of_constant(column_mapping.value)
            make_constant(column_mapping.value, data_type, field=name)
        elif isinstance(column_mapping, (SplitMapping, JoinMapping, HashMapping)):
            part = "target_fields"
            for name in column_mapping.target_fields:
                if name in types:
                    check_cast(TEXT, types[name], field=name, what="the text")
    except (QueryRefusedError, PlanError) as exc:
        yield _problem(f"{path}.{part}", exc.message, exc.hint)


def _problem(field: str, message: str, hint: str | None) -> Problem:
    return Problem(message, SourceLocation(field=field), hint)
