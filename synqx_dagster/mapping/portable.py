"""The part of SQL that means exactly the same in PostgreSQL and in DuckDB, rendered for both from one tree.

A tree is portable when every node of it stands on the list below with operands of the types named there; nothing
is transpiled on trust. Left out on purpose: ``lower`` and ``upper`` (PostgreSQL asks the collation), comparisons
of texts (likewise), LIKE (its escape character), division (it can raise), casts, and all that works on decimals,
floats, dates and times, which PostgreSQL computes with ranges and digits that DuckDB does not have.

Integers are computed exactly (PostgreSQL: numeric, DuckDB: 128 bits, with bounds proved from the types); whether a
result fits its type is checked afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

from synqx_dagster.mapping.casts import INTEGER_KINDS
from synqx_dagster.mapping.postgres_casts import is_plain
from synqx_dagster.mapping.quoting import quote_text
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

Target = Literal["postgres", "duckdb"]

_BITS: dict[TypeKind, int] = {"smallint": 15, "integer": 31, "bigint": 63}
#: DuckDB's widest integer has 127 bits beside its sign.
_MAX_BITS = 126
_TEXT = DataType("string")
_BOOLEAN = DataType("boolean")
_INTEGER = DataType("integer")


class NotPortableError(Exception):
    """A tree has a node that the other engine would read differently; says which."""


@dataclass(frozen=True)
class Term:
    """A rendered node.

    Attributes:
        sql: Its SQL, safe as an operand.
        data_type: Its logical type; None for a bare NULL.
        bits: For integers: every value is less than two to this power.
        is_wide: An integer that was computed: numeric in PostgreSQL, HUGEINT in DuckDB.
    """

    sql: str
    data_type: DataType | None
    bits: int = 0
    is_wide: bool = False

    @property
    def is_integer(self) -> bool:
        return self.data_type is not None and self.data_type.kind in INTEGER_KINDS


class Renderer:
    """Renders a portable tree.

    Args:
        target: Whose SQL.
        find_column: The source column that a column node means.
        column_sql: SQL that reads a source column by its stored name.
    """

    def __init__(
        self,
        target: Target,
        find_column: Callable[[exp.Column], Column],
        column_sql: Callable[[str], str],
    ) -> None:
        self.target = target
        self.find_column = find_column
        self.column_sql = column_sql
        self._rules: dict[type[exp.Expr], Callable[..., Term]] = {
            exp.Column: self._column,
            exp.Literal: self._literal,
            exp.RawString: self._raw_string,
            exp.Boolean: self._boolean,
            exp.Null: self._null,
            exp.Paren: self._paren,
            exp.DPipe: self._concatenation,
            exp.Concat: self._concat,
            exp.ConcatWs: self._concat_ws,
            exp.Coalesce: self._coalesce,
            exp.Nullif: self._nullif,
            exp.Case: self._case,
            exp.Is: self._is,
            exp.Not: self._not,
            exp.And: self._and,
            exp.Or: self._or,
            exp.In: self._in,
            exp.Between: self._between,
            exp.EQ: self._comparison,
            exp.NEQ: self._comparison,
            exp.LT: self._comparison,
            exp.LTE: self._comparison,
            exp.GT: self._comparison,
            exp.GTE: self._comparison,
            exp.Neg: self._negation,
            exp.Add: self._arithmetic,
            exp.Sub: self._arithmetic,
            exp.Mul: self._arithmetic,
            exp.Length: self._length,
            exp.Left: self._end,
            exp.Right: self._end,
            exp.Substring: self._substring,
            exp.Trim: self._trim,
            exp.MD5: self._md5,
        }

    def render(self, node: exp.Expr) -> Term:
        """Render a node and all below it.

        Raises:
            NotPortableError: Something in it is not on the list.
        """
        rule = self._rules.get(type(node))
        if rule is None:
            raise NotPortableError(f"{_name(node)} is computed by the source")
        return rule(node)

    # --- leaves ---------------------------------------------------------------------------------------------

    def _column(self, node: exp.Column) -> Term:
        column = self.find_column(node)
        if not is_plain(column):
            raise NotPortableError(f"the column {column.name!r} has the type {column.native_type}")
        bits = _BITS.get(column.data_type.kind, 0)
        return Term(self.column_sql(column.name), column.data_type, bits)

    def _literal(self, node: exp.Literal) -> Term:
        if node.is_string:
            return self._text(node.name)
        if not node.name.isascii() or not node.name.isdigit() or int(node.name) >= 2**63:
            raise NotPortableError("a number that is not an integer is computed by the source")
        kind: TypeKind = "integer" if int(node.name) < 2**31 else "bigint"
        return Term(f"CAST({int(node.name)} AS {kind})", DataType(kind), int(node.name).bit_length())

    def _raw_string(self, node: exp.RawString) -> Term:
        return self._text(node.name)

    def _text(self, text: str) -> Term:
        name = "text" if self.target == "postgres" else "VARCHAR"
        return Term(f"CAST({quote_text(text, self.target)} AS {name})", _TEXT)

    def _boolean(self, node: exp.Boolean) -> Term:
        return Term("true" if node.this else "false", _BOOLEAN)

    def _null(self, node: exp.Null) -> Term:
        return Term("NULL", None)

    def _paren(self, node: exp.Paren) -> Term:
        _only(node, "this")
        return self.render(node.this)

    # --- texts ----------------------------------------------------------------------------------------------

    def _concatenation(self, node: exp.DPipe) -> Term:
        _only(node, "this", "expression", "safe")
        left, right = self._texts([node.this, node.expression])
        return Term(f"({left} || {right})", _TEXT)

    def _concat(self, node: exp.Concat) -> Term:
        _only(node, "expressions", "safe", "coalesce")
        return Term(f"concat({', '.join(self._texts(node.expressions))})", _TEXT)

    def _concat_ws(self, node: exp.ConcatWs) -> Term:
        _only(node, "expressions", "safe", "coalesce")
        return Term(f"concat_ws({', '.join(self._texts(node.expressions))})", _TEXT)

    def _length(self, node: exp.Length) -> Term:
        _only(node, "this")
        (text,) = self._texts([node.this])
        return Term(f"CAST(length({text}) AS integer)", _INTEGER, 31)

    def _end(self, node: exp.Left | exp.Right) -> Term:
        _only(node, "this", "expression")
        (text,) = self._texts([node.this])
        function = "left" if isinstance(node, exp.Left) else "right"
        return Term(f"{function}({text}, {_count(node.expression, 0)})", _TEXT)

    def _substring(self, node: exp.Substring) -> Term:
        _only(node, "this", "start", "length")
        (text,) = self._texts([node.this])
        bounds = [str(_count(node.args.get("start"), 1))]
        if node.args.get("length") is not None:
            bounds.append(str(_count(node.args["length"], 0)))
        return Term(f"substr({text}, {', '.join(bounds)})", _TEXT)

    def _trim(self, node: exp.Trim) -> Term:
        _only(node, "this", "position")
        (text,) = self._texts([node.this])
        position = str(node.args.get("position") or "BOTH").upper()
        if position not in {"BOTH", "LEADING", "TRAILING"}:
            raise NotPortableError("this form of trim is computed by the source")
        if self.target == "postgres":
            return Term(f"TRIM({position} ' ' FROM {text})", _TEXT)
        function = {"BOTH": "trim", "LEADING": "ltrim", "TRAILING": "rtrim"}[position]
        # without the second argument DuckDB trims every blank that Unicode has
        return Term(f"{function}({text}, ' ')", _TEXT)

    def _md5(self, node: exp.MD5) -> Term:
        _only(node, "this")
        (text,) = self._texts([node.this])
        return Term(f"md5({text})", _TEXT)

    # --- choices --------------------------------------------------------------------------------------------

    def _coalesce(self, node: exp.Coalesce) -> Term:
        _only(node, "this", "expressions")
        terms = [self.render(node.this), *(self.render(other) for other in node.expressions)]
        sql, result = self._unify(terms)
        return Term(f"coalesce({', '.join(sql)})", result.data_type, result.bits, result.is_wide)

    def _nullif(self, node: exp.Nullif) -> Term:
        _only(node, "this", "expression")
        left, right = self.render(node.this), self.render(node.expression)
        _comparable(left, right)
        return Term(f"nullif({left.sql}, {right.sql})", left.data_type, left.bits, left.is_wide)

    def _case(self, node: exp.Case) -> Term:
        _only(node, "this", "ifs", "default")
        subject = self.render(node.this) if node.this is not None else None
        conditions, results = [], []
        for branch in node.args["ifs"]:
            _only(branch, "this", "true")
            condition = self.render(branch.this)
            if subject is None:
                _wants(condition, _BOOLEAN)
            else:
                _comparable(subject, condition)
            conditions.append(condition.sql)
            results.append(self.render(branch.args["true"]))
        default = node.args.get("default")
        results.append(self.render(default) if default is not None else Term("NULL", None))
        sql, result = self._unify(results)
        whens = " ".join(f"WHEN {when} THEN {then}" for when, then in zip(conditions, sql[:-1], strict=True))
        head = f"CASE {subject.sql}" if subject is not None else "CASE"
        return Term(f"({head} {whens} ELSE {sql[-1]} END)", result.data_type, result.bits, result.is_wide)

    # --- conditions -----------------------------------------------------------------------------------------

    def _is(self, node: exp.Is) -> Term:
        _only(node, "this", "expression", "negate")
        term = self.render(node.this)
        negation = "NOT " if node.args.get("negate") else ""
        if isinstance(node.expression, exp.Null):
            return Term(f"({term.sql} IS {negation}NULL)", _BOOLEAN)
        if isinstance(node.expression, exp.Boolean):
            _wants(term, _BOOLEAN)
            return Term(f"({term.sql} IS {negation}{'TRUE' if node.expression.this else 'FALSE'})", _BOOLEAN)
        raise NotPortableError("this form of IS is computed by the source")

    def _not(self, node: exp.Not) -> Term:
        _only(node, "this")
        term = self.render(node.this)
        _wants(term, _BOOLEAN)
        return Term(f"(NOT {term.sql})", _BOOLEAN)

    def _and(self, node: exp.And) -> Term:
        return self._logical(node, "AND")

    def _or(self, node: exp.Or) -> Term:
        return self._logical(node, "OR")

    def _logical(self, node: exp.And | exp.Or, word: str) -> Term:
        _only(node, "this", "expression")
        left, right = self.render(node.this), self.render(node.expression)
        _wants(left, _BOOLEAN)
        _wants(right, _BOOLEAN)
        return Term(f"({left.sql} {word} {right.sql})", _BOOLEAN)

    def _in(self, node: exp.In) -> Term:
        _only(node, "this", "expressions")
        term = self.render(node.this)
        others = [self.render(other) for other in node.expressions]
        for other in others:
            _comparable(term, other)
        return Term(f"({term.sql} IN ({', '.join(other.sql for other in others)}))", _BOOLEAN)

    def _between(self, node: exp.Between) -> Term:
        _only(node, "this", "low", "high")
        term, low, high = (self.render(part) for part in (node.this, node.args["low"], node.args["high"]))
        _comparable(term, low)
        _comparable(term, high)
        return Term(f"({term.sql} BETWEEN {low.sql} AND {high.sql})", _BOOLEAN)

    def _comparison(self, node: exp.Binary) -> Term:
        _only(node, "this", "expression")
        left, right = self.render(node.this), self.render(node.expression)
        _comparable(left, right)
        signs = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
        return Term(f"({left.sql} {signs[type(node)]} {right.sql})", _BOOLEAN)

    # --- integers -------------------------------------------------------------------------------------------

    def _negation(self, node: exp.Neg) -> Term:
        _only(node, "this")
        term = self.render(node.this)
        _wants_integer(term)
        return Term(f"(- {self._widen(term)})", term.data_type, term.bits + 1, is_wide=True)

    def _arithmetic(self, node: exp.Binary) -> Term:
        _only(node, "this", "expression")
        left, right = self.render(node.this), self.render(node.expression)
        _wants_integer(left)
        _wants_integer(right)
        if isinstance(node, exp.Mul):
            sign, bits = "*", left.bits + right.bits
        else:
            sign, bits = ("+" if isinstance(node, exp.Add) else "-"), max(left.bits, right.bits) + 1
        if bits > _MAX_BITS:
            raise NotPortableError("a product of this size is computed by the source")
        data_type = _widest([left, right])
        return Term(f"({self._widen(left)} {sign} {self._widen(right)})", data_type, bits, is_wide=True)

    def _widen(self, term: Term) -> str:
        if term.is_wide:
            return term.sql
        return f"CAST({term.sql} AS {'numeric' if self.target == 'postgres' else 'HUGEINT'})"

    # --- operands -------------------------------------------------------------------------------------------

    def _texts(self, nodes: Sequence[exp.Expr]) -> list[str]:
        terms = [self.render(node) for node in nodes]
        for term in terms:
            _wants(term, _TEXT)
        name = "text" if self.target == "postgres" else "VARCHAR"
        return [f"CAST(NULL AS {name})" if term.data_type is None else term.sql for term in terms]

    def _unify(self, terms: Sequence[Term]) -> tuple[list[str], Term]:
        """SQL of terms as one type, and a term that has it."""
        typed = [term for term in terms if term.data_type is not None]
        if not typed:
            raise NotPortableError("nothing but NULL has no type")
        if all(term.is_integer for term in typed):
            is_wide = any(term.is_wide for term in typed)
            sql = [self._widen(term) if is_wide and term.is_integer else term.sql for term in terms]
            return sql, Term("", _widest(typed), max(term.bits for term in typed), is_wide)
        if any(term.data_type != typed[0].data_type for term in typed):
            raise NotPortableError("values of different types meet")
        return [term.sql for term in terms], typed[0]


def _only(node: exp.Expr, *names: str) -> None:
    """Refuse a node that says more than the rule for it reads."""
    for name, value in node.args.items():
        if value and name not in names:
            raise NotPortableError(f"this form of {_name(node)} is computed by the source")


def _name(node: exp.Expr) -> str:
    if isinstance(node, exp.Anonymous):
        return f"{node.name}()"
    return f"{node.sql_name().lower()}()" if isinstance(node, exp.Func) else node.key


def _wants(term: Term, data_type: DataType) -> None:
    if term.data_type is not None and term.data_type != data_type:
        raise NotPortableError(f"a {term.data_type} stands where a {data_type} is wanted")


def _wants_integer(term: Term) -> None:
    if not term.is_integer:
        raise NotPortableError("only integers are computed here")


def _comparable(left: Term, right: Term) -> None:
    typed = [term for term in (left, right) if term.data_type is not None]
    if typed and (all(term.is_integer for term in typed) or all(term.data_type == _BOOLEAN for term in typed)):
        return
    raise NotPortableError("only integers and booleans are compared here")


def _widest(terms: Sequence[Term]) -> DataType:
    kinds = [term.data_type.kind for term in terms if term.data_type is not None]
    return DataType(max(kinds, key=INTEGER_KINDS.index))


def _count(node: exp.Expr | None, least: int) -> int:
    """A written number of characters."""
    if isinstance(node, exp.Literal) and not node.is_string and node.name.isascii() and node.name.isdigit():
        number = int(node.name)
        if least <= number < 2**31:
            return number
    raise NotPortableError("a position that is not a plain number is computed by the source")
