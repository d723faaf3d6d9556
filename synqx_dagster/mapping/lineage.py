"""Lineage: which source tables and columns a target field comes from, read off the mapping and the source query.

It is best effort: what cannot be traced is left out or carries no table, and odd SQL never raises.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, build_scope

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.mapping.expressions import parse_expression
from synqx_dagster.mapping.names import CASELESS, find_name, fold
from synqx_dagster.mapping.query import parse_query
from synqx_dagster.model.mapping import ColumnMapping, ConstantMapping, ExpressionMapping
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column, TableName

#: A column of a table; of no table where that cannot be told.
Origin = tuple[TableName | None, str]

#: Scopes and columns on the way down, against queries that read themselves.
_Path = frozenset[tuple[int, str]]


@dataclass(frozen=True)
class Lineage:
    """Where a target comes from.

    Attributes:
        tables: Every source table, each once, in order of appearance.
        columns: Source columns by target field, each once; a constant has none.
    """

    tables: tuple[TableName, ...]
    columns: dict[str, tuple[Origin, ...]]


def lineage_digest(mapping: MappingRecord, schema: Schema | None, dialect: str) -> str:
    """A digest of all that `trace_lineage` reads without a connection: equal digests mean equal lineage.

    It says nothing of the code that traces, which may change, too.
    """
    schema = mapping.filled_part(schema)
    read = [
        dialect,
        mapping.source_table,
        mapping.source_query,
        # Without column mappings the columns are the schema's; with them the schema is not looked at.
        [column.name for column in schema.columns] if schema is not None and mapping.column_mappings is None else None,
        None
        if mapping.column_mappings is None
        else [[type(item).__name__, *_read_by_trace(item)] for item in mapping.column_mappings],
    ]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def trace_lineage(
    mapping: MappingRecord,
    schema: Schema | None,
    source_columns: Sequence[Column] | None,
    *,
    dialect: str,
    tables: Mapping[TableName, Sequence[str]] | None = None,
) -> Lineage:
    """Trace every target field to the columns of source tables.

    Args:
        mapping: The mapping record.
        schema: The target's schema, if it has one.
        source_columns: The columns of the source table or query; None when nobody has connected.
        dialect: The sqlglot dialect of the source.
        tables: Columns of source tables as far as they are known; they resolve names that no table qualifies.
    """
    schema = mapping.filled_part(schema)
    source: _Source = _TableSource(mapping.source) if mapping.source is not None else _Source()
    if mapping.source_query is not None:
        source = _query_source(mapping.source_query, dialect, tables or {})
    known = [column.name for column in source_columns] if source_columns is not None else source.outputs()
    columns = {
        field: tuple(dict.fromkeys(origin for name in names for origin in source.trace(name)))
        for field, names in _source_names(mapping, schema, known, dialect).items()
    }
    return Lineage(source.tables, columns)


def trace_query(
    sql: str, dialect: str, known: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[Origin, ...]]:
    """The columns of tables that each column of a query is made of; empty where the query does not tell its columns.

    Args:
        known: Columns of tables by the table's name; they resolve names that no table qualifies.
    """
    source = _query_source(sql, dialect, {TableName(name): columns for name, columns in (known or {}).items()})
    return {name: tuple(dict.fromkeys(source.trace(name))) for name in source.outputs() or ()}


def tables_of(sql: str, dialect: str) -> tuple[TableName, ...]:
    """The tables that a query reads, each once; empty for a query that cannot be read."""
    return _query_source(sql, dialect, {}).tables


def _read_by_trace(column_mapping: ColumnMapping) -> tuple[object, ...]:
    """What `_source_names` looks at; a salt, a constant or a delimiter is not among it."""
    if isinstance(column_mapping, ExpressionMapping):
        return column_mapping.expression, column_mapping.target_fields
    if isinstance(column_mapping, ConstantMapping):
        return (column_mapping.target_fields,)
    return column_mapping.source_columns, column_mapping.target_fields


def _source_names(
    mapping: MappingRecord, schema: Schema | None, known: Sequence[str] | None, dialect: str
) -> dict[str, tuple[str, ...]]:
    """The columns of the source relation that each target field is made of."""
    if mapping.column_mappings is None:
        direct = [column.name for column in schema.columns] if schema is not None else (known or ())
        return {name: (name,) for name in direct}
    names: dict[str, tuple[str, ...]] = {}
    for column_mapping in mapping.column_mappings:
        if isinstance(column_mapping, ExpressionMapping):
            found = _names_in(column_mapping.expression, known, dialect)
        elif isinstance(column_mapping, ConstantMapping):
            found = ()
        else:
            found = tuple(column_mapping.source_columns)
        names.update(dict.fromkeys(column_mapping.target_fields, found))
    return names


def _names_in(expression: str, known: Sequence[str] | None, dialect: str) -> tuple[str, ...]:
    found = (
        find_name(name, known, dialect, quoted=quoted) if known is not None else fold(name, dialect, quoted=quoted)
        for name, quoted in _written_names(expression, dialect)
    )
    return tuple(dict.fromkeys(name for name in found if name is not None))


# Definitions of a thousand mappings trace a thousand expressions, of which many are written alike.
@lru_cache(maxsize=4096)
def _written_names(expression: str, dialect: str) -> tuple[tuple[str, bool], ...]:
    """The names of columns as an expression writes them, and whether in quotes; none where it is not one."""
    try:
        return tuple(parse_expression(expression, dialect).names)
    except ConfigurationError:
        return ()


# --- sources ------------------------------------------------------------------------------------------------


class _Source:
    """A query that cannot be read."""

    tables: tuple[TableName, ...] = ()

    def outputs(self) -> list[str] | None:
        """The names of the relation's columns; None where they cannot be told."""
        return None

    def trace(self, name: str) -> Iterable[Origin]:
        """The columns of tables that a column of the relation is made of."""
        return [(None, name)]


class _TableSource(_Source):
    def __init__(self, table: TableName) -> None:
        self.table = table
        self.tables = (table,)

    def trace(self, name: str) -> Iterable[Origin]:
        return [(self.table, name)]


class _QuerySource(_Source):
    def __init__(self, root: Scope, dialect: str, known: Mapping[TableName, Sequence[str]]) -> None:
        self.root = root
        self.dialect = dialect
        self.known = known
        found = [
            self._table_name(source)
            for scope in root.traverse()
            for source in _visible(scope).values()
            if isinstance(source, exp.Table) and _is_table(source)
        ]
        self.tables = tuple(dict.fromkeys(found))

    def outputs(self) -> list[str] | None:
        names = []
        for projection in _projections(self.root):
            if projection.is_star:
                return None
            if isinstance(projection, (exp.Alias, exp.Column)):
                names.append(self._output_name(projection))
        return names

    def trace(self, name: str) -> Iterable[Origin]:
        found = self._trace(self.root, name, frozenset())
        return found if found is not None else [(None, name)]

    def _trace(self, scope: Scope, name: str, path: _Path) -> list[Origin] | None:
        """Origins of an output column of a scope; None where the scope has none of this name."""
        step = (id(scope), self._key(name))
        if step in path:
            return []
        path |= {step}
        if isinstance(scope.expression, exp.Lateral):
            inner = scope.sources.get("")
            return self._trace(inner, name, path) if isinstance(inner, Scope) else None
        if isinstance(scope.expression, exp.SetOperation):
            return self._trace_branches(scope, name, path)
        position = self._position(scope, name)
        if position is not None:
            return self._origins(scope, _projections(scope)[position], path)
        for projection in _projections(scope):
            if projection.is_star:
                found = self._through_star(scope, projection, name, path)
                if found is not None:
                    return found
        return None

    def _position(self, scope: Scope, name: str) -> int | None:
        """Which projection of a scope has a name; the alias of a derived table may rename them all."""
        projections = _projections(scope)
        for position, projection in enumerate(projections):
            if projection.is_star:
                break
            if position < len(scope.outer_columns):
                if self._same(scope.outer_columns[position], name):
                    return position
            elif projection.output_name and self._same(self._output_name(projection), name):
                return position
        if scope.outer_columns:
            return None
        for position, projection in enumerate(projections):
            is_named = not projection.is_star and projection.output_name
            if is_named and self._same(self._output_name(projection), name):
                return position
        return None

    def _trace_branches(self, scope: Scope, name: str, path: _Path) -> list[Origin] | None:
        """All branches of a set operation by position; the first branch gives the names."""
        if not scope.set_operation_scopes:
            # a recursive query that reads itself: its first branch says where the rows come from
            return []
        position = self._position(scope, name)
        found: list[Origin] | None = None
        for branch in scope.set_operation_scopes:
            projections = _projections(branch)
            by_position = position is not None and position < len(projections) and not projections[position].is_star
            if position is not None and by_position and not isinstance(branch.expression, exp.SetOperation):
                origins: list[Origin] | None = self._origins(branch, projections[position], path)
            elif position is not None and by_position:
                origins = self._trace(branch, self._output_name(projections[position]), path)
            else:
                origins = self._trace(branch, name, path)
            if origins is not None:
                found = [*(found or []), *origins]
        return found

    def _through_star(self, scope: Scope, star: exp.Expr, name: str, path: _Path) -> list[Origin] | None:
        visible = _visible(scope)
        wanted = star.table if isinstance(star, exp.Column) else ""
        for alias, source in visible.items():
            if wanted and alias.lower() != wanted.lower():
                continue
            if isinstance(source, Scope):
                found = self._trace(source, name, path)
                if found is not None:
                    return found
            elif isinstance(source, exp.Table) and _is_table(source):
                table = self._table_name(source)
                columns = self.known.get(table)
                if columns is None and (wanted or len(visible) == 1):
                    return [(table, name)]
                if any(self._same(column, name) for column in columns or ()):
                    return [(table, name)]
        return None

    def _origins(self, scope: Scope, projection: exp.Expr, path: _Path) -> list[Origin]:
        """Origins of everything a projection reads, subqueries in it included."""
        found: list[Origin] = []
        for column in projection.find_all(exp.Column, bfs=False):
            if isinstance(column.this, exp.Identifier):
                found += self._resolve(_scope_of(scope, column), column, path)
        return list(dict.fromkeys(found))

    def _resolve(self, scope: Scope, column: exp.Column, path: _Path) -> list[Origin]:
        name = self._identifier(column.this)
        here: Scope | None = scope
        while here is not None:
            found = self._resolve_in(here, column.table, name, path)
            if found is not None:
                return found
            here = here.parent
        return [(None, name)]

    def _resolve_in(self, scope: Scope, alias: str, name: str, path: _Path) -> list[Origin] | None:
        maybe: list[TableName] = []
        for known_as, source in _visible(scope).items():
            if alias and known_as.lower() != alias.lower():
                continue
            if isinstance(source, Scope):
                found = self._trace(source, name, path)
                if found is not None:
                    return found
            elif isinstance(source, exp.Table) and _is_table(source):
                table = self._table_name(source)
                columns = self.known.get(table)
                if alias or any(self._same(column, name) for column in columns or ()):
                    return [(table, name)]
                if columns is None:
                    maybe.append(table)
        # the only table that could have it; with two of them it would be a guess
        return [(maybe[0], name)] if len(maybe) == 1 else None

    def _table_name(self, table: exp.Table) -> TableName:
        schema = table.args.get("db")
        in_schema = self._identifier(schema) if isinstance(schema, exp.Identifier) else None
        name = TableName(self._identifier(table.this), in_schema)
        for known in self.known:
            same_schema = known.schema == name.schema or self._key(known.schema or "") == self._key(name.schema or "")
            if self._same(known.name, name.name) and same_schema:
                return known
        return name

    def _identifier(self, node: exp.Expr) -> str:
        return fold(node.name, self.dialect, quoted=bool(node.args.get("quoted")))

    def _output_name(self, projection: exp.Expr) -> str:
        alias = projection.args.get("alias") if isinstance(projection, exp.Alias) else None
        if alias is None and isinstance(projection, exp.Column):
            alias = projection.this
        quoted = bool(alias.args.get("quoted")) if isinstance(alias, exp.Identifier) else False
        return fold(projection.output_name, self.dialect, quoted=quoted)

    def _key(self, name: str) -> str:
        return name.lower() if self.dialect in CASELESS else name

    def _same(self, left: str, right: str) -> bool:
        return self._key(left) == self._key(right)


def _query_source(sql: str, dialect: str, known: Mapping[TableName, Sequence[str]]) -> _Source:
    try:
        root = build_scope(parse_query(sql, dialect))
        return _QuerySource(root, dialect, known) if root is not None else _Source()
    except (ConfigurationError, SqlglotError, RecursionError):
        return _Source()


def _visible(scope: Scope) -> dict[str, exp.Table | Scope]:
    """What a scope's columns may come from, by alias: what its FROM names, not every WITH above it."""
    if isinstance(scope.expression, exp.Lateral):
        return {alias: source for alias, source in scope.sources.items() if alias}
    return {alias: source for alias, (_, source) in scope.selected_sources.items()}


def _is_table(source: exp.Expr | Scope) -> bool:
    """Whether a source is a table or view, not a function that returns rows."""
    return isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier)


def _projections(scope: Scope) -> list[exp.Expr]:
    """What a scope's query selects; a set operation's are its first branch's."""
    query = scope.expression
    return list(query.selects) if isinstance(query, exp.Query) else []


def _scope_of(scope: Scope, node: exp.Expr) -> Scope:
    """The innermost scope below `scope` that holds a node."""
    select = node.find_ancestor(exp.Select)
    for inner in scope.traverse():
        if inner.expression is select:
            return inner
    return scope
