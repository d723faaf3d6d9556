"""Casts as DuckDB SQL over carriers: none of them raises, and none of them rounds, trims or guesses.

DuckDB's own casts do all three (``TRY_CAST('1.5' AS INTEGER)`` is 2, ``' 12 '`` is 12, ``1e400`` is infinity), and
its decimals end at 38 digits. So a text is first matched against the exact form that a type has, decimals and
times stay canonical text, and DuckDB's casts only ever see what they take without loss.

Conditions are written with CASE, not with AND, OR, IN or BETWEEN: DuckDB 2.0 hashes those alike whatever they
hold, so that its search for common subexpressions becomes quadratic (1,600 columns took 45 s to plan).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from synqx_dagster.mapping.casts import (
    EXACT_DIGITS,
    EXACT_EXPONENTS,
    EXACT_INTEGERS,
    FALSE_TEXTS,
    FLOAT_KINDS,
    INSTANT_KINDS,
    INTEGER_KINDS,
    MAX_DECIMAL_CHARACTERS,
    TRUE_TEXTS,
    cast_rule,
    integer_digits,
)
from synqx_dagster.model.types import INTEGER_BOUNDS, DataType, TypeKind

#: DuckDB's names of the carriers.
CARRIER_NAMES: dict[TypeKind, str] = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "float": "DOUBLE",
    "boolean": "BOOLEAN",
    "binary": "BLOB",
}

_DATE = "([0-9]{4}|[1-9][0-9]{4,6})-(0[1-9]|1[0-2])-[0-3][0-9]"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?"
_OFFSET = "(Z|[+-](0[0-9]|1[0-5])(:?[0-5][0-9](:[0-5][0-9])?)?)"
_ZERO_OFFSET = "(Z|[+-]00(:?00(:00)?)?)( BC)?$"
_FLOAT = "[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][+-]?[0-9]{1,5})?"
_PLACES = "'\\.([0-9]+)$'"


@dataclass(frozen=True)
class Cast:
    """One cast. Each part makes SQL from SQL; inputs are never NULL where `check` and `value` count.

    Attributes:
        value: The value in its new carrier; only looked at where `check` is true.
        check: True where the value arrives unchanged; None when it always does.
        prepare: A first step whose result the other two take; None for the value itself.
    """

    value: Callable[[str], str]
    check: Callable[[str], str] | None = None
    prepare: Callable[[str], str] | None = None


def carrier_name(data_type: DataType) -> str:
    """DuckDB's name of a type's carrier."""
    return CARRIER_NAMES.get(data_type.kind, "VARCHAR")


def from_text(target: DataType) -> Cast:
    """Read text as a type; the text need not be canonical, the value is."""
    kind = target.kind
    if kind in INTEGER_KINDS:
        return _text_to_integer(kind)
    if kind in FLOAT_KINDS:
        return _text_to_float(kind)
    if kind == "decimal":
        return _to_decimal(target)
    return _TEXT_CASTS[kind]


def make_cast(source: DataType, target: DataType) -> Cast:
    """The cast between two types whose rule is not ``refused``."""
    cast = _make_cast(source, target)
    if cast_rule(source, target).rule == "lossless":
        return Cast(cast.value, None, cast.prepare)
    return cast


def _make_cast(source: DataType, target: DataType) -> Cast:
    if source == target or (source.kind == target.kind == "decimal" and target.precision is None):
        return Cast(lambda value: value)
    if source.kind == "string":
        return from_text(target)
    if target.kind == "string":
        return _to_text(source.kind)
    if source.kind in INTEGER_KINDS:
        return _from_integer(target)
    if source.kind == "boolean":
        return Cast(lambda value: f"CAST({value} AS {carrier_name(target)})")
    if source.kind == "decimal":
        return _from_decimal(target)
    if source.kind in FLOAT_KINDS:
        return _from_float(target)
    return _between_instants(source.kind, target.kind)


# --- conditions ---------------------------------------------------------------------------------------------


def all_of(*conditions: str) -> str:
    """A conjunction: evaluated from left to right, and no further than the first that is not true."""
    sql = conditions[-1]
    for condition in reversed(conditions[:-1]):
        sql = f"CASE WHEN {condition} THEN {sql} ELSE false END"
    return sql


def any_of(*conditions: str) -> str:
    """A disjunction: evaluated from left to right, and no further than the first that is true."""
    whens = " ".join(f"WHEN {condition} THEN true" for condition in conditions[:-1])
    return f"CASE {whens} ELSE {conditions[-1]} END"


def _is_one_of(value: str, texts: tuple[str, ...]) -> str:
    if len(texts) == 1:
        return f"{value} = '{texts[0]}'"
    values = ", ".join(f"'{text}'" for text in texts)
    return f"list_contains([{values}], {value})"


def _is_not_zero(digits: str) -> str:
    return f"regexp_matches({digits}, '[1-9]')"


def _sign(text: str) -> str:
    return f"CASE WHEN starts_with({text}, '-') THEN '-' ELSE '' END"


# --- numbers ------------------------------------------------------------------------------------------------


def _text_to_integer(kind: TypeKind) -> Cast:
    value = f"TRY_CAST({{}} AS {CARRIER_NAMES[kind]})"

    def check(text: str) -> str:
        digits = f"regexp_full_match({text}, '[+-]?[0-9]+')"
        return all_of(f"length({text}) <= 1000", digits, f"{value.format(text)} IS NOT NULL")

    return Cast(value.format, check)


def _text_to_float(kind: TypeKind) -> Cast:
    value = f"TRY_CAST({{}} AS {CARRIER_NAMES[kind]})"
    special = ("nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity")

    def check(text: str) -> str:
        number = value.format(text)
        mantissa = f"regexp_replace({text}, '[eE].*$', '')"
        return any_of(
            _is_one_of(f"lower({text})", special),
            all_of(
                f"length({text}) <= 1000",
                f"regexp_full_match({text}, '{_FLOAT}')",
                f"isfinite({number})",
                any_of(f"{number} <> 0", f"NOT {_is_not_zero(mantissa)}"),
            ),
        )

    return Cast(value.format, check)


def _to_decimal(target: DataType) -> Cast:
    """From digits written out; what canonical decimals, integers and prepared floats have in common."""
    scale = target.scale or 0
    special = ("NaN",) if target.precision is not None else ("NaN", "Infinity", "-Infinity")

    def places(text: str) -> str:
        return f"regexp_extract({text}, {_PLACES}, 1)"

    def whole(text: str) -> str:
        return f"regexp_extract({text}, '^[+-]?0*([0-9]+)', 1)"

    def check(text: str) -> str:
        form = [
            f"length({text}) <= {MAX_DECIMAL_CHARACTERS}",
            f"regexp_full_match({text}, '[+-]?[0-9]+(\\.[0-9]+)?')",
        ]
        if target.precision is not None:
            form.append(f"length(rtrim({places(text)}, '0')) <= {scale}")
            form.append(f"length(ltrim({whole(text)}, '0')) <= {integer_digits(target)}")
        return any_of(_is_one_of(text, special), all_of(*form))

    def value(text: str) -> str:
        sign = f"CASE WHEN {_is_not_zero(text)} THEN {_sign(text)} ELSE '' END"
        if target.precision is None:
            fraction = f"CASE WHEN {places(text)} = '' THEN '' ELSE '.' || {places(text)} END"
        elif scale > 0:
            fraction = f"'.' || rpad(rtrim({places(text)}, '0'), {scale}, '0')"
        else:
            fraction = "''"
        return f"CASE WHEN {_is_one_of(text, special)} THEN {text} ELSE {sign} || {whole(text)} || {fraction} END"

    return Cast(value, check)


def _from_integer(target: DataType) -> Cast:
    kind = target.kind
    if kind in INTEGER_KINDS:
        narrow = f"TRY_CAST({{}} AS {CARRIER_NAMES[kind]})"
        return Cast(narrow.format, lambda value: f"{narrow.format(value)} IS NOT NULL")
    if kind in FLOAT_KINDS:
        limit = EXACT_INTEGERS[kind]
        return Cast(
            lambda value: f"CAST({value} AS {CARRIER_NAMES[kind]})",
            lambda value: f"abs(CAST({value} AS HUGEINT)) <= {limit}",
        )
    if kind == "boolean":
        return Cast(lambda value: f"{value} = 1", lambda value: any_of(f"{value} = 0", f"{value} = 1"))
    decimal = _to_decimal(target)
    return Cast(decimal.value, decimal.check, prepare=lambda value: f"CAST({value} AS VARCHAR)")


def _from_decimal(target: DataType) -> Cast:
    kind = target.kind
    if kind == "decimal":
        return _to_decimal(target)
    name = CARRIER_NAMES[kind]
    if kind in INTEGER_KINDS:
        whole = f"TRY_CAST(regexp_extract({{}}, '^[+-]?[0-9]+') AS {name})"
        return Cast(
            whole.format,
            lambda text: all_of(
                f"regexp_full_match({text}, '[+-]?[0-9]+(\\.0*)?')", f"{whole.format(text)} IS NOT NULL"
            ),
        )
    digits, exponent = EXACT_DIGITS[kind], EXACT_EXPONENTS[kind]

    def check(text: str) -> str:
        significant = f"length(trim(regexp_replace({text}, '[^0-9]', '', 'g'), '0'))"
        magnitude = f"abs(TRY_CAST({text} AS DOUBLE))"
        in_range = all_of(f"{magnitude} > 1e-{exponent}", f"{magnitude} < 1e{exponent}")
        return any_of(
            _is_one_of(text, ("NaN", "Infinity", "-Infinity")),
            all_of(f"{significant} <= {digits}", any_of(f"{significant} = 0", in_range)),
        )

    return Cast(lambda text: f"TRY_CAST({text} AS {name})", check)


def _from_float(target: DataType) -> Cast:
    kind = target.kind
    if kind == "float":
        return Cast(lambda value: f"CAST({value} AS DOUBLE)")
    if kind == "real":
        back = "CAST(TRY_CAST({} AS FLOAT) AS DOUBLE)"
        # an overflow is NULL, hence false; NaN equals NaN in DuckDB
        return Cast(
            lambda value: f"TRY_CAST({value} AS FLOAT)",
            lambda value: f"coalesce({back.format(value)} = {value}, false)",
        )
    if kind in INTEGER_KINDS:
        low, high = INTEGER_BOUNDS[kind]
        return Cast(
            lambda value: f"TRY_CAST({value} AS {CARRIER_NAMES[kind]})",
            lambda value: all_of(
                f"isfinite({value})",
                f"trunc({value}) = {value}",
                f"CAST({value} AS DOUBLE) >= {float(low)!r}",
                f"CAST({value} AS DOUBLE) < {float(high + 1)!r}",
            ),
        )
    decimal = _to_decimal(target)
    return Cast(decimal.value, decimal.check, prepare=_float_digits)


def _float_digits(value: str) -> str:
    """A float's shortest digits, written out without an exponent."""
    text = f"CAST({value} AS VARCHAR)"
    digits = f"replace(regexp_extract({text}, '^-?([0-9.]+)', 1), '.', '')"
    exponent = f"TRY_CAST(regexp_extract({text}, 'e([+-][0-9]+)$', 1) AS INTEGER)"
    return (
        f"CASE WHEN isnan({value}) THEN 'NaN' WHEN isinf({value}) THEN {_sign(text)} || 'Infinity'"
        f" WHEN contains({text}, 'e-') THEN {_sign(text)} || '0.' || repeat('0', -1 - {exponent}) || {digits}"
        f" WHEN contains({text}, 'e+') THEN {_sign(text)} || rpad({digits}, 1 + {exponent}, '0')"
        f" ELSE regexp_replace({text}, '\\.0$', '') END"
    )


def _to_text(kind: TypeKind) -> Cast:
    if kind in FLOAT_KINDS:
        return Cast(lambda digits: _float_text(digits, 15 if kind == "float" else 6), prepare=_float_digits)
    if kind in INTEGER_KINDS or kind == "boolean":
        return Cast(lambda value: f"CAST({value} AS VARCHAR)")
    return Cast(lambda value: value)


def _float_text(digits: str, widest: int) -> str:
    """Written-out digits as PostgreSQL prints floats: with an exponent below 1e-4 and from 1e`widest` on."""
    whole = f"ltrim(split_part({digits}, '.', 1), '-')"
    places = f"split_part({digits}, '.', 2)"
    significant = f"trim({whole} || {places}, '0')"
    exponent = (
        f"(CASE WHEN {whole} <> '0' THEN length({whole}) - 1"
        f" ELSE length(ltrim({places}, '0')) - length({places}) - 1 END)"
    )
    mantissa = f"{significant}[1] || CASE WHEN length({significant}) > 1 THEN '.' || {significant}[2:] ELSE '' END"
    power = (
        f"CASE WHEN {exponent} < 0 THEN 'e-' ELSE 'e+' END || CASE WHEN abs({exponent}) < 10 THEN '0' ELSE '' END"
        f" || CAST(abs({exponent}) AS VARCHAR)"
    )
    return (
        f"CASE WHEN NOT {_is_not_zero(digits)} THEN {digits}"
        f" WHEN {all_of(f'{exponent} >= -4', f'{exponent} < {widest}')} THEN {digits}"
        f" ELSE {_sign(digits)} || {mantissa} || {power} END"
    )


# --- dates and times ----------------------------------------------------------------------------------------


def text_of_date(value: str) -> str:
    """A date of DuckDB's own as canonical text."""
    return f"replace(CAST({value} AS VARCHAR), ' (BC)', ' BC')"


def _is_endless(text: str) -> str:
    return _is_one_of(text, ("infinity", "-infinity"))


def _day(text: str) -> str:
    """The date that a matched text begins with, without its era."""
    return f"regexp_extract({text}, '^[0-9]+-[0-9]+-[0-9]+')"


def _clock(text: str) -> str:
    """The time of day in a matched text, without zeros at the end of its fraction."""
    clock = f"regexp_extract({text}, '[0-9]+:[0-9]+:[0-9]+(\\.[0-9]+)?')"
    return f"CASE WHEN contains({clock}, '.') THEN rtrim(rtrim({clock}, '0'), '.') ELSE {clock} END"


def _era(text: str, mark: str) -> str:
    """A mark of years BC, for a text that ends with PostgreSQL's."""
    return f"CASE WHEN ends_with({text}, ' BC') THEN '{mark}' ELSE '' END"


def _is_day(text: str, last: str) -> str:
    """Whether the date that a matched text begins with exists."""
    day = f"TRY_CAST({_day(text)} || {_era(text, ' (BC)')} AS DATE)"
    first = "DATE '4714-11-24 (BC)'"
    return all_of(f"NOT starts_with({text}, '0000-')", f"{day} >= {first}", f"{day} <= DATE '{last}'")


def _is_plain_day(text: str) -> str:
    """Whether a text is a date just as DuckDB prints it, with a year of four digits; quicker than any pattern."""
    return all_of(f"CAST(TRY_CAST({text} AS DATE) AS VARCHAR) = {text}", f"length({text}) = 10")


def _is_plain_moment(text: str) -> str:
    """The same of a date and a time; DuckDB's own mark of years BC would stand where the hour is."""
    return all_of(
        f"CAST(TRY_CAST({text} AS TIMESTAMP) AS VARCHAR) = {text}",
        f"substr({text}, 5, 1) = '-'",
        f"substr({text}, 14, 1) = ':'",
    )


def _date_check(text: str) -> str:
    form = f"regexp_full_match({text}, '{_DATE}( BC)?')"
    return any_of(_is_plain_day(text), _is_endless(text), all_of(form, _is_day(text, "5874897-12-31")))


def _timestamp_check(text: str) -> str:
    form = f"regexp_full_match({text}, '{_DATE}[ T]{_CLOCK}( BC)?')"
    return any_of(_is_plain_moment(text), _is_endless(text), all_of(form, _is_day(text, "294276-12-31")))


def _timestamp_value(text: str) -> str:
    moment = f"{_day(text)} || ' ' || {_clock(text)} || {_era(text, ' BC')}"
    return f"CASE WHEN {any_of(_is_plain_moment(text), _is_endless(text))} THEN {text} ELSE {moment} END"


def _is_plain_instant(text: str) -> str:
    return all_of(f"ends_with({text}, '+00')", _is_plain_moment(f"{text}[:-4]"))


def _timestamptz_check(text: str) -> str:
    form = f"regexp_full_match({text}, '{_DATE}[ T]{_CLOCK}{_OFFSET}( BC)?')"
    # the shift to UTC is computed with DuckDB's timestamps, which end a few decades before PostgreSQL's
    shiftable = all_of(_is_day(text, "294000-12-31"), f"NOT regexp_matches({text}, '^471.-.* BC$')")
    is_utc = f"regexp_matches({text}, '{_ZERO_OFFSET}')"
    return any_of(
        _is_plain_instant(text),
        _is_endless(text),
        all_of(form, _is_day(text, "294276-12-31"), any_of(is_utc, shiftable)),
    )


def _timestamptz_value(text: str) -> str:
    offset = f"regexp_extract({text}, '([+-][0-9:]+)( BC)?$', 1)"
    digits = f"rpad(replace(substr({offset}, 2), ':', ''), 6, '0')"
    seconds = (
        f"(CASE WHEN starts_with({offset}, '-') THEN -1 ELSE 1 END * (TRY_CAST({digits}[1:2] AS INTEGER) * 3600"
        f" + TRY_CAST({digits}[3:4] AS INTEGER) * 60 + TRY_CAST({digits}[5:6] AS INTEGER)))"
    )
    local = f"TRY_CAST({_day(text)} || {_era(text, ' (BC)')} || ' ' || {_clock(text)} AS TIMESTAMP)"
    moved = f"CAST({local} - to_seconds({seconds}) AS VARCHAR)"
    return (
        f"CASE WHEN {any_of(_is_plain_instant(text), _is_endless(text))} THEN {text}"
        f" WHEN regexp_matches({text}, '{_ZERO_OFFSET}')"
        f" THEN {_day(text)} || ' ' || {_clock(text)} || '+00' || {_era(text, ' BC')}"
        f" ELSE replace({moved}, ' (BC)', '') || '+00' || CASE WHEN contains({moved}, '(BC)') THEN ' BC' ELSE '' END"
        " END"
    )


def _between_instants(source: TypeKind, target: TypeKind) -> Cast:
    zone = "+00" if target == "timestamptz" else ""

    def keep_endless(inner: Callable[[str], str]) -> Callable[[str], str]:
        return lambda text: f"CASE WHEN {_is_endless(text)} THEN {text} ELSE {inner(text)} END"

    def without_era(text: str) -> str:
        return f"regexp_replace({text}, ' BC$', '')"

    if source == "date":
        return Cast(
            keep_endless(lambda text: f"{without_era(text)} || ' 00:00:00{zone}' || {_era(text, ' BC')}"),
            lambda text: any_of(_is_endless(text), _is_day(text, "294276-12-31")),
        )
    if target == "date":
        midnight = "' 00:00:00([+]00)?( BC)?$'"
        return Cast(
            keep_endless(lambda text: f"regexp_replace({text}, {midnight}, '') || {_era(text, ' BC')}"),
            lambda text: any_of(_is_endless(text), f"regexp_matches({text}, {midnight})"),
        )
    if target in INSTANT_KINDS and source == "timestamp":
        return Cast(keep_endless(lambda text: f"{without_era(text)} || '+00' || {_era(text, ' BC')}"))
    return Cast(keep_endless(lambda text: f"replace({text}, '+00', '')"))


# --- the rest -----------------------------------------------------------------------------------------------


def _json_check(text: str) -> str:
    # DuckDB reads NaN, Infinity and a comma before a closing bracket; JSON knows none of them
    outside = f"regexp_replace({text}, '\"(?:[^\"\\\\]|\\\\.)*\"', '\"\"', 'g')"
    return all_of(f"json_valid({text})", f"NOT regexp_matches({outside}, '(?i)nan|inf|,\\s*[\\]}}]|//|/\\*')")


_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_TEXT_CASTS: dict[TypeKind, Cast] = {
    "string": Cast(lambda text: f"CAST({text} AS VARCHAR)"),
    "boolean": Cast(
        lambda text: _is_one_of(f"lower({text})", TRUE_TEXTS),
        lambda text: _is_one_of(f"lower({text})", TRUE_TEXTS + FALSE_TEXTS),
    ),
    "date": Cast(lambda text: text, _date_check),
    "time": Cast(_clock, lambda text: f"regexp_full_match({text}, '{_CLOCK}|24:00:00(\\.0{{1,6}})?')"),
    "timestamp": Cast(_timestamp_value, _timestamp_check),
    "timestamptz": Cast(_timestamptz_value, _timestamptz_check),
    "uuid": Cast(lambda text: f"lower({text})", lambda text: f"regexp_full_match({text}, '{_UUID}')"),
    "json": Cast(lambda text: text, _json_check),
}
