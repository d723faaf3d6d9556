"""Where the columns of a source query come from, read off its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, build_scope

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.mapping.lineage import Origin, Source
from synqx_dagster.mapping.names import CASELESS, fold
from synqx_dagster.mapping.query import parse_query
from synqx_dagster.model.table import TableName

#: Scopes and columns on the way down, against queries that read themselves.
_Path = frozenset[tuple[int, str]]


def read_query(sql: str, dialect: str, known: Mapping[TableName, Sequence[str]]) -> Source | None:
    """A query as a relation; None for one that cannot be read.

    Args:
        known: Columns of tables as far as they are known.
    """
    try:
        root = build_scope(parse_query(sql, dialect))
        return None if root is None else _QuerySource(root, dialect, known)
    except (ConfigurationError, SqlglotError, RecursionError):
        return None


class _QuerySource(Source):
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
