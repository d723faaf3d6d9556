"""Types of DuckDB and SQLite with their hardest values."""

from __future__ import annotations

from synqx_dagster_tests.integration.transfer.types.cases import HARD_TEXTS, Case, case


def _chr(value: str) -> str:
    return " || ".join(f"chr({ord(character)})" for character in value) or "''"


DUCKDB_CASES: tuple[Case, ...] = (
    case("TINYINT", "number", "-128", "127"),
    case("UTINYINT", "number", "255"),
    case("SMALLINT", "number", "-32768", "32767"),
    case("USMALLINT", "number", "65535"),
    case("INTEGER", "number", "-2147483648", "2147483647"),
    case("UINTEGER", "number", "4294967295"),
    case("BIGINT", "number", "-9223372036854775808", "9223372036854775807"),
    case("UBIGINT", "number", "18446744073709551615"),
    case("HUGEINT", "number", ("largest", str(2**127 - 1)), ("smallest", str(-(2**127)))),
    case("UHUGEINT", "number", ("largest", str(2**128 - 1))),
    case("BIGNUM", "number", ("60 digits", f"'{'9' * 60}'")),
    case("DECIMAL(38,20)", "number", ("all digits", "'123456789012345678.12345678901234567890'")),
    case("DECIMAL(5,5)", "number", "0.00012", "-0.5", "0"),
    case("DECIMAL(9,2)", "number", "0.10", "-9999999.99"),
    case(
        "FLOAT",
        "real",
        ("-0.0", "'-0.0'"),
        ("smallest denormal", "'1e-45'"),
        ("NaN", "'nan'"),
        ("-Infinity", "'-inf'"),
        "0.1",
    ),
    case(
        "DOUBLE",
        "float",
        ("-0.0", "'-0.0'"),
        ("smallest denormal", "'5e-324'"),
        "1e308",
        ("NaN", "'nan'"),
        ("Infinity", "'inf'"),
    ),
    case("BOOLEAN", "boolean", "true", "false"),
    case(
        "VARCHAR",
        "text",
        *((label, _chr(value)) for label, value in HARD_TEXTS.items()),
        ("NUL", "'a' || chr(0) || 'b'"),
        ("1 MB", "repeat('é😀x', 150000)"),
    ),
    case(
        "BLOB",
        "binary",
        ("all 256 bytes", f"unhex('{bytes(range(256)).hex()}')"),
        ("empty", "''"),
        ("1 MB", "unhex(repeat('00ff0a5c', 262144))"),
    ),
    case(
        "DATE",
        "date",
        "'0001-01-01'",
        ("0044 BC", "'0044-03-15 (BC)'"),
        ("5877642 BC", "'5877642-06-25 (BC)'"),
        "'9999-12-31'",
        ("5881580-07-10", "'5881580-07-10'"),
        "'infinity'",
        "'-infinity'",
    ),
    case("TIME", "time", "'24:00:00'", "'23:59:59.999999'"),
    case(
        "TIMESTAMP",
        "timestamp",
        "'2024-02-29 12:00:00.123456'",
        ("0044 BC", "'0044-03-15 (BC) 12:00:00'"),
        ("290309 BC", "'290309-12-22 (BC) 00:00:00'"),
        ("294247", "'294247-01-10 04:00:54.775806'"),
        "'infinity'",
    ),
    case("TIMESTAMP_S", "timestamp", "'2024-02-29 12:00:01'"),
    case("TIMESTAMP_MS", "timestamp", "'2024-02-29 12:00:00.123'"),
    case("TIMESTAMP_NS", "text", "'2024-02-29 12:00:00.123456789'"),
    case(
        "TIMESTAMPTZ",
        "timestamptz",
        "'2024-02-29 12:00:00.5+05:30'",
        ("0044 BC", "'0044-03-15 (BC) 12:00:00+00'"),
        "'-infinity'",
    ),
    case("TIMETZ", "text", "'12:00:00.000001+05:30'"),
    case("INTERVAL", "text", ("months, days, microseconds", "INTERVAL '14 months 3 days -04:05:06.789'")),
    case("UUID", "uuid", "'123E4567-e89b-12d3-a456-426614174000'"),
    case(
        "JSON",
        "text",
        ("JSON null", "'null'"),
        ("duplicate keys", '\'{"a": 1,  "a":2 }\''),
        ("big numbers", "'[123456789012345678901234567890.10]'"),
    ),
    case("BIT", "text", "'101'"),
    case("ENUM('a', 'it''s', '')", "text", "'it''s'", ("empty", "''"), name="ENUM"),
    case("INTEGER[]", "text", ("NULL element", "[1, NULL, 3]"), ("empty", "[]")),
    case("VARCHAR[]", "text", ("quotes, commas", "['a,b', '\"q\"', '', NULL, 'it''s']")),
    case("STRUCT(a INTEGER, b VARCHAR)", "text", "{'a': 1, 'b': 'x, y'}", name="STRUCT"),
    case("MAP(VARCHAR, INTEGER)", "text", "MAP {'k, 1': 1}", name="MAP"),
)


def _utf8(value: str) -> str:
    return f"CAST(x'{value.encode().hex()}' AS TEXT)"


SQLITE_CASES: tuple[Case, ...] = (
    case("INTEGER", "number", "-9223372036854775808", "9223372036854775807", ("a text", "'abc'"), ("1.5", "1.5")),
    case("REAL", "float", "5e-324", "1e308", ("Infinity", "9e999"), "0.1", ("a text", "'abc'")),
    case(
        "TEXT",
        "text",
        *((label, _utf8(value)) for label, value in HARD_TEXTS.items()),
        ("NUL", "'a' || char(0) || 'b'"),
        ("1 MB", f"CAST(x'{('é😀x' * 150000).encode().hex()}' AS TEXT)"),
    ),
    case("TEXT", "text", ("a blob", "x'00ff'"), name="TEXT that holds a blob"),
    case(
        "BLOB",
        "binary",
        ("all 256 bytes", f"x'{bytes(range(256)).hex()}'"),
        ("empty", "x''"),
        ("1 MB", f"x'{'00ff0a5c' * 262144}'"),
        ("a text", "'abc'"),
    ),
    case("BLOB", "binary", ("a number", "7"), name="BLOB that holds a number"),
    case("DECIMAL(10,2)", "number", "0.1", "12345678.25", ("three decimals", "0.125")),
    case("DECIMAL TEXT(40,20)", "number", ("all digits", "'12345678901234567890.12345678901234567890'")),
    case("NUMERIC", "number", "18446744073709551615", "1e-20", "7"),
    case("BOOLEAN", "boolean", "0", "1", "2", "-1", "'true'"),
    case("DATE", "date", "'2024-02-29'", ("not a date", "'2024-02-30'"), ("a number", "20240229")),
    case(
        "TIMESTAMP",
        "timestamp",
        "'2024-02-29 12:00:00.5'",
        ("ISO 8601", "'2024-02-29T12:00:00'"),
        ("not a time", "'now'"),
    ),
    case("TIMESTAMPTZ", "timestamptz", "'2024-02-29 12:00:00+00'", ("an offset", "'2024-02-29 12:00:00+05:30'")),
    case("TIME", "time", "'23:59:59.999999'", "'24:00:00'"),
    case("JSON TEXT", "text", ("JSON null", "'null'"), ("not JSON", "'{a'")),
    case("UUID", "uuid", "'123E4567-e89b-12d3-a456-426614174000'", ("not a UUID", "'abc'")),
    case("", "text", ("a text", "'abc'"), ("a number", "7"), name="(no type)"),
    case("", "text", ("a blob", "x'00ff'"), name="(no type) that holds a blob"),
)
