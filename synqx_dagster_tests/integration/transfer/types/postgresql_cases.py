"""PostgreSQL's types with their hardest values."""

from __future__ import annotations

from synqx_dagster_tests.integration.transfer.types.cases import HARD_TEXTS, Case, case

#: Types that every PostgreSQL database of the matrix has.
SETUP = """
create type mood as enum ('sad', 'it''s ok', 'happy');
alter type mood add value 'élan, "vital"' before 'sad';
create domain positive as integer check (value > 0);
create domain code as varchar(8) check (value <> '');
create type pair as (a integer, b text, c numeric(6,2)[]);
create type moment_range as range (subtype = timestamptz);
"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


_TEXTS = tuple((label, _text(value)) for label, value in HARD_TEXTS.items())
_ALL_BYTES = ("all 256 bytes", "decode(string_agg(lpad(to_hex(i), 2, '0'), '' order by i), 'hex')")
_INSTANTS = (
    ("microseconds", "'2024-02-29 12:00:00.123456+00'"),
    ("0044 BC", "'0044-03-15 12:00:00+00 BC'"),
    ("4713 BC", "'4713-01-01 00:00:00+00 BC'"),
    ("year 1", "'0001-01-01 00:00:00+00'"),
    ("1969, half a second", "'1969-12-31 23:59:59.5+00'"),
    ("2038 and after", "'2038-01-19 03:14:08+00'"),
    ("9999", "'9999-12-31 23:59:59.999999+00'"),
    ("294276 AD", "'294276-12-31 23:59:59.999999+00'"),
    ("infinity", "'infinity'"),
    ("-infinity", "'-infinity'"),
)

#: A cast to text would drop the blanks of char(n); its output function keeps them.
_PADDED = "bpcharout({})::text"

CASES: tuple[Case, ...] = (
    case("smallint", "number", "-32768", "32767", "0"),
    case("integer", "number", "-2147483648", "2147483647", "0"),
    case("bigint", "number", "-9223372036854775808", "9223372036854775807", "0"),
    case(
        "numeric",
        "number",
        ("NaN", "'NaN'"),
        ("Infinity", "'Infinity'"),
        ("-Infinity", "'-Infinity'"),
        ("100 digits", "repeat('9', 100)"),
        ("10,000 digits", "'-' || repeat('9', 10000)"),
        ("20 decimals", "'0.00000000000000000001'"),
        ("0.10", "'0.10'"),
        ("18446744073709551615", "18446744073709551615"),
    ),
    case("numeric(7,3)", "number", "1.5", "-9999.999", "0", ("NaN", "'NaN'")),
    case("numeric(38,20)", "number", ("all digits", "123456789012345678.12345678901234567890"), ("NaN", "'NaN'")),
    case("numeric(60,25)", "number", ("60 digits", "repeat('9', 35) || '.' || repeat('9', 25)")),
    case("numeric(100,50)", "number", ("100 digits", "repeat('9', 50) || '.' || repeat('9', 50)")),
    case("numeric(3,-2)", "number", "12300", "-99900"),
    case("numeric(2,5)", "number", "0.00012", "-0.00099"),
    case(
        "real",
        "real",
        ("-0.0", "'-0'"),
        ("smallest denormal", "1.4e-45"),
        ("largest", "3.4028235e38"),
        ("NaN", "'NaN'"),
        ("Infinity", "'Infinity'"),
        ("-Infinity", "'-Infinity'"),
        "0.1",
        "16777217",
    ),
    case(
        "double precision",
        "float",
        ("-0.0", "'-0'"),
        ("smallest denormal", "5e-324"),
        "1e308",
        ("largest", "1.7976931348623157e308"),
        ("NaN", "'NaN'"),
        ("Infinity", "'Infinity'"),
        ("-Infinity", "'-Infinity'"),
        "0.1",
        "9007199254740993",
    ),
    case("boolean", "boolean", "true", "false"),
    case("char(5)", "text", ("trailing blanks", "'ab   '"), ("empty", "''"), ("é", "'é'"), text=_PADDED),
    case("varchar(20)", "text", ("trailing blanks", "'ab   '"), ("20 emoji", "repeat('😀', 20)"), ("empty", "''")),
    case("text", "text", *_TEXTS, ("1 MB", "repeat('é😀x', 150000)")),
    case('"char"', "text", "'a'"),
    case("name", "text", ("63 bytes", "repeat('n', 63)"), "'a name'"),
    case(
        "bytea",
        "binary",
        (_ALL_BYTES[0], f"(select {_ALL_BYTES[1]} from generate_series(0, 255) as i)"),
        ("empty", "''"),
        ("1 MB", "decode(repeat('00ff0a5c', 262144), 'hex')"),
        ("\\N", "'\\x5c4e'"),
    ),
    case(
        "date",
        "date",
        ("0001-01-01", "'0001-01-01'"),
        ("4713 BC", "'4713-01-01 BC'"),
        ("9999-12-31", "'9999-12-31'"),
        ("5874897-12-31", "'5874897-12-31'"),
        ("infinity", "'infinity'"),
        ("-infinity", "'-infinity'"),
        ("2024-02-29", "'2024-02-29'"),
    ),
    case(
        "timestamp",
        "timestamp",
        *((label, value.replace("+00", "")) for label, value in _INSTANTS),
        ("a time that a clock skips", "'2024-03-10 02:30:00'"),
    ),
    case("timestamp(3)", "timestamp", ("milliseconds", "'2024-02-29 12:00:00.123'")),
    case(
        "timestamptz",
        "timestamptz",
        *_INSTANTS,
        ("2024", "'2024-02-29 12:00:00.5+05:30'"),
        ("DST gap", "'2024-03-10 02:30:00 America/New_York'"),
        ("DST overlap, first", "'2024-11-03 01:30:00 EDT'"),
        ("DST overlap, second", "'2024-11-03 01:30:00 EST'"),
    ),
    case(
        "time",
        "time",
        ("24:00:00", "'24:00:00'"),
        ("microseconds", "'23:59:59.999999'"),
        ("00:00:00", "'00:00:00'"),
    ),
    case(
        "timetz",
        "text",
        ("24:00:00-15:59", "'24:00:00-15:59'"),
        ("microseconds", "'12:00:00.000001+05:30'"),
        ("offset with seconds", "'12:00:00+05:30:17'"),
    ),
    case(
        "interval",
        "text",
        ("months, days and microseconds", "'1 year -2 months 3 days -04:05:06.789001'"),
        ("negative parts", "'-1 mons +1 day -00:00:00.000001'"),
        ("24 hours, not a day", "'24:00:00'"),
        ("30 days, not a month", "'30 days'"),
        ("zero", "'0'"),
        ("largest", "'178000000 years'"),
    ),
    case("interval day to second(2)", "text", ("1 12:00:00.25", "'1 12:00:00.25'")),
    case("uuid", "uuid", "'123E4567-e89b-12d3-a456-426614174000'", "'00000000-0000-0000-0000-000000000000'"),
    case("inet", "text", "'::1'", "'10.0.0.1/8'", "'2001:db8::ff00:42:8329/64'", "'::ffff:1.2.3.4'"),
    case("cidr", "text", "'10.0.0.0/8'", "'2001:db8::/32'"),
    case("macaddr", "text", "'08:00:2b:01:02:03'"),
    case("macaddr8", "text", "'08:00:2b:01:02:03:04:05'"),
    case(
        "json",
        "text",
        ("JSON null", "'null'"),
        ("duplicate keys, blanks", '\'{"a": 1,  "a":2 }\''),
        ("big numbers", "'[123456789012345678901234567890.10, 1e400, -0]'"),
        ("unicode escapes", "'\"\\u00e9\\ud83d\\ude00\\u0000\"'"),
        ("a lone surrogate", "'\"\\ud800\"'"),
    ),
    case(
        "jsonb",
        "text",
        ("JSON null", "'null'"),
        ("big numbers", "'[123456789012345678901234567890.10, 1e400]'"),
        ("unicode escapes", "'\"\\u00e9\\ud83d\\ude00\"'"),
        ("keys", '\'{"b": 1, "a": [1.10], "": null}\''),
    ),
    case(
        "integer[]",
        "text",
        ("empty", "'{}'"),
        ("NULL element", "'{1,NULL,3}'"),
        ("two dimensions", "'{{1,2},{3,4}}'"),
        ("lower bound 5", "'[5:6]={1,2}'"),
        ("two lower bounds", "'[-1:0][2:3]={{1,2},{3,4}}'"),
    ),
    case("text[]", "text", ("quotes, commas, NULL", "array['a,b', '\"q\"', '', null, 'null', '{}', E'back\\\\slash']")),
    case("numeric(6,2)[]", "text", ("NaN, 1.50", "'{NaN,1.50,NULL}'")),
    case("timestamptz[]", "text", ("infinity, BC", "'{infinity,0044-03-15 12:00:00+00 BC}'")),
    case("bytea[]", "text", ("NUL, empty", "array['\\x00ff'::bytea, '']")),
    case("mood", "text", "'it''s ok'", ("a member added later", "'élan, \"vital\"'"), name="enum"),
    case("positive", "number", "7", name="domain over integer"),
    case("code", "text", ("trailing blanks", "'ab  '"), name="domain over varchar(8)"),
    case(
        "pair",
        "text",
        ("quotes, commas", "row(1, 'a,\"b\\', '{1.50,NULL}')::pair"),
        ("NULL and empty", "row(null, '', null)::pair"),
        name="composite",
    ),
    case("int4range", "text", "'[1,5)'", "'empty'", "'(,)'"),
    case("numrange", "text", "'(1.50,2.00]'", "'[,Infinity]'"),
    case("tstzrange", "text", ("infinity, BC", "'[\"0044-03-15 12:00:00+00 BC\",infinity)'")),
    case("moment_range", "text", ("one moment", "'[2024-01-01 00:00:00+00,2024-01-01 00:00:00+00]'"), name="own range"),
    case("datemultirange", "text", "'{[2024-01-01,2024-02-01),[2025-01-01,)}'", "'{}'"),
    case("bit(3)", "text", "B'101'"),
    case("varbit", "text", ("empty", "B''"), "B'1'", ("70 bits", "repeat('10', 35)")),
    case("money", "text", "'-1234.56'", ("largest", "'92233720368547758.07'")),
    case("tsvector", "text", ("positions, weights, quotes", "'a:1A fat:2 ''c d'' ''it''''s''' ")),
    case("tsquery", "text", "'fat & !cat:*AB'"),
    case("point", "text", ("-0", "'(1.5,-0)'"), ("NaN, Infinity", "'(NaN,Infinity)'"), "'(0.1,1e-300)'"),
    case("path", "text", "'[(0,0),(1,1.5)]'"),
    case("polygon", "text", "'((0,0),(1,1),(1,0))'"),
    case("circle", "text", "'<(0,0),2.5>'"),
    case("oid", "text", "4294967295"),
    case("pg_lsn", "text", "'FFFFFFFF/FFFFFFFF'"),
    case("xid8", "text", "'18446744073709551615'"),
    case("jsonpath", "text", "'$.a[*] ? (@ > 1)'"),
    case("regclass", "text", "'pg_class'"),
)

#: Types of extensions and of builds: tried where the server has them. What makes the type, and the case.
OPTIONAL: tuple[tuple[str, Case], ...] = (
    ("select '<a/>'::xml", case("xml", "text", ("markup", "'<a b=\"1\">&amp;é<!-- c --></a>'"))),
    (
        "create extension hstore",
        case("hstore", "text", ("quotes, NULL", '\'"a,b"=>"it\'\'s \\"q\\"", "n"=>NULL, e=>""\''), name="hstore"),
    ),
    ("create extension vector", case("vector(3)", "text", "'[1,2.5,-3e-10]'", name="vector(3)")),
)
