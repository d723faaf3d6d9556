"""Split, join, hash, constants and expressions give the same rows in PostgreSQL and in DuckDB."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from synqx_dagster_tests.integration.mapping.both import TwoRenderings, make_mapping, make_schema

QUICK = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=15)
#: Many delimiters, quotes, blanks and wide characters in few characters.
BUSY = st.text(st.sampled_from("ab ;,|'\"\\%_.$\n\té\u0301😀\u200d\u00a0\u3000"), max_size=12)
MAYBE = st.none() | BUSY | TEXT
DELIMITERS = [" ", ";", ".", "''", "\\", "||", "aa", "%s", "$1", "é", "\n", "{}", "[", "😀", '"', "\\n"]


def split(delimiter: str, fields: list[str], extra_parts: str = "last_field") -> dict[str, Any]:
    config = {"delimiter": delimiter, "extra_parts": extra_parts}
    return {"type": "split", "source_columns": ["v"], "target_fields": fields, "config": config}


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("extra_parts", ["last_field", "bad_row"])
def test_split(connection: Any, delimiter: str, extra_parts: str) -> None:
    both = TwoRenderings(connection, {"v": "text"})
    compiled = both.compile(make_mapping([split(delimiter, ["p1", "p2", "p3"], extra_parts)]), None)
    parts = st.lists(BUSY, max_size=5).map(delimiter.join)

    @settings(QUICK, max_examples=3)
    @given(st.lists(MAYBE | parts, max_size=80))
    def check(values: list[str | None]) -> None:
        both.fill([[value] for value in values])
        outcomes = both.in_duckdb(compiled)
        assert outcomes == both.in_postgresql(compiled)
        for value, (fields, bad) in zip(values, outcomes, strict=True):
            found = [] if value is None else value.split(delimiter)
            too_many = len(found) > 3 and extra_parts == "bad_row"
            assert bool(bad) == too_many
            wanted = [*found[:2], delimiter.join(found[2:])] if len(found) > 2 else found
            if not too_many:
                assert list(fields.values()) == wanted + [None] * (3 - len(wanted))

    check()


@pytest.mark.parametrize("separator", ["", ", ", "'", "\\", "%s", "😀"])
@pytest.mark.parametrize("nulls", ["skip", "keep"])
def test_join(connection: Any, separator: str, nulls: str) -> None:
    both = TwoRenderings(
        connection, {"a": "text", "b": "varchar(40)", "c": "numeric(9,2)", "d": "timestamptz", "e": "bool"}
    )
    names = ["a", "b", "c", "d", "e"]
    config = {"separator": separator, "nulls": nulls}
    compiled = both.compile(
        make_mapping([{"type": "join", "source_columns": names, "target_fields": ["j"], "config": config}]), None
    )
    row = st.tuples(
        MAYBE,
        MAYBE,
        st.none() | st.sampled_from(["1.50", "NaN", "-0.01"]),
        st.none() | st.sampled_from(["0044-03-15 12:00:00+00 BC", "infinity", "2024-02-29 12:00:00.5+00"]),
        st.none() | st.sampled_from(["true", "false"]),
    )

    @settings(QUICK, max_examples=3)
    @given(st.lists(row, max_size=60))
    def check(rows: list[tuple[str | None, ...]]) -> None:
        both.fill(rows)
        outcomes = both.in_duckdb(compiled)
        assert outcomes == both.in_postgresql(compiled)
        for values, (fields, _) in zip(rows, outcomes, strict=True):
            kept = [
                value or "" if nulls == "keep" else value for value in values if value is not None or nulls == "keep"
            ]
            wanted = None if all(value is None for value in values) else separator.join(kept)
            assert fields["j"] == wanted

    check()


@pytest.mark.parametrize("separator", ["", ", ", "'", "\\", "%s", "😀"])
def test_join_of_columns_that_hold_no_null(connection: Any, separator: str) -> None:
    both = TwoRenderings(connection, {"a": "bigint", "b": "varchar(40)", "c": "numeric(9,2)", "d": "bool"})
    both.columns = tuple(replace(column, nullable=False) for column in both.columns)
    join = {
        "type": "join",
        "source_columns": ["a", "b", "c", "d"],
        "target_fields": ["j"],
        "config": {"separator": separator},
    }
    compiled = both.compile(make_mapping([join]), None)
    rows = [["-1", "x y", "1.50", "true"], ["0", "", "NaN", "false"], ["9223372036854775807", "'%s\\", "-0.01", "true"]]
    both.fill(rows)
    outcomes = both.in_postgresql(compiled)
    assert outcomes == both.in_duckdb(compiled)
    assert [fields["j"] for fields, _ in outcomes] == [separator.join(row) for row in rows]


def test_join_of_more_columns_than_a_function_takes_arguments(connection: Any) -> None:
    names = [f"c{number}" for number in range(300)]
    both = TwoRenderings(connection, dict.fromkeys(names, "text"))
    config = {"separator": "-"}
    compiled = both.compile(
        make_mapping([{"type": "join", "source_columns": names, "target_fields": ["j"], "config": config}]), None
    )
    both.fill([[str(number) if number % 2 else None for number in range(300)]])
    assert both.in_duckdb(compiled) == both.in_postgresql(compiled)


@pytest.mark.parametrize("salt", ["", "pepper", "'", "\\", "é%s"])
def test_hash(connection: Any, salt: str) -> None:
    both = TwoRenderings(connection, {"v": "text", "i": "bigint"})
    compiled = both.compile(
        make_mapping(
            [
                {"type": "hash", "source_columns": ["v"], "target_fields": ["h"], "config": {"salt": salt}},
                {"type": "hash", "source_columns": ["i"], "target_fields": ["k"], "config": {"salt": salt}},
            ]
        ),
        None,
    )

    @settings(QUICK, max_examples=4)
    @given(st.lists(st.tuples(MAYBE, st.none() | st.integers(-9, 2**62).map(str)), max_size=60))
    def check(rows: list[tuple[str | None, str | None]]) -> None:
        both.fill(rows)
        outcomes = both.in_duckdb(compiled)
        assert outcomes == both.in_postgresql(compiled)
        for row, (fields, _) in zip(rows, outcomes, strict=True):
            wanted = [None if text is None else hashlib.sha256((salt + text).encode()).hexdigest() for text in row]
            assert list(fields.values()) == wanted

    check()


def test_constants(connection: Any) -> None:
    both = TwoRenderings(connection, {"v": "text"})
    values: dict[str, tuple[str, Any, Any]] = {
        "a": ("string", "it's \\ %s {value} 😀", "it's \\ %s {value} 😀"),
        "b": ("bigint", "  7".strip(), 7),
        "c": ("decimal(9,3)", 1.5, "1.500"),
        "d": ("date", "2024-02-29", "2024-02-29"),
        "e": ("boolean", True, True),
        "f": ("string", True, "true"),
        "g": ("timestamptz", "2024-02-29 12:00:00+02:00", "2024-02-29 10:00:00+00"),
        "h": ("float", 1, "1.0"),
        "i": ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        "j": ("json", '{"a": [1, "x"]}', '{"a": [1, "x"]}'),
        "k": ("integer", None, None),
        "l": ("binary", None, None),
        "m": ("real", 0.5, "0.5"),
        "n": ("string", "", ""),
        "o": ("decimal", 12345678901234567890123, "12345678901234567890123"),
    }
    mapping = make_mapping(
        [{"type": "constant", "value": value, "target_fields": [name]} for name, (_, value, _) in values.items()]
    )
    compiled = both.compile(mapping, make_schema({name: kind for name, (kind, _, _) in values.items()}))
    both.fill([["x"], [None]])
    expected = {name: wanted for name, (_, _, wanted) in values.items()}
    assert both.in_duckdb(compiled) == both.in_postgresql(compiled) == [(expected, ()), (expected, ())]


def test_nulls_and_limits_of_the_target_are_bad_rows(connection: Any) -> None:
    both = TwoRenderings(connection, {"v": "text"})
    mapping = make_mapping(
        [
            {"type": "direct", "source_columns": ["v"], "target_fields": ["i"]},
            split("-", ["a", "b"]),
        ]
    )
    schema = make_schema({"i": "string", "a": "integer", "b": "string"}, primary_key=["i", "a"])
    compiled = both.compile(mapping, schema)
    both.fill([["1-x"], [None], ["y-z"], [""]])
    outcomes = both.in_duckdb(compiled)
    assert outcomes == both.in_postgresql(compiled)
    assert [bad for _, bad in outcomes] == [
        (),
        (("a", "is null"), ("i", "is null")),
        (("a", "is not an integer"),),
        (("a", "is not an integer"),),
    ]
    limited = both.in_duckdb(compiled, holds={"i": "length({value}) < 3"})
    assert [("i", "does not fit the target") in bad for _, bad in limited] == [True, False, True, False]


# --- expressions --------------------------------------------------------------------------------------------

COLUMNS = {
    "s": "text",
    "t": "varchar(20)",
    "i": "integer",
    "k": "smallint",
    "l": "bigint",
    "b": "boolean",
    "d": "date",
    "u": "date",
}

PORTABLE = [
    "s || '-' || t",
    "s || NULL",
    "concat(s, NULL, t)",
    "concat_ws(', ', s, t)",
    "concat_ws(s, t, 'x')",
    "coalesce(s, t, '')",
    "coalesce(d, u)",
    "coalesce(i, k, 0)",
    "case when b then s else t end",
    "case when i > 3 or l <= 0 then 'x' when b is not true then 'it''s \\' end",
    "case k when 1 then s when i then t end",
    "case when b then i else l + 1 end",
    "nullif(i, 0)",
    "nullif(b, true)",
    "length(s)",
    "char_length(s || t)",
    "left(s, 3)",
    "right(s, 3)",
    "left(s, 0)",
    "substring(s from 2 for 3)",
    "substr(s, 2)",
    "substring(s, 1, 0)",
    "substr(s, 2147483647, 2147483647)",
    "trim(s)",
    "trim(leading from s)",
    "rtrim(s)",
    "md5(s)",
    "b and not (i = 1)",
    "b or i is null",
    "s is not null",
    "d is null",
    "b is false",
    "i in (1, 2, k, NULL)",
    "i between k and l",
    "i + 1",
    "-k",
    "- - i",
    "i * k - 7",
    "l * l",
    "l * i",
    "(l + i) * k",
    "i + l = k",
    "k <> i",
    "1",
    "9223372036854775807",
    "'a'",
    "$$it's$$",
    "true",
    "S",
    '"s"',
    "source.s",
]
ROWS = st.lists(
    st.tuples(
        MAYBE,
        MAYBE,
        st.none() | st.sampled_from(["0", "1", "-1", "2147483647", "-2147483648"]),
        st.none() | st.sampled_from(["0", "1", "-32768", "32767"]),
        st.none() | st.sampled_from(["0", "1", "9223372036854775807", "-9223372036854775808", "3037000500"]),
        st.none() | st.sampled_from(["true", "false"]),
        st.none() | st.sampled_from(["infinity", "0044-03-15 BC", "2024-02-29"]),
        st.none() | st.sampled_from(["-infinity", "0001-01-01"]),
    ),
    max_size=12,
)


def _expressions(expressions: list[str]) -> list[dict[str, Any]]:
    return [
        {"type": "expression", "expression": expression, "target_fields": [f"f{number}"]}
        for number, expression in enumerate(expressions)
    ]


def test_portable_expressions_mean_the_same_everywhere(connection: Any) -> None:
    both = TwoRenderings(connection, COLUMNS)
    compiled = both.compile(make_mapping(_expressions(PORTABLE)), None)
    assert compiled.source_expressions == ()

    @QUICK
    @given(ROWS)
    def check(rows: list[tuple[str | None, ...]]) -> None:
        both.fill(rows)
        outcomes = both.in_duckdb(compiled)
        assert outcomes == both.in_postgresql(compiled)
        for number, expression in enumerate(PORTABLE):
            for row, (fields, bad) in enumerate(outcomes):
                name = f"f{number}"
                cast = f"({expression})::text" if expression == "coalesce(d, u)" else expression
                try:
                    both.cursor.execute(f"SELECT {cast} FROM t AS source WHERE n = %s".replace("%s", str(row)))
                    [(value,)] = both.cursor.fetchall()
                except psycopg2.errors.NumericValueOutOfRange:
                    continue  # here integers are exact, and only what is stored must fit
                assert name not in dict(bad), expression
                assert fields[name] == value, expression

    check()


def operand(kind: str) -> st.SearchStrategy[str]:
    leaves = {"text": ["s", "t", "'x'", "''"], "int": ["i", "k", "l", "0", "3"], "bool": ["b", "true"]}
    return st.sampled_from(leaves[kind])


def _grow(kind: str, depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return operand(kind)
    text, number, truth = (_grow(name, depth - 1) for name in ("text", "int", "bool"))
    choices: dict[str, list[st.SearchStrategy[str]]] = {
        "text": [
            st.builds("({} || {})".format, text, text),
            st.builds("coalesce({}, {})".format, text, text),
            st.builds("case when {} then {} else {} end".format, truth, text, text),
            st.builds("substr({}, {})".format, text, st.integers(1, 5)),
            st.builds("trim({})".format, text),
        ],
        "int": [
            st.builds("({} {} {})".format, number, st.sampled_from("+-*"), number),
            st.builds("length({})".format, text),
            st.builds("coalesce({}, {})".format, number, number),
            st.builds("case when {} then {} end".format, truth, number),
            st.builds("nullif({}, {})".format, number, number),
            st.builds("(-{})".format, number),
        ],
        "bool": [
            st.builds("({} {} {})".format, number, st.sampled_from(["=", "<", ">=", "<>"]), number),
            st.builds("({} {} {})".format, truth, st.sampled_from(["and", "or"]), truth),
            st.builds("(not {})".format, truth),
            st.builds("({} is null)".format, text | number),
            st.builds("({} in ({}, {}))".format, number, number, number),
        ],
    }
    return st.one_of(operand(kind), *choices[kind])


def test_any_tree_of_portable_parts_means_the_same(connection: Any) -> None:
    both = TwoRenderings(connection, COLUMNS)
    both.fill(
        [
            ("a b", "é😀", "2147483647", "32767", "9223372036854775807", "true", None, None),
            ("", None, "-2147483648", "-32768", "-9223372036854775808", "false", None, None),
            (" x ", "y'", "0", "1", None, None, None, None),
            (None, "", None, "0", "3", "true", None, None),
        ]
    )

    @settings(QUICK, max_examples=25)
    @given(st.lists(st.one_of(*(_grow(kind, 2) for kind in ("text", "int", "bool"))), min_size=3, max_size=6))
    def check(expressions: list[str]) -> None:
        compiled = both.compile(make_mapping(_expressions(expressions)), None)
        assume(not compiled.source_expressions)  # a product too large to prove its bounds
        assert both.in_duckdb(compiled) == both.in_postgresql(compiled)

    check()


SOURCE_ONLY = [
    "lower(s)",
    "date_trunc('month', d)",
    "s = t",
    "i / 2",
    "i::numeric / 3",
    "s like 'a\\_%'",
    "E'a\\tb'",
    "d + 1",
    "extract(year from d)",
    "nullif(s, '')",
    "left(s, -1)",
    "s ~ '^a'",
    "now() is not null",
    "case when s > t then 1 end",
    "l * l * l",
    "1.50",
    "array[s, t]",
    "upper(replace(s, 'a', 'b')) -- loud\n",
]


def test_what_only_the_source_can_compute_comes_from_the_source(connection: Any) -> None:
    both = TwoRenderings(connection, COLUMNS)
    both.fill(
        [
            ("Ab_c'é", "x", "7", "1", "5", "true", "2024-02-29", None),
            (None, None, None, None, None, None, None, None),
            ("", "", "-7", "2", "-1", "false", "0044-03-15 BC", "infinity"),
        ]
    )
    compiled = both.compile(make_mapping(_expressions(SOURCE_ONLY)), None)
    assert [computed.text for computed in compiled.source_expressions] == [
        expression.partition(" --")[0] for expression in SOURCE_ONLY
    ]
    assert compiled.used_columns == ()
    assert both.in_duckdb(compiled) == both.in_postgresql(compiled)
    types = {field.column.name: str(field.column.data_type) for field in compiled.fields}
    assert types["f1"] == "timestamptz"
    assert types["f4"] == "decimal"
    assert types["f7"] == "date"


def test_a_computed_value_is_cast_and_checked_like_any_other(connection: Any) -> None:
    both = TwoRenderings(connection, COLUMNS)
    mapping = make_mapping(
        [
            {"type": "expression", "expression": "i / 2.0", "target_fields": ["half"]},
            {"type": "expression", "expression": "lower(s)", "target_fields": ["number"]},
        ]
    )
    compiled = both.compile(mapping, make_schema({"half": "integer", "number": "smallint"}, primary_key=["number"]))
    both.fill([("12", None, "4", None, None, None, None, None), ("X", None, "5", None, None, None, None, None)])
    outcomes = both.in_duckdb(compiled)
    assert outcomes == both.in_postgresql(compiled)
    assert outcomes == [
        ({"half": 2, "number": 12}, ()),
        ({"half": None, "number": None}, (("half", "does not fit integer unchanged"), ("number", "is not a smallint"))),
    ]


def test_what_changes_with_every_call_is_not_checked_apart_from_its_use(connection: Any) -> None:
    both = TwoRenderings(connection, COLUMNS)
    mapping = make_mapping([{"type": "expression", "expression": "random() * 10", "target_fields": ["r"]}])
    assert both.compile(mapping, None).pushdown("postgres") is not None
    checked = both.compile(mapping, make_schema({"r": "integer"}))
    assert checked.pushdown("postgres") is None
    assert "another value each time" in str(checked.why_not_pushdown("postgres"))


HOSTILE = [
    '"',
    "'",
    "%s",
    "%(a)s",
    "a b",
    "select",
    "A",
    "a",
    "é😀",
    "a;--",
    "\\",
    "{value}",
    "source",
    "c0",
    "$1",
    "x" * 63,
]


def test_names_stay_names_whatever_they_hold(connection: Any) -> None:
    both = TwoRenderings(connection, dict.fromkeys(HOSTILE, "text"))
    both.fill([[f"value of {name}" for name in HOSTILE], [None] * len(HOSTILE)])
    mapping = make_mapping(None, on_bad_row="quarantine")
    compiled = both.compile(mapping, None)
    assert both.in_duckdb(compiled) == both.in_postgresql(compiled)
    values = both.in_duckdb(compiled)[0][0]
    assert values == {"n": 0, **{name: f"value of {name}" for name in HOSTILE}}
    strict = make_schema(dict.fromkeys(HOSTILE, "string"), primary_key=HOSTILE)
    outcomes = both.in_duckdb(both.compile(mapping, strict))
    assert outcomes == both.in_postgresql(both.compile(mapping, strict))
    assert outcomes[1][1] == tuple(sorted((name, "is null") for name in HOSTILE))
