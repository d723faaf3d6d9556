"""Expressions of mappings: one scalar over the columns of a row, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from synqx_dagster.errors import QueryRefusedError
from synqx_dagster.mapping.names import find_name
from synqx_dagster.mapping.query import parse_statements, refuse_functions, too_deep
from synqx_dagster.mapping.quoting import SOURCE
from synqx_dagster.mapping.scan import scan

_ONE_SCALAR = "write one expression over the columns of the source, such as lower(email)"

_MANY_ROWS = (exp.UDTF, exp.Explode, exp.GenerateSeries)

#: Functions whose value changes between two calls in one statement.
_VOLATILE = frozenset(
    {
        "clock_timestamp",
        "gen_random_bytes",
        "gen_random_uuid",
        "pg_current_xact_id",
        "rand",
        "random",
        "random_normal",
        "randomblob",
        "sysdate",
        "timeofday",
        "txid_current",
        "uuid",
        "uuid_generate_v1",
        "uuid_generate_v4",
        "uuid_short",
        "uuidv4",
        "uuidv7",
    }
)


#: A column's name in an expression, and whether it is quoted there.
Name = tuple[str, bool]


def name_of(column: exp.Column) -> Name:
    """The name by which an expression calls a column."""
    return column.name, bool(column.this.args.get("quoted"))


@dataclass(frozen=True)
class ParsedExpression:
    """An expression as the source will read it.

    Attributes:
        text: The user's words without comments; safe to put into brackets.
        tree: What sqlglot makes of it, for lineage and for the portable rendering.
        names: The names of columns in it, with whether they are quoted, in order of appearance.
        is_volatile: Two calls may give two values.
    """

    text: str
    tree: exp.Expr
    names: tuple[Name, ...]
    is_volatile: bool


def parse_expression(text: str, dialect: str, *, aggregates: bool = False) -> ParsedExpression:
    """Parse an expression in the source's dialect.

    Args:
        aggregates: It may be of aggregates over rows (``sum(price)``, ``count(*)``).

    Raises:
        QueryRefusedError: It is not one scalar expression over a row: several, a subquery, an aggregate, a window,
            a set-returning function, a star, an alias, parameters, or a function that acts on the server.
    """
    scanned = scan(text, dialect)
    if not scanned.first_word:
        raise QueryRefusedError("the expression is empty", hint=_ONE_SCALAR)
    refuse_functions(scanned, dialect)
    tree = _parse(scanned.text, dialect)
    if too_deep(tree):
        raise QueryRefusedError("the expression is nested too deep", hint="write it flatter")
    for node in tree.walk():
        _check_node(node, aggregates=aggregates)
    return ParsedExpression(
        text=scanned.text,
        tree=tree,
        names=tuple(dict.fromkeys(_column_names(tree))),
        is_volatile=any(name in _VOLATILE for name in scanned.calls),
    )


def resolve_names(parsed: ParsedExpression, known: list[str], dialect: str) -> tuple[dict[Name, str], list[str]]:
    """Find the source's columns that an expression reads.

    Returns:
        Stored names by the name in the expression, and the names that the source does not have.
    """
    found: dict[Name, str] = {}
    missing: list[str] = []
    for name, quoted in parsed.names:
        stored = find_name(name, known, dialect, quoted=quoted)
        if stored is None:
            missing.append(name)
        else:
            found[name, quoted] = stored
    return found, missing


def _parse(text: str, dialect: str) -> exp.Expr:
    statements = parse_statements(f"SELECT {text}", dialect, what="the expression", hint=_ONE_SCALAR)
    select = statements[0] if len(statements) == 1 else None
    if not isinstance(select, exp.Select):
        raise QueryRefusedError("the expression is a statement", hint=_ONE_SCALAR)
    extra = [name for name, value in select.args.items() if value and name != "expressions"]
    if extra:
        raise QueryRefusedError(
            f"the expression goes on after its end with {extra[0].strip('_').upper()}", hint=_ONE_SCALAR
        )
    if len(select.expressions) != 1:
        raise QueryRefusedError(f"{len(select.expressions)} expressions where one is wanted", hint=_ONE_SCALAR)
    tree: exp.Expr = select.expressions[0]
    return tree


def _check_node(node: exp.Expr, *, aggregates: bool) -> None:
    what = None
    if isinstance(node, (exp.Query, exp.Exists)):
        what = "a subquery"
    elif isinstance(node, exp.Window):
        what = "a window function"
    elif isinstance(node, exp.AggFunc) and not aggregates and not _is_scalar_extreme(node):
        what = f"the aggregate {node.sql_name().lower()}"
    elif isinstance(node, _MANY_ROWS):
        what = "a function that returns rows"
    elif isinstance(node, exp.Star) and not (aggregates and isinstance(node.parent, exp.Count)):
        what = "a star"
    elif isinstance(node, exp.Alias):
        what = "an alias"
    elif isinstance(node, (exp.Placeholder, exp.Parameter, exp.SessionParameter)):
        what = "a parameter or variable"
    elif isinstance(node, (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock)):
        what = "a statement"
    elif isinstance(node, exp.NextValueFor):
        what = "a sequence"
    elif isinstance(node, exp.Column) and node.table and node.table.lower() != SOURCE:
        what = f"the table name {node.table!r} before a column"
    if what:
        raise QueryRefusedError(f"the expression holds {what}", hint=_ONE_SCALAR)


def _is_scalar_extreme(node: exp.AggFunc) -> bool:
    """Whether this is SQLite's max(a, b), which is no aggregate."""
    return isinstance(node, (exp.Max, exp.Min)) and bool(node.expressions)


def _column_names(tree: exp.Expr) -> list[Name]:
    names = []
    for column in tree.find_all(exp.Column, bfs=False):
        bound = {
            parameter.name
            for scope in (column.find_ancestor(exp.Lambda),)
            if scope is not None
            for parameter in scope.expressions
        }
        if isinstance(column.this, exp.Identifier) and column.name not in bound:
            names.append(name_of(column))
    return names
