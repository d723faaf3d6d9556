"""Validation: rules over the rows that pass by; rows that break one fail the node or go to a load's quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from synqx_dagster.mapping.casts import FLOAT_KINDS
from synqx_dagster.model.base import Name, Value
from synqx_dagster.model.mapping import BadRowLimit
from synqx_dagster.model.pipeline import OperatorType
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.operators.bounds import RuleValue, among, is_empty_range, literal, value_problem, within
from synqx_dagster.pipelines.operators.checks import (
    check_expression,
    direct_origins,
    expression_sql,
    missing,
    quoted,
)
from synqx_dagster.pipelines.operators.protocol import (
    Input,
    NodeColumns,
    OperatorProblem,
    Origins,
    Relation,
    SqlOperator,
)
from synqx_dagster.pipelines.operators.trying import pattern_problem

ERRORS_COLUMN = "_synqx_errors"
ROW_COLUMN = "_synqx_row"

#: Characters of a condition that messages show.
_SHOWN = 100


class NotNullRule(Value):
    """The column is not NULL."""

    check: Literal["not_null"]
    column: str

    def broken(self, given: Relation) -> str:
        """True for a row that breaks the rule."""
        return f"{quoted(self.column)} IS NULL"

    @property
    def reason(self) -> str:
        """What is wrong with such a row."""
        return "is null"


class UniqueRule(Value):
    """No two rows have the same values in these columns; NULLs are not compared. All such rows are bad."""

    check: Literal["unique"]
    columns: tuple[str, ...] = Field(min_length=1)

    def broken(self, given: Relation) -> str:
        """True for a row that breaks the rule."""
        names = ", ".join(map(quoted, self.columns))
        known = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in self.columns)
        return f"count(*) OVER (PARTITION BY {names}) > 1 AND {known}"

    @property
    def reason(self) -> str:
        """What is wrong with such a row."""
        return "occurs more than once"


class InRule(Value):
    """The value is one of a list; NULL passes."""

    check: Literal["in"]
    column: str
    values: tuple[str | int | float | bool, ...] = Field(min_length=1, max_length=10_000)

    def broken(self, given: Relation) -> str:
        """True for a row that breaks the rule."""
        return f"NOT ({among(given.column(self.column), self.values)})"

    @property
    def reason(self) -> str:
        """What is wrong with such a row."""
        return "is not one of the allowed values"


class RangeRule(Value):
    """The value lies between two bounds, which belong to it; NULL passes, NaN does not."""

    check: Literal["range"]
    column: str
    minimum: str | int | float | None = None
    maximum: str | int | float | None = None

    @model_validator(mode="after")
    def _check_whole(self) -> RangeRule:
        if self.minimum is None and self.maximum is None:
            raise ValueError("give minimum, maximum or both")
        return self

    def broken(self, given: Relation) -> str:
        """True for a row that breaks the rule."""
        column = given.column(self.column)
        parts = [within(column, ">=", self.minimum)] if self.minimum is not None else []
        parts += [within(column, "<=", self.maximum)] if self.maximum is not None else []
        if self.maximum is None and column.data_type.kind in FLOAT_KINDS:
            # DuckDB sorts NaN above every number.
            parts.append(f"NOT isnan({quoted(column.name)})")
        return f"NOT ({' AND '.join(parts)})"

    @property
    def reason(self) -> str:
        """What is wrong with such a row."""
        bounds = [f"at least {self.minimum}"] if self.minimum is not None else []
        bounds += [f"at most {self.maximum}"] if self.maximum is not None else []
        return f"is not {' and '.join(bounds)}"


class RegexRule(Value):
    """The whole text matches a regular expression (RE2); NULL passes."""

    check: Literal["regex"]
    column: str
    pattern: str = Field(min_length=1, max_length=1000)

    def broken(self, given: Relation) -> str:
        """True for a row that breaks the rule."""
        return f"NOT regexp_full_match(CAST({quoted(self.column)} AS VARCHAR), {literal(self.pattern)})"

    @property
    def reason(self) -> str:
        """What is wrong with such a row."""
        return f"does not match {self.pattern}"


class ExpressionRule(Value):
    """A condition over the row is true; NULL passes."""

    check: Literal["expression"]
    condition: str = Field(min_length=1, max_length=10_000)
    #: Said of rows that break it; left out: the condition.
    message: str | None = Field(default=None, min_length=1, max_length=256)
    column: str | None = None

    def broken(self, given: Relation) -> str:
        """True for a row that breaks the rule."""
        return f"NOT ({expression_sql(self.condition)})"

    @property
    def reason(self) -> str:
        """What is wrong with such a row."""
        return self.message or f"breaks the rule {self.condition}"


Rule = Annotated[
    NotNullRule | UniqueRule | InRule | RangeRule | RegexRule | ExpressionRule, Field(discriminator="check")
]


class ValidateConfig(Value):
    """Rules, and what becomes of rows that break one.

    Attributes:
        on_bad_row: ``fail`` ends the run with nothing loaded; ``quarantine`` lets the good rows pass and keeps the
            bad ones in the quarantine of a load's target, in the transaction of that load.
        quarantine: The load node that keeps them; left out: the only load that the rows can reach.
        max_bad_rows: With ``quarantine``: more bad rows than this fail the node.
        key: The columns that tell rows apart, kept beside each bad row.
    """

    rules: tuple[Rule, ...] = Field(min_length=1, max_length=1000)
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    quarantine: Name | None = None
    max_bad_rows: BadRowLimit | None = None
    key: tuple[str, ...] = ()


class Validate(SqlOperator):
    """Let rows pass that hold all rules.

    Its SQL gives the input's columns and two more, `ERRORS_COLUMN` and `ROW_COLUMN`, which are NULL for a good row;
    the runtime takes them off again.
    """

    operator_type: ClassVar[OperatorType] = "validate"
    operator_class = "rules"
    config_type = ValidateConfig
    keeps_types = True

    def holds_rows(self, config: ValidateConfig) -> bool:
        """Rows that share values are found among all."""
        return any(isinstance(rule, UniqueRule) for rule in config.rules)

    def check(self, config: ValidateConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Rules over columns that are not there."""
        for index, rule in enumerate(config.rules):
            path = ("rules", index)
            match rule:
                case UniqueRule():
                    yield from missing(inputs[0], rule.columns, (*path, "columns"))
                case ExpressionRule():
                    yield from check_expression(rule.condition, inputs, (*path, "condition"))
                    yield from missing(inputs[0], [rule.column] if rule.column else [], (*path, "column"))
                case _:
                    yield from missing(inputs[0], [rule.column], (*path, "column"))
                    yield from _check_values(rule, inputs[0].type_of(rule.column), path)
        yield from missing(inputs[0], config.key, ("key",))
        if config.on_bad_row == "fail":
            for name in ("quarantine", "max_bad_rows"):
                if getattr(config, name) is not None:
                    yield OperatorProblem((name,), f"{name} is for on_bad_row: quarantine")

    def columns(self, config: ValidateConfig, inputs: Sequence[Input]) -> NodeColumns:
        """The input's."""
        return inputs[0].columns

    def origins(self, config: ValidateConfig, inputs: Sequence[Input]) -> Origins:
        """Themselves."""
        return direct_origins(inputs[0], inputs[0].columns)

    def sql(self, config: ValidateConfig, inputs: Sequence[Relation]) -> str:
        """The input's columns, then what is wrong with the row and the row as JSON."""
        found = ", ".join(
            f"CASE WHEN {rule.broken(inputs[0])} THEN"
            f' struct_pack("column" := {literal(_column_of(rule))}, reason := {literal(rule.reason)}) END'
            for rule in config.rules
        )
        names = ", ".join(map(quoted, inputs[0].names))
        judged = (
            f"SELECT {names}, list_filter([{found}], lambda breach: breach IS NOT NULL) AS {ERRORS_COLUMN}"
            f" FROM {inputs[0].sql_name}"
        )
        is_bad = f"len({ERRORS_COLUMN}) > 0"
        return (
            f"SELECT {names}, CASE WHEN {is_bad} THEN {ERRORS_COLUMN} END AS {ERRORS_COLUMN},"
            f" CASE WHEN {is_bad} THEN {_row_json(inputs[0].columns)} END AS {ROW_COLUMN} FROM ({judged})"
        )

    def parts(self, config: ValidateConfig, inputs: Sequence[Relation]) -> Sequence[tuple[str, str]]:
        """Each rule."""
        return [
            (_describe(index, rule), f"SELECT {rule.broken(inputs[0])} FROM {inputs[0].sql_name}")
            for index, rule in enumerate(config.rules)
        ]


def _describe(index: int, rule: Rule) -> str:
    """A rule as messages call it; its own words may be long."""
    if isinstance(rule, UniqueRule) or rule.column is not None:
        return f"rule {index + 1} ({rule.check}, column {_column_of(rule)!r})"
    return f"rule {index + 1} ({rule.check} {getattr(rule, 'condition', '')[:_SHOWN]!r})"


def _check_values(
    rule: NotNullRule | InRule | RangeRule | RegexRule, data_type: DataType | None, path: tuple[str | int, ...]
) -> Iterator[OperatorProblem]:
    """What a rule compares with and no row can be, or what would fail on the first one."""
    values: dict[tuple[str | int, ...], RuleValue] = {}
    match rule:
        case RegexRule():
            if (wrong := pattern_problem(rule.pattern)) is not None:
                message = f"the pattern is no regular expression: {wrong}"
                yield OperatorProblem((*path, "pattern"), message, "write it as RE2 takes it, without look-around")
        case InRule():
            values = {(*path, "values", index): value for index, value in enumerate(rule.values)}
        case RangeRule():
            bounds = {"minimum": rule.minimum, "maximum": rule.maximum}
            values = {(*path, name): value for name, value in bounds.items() if value is not None}
    wrong_values = False
    for place, value in values.items():
        if (problem := value_problem(value, data_type)) is not None:
            wrong_values = True
            yield OperatorProblem(place, f"column {rule.column!r}: {problem[0]}", problem[1])
    if wrong_values or not isinstance(rule, RangeRule) or rule.minimum is None or rule.maximum is None:
        return
    if is_empty_range(rule.minimum, rule.maximum, data_type):
        message = f"column {rule.column!r}: the minimum {rule.minimum} is larger than the maximum {rule.maximum}"
        yield OperatorProblem((*path, "minimum"), message, "turn them round: every row would be bad")


def _column_of(rule: Rule) -> str:
    if isinstance(rule, UniqueRule):
        return ", ".join(rule.columns)
    return rule.column or "row"


def _row_json(columns: Sequence[Column]) -> str:
    """A row as the JSON object that quarantines keep: numbers are numbers, bytes are ``\\x`` and hex digits."""
    items = ", ".join(f"{literal(column.name)}, {_json_value(column)}" for column in columns)
    return f"CAST(json_object({items}) AS VARCHAR)"


def _json_value(column: Column) -> str:
    name = quoted(column.name)
    match column.data_type.kind:
        case "smallint" | "integer" | "bigint" | "boolean":
            return f"to_json({name})"
        case "real" | "float":
            return f"CASE WHEN isfinite({name}) THEN to_json({name}) ELSE to_json(CAST({name} AS VARCHAR)) END"
        case "binary":
            return f"to_json('\\x' || lower(hex({name})))"
        case _:
            return f"to_json(CAST({name} AS VARCHAR))"


OPERATORS: tuple[Any, ...] = (Validate(),)
