"""Which logical type may become which, and what that may lose: nothing, ever, in silence.

Every pair of types is ``same``, ``lossless`` (every value arrives), ``checked`` (a value that would change is a
bad row) or ``refused`` (the plan fails). The SQL of a cast is the business of one module per engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from synqx_dagster.errors import PlanError
from synqx_dagster.model.types import DataType, TypeKind

Rule = Literal["same", "lossless", "checked", "refused"]

INTEGER_KINDS: tuple[TypeKind, ...] = ("smallint", "integer", "bigint")
FLOAT_KINDS: tuple[TypeKind, ...] = ("real", "float")
NUMBER_KINDS: tuple[TypeKind, ...] = (*INTEGER_KINDS, *FLOAT_KINDS, "decimal")
INSTANT_KINDS: tuple[TypeKind, ...] = ("timestamp", "timestamptz")

#: Decimal digits that the widest value of an integer type has.
INTEGER_DIGITS: dict[TypeKind, int] = {"smallint": 5, "integer": 10, "bigint": 19}

#: Up to here every integer has its own binary float.
EXACT_INTEGERS: dict[TypeKind, int] = {"real": 2**24, "float": 2**53}

#: Every decimal with this many significant digits comes back unchanged from a binary float
#: (FLT_DIG and DBL_DIG of C), within the exponents that `EXACT_EXPONENTS` gives.
EXACT_DIGITS: dict[TypeKind, int] = {"real": 6, "float": 15}
EXACT_EXPONENTS: dict[TypeKind, int] = {"real": 37, "float": 307}

#: Decimals written out are read up to this many characters; PostgreSQL's scale ends at 16,383.
MAX_DECIMAL_CHARACTERS = 16_000

TRUE_TEXTS = ("true", "t", "yes", "y", "on", "1")
FALSE_TEXTS = ("false", "f", "no", "n", "off", "0")


@dataclass(frozen=True)
class CastRule:
    """What a cast does to values; ``hint`` says what to do instead where it is refused."""

    rule: Rule
    hint: str | None = None


def cast_rule(source: DataType, target: DataType) -> CastRule:
    """What casting values of one logical type to another may do to them."""
    if source == target:
        return CastRule("same")
    if "binary" in (source.kind, target.kind):
        return CastRule("refused", "bytes have no text of their own: write an expression, such as encode(x, 'hex')")
    if target.kind == "string":
        return CastRule("lossless")
    if source.kind == "string":
        return CastRule("checked")
    if source.kind in INTEGER_KINDS:
        return CastRule(_from_integer(source, target))
    if source.kind == "boolean":
        return CastRule("lossless" if target.kind in INTEGER_KINDS else "refused")
    if source.kind == "decimal":
        return CastRule(_from_decimal(source, target))
    if source.kind in FLOAT_KINDS:
        return CastRule(_from_float(source, target))
    return CastRule(_from_instant(source, target))


def check_cast(source: DataType, target: DataType, *, field: str, what: str) -> Rule:
    """The rule of a cast that a field needs.

    Args:
        source: The type of the value.
        target: The type of the field.
        field: The field's name, for the message.
        what: Where the value comes from, for the message.

    Raises:
        PlanError: The cast is refused; names field, types and what to do.
    """
    found = cast_rule(source, target)
    if found.rule == "refused":
        raise PlanError(
            f"field {field!r}: {what} is {source}, which cannot become {target}",
            hint=found.hint or "choose another data_type, or write an expression that converts it",
            column=field,
        )
    return found.rule


def _from_integer(source: DataType, target: DataType) -> Rule:
    if target.kind in INTEGER_KINDS:
        wider = INTEGER_KINDS.index(target.kind) > INTEGER_KINDS.index(source.kind)
        return "lossless" if wider else "checked"
    if target.kind == "decimal":
        return "lossless" if integer_digits(target) >= INTEGER_DIGITS[source.kind] else "checked"
    if target.kind == "float":
        return "checked" if source.kind == "bigint" else "lossless"
    if target.kind == "real":
        return "lossless" if source.kind == "smallint" else "checked"
    return "checked" if target.kind == "boolean" else "refused"


def _from_decimal(source: DataType, target: DataType) -> Rule:
    if target.kind == "decimal":
        if target.precision is None:
            return "lossless"
        if source.precision is None:
            return "checked"
        fits = integer_digits(target) >= integer_digits(source) and (target.scale or 0) >= (source.scale or 0)
        return "lossless" if fits else "checked"
    return "checked" if target.kind in (*INTEGER_KINDS, *FLOAT_KINDS) else "refused"


def _from_float(source: DataType, target: DataType) -> Rule:
    if target.kind in FLOAT_KINDS:
        return "lossless" if target.kind == "float" else "checked"
    if target.kind == "decimal":
        return "lossless" if target.precision is None else "checked"
    return "checked" if target.kind in INTEGER_KINDS else "refused"


def _from_instant(source: DataType, target: DataType) -> Rule:
    if source.kind == "date" and target.kind in INSTANT_KINDS:
        return "checked"
    if source.kind in INSTANT_KINDS:
        if target.kind in INSTANT_KINDS:
            return "lossless"
        return "checked" if target.kind == "date" else "refused"
    return "refused"


def integer_digits(data_type: DataType) -> int:
    """How many digits a decimal has before its point; a very large number without precision."""
    if data_type.precision is None:
        return MAX_DECIMAL_CHARACTERS
    return data_type.precision - (data_type.scale or 0)
