"""Casts as DuckDB SQL over carriers: none of them raises, and none of them rounds, trims or guesses.

DuckDB's own casts do all three (``TRY_CAST('1.5' AS INTEGER)`` is 2, ``' 12 '`` is 12, ``1e400`` is infinity), and
its decimals end at 38 digits. So a text is first matched against the exact form that a type has, decimals and
times stay canonical text, and DuckDB's casts only ever see what they take without loss.
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
_ENDLESS = "('infinity', '-infinity')"
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
        return _from_integer(source.kind, target)
    if source.kind == "boolean":
        return Cast(lambda value: f"CAST({value} AS {carrier_name(target)})")
    if source.kind == "decimal":
        return _from_decimal(target)
    if source.kind in FLOAT_KINDS:
        return _from_float(target)
    return _between_instants(source.kind, target.kind)


# --- numbers ------------------------------------------------------------------------------------------------


def _within(value: str, kind: TypeKind) -> str:
    low, high = INTEGER_BOUNDS[kind]
    return f"{value} BETWEEN CAST('{low}' AS HUGEINT) AND CAST('{high}' AS HUGEINT)"


def _text_to_integer(kind: TypeKind) -> Cast:
    def check(text: str) -> str:
        return (
            f"length({text}) <= 1000 AND regexp_full_match({text}, '[+-]?[0-9]+')"
            f" AND {_within(f'TRY_CAST({text} AS HUGEINT)', kind)}"
        )

    return Cast(lambda text: f"TRY_CAST({text} AS {CARRIER_NAMES[kind]})", check)


def _text_to_float(kind: TypeKind) -> Cast:
    name = CARRIER_NAMES[kind]
    special = "('nan', 'inf', '+inf', '-inf', 'infinity', '+infinity', '-infinity')"

    def check(text: str) -> str:
        number = f"TRY_CAST({text} AS {name})"
        mantissa = f"regexp_replace({text}, '[eE].*$', '')"
        return (
            f"lower({text}) IN {special} OR (length({text}) <= 1000 AND regexp_full_match({text}, '{_FLOAT}')"
            f" AND isfinite({number}) AND ({number} <> 0 OR NOT regexp_matches({mantissa}, '[1-9]')))"
        )

    return Cast(lambda text: f"TRY_CAST({text} AS {name})", check)


def _to_decimal(target: DataType) -> Cast:
    """From digits written out; what canonical decimals, integers and prepared floats have in common."""
    scale = target.scale or 0
    special = "('NaN')" if target.precision is not None else "('NaN', 'Infinity', '-Infinity')"

    def places(text: str) -> str:
        return f"regexp_extract({text}, {_PLACES}, 1)"

    def whole(text: str) -> str:
        return f"regexp_extract({text}, '^[+-]?0*([0-9]+)', 1)"

    def check(text: str) -> str:
        form = f"length({text}) <= {MAX_DECIMAL_CHARACTERS} AND regexp_full_match({text}, '[+-]?[0-9]+(\\.[0-9]+)?')"
        if target.precision is not None:
            form += (
                f" AND length(rtrim({places(text)}, '0')) <= {scale}"
                f" AND length(ltrim({whole(text)}, '0')) <= {integer_digits(target)}"
            )
        return f"{text} IN {special} OR ({form})"

    def value(text: str) -> str:
        sign = f"CASE WHEN {text} LIKE '-%' AND regexp_matches({text}, '[1-9]') THEN '-' ELSE '' END"
        if target.precision is None:
            fraction = f"CASE WHEN {places(text)} = '' THEN '' ELSE '.' || {places(text)} END"
        elif scale > 0:
            fraction = f"'.' || rpad(rtrim({places(text)}, '0'), {scale}, '0')"
        else:
            fraction = "''"
        return f"CASE WHEN {text} IN {special} THEN {text} ELSE {sign} || {whole(text)} || {fraction} END"

    return Cast(value, check)


def _from_integer(source: TypeKind, target: DataType) -> Cast:
    kind = target.kind
    if kind in INTEGER_KINDS:
        name = CARRIER_NAMES[kind]
        return Cast(
            lambda value: f"TRY_CAST({value} AS {name})", lambda value: _within(f"CAST({value} AS HUGEINT)", kind)
        )
    if kind in FLOAT_KINDS:
        limit = EXACT_INTEGERS[kind]
        return Cast(
            lambda value: f"CAST({value} AS {CARRIER_NAMES[kind]})",
            lambda value: f"CAST({value} AS HUGEINT) BETWEEN -{limit} AND {limit}",
        )
    if kind == "boolean":
        return Cast(lambda value: f"{value} = 1", lambda value: f"{value} IN (0, 1)")
    decimal = _to_decimal(target)
    return Cast(decimal.value, decimal.check, prepare=lambda value: f"CAST({value} AS VARCHAR)")


def _from_decimal(target: DataType) -> Cast:
    kind = target.kind
    if kind == "decimal":
        return _to_decimal(target)
    if kind in INTEGER_KINDS:
        whole = "TRY_CAST(regexp_extract({}, '^[+-]?[0-9]+') AS HUGEINT)"
        return Cast(
            lambda text: f"TRY_CAST({whole.format(text)} AS {CARRIER_NAMES[kind]})",
            lambda text: f"regexp_full_match({text}, '[+-]?[0-9]+(\\.0*)?') AND {_within(whole.format(text), kind)}",
        )
    name, digits, exponent = CARRIER_NAMES[kind], EXACT_DIGITS[kind], EXACT_EXPONENTS[kind]

    def check(text: str) -> str:
        significant = f"length(trim(regexp_replace({text}, '[^0-9]', '', 'g'), '0'))"
        magnitude = f"abs(TRY_CAST({text} AS DOUBLE))"
        return (
            f"{text} IN ('NaN', 'Infinity', '-Infinity') OR ({significant} <= {digits}"
            f" AND ({significant} = 0 OR ({magnitude} > 1e-{exponent} AND {magnitude} < 1e{exponent})))"
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
            lambda value: (
                f"isfinite({value}) AND trunc({value}) = {value} AND CAST({value} AS DOUBLE) >= {float(low)!r}"
                f" AND CAST({value} AS DOUBLE) < {float(high + 1)!r}"
            ),
        )
    decimal = _to_decimal(target)
    return Cast(decimal.value, decimal.check, prepare=_float_digits)


def _float_digits(value: str) -> str:
    """A float's shortest digits, written out without an exponent."""
    text = f"CAST({value} AS VARCHAR)"
    sign = f"CASE WHEN {text} LIKE '-%' THEN '-' ELSE '' END"
    digits = f"replace(regexp_extract({text}, '^-?([0-9.]+)', 1), '.', '')"
    exponent = f"TRY_CAST(regexp_extract({text}, 'e([+-][0-9]+)$', 1) AS INTEGER)"
    return (
        f"CASE WHEN isnan({value}) THEN 'NaN' WHEN isinf({value}) THEN {sign} || 'Infinity'"
        f" WHEN {text} LIKE '%e-%' THEN {sign} || '0.' || repeat('0', -1 - {exponent}) || {digits}"
        f" WHEN {text} LIKE '%e+%' THEN {sign} || rpad({digits}, 1 + {exponent}, '0')"
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
    sign = f"CASE WHEN {digits} LIKE '-%' THEN '-' ELSE '' END"
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
        f"CASE WHEN NOT regexp_matches({digits}, '[1-9]') OR ({exponent} >= -4 AND {exponent} < {widest})"
        f" THEN {digits} ELSE {sign} || {mantissa} || {power} END"
    )


# --- dates and times ----------------------------------------------------------------------------------------


def _is_day(text: str, last: str) -> str:
    """Whether the date that a matched text begins with exists; BC stands at the text's end."""
    day = f"regexp_extract({text}, '^[0-9]+-[0-9]+-[0-9]+') || CASE WHEN {text} LIKE '% BC' THEN ' (BC)' ELSE '' END"
    return f"{text} NOT LIKE '0000-%' AND TRY_CAST({day} AS DATE) BETWEEN DATE '4714-11-24 (BC)' AND DATE '{last}'"


def _date_check(text: str) -> str:
    form = f"regexp_full_match({text}, '{_DATE}( BC)?')"
    return f"{text} IN {_ENDLESS} OR ({form} AND {_is_day(text, '5874897-12-31')})"


def _clock(text: str) -> str:
    """The time of day in a matched text, without zeros at the end of its fraction."""
    clock = f"regexp_extract({text}, '[0-9]+:[0-9]+:[0-9]+(\\.[0-9]+)?')"
    return f"CASE WHEN contains({clock}, '.') THEN rtrim(rtrim({clock}, '0'), '.') ELSE {clock} END"


def _bc(text: str) -> str:
    return f"CASE WHEN {text} LIKE '% BC' THEN ' BC' ELSE '' END"


def _timestamp_check(text: str) -> str:
    form = f"regexp_full_match({text}, '{_DATE}[ T]{_CLOCK}( BC)?')"
    return f"{text} IN {_ENDLESS} OR ({form} AND {_is_day(text, '294276-12-31')})"


def _timestamp_value(text: str) -> str:
    day = f"regexp_extract({text}, '^[0-9]+-[0-9]+-[0-9]+')"
    return f"CASE WHEN {text} IN {_ENDLESS} THEN {text} ELSE {day} || ' ' || {_clock(text)} || {_bc(text)} END"


_ZERO_OFFSET = "(Z|[+-]00(:?00(:00)?)?)( BC)?$"


def _timestamptz_check(text: str) -> str:
    form = f"regexp_full_match({text}, '{_DATE}[ T]{_CLOCK}{_OFFSET}( BC)?')"
    # the shift to UTC is computed with DuckDB's timestamps, which end a few decades before PostgreSQL's
    shiftable = f"{_is_day(text, '294000-12-31')} AND NOT ({text} LIKE '471_-%' AND {text} LIKE '% BC')"
    return (
        f"{text} IN {_ENDLESS} OR ({form} AND {_is_day(text, '294276-12-31')}"
        f" AND (regexp_matches({text}, '{_ZERO_OFFSET}') OR ({shiftable})))"
    )


def _timestamptz_value(text: str) -> str:
    day = f"regexp_extract({text}, '^[0-9]+-[0-9]+-[0-9]+')"
    offset = f"regexp_extract({text}, '([+-][0-9:]+)( BC)?$', 1)"
    digits = f"rpad(replace(substr({offset}, 2), ':', ''), 6, '0')"
    seconds = (
        f"(CASE WHEN {offset} LIKE '-%' THEN -1 ELSE 1 END * (TRY_CAST({digits}[1:2] AS INTEGER) * 3600"
        f" + TRY_CAST({digits}[3:4] AS INTEGER) * 60 + TRY_CAST({digits}[5:6] AS INTEGER)))"
    )
    era = f"CASE WHEN {text} LIKE '% BC' THEN ' (BC)' ELSE '' END"
    local = f"TRY_CAST({day} || {era} || ' ' || {_clock(text)} AS TIMESTAMP)"
    moved = f"CAST({local} - to_seconds({seconds}) AS VARCHAR)"
    return (
        f"CASE WHEN {text} IN {_ENDLESS} THEN {text}"
        f" WHEN regexp_matches({text}, '{_ZERO_OFFSET}')"
        f" THEN {day} || ' ' || {_clock(text)} || '+00' || {_bc(text)}"
        f" ELSE replace({moved}, ' (BC)', '') || '+00' || CASE WHEN contains({moved}, '(BC)') THEN ' BC' ELSE '' END"
        " END"
    )


def _between_instants(source: TypeKind, target: TypeKind) -> Cast:
    zone = "+00" if target == "timestamptz" else ""

    def keep_endless(inner: Callable[[str], str]) -> Callable[[str], str]:
        return lambda text: f"CASE WHEN {text} IN {_ENDLESS} THEN {text} ELSE {inner(text)} END"

    def without_bc(text: str) -> str:
        return f"regexp_replace({text}, ' BC$', '')"

    if source == "date":
        return Cast(
            keep_endless(lambda text: f"{without_bc(text)} || ' 00:00:00{zone}' || {_bc(text)}"),
            lambda text: f"{text} IN {_ENDLESS} OR ({_is_day(text, '294276-12-31')})",
        )
    if target == "date":
        midnight = "' 00:00:00([+]00)?( BC)?$'"
        return Cast(
            keep_endless(lambda text: f"regexp_replace({text}, {midnight}, '') || {_bc(text)}"),
            lambda text: f"{text} IN {_ENDLESS} OR regexp_matches({text}, {midnight})",
        )
    if target in INSTANT_KINDS and source == "timestamp":
        return Cast(keep_endless(lambda text: f"{without_bc(text)} || '+00' || {_bc(text)}"))
    return Cast(keep_endless(lambda text: f"replace({text}, '+00', '')"))


# --- the rest -----------------------------------------------------------------------------------------------


def _texts(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _json_check(text: str) -> str:
    # DuckDB reads NaN, Infinity and a comma before a closing bracket; JSON knows none of them
    outside = f"regexp_replace({text}, '\"(?:[^\"\\\\]|\\\\.)*\"', '\"\"', 'g')"
    return f"json_valid({text}) AND NOT regexp_matches({outside}, '(?i)nan|inf|,\\s*[\\]}}]|//|/\\*')"


_TEXT_CASTS: dict[TypeKind, Cast] = {
    "string": Cast(lambda text: f"CAST({text} AS VARCHAR)"),
    "boolean": Cast(
        lambda text: f"lower({text}) IN ({_texts(TRUE_TEXTS)})",
        lambda text: f"lower({text}) IN ({_texts(TRUE_TEXTS + FALSE_TEXTS)})",
    ),
    "date": Cast(lambda text: text, _date_check),
    "time": Cast(
        lambda text: _clock(text), lambda text: f"regexp_full_match({text}, '{_CLOCK}|24:00:00(\\.0{{1,6}})?')"
    ),
    "timestamp": Cast(_timestamp_value, _timestamp_check),
    "timestamptz": Cast(_timestamptz_value, _timestamptz_check),
    "uuid": Cast(
        lambda text: f"lower({text})",
        lambda text: f"regexp_full_match({text}, '[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}')",
    ),
    "json": Cast(lambda text: text, _json_check),
}
