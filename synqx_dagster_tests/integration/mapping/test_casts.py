"""Every cast that both engines can make gives the same values and the same bad rows, and never another value."""

from __future__ import annotations

import itertools
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from synqx_dagster.mapping.casts import cast_rule
from synqx_dagster.mapping.contract import PlannedField
from synqx_dagster.mapping.operations import Take
from synqx_dagster.mapping.pushdown import NotPushableError, render_pushdown
from synqx_dagster.model import Column, DataType
from synqx_dagster_tests.integration.mapping.both import TwoRenderings, make_mapping, make_schema

QUICK = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

TARGETS = [
    "string",
    "smallint",
    "integer",
    "bigint",
    "decimal",
    "decimal(5,2)",
    "decimal(20,0)",
    "decimal(4,4)",
    "decimal(60,25)",
    "real",
    "float",
    "boolean",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "json",
    "uuid",
    "binary",
]


def integers(bits: int) -> st.SearchStrategy[str]:
    bounds = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, 1, -1, 2, 2**14, 2**24, 2**24 + 1, 2**53, 2**53 + 1, -(2**53)]
    inside = [bound for bound in bounds if -(2 ** (bits - 1)) <= bound < 2 ** (bits - 1)]
    return (st.sampled_from(inside) | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)).map(str)


def decimals() -> st.SearchStrategy[str]:
    special = ["NaN", "Infinity", "-Infinity", "0", "-0.00", "0.1", "1.50", "99.995", "999.99", "1000", "-0.0001"]
    special += ["9223372036854775807", "9223372036854775808", "123456789012345", "1234567890123456", "1" + "0" * 40]
    special += ["0." + "0" * 320 + "1", "1" + "0" * 400, "9007199254740993", "0." + "0" * 300 + "123"]
    numbers = st.decimals(allow_nan=False, allow_infinity=False)
    return st.sampled_from(special) | numbers.map(lambda number: f"{number:f}"[:2000])


def floats(width: int) -> st.SearchStrategy[str]:
    special = [
        0.0,
        -0.0,
        1e-5,
        1e-4,
        1e5,
        1e6,
        1e14,
        1e15,
        1e16,
        1e22,
        0.1,
        1.5,
        123456.7,
        2.0**31,
        2.0**63,
        -(2.0**63),
    ]
    special += [float("nan"), float("inf"), float("-inf"), 16777217.0, 3.5e38, 1e-46, 5e-324, 1.7976931348623157e308]
    if width == 32:
        special = [value for value in special if value != value or abs(value) < 3.4e38 or abs(value) == float("inf")]
        special = [struct.unpack("f", struct.pack("f", value))[0] for value in special]
    return (st.sampled_from(special) | st.floats(width=width)).map(repr)  # type: ignore[arg-type]


def calendar(latest: int) -> st.SearchStrategy[str]:
    dates = st.dates().map(lambda day: day.isoformat().zfill(10))
    special = ["0001-01-01", "4713-01-01 BC", "0044-03-15 BC", "9999-12-31", f"{latest}-12-31", "infinity", "-infinity"]
    return dates | st.sampled_from(special)


def moments(zone: str) -> st.SearchStrategy[str]:
    clocks = st.sampled_from(["00:00:00", "12:30:00.5", "23:59:59.999999", "00:00:00.000001"]) | st.times().map(str)

    def join(day: str, clock: str) -> str:
        if day.endswith("infinity"):
            return day
        bare, era = day.removesuffix(" BC"), " BC" if day.endswith(" BC") else ""
        return f"{bare} {clock}{zone}{era}"

    return st.builds(join, calendar(294276), clocks)


def texts() -> st.SearchStrategy[str]:
    numbers = ["12", " 12 ", "+5", "-0", "007", "1.5", "1.", ".5", "1e3", "1_000", "٣", "9" * 40, "0" * 900 + "1", "x"]
    numbers += ["-00.500", "nan", "NaN", "Infinity", "inf", "1e400", "1e-400", "0e0", "0x10", "1,5", "", " ", "--1"]
    words = ["true", "T", "YES", "on", "1", "0", "Off", "f", "truee", "ſ", "\n1", "1\n"]
    others = ["2024-02-29", "2023-02-29", "2024-2-9", "0000-01-01", "0001-01-01 BC", "24:00:00", "23:59:60", "12:00"]
    others += ["2024-02-29 12:00:00", "2024-02-29T12:00:00.500", "2024-02-29 12:00:00+02", "2024-02-29 12:00:00Z"]
    others += ["2024-02-29 12:00:00-05:30", "0001-01-01 00:30:00+01", "infinity", "now", "today", "12:00:00.1234567"]
    others += ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8"]
    others += ['{"a": 1}', '{"a": 1,}', "[NaN]", "null", "nul", '"\\u0000"', "[1] x", '{"a":1,"a":2}', '"NaN,]"']
    free = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
    return st.sampled_from(numbers + words + others) | free


SOURCES: dict[str, st.SearchStrategy[str]] = {
    "text": texts(),
    "smallint": integers(16),
    "integer": integers(32),
    "bigint": integers(64),
    "numeric": decimals(),
    "numeric(8,3)": st.decimals(min_value=-99999, max_value=99999, places=3).map(str) | st.just("NaN"),
    "real": floats(32),
    "double precision": floats(64),
    "boolean": st.sampled_from(["true", "false"]),
    "date": calendar(5874897),
    "time": st.times().map(str) | st.just("24:00:00"),
    "timestamp": moments(""),
    "timestamp with time zone": moments("+00"),
    "jsonb": st.sampled_from(['{"b": 1, "a": [null, 1.50]}', "null", '"x"', "[]"]),
    "uuid": st.uuids().map(str),
}


def _fields(column: Column) -> tuple[dict[str, str], dict[str, str]]:
    """Target fields by type for all allowed casts, and those that PostgreSQL can make too."""
    allowed, pushable = {}, {}
    for number, name in enumerate(TARGETS):
        target = DataType.parse(name)
        if cast_rule(column.data_type, target).rule == "refused":
            continue
        allowed[f"f{number}"] = name
        try:
            render_pushdown([PlannedField(Column(f"f{number}", target), Take(column))], "postgres")
        except NotPushableError:
            continue
        pushable[f"f{number}"] = name
    return allowed, pushable


def _direct(fields: dict[str, str]) -> list[dict[str, Any]]:
    return [{"type": "direct", "source_columns": ["v"], "target_fields": [name]} for name in fields]


@pytest.mark.parametrize("native", list(SOURCES))
def test_both_engines_cast_alike(connection: Any, native: str) -> None:
    both = TwoRenderings(connection, {"v": native})
    column = next(column for column in both.columns if column.name == "v")
    allowed, pushable = _fields(column)
    compiled = both.compile(make_mapping(_direct(pushable)), make_schema(pushable))
    everything = both.compile(make_mapping(_direct(allowed)), make_schema(allowed))

    @QUICK
    @given(st.lists(st.none() | SOURCES[native], min_size=1, max_size=60))
    def check(values: list[str | None]) -> None:
        both.fill([[value] for value in values])
        assert both.in_duckdb(compiled) == both.in_postgresql(compiled)
        outcomes = both.in_duckdb(everything)
        for value, (fields, bad) in zip(values, outcomes, strict=True):
            for name, _ in bad:
                assert fields[name] is None
            for name in allowed:
                if value is None:
                    assert fields[name] is None
                elif name not in dict(bad):
                    assert fields[name] is not None

    check()


def test_texts_that_are_nearly_numbers(connection: Any) -> None:
    texts = ["".join(signs) for length in range(5) for signs in itertools.product("09.-+é", repeat=length)]
    texts += [
        "12345.67",
        "1234567.8",
        "0" * 20 + ".1",
        "1" * 13 + ".12",
        "1.234",
        " 1",
        "1 ",
        "1e2",
        "0x1",
        "1_0",
        "١",
        "1.0٠",
    ]
    both = TwoRenderings(connection, {"a": "text"})
    both.fill([[text] for text in texts])
    kinds = ["smallint", "bigint", "decimal", "decimal(15,2)", "decimal(3,1)", "decimal(4,4)", "decimal(20,0)"]
    for kind in kinds:
        mapping = make_mapping([{"type": "direct", "source_columns": ["a"], "target_fields": ["f"]}])
        compiled = both.compile(mapping, make_schema({"f": kind}))
        outcomes = both.in_postgresql(compiled)
        assert outcomes == both.in_duckdb(compiled), kind
        assert {bool(bad) for _, bad in outcomes} == {True, False}


def test_what_is_read_as_a_date_or_time_is_what_postgresql_reads(connection: Any) -> None:
    both = TwoRenderings(connection, {"v": "text"})
    kinds = ["date", "time", "timestamp", "timestamptz", "uuid", "float", "real", "json"]
    compiled = both.compile(make_mapping(_direct({kind: kind for kind in kinds})), make_schema({k: k for k in kinds}))
    native = {"float": "float8", "real": "float4"}
    items = ", ".join(
        f"CASE WHEN pg_input_is_valid(v, '{native.get(kind, kind)}') THEN CAST(v AS {native.get(kind, kind)})::text END"
        for kind in kinds
    )

    @QUICK
    @given(st.lists(texts() | moments("+03:30") | moments("") | calendar(5874897) | floats(64), max_size=80))
    def check(values: list[str]) -> None:
        both.fill([[value] for value in values])
        both.cursor.execute(f"SELECT {items} FROM t ORDER BY n")
        truth = both.cursor.fetchall()
        for (fields, _), row in zip(both.in_duckdb(compiled), truth, strict=True):
            for kind, expected in zip(kinds, row, strict=True):
                value = fields[kind]
                if value is None:
                    continue
                if kind in ("float", "real"):
                    assert expected is not None
                    assert float(str(value)) == pytest.approx(float(expected), rel=1e-6, nan_ok=True)
                else:
                    assert value == expected, kind

    check()


@pytest.mark.parametrize("native", ["bigint", "numeric", "double precision", "real", "text"])
def test_a_number_that_arrives_is_the_number_that_left(connection: Any, native: str) -> None:
    both = TwoRenderings(connection, {"v": native})
    targets = ["smallint", "integer", "bigint", "decimal", "decimal(5,2)", "decimal(60,25)", "string"]
    if native != "text":
        targets += ["real", "float"]
    fields = {name: name for name in targets}
    compiled = both.compile(make_mapping(_direct(fields)), make_schema(fields))

    @QUICK
    @given(st.lists(SOURCES[native], min_size=1, max_size=60))
    def check(values: list[str]) -> None:
        both.fill([[value] for value in values])
        both.cursor.execute("SELECT v::text FROM t ORDER BY n")
        for (text,), (arrived, _) in zip(both.cursor.fetchall(), both.in_duckdb(compiled), strict=True):
            for name in targets:
                if arrived[name] is None or (native == "text" and name == "string"):
                    continue
                assert _is_same_number(native, text, name, str(arrived[name])), (native, text, name, arrived[name])

    check()


def _is_same_number(native: str, left: str, target: str, right: str) -> bool:
    """Whether a number is the other; a float is one with every text that is read as it."""
    left, right = (text.lower().replace("infinity", "inf") for text in (left, right))
    if left in ("nan", "inf", "-inf"):
        return right == left
    if native in ("real", "double precision"):
        width = "f" if native == "real" else "d"
        there, back = (struct.pack(width, float(text)) for text in (left, right))
        return there == back or float(left) == float(right) == 0
    if target in ("real", "float"):
        digits = 6 if target == "real" else 15
        return Decimal(left) == Decimal(f"{float(right):.{digits}g}") or Decimal(left) == Decimal(float(right))
    return Decimal(left) == Decimal(right)


def test_padded_and_foreign_texts_are_left_to_the_connector(connection: Any) -> None:
    """``::text`` drops the blanks of char(n) and shortens an address; both must arrive as they are stored."""
    both = TwoRenderings(connection, {"c": "char(5)", "i": "inet"})
    both.fill([["ab", "10.0.0.1/32"]])
    mapping = make_mapping(
        [{"type": "join", "source_columns": ["c", "i"], "target_fields": ["j"], "config": {"separator": "|"}}]
    )
    compiled = both.compile(mapping, None)
    assert compiled.pushdown("postgres") is None
    assert "character(5)" in str(compiled.why_not_pushdown("postgres"))
    assert both.in_duckdb(compiled)[0][0]["j"] == "ab   |10.0.0.1/32"
