"""The SQLAlchemy connector without a server: options, values, errors, and the SQL for dialects that run nowhere here.

What is checked of Oracle, SQL Server, Snowflake and Redshift is the text that would be sent, nothing more.
"""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
import uuid
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql

from synqx_dagster.connectors.protocol import ConnectionConfig, carrier_type, untrusted_text
from synqx_dagster.connectors.registry import capabilities_of, connector_class, dialect_of, make_connector
from synqx_dagster.connectors.sqlalchemy import SqlalchemyConnector
from synqx_dagster.connectors.sqlalchemy_dialects import Facts, facts_of, spell_key_type, spell_type
from synqx_dagster.connectors.sqlalchemy_errors import wrap_connect_error, wrap_error
from synqx_dagster.connectors.sqlalchemy_names import Names
from synqx_dagster.connectors.sqlalchemy_read import encode
from synqx_dagster.connectors.sqlalchemy_types import (
    UNKNOWN_TYPE,
    base_name,
    column_of_result,
    logical_type,
    spelling_of,
)
from synqx_dagster.connectors.sqlalchemy_values import mark_parameters, to_array, to_parameters
from synqx_dagster.errors import (
    BadRowsError,
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    DriverMissingError,
    HostRefusedError,
    PlanError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
)
from synqx_dagster.model import Connection
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import TYPE_KINDS, DataType

ORACLE, TSQL, SNOWFLAKE, REDSHIFT = map(facts_of, ("oracle+oracledb", "mssql+pyodbc", "snowflake", "redshift"))
POSTGRES, MYSQL, UNKNOWN = map(facts_of, ("postgresql+pg8000", "mysql+pymysql", "firebird+firebird"))


def config(drivername: str = "oracle+oracledb", **more: Any) -> ConnectionConfig:
    options = {"drivername": drivername, **more.pop("options", {})}
    return ConnectionConfig("erp", "sqlalchemy", options=options, **more)


# --- the configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drivername", "dialect", "writes", "snapshot"),
    [
        ("oracle+oracledb", "oracle", True, True),
        ("mssql+pyodbc", "tsql", True, True),
        ("snowflake", "snowflake", True, False),
        ("redshift+psycopg2", "redshift", True, True),
        ("postgresql+pg8000", "postgres", True, True),
        ("mariadb+mysqldb", "mysql", True, True),
        ("trino", "trino", False, False),
        ("cockroachdb+psycopg2", "postgres", False, False),
        ("firebird+firebird", "", False, False),
    ],
)
def test_a_connection_has_the_dialect_and_capabilities_of_its_driver(
    drivername: str, dialect: str, writes: bool, snapshot: bool
) -> None:
    options = {"drivername": drivername}
    assert dialect_of("sqlalchemy", options) == dialect
    capabilities = capabilities_of("sqlalchemy", options)
    assert (capabilities.writes, capabilities.snapshot_reads) == (writes, snapshot)
    assert capabilities.merges is (writes and dialect in ("postgres", "mysql"))


def test_a_weaker_isolation_has_no_snapshot() -> None:
    for level, snapshot in (("READ COMMITTED", False), ("REPEATABLE READ", False), ("SERIALIZABLE", True)):
        options = {"drivername": "mssql+pyodbc", "isolation_level": level}
        assert capabilities_of("sqlalchemy", options).snapshot_reads is snapshot
    options = {"drivername": "postgresql+psycopg2", "isolation_level": "READ COMMITTED"}
    assert not capabilities_of("sqlalchemy", options).snapshot_reads


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "options.drivername: give"),
        ({"drivername": "oracle+oracledb://evil"}, "options.drivername: give"),
        ({"drivername": "sqlite"}, "write db_type: sqlite"),
        ({"drivername": "postgresql+asyncpg"}, "asyncio"),
        ({"drivername": "mysql+pymysql", "read_default_file": "/etc/passwd"}, "options.read_default_file"),
        ({"drivername": "mysql+pymysql", "local_infile": 1}, "options.local_infile"),
        ({"drivername": "mssql+pyodbc", "odbc_connect": "x"}, "options.odbc_connect"),
        ({"drivername": "postgresql+psycopg2", "options": "-c x"}, "options.options"),
        ({"drivername": "postgresql+psycopg2", "isolation_level": "AUTOCOMMIT"}, "options.isolation_level"),
        ({"drivername": "oracle+oracledb", "connect_timeout_seconds": 0}, "options.connect_timeout_seconds"),
        ({"drivername": "oracle+oracledb", "service_name": 5}, "options.service_name: write a text"),
    ],
)
def test_an_option_that_is_not_known_is_refused(options: dict[str, Any], problem: str) -> None:
    found = SqlalchemyConnector.check_config(ConnectionConfig("erp", "sqlalchemy", options=options))
    assert any(problem in item for item in found), found


def test_known_options_pass() -> None:
    options = {"service_name": "ORCL", "connect_timeout_seconds": 3, "isolation_level": "SERIALIZABLE"}
    assert SqlalchemyConnector.check_config(config(options=options)) == []


@pytest.mark.parametrize("drivername", ["nosuchdialect", "oracle+nosuchdriver", "snowflake"])
def test_a_dialect_that_is_not_installed_says_what_to_do(drivername: str) -> None:
    connector = SqlalchemyConnector(config(drivername, host="db.example.org"))
    with pytest.raises(DriverMissingError, match=r"not installed .pip install"), connector.read():
        pass
    report = connector.test()
    assert (report.ok, report.reason) == (False, "unknown")


def test_a_dialect_of_which_nothing_is_known_is_not_written_to() -> None:
    with (
        pytest.raises(PlanError, match="can be read from, not written to"),
        SqlalchemyConnector(config("firebird+firebird")).write(),
    ):
        pass


def test_the_connectors_own_modules_cost_no_driver() -> None:
    script = (
        "import sys; from synqx_dagster.connectors.registry import connector_class, dialect_of;"
        "connector_class('sqlalchemy'); dialect_of('sqlalchemy', {'drivername': 'oracle+oracledb'});"
        "print(sorted({'sqlalchemy', 'pyarrow', 'psycopg2'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_the_host_policy_is_asked_before_the_driver() -> None:
    connector = connector_class("sqlalchemy")(  # type: ignore[call-arg]  # a protocol has no init
        config("postgresql+psycopg2", host="169.254.169.254", database="x")
    )
    with pytest.raises(HostRefusedError), connector.read():
        pass
    assert not connector.test().ok


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "name", "quoted"),
    [
        (oracle.dialect(), "customer", "customer"),
        (oracle.dialect(), "Customer", '"Customer"'),
        (oracle.dialect(), "mode", '"mode"'),
        (oracle.dialect(), "_synqx_ledger", '"_synqx_ledger"'),
        (mssql.dialect(), "per%cent ]", "[per%cent ]]]"),
        (mysql.dialect(paramstyle="format"), "per%cent`", "`per%cent```"),
        (postgresql.dialect(paramstyle="pyformat"), "a%%b", '"a%%b"'),
    ],
)
def test_names_are_quoted_as_the_dialect_folds_them(dialect: sa.Dialect, name: str, quoted: str) -> None:
    assert Names(dialect).quote(name) == quoted
    assert Names(dialect).qualify(TableName("t", name)) == f"{quoted}.t"


# --- types ----------------------------------------------------------------------------------------------------------


def spelt(facts: Facts, kind: str, **more: Any) -> str:
    return spell_type(facts, Column("c", DataType.parse(kind), **more))


@pytest.mark.parametrize(
    ("facts", "spellings"),
    [
        (
            ORACLE,
            {
                "string": "clob",
                "decimal(12,2)": "number(12, 2)",
                "timestamp": "timestamp(6)",
                "timestamptz": "timestamp(6) with time zone",
                "float": "binary_double",
                "boolean": "number(1, 0)",
            },
        ),
        (
            TSQL,
            {
                "string": "nvarchar(max)",
                "decimal(12,2)": "decimal(12, 2)",
                "timestamp": "datetime2(6)",
                "timestamptz": "datetimeoffset(6)",
                "uuid": "uniqueidentifier",
            },
        ),
        (SNOWFLAKE, {"timestamp": "timestamp_ntz", "bigint": "decimal(38, 0)", "json": "varchar(16777216)"}),
        (REDSHIFT, {"string": "varchar(65535)", "float": "double precision"}),
        (POSTGRES, {"string": "text", "json": "json"}),
        (MYSQL, {"string": "longtext", "timestamp": "datetime(6)"}),
    ],
)
def test_new_columns_get_types_that_keep_every_digit(facts: Facts, spellings: dict[str, str]) -> None:
    assert {kind: spelt(facts, kind) for kind in spellings} == spellings


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (ORACLE, "time"),
        (ORACLE, "decimal"),
        (TSQL, "decimal(39,0)"),
        (REDSHIFT, "binary"),
        (UNKNOWN, "integer"),
    ],
)
def test_a_type_without_an_exact_counterpart_is_refused_when_planning(facts: Facts, kind: str) -> None:
    with pytest.raises(PlanError, match="'c'"):
        spelt(facts, kind)


def test_a_text_in_a_key_has_a_length() -> None:
    key = Column("c", DataType("string"), False)
    assert [spell_key_type(facts, key) for facts in (ORACLE, TSQL, MYSQL, POSTGRES)] == [
        "varchar(255 char)",
        "nvarchar(255)",
        "varchar(255)",
        "text",
    ]


REFLECTED: list[tuple[sa.Dialect, Facts, Any, str, str]] = [
    (oracle.dialect(), ORACLE, oracle.NUMBER(12, 2), "number(12, 2)", "decimal(12,2)"),
    (oracle.dialect(), ORACLE, oracle.NUMBER(), "number", "decimal"),
    (oracle.dialect(), ORACLE, oracle.NUMBER(3, -2), "number(3, -2)", "decimal(5,0)"),
    (oracle.dialect(), ORACLE, oracle.DATE(), "date", "timestamp"),
    (oracle.dialect(), ORACLE, oracle.TIMESTAMP(timezone=True), "timestamp with time zone", "timestamptz"),
    (oracle.dialect(), ORACLE, oracle.FLOAT(126), "float(126)", "decimal"),
    (oracle.dialect(), ORACLE, oracle.BINARY_DOUBLE(), "binary_double", "float"),
    (oracle.dialect(), ORACLE, oracle.VARCHAR(36), "varchar(36 char)", "string"),
    (oracle.dialect(), ORACLE, oracle.RAW(16), "raw(16)", "binary"),
    (oracle.dialect(), ORACLE, oracle.BFILE(), "bfile", "binary"),
    (mssql.dialect(), TSQL, mssql.NVARCHAR("max", collation="Latin1_General_CI_AS"), "nvarchar(max)", "string"),
    (mssql.dialect(), TSQL, mssql.MONEY(), "money", "decimal(19,4)"),
    (mssql.dialect(), TSQL, mssql.BIT(), "bit", "boolean"),
    (mssql.dialect(), TSQL, mssql.TINYINT(), "tinyint", "smallint"),
    (mssql.dialect(), TSQL, mssql.TIMESTAMP(), "timestamp", "binary"),
    (mssql.dialect(), TSQL, mssql.DATETIMEOFFSET(7), "datetimeoffset(7)", "timestamptz"),
    (mssql.dialect(), TSQL, mssql.DATETIME2(7), "datetime2(7)", "timestamp"),
    (mssql.dialect(), TSQL, mssql.UNIQUEIDENTIFIER(), "uniqueidentifier", "uuid"),
    (mysql.dialect(), MYSQL, mysql.BIGINT(20, unsigned=True), "bigint(20) unsigned", "decimal(20,0)"),
    (
        mysql.dialect(),
        MYSQL,
        mysql.INTEGER(10, unsigned=True, zerofill=True),
        "integer(10) unsigned zerofill",
        "bigint",
    ),
    (mysql.dialect(), MYSQL, mysql.TINYINT(1), "tinyint(1)", "smallint"),
    (mysql.dialect(), MYSQL, mysql.FLOAT(), "float", "real"),
    (mysql.dialect(), MYSQL, mysql.TIMESTAMP(fsp=6), "timestamp(6)", "timestamptz"),
    (mysql.dialect(), MYSQL, mysql.ENUM("Big", "it's"), "enum('Big','it''s')", "string"),
    (postgresql.dialect(), POSTGRES, postgresql.ARRAY(sa.Integer()), "integer[]", "string"),
    (postgresql.dialect(), POSTGRES, postgresql.JSONB(), "jsonb", "json"),
    (postgresql.dialect(), POSTGRES, postgresql.TIMESTAMP(timezone=True), "timestamp with time zone", "timestamptz"),
    (postgresql.dialect(), POSTGRES, postgresql.TIME(timezone=True), "time with time zone", "string"),
    (postgresql.dialect(), POSTGRES, postgresql.REAL(), "real", "real"),
    (postgresql.dialect(), POSTGRES, sa.types.NullType(), UNKNOWN_TYPE, "string"),
]


@pytest.mark.parametrize(("dialect", "facts", "found", "native", "kind"), REFLECTED, ids=lambda value: str(value)[:40])
def test_a_reflected_type_is_spelt_and_understood(
    dialect: sa.Dialect, facts: Facts, found: Any, native: str, kind: str
) -> None:
    assert spelling_of(found, dialect) == native
    assert str(logical_type(found, native, facts)) == kind


def test_a_new_table_is_read_back_as_it_was_spelt() -> None:
    # A second load compares the spelling with what the Inspector says.
    reflected = {
        "string": oracle.CLOB(),
        "boolean": oracle.NUMBER(1, 0),
        "uuid": oracle.VARCHAR(36),
        "json": oracle.CLOB(),
        "binary": oracle.BLOB(),
        "real": oracle.BINARY_FLOAT(),
    }
    assert {kind: spelt(ORACLE, kind) for kind in reflected} == {
        kind: spelling_of(found, oracle.dialect()) for kind, found in reflected.items()
    }
    reflected = {
        "string": mssql.NVARCHAR("max"),
        "boolean": mssql.BIT(),
        "uuid": mssql.UNIQUEIDENTIFIER(),
        "json": mssql.NVARCHAR("max"),
        "timestamptz": mssql.DATETIMEOFFSET(6),
        "integer": mssql.INTEGER(),
    }
    assert {kind: spelt(TSQL, kind) for kind in reflected} == {
        kind: spelling_of(found, mssql.dialect()) for kind, found in reflected.items()
    }


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "kind", "native", "sql"),
    [
        (ORACLE, "decimal(12,2)", "number(12, 2)", "TO_CHAR(x, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''')"),
        (
            ORACLE,
            "timestamp",
            "date",
            "TO_CHAR(CAST(x AS TIMESTAMP), 'YYYY-MM-DD HH24:MI:SS.FF9 AD', 'NLS_DATE_LANGUAGE=AMERICAN')",
        ),
        (ORACLE, "string", "varchar(20 char)", "x"),
        (ORACLE, "float", "binary_double", "x"),
        (TSQL, "timestamp", "datetime2(7)", "CONVERT(varchar(27), x, 121)"),
        (TSQL, "timestamptz", "datetimeoffset(7)", "CONVERT(varchar(34), SWITCHOFFSET(x, 0), 121)"),
        (TSQL, "decimal(19,4)", "money", "CONVERT(varchar(50), x, 2)"),
        (TSQL, "boolean", "bit", "x"),
        (SNOWFLAKE, "timestamp", "timestamp_ntz(9)", "TO_VARCHAR(x, 'YYYY-MM-DD HH24:MI:SS.FF9')"),
        (
            SNOWFLAKE,
            "timestamptz",
            "timestamp_tz",
            "TO_VARCHAR(CONVERT_TIMEZONE('UTC', x), 'YYYY-MM-DD HH24:MI:SS.FF9') || '+00'",
        ),
        (SNOWFLAKE, "json", "variant", "TO_JSON(x)"),
        (MYSQL, "string", "bit(5)", "LPAD(BIN(x + 0), 5, '0')"),
        (MYSQL, "boolean", "", "CASE x WHEN 0 THEN 'false' WHEN 1 THEN 'true' ELSE CAST(x AS CHAR) END"),
        (POSTGRES, "string", "integer[]", "CAST(x AS text)"),
        (POSTGRES, "string", "varchar(20)", "x"),
        (UNKNOWN, "decimal", "numeric(9, 2)", "x"),
    ],
)
def test_the_server_prints_what_a_driver_would_change(facts: Facts, kind: str, native: str, sql: str) -> None:
    assert encode(facts, "x", DataType.parse(kind), native).sql == sql


def test_what_is_not_certain_is_cast_before_it_counts() -> None:
    for facts in (ORACLE, TSQL, SNOWFLAKE, REDSHIFT, MYSQL, UNKNOWN):
        for kind in ("date", "timestamp", "timestamptz", "decimal"):
            if kind in facts.texts or facts is UNKNOWN:
                assert encode(facts, "x", DataType(kind), "").arrow_type == untrusted_text()  # type: ignore[arg-type]
    assert encode(POSTGRES, "x", DataType("date"), "date").arrow_type == carrier_type(DataType("date"))


@pytest.mark.parametrize(
    ("facts", "native"),
    [
        (ORACLE, "interval day to second"),
        (ORACLE, "long"),
        (TSQL, "sql_variant"),
        (TSQL, UNKNOWN_TYPE),
        (MYSQL, UNKNOWN_TYPE),
        (SNOWFLAKE, "geography"),
    ],
)
def test_a_type_of_which_nothing_exact_is_known_is_refused_by_name(facts: Facts, native: str) -> None:
    with pytest.raises(PlanError, match=f"source.x is {native}"):
        encode(facts, "source.x", DataType("string"), native)


def test_a_fraction_that_an_unknown_driver_would_cut_is_refused() -> None:
    assert encode(UNKNOWN, "x", DataType("timestamp"), "timestamp(6)").sql == "x"
    with pytest.raises(PlanError, match=r"timestamp\(9\)"):
        encode(UNKNOWN, "x", DataType("timestamp"), "timestamp(9)")


class _DbType:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("facts", "code", "kind"),
    [
        (POSTGRES, 1184, "timestamptz"),
        (POSTGRES, 99999, "string"),
        (MYSQL, 12, "timestamp"),
        (SNOWFLAKE, 8, "timestamp"),
        (ORACLE, _DbType("DB_TYPE_NUMBER"), "decimal"),
        (ORACLE, _DbType("DB_TYPE_CLOB"), "string"),
        (TSQL, decimal.Decimal, "decimal"),
        (UNKNOWN, 1184, "string"),
        (UNKNOWN, None, "string"),
    ],
)
def test_a_querys_columns_are_known_by_the_drivers_codes(facts: Facts, code: object, kind: str) -> None:
    assert column_of_result(("name", code, None, None, None, None, None), facts) == Column(
        "name",
        DataType(kind),  # type: ignore[arg-type]
    )


def test_a_spelling_without_its_arguments() -> None:
    assert base_name("timestamp(6) with time zone") == "timestamp with time zone"
    assert base_name("enum('a)', 'b')") != ""


# --- values ---------------------------------------------------------------------------------------------------------


def text_of(value: object, *, untrusted: bool = False) -> object:
    field = pa.field("c", untrusted_text() if untrusted else pa.string())
    return to_array([value], field).to_pylist()[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (decimal.Decimal("1E+3"), "1000"),
        (decimal.Decimal("-0.00"), "-0.00"),
        (decimal.Decimal("sNaN"), "NaN"),
        (decimal.Decimal("-Infinity"), "-Infinity"),
        (2**70, str(2**70)),
        (0.1, "0.1"),
        (True, "true"),
        (datetime.date(1, 1, 1), "0001-01-01"),
        (datetime.datetime(2024, 2, 29, 12, 0, 0, 500_000), "2024-02-29 12:00:00.500000"),
        (
            datetime.datetime(2024, 2, 29, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
            "2024-02-28 23:00:00+00",
        ),
        (uuid.UUID(int=10), "00000000-0000-0000-0000-00000000000a"),
        (None, None),
    ],
)
def test_a_drivers_value_becomes_exact_text(value: object, text: str | None) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        datetime.timedelta(1),
        datetime.time(1, tzinfo=datetime.UTC),
        {"a": 1},
        [1],
        object(),
        datetime.datetime.max.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-1))),
    ],
)
def test_a_value_without_exact_text_is_refused_by_its_column(value: object) -> None:
    with pytest.raises(BadRowsError, match="'c'") as caught:
        text_of(value)
    assert caught.value.context == {"column": "c"}


@pytest.mark.parametrize(
    ("printed", "tidy"),
    [
        ("2024-02-29 12:00:00.0000000", "2024-02-29 12:00:00"),
        ("2024-02-29 12:00:00.1234560 +00:00", "2024-02-29 12:00:00.123456+00"),
        ("0044-03-15 00:00:00.000000000 BC", "0044-03-15 00:00:00 BC"),
        ("2024-02-29 12:00:00.5+00 AD", "2024-02-29 12:00:00.5+00"),
        ("2024-02-29 12:00:00.123456789", "2024-02-29 12:00:00.123456789"),
        ("12:00:00.500000", "12:00:00.5"),
        (".5", "0.5"),
        ("-.05", "-0.05"),
        ("0000-00-00", "0000-00-00"),
        ("-838:59:59", "-838:59:59"),
        ("100", "100"),
    ],
)
def test_what_a_server_prints_becomes_canonical_without_losing_a_digit(printed: str, tidy: str) -> None:
    assert text_of(printed, untrusted=True) == tidy
    assert text_of(printed) == printed


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        (decimal.Decimal("1.5"), pa.int64()),
        (2**63, pa.int64()),
        (1.0, pa.int64()),
        (decimal.Decimal("0.1"), pa.float64()),
        (2**53 + 1, pa.float64()),
        (2, pa.bool_()),
        ("text", pa.binary()),
        ("text", pa.int32()),
    ],
)
def test_a_number_that_its_type_does_not_hold_is_refused(value: object, arrow_type: pa.DataType) -> None:
    with pytest.raises(BadRowsError, match="'c'") as caught:
        to_array([value], pa.field("c", arrow_type))
    assert "text" not in str(caught.value).replace("made text", "").replace("make it text", "").replace(
        "text where bytes", ""
    )


@settings(max_examples=50, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_keeps_every_digit(value: decimal.Decimal) -> None:
    text = text_of(value)
    assert isinstance(text, str)
    assert "E" not in text
    assert decimal.Decimal(text).compare_total(decimal.Decimal(format(value, "f"))) == 0


@settings(max_examples=50, deadline=None)
@given(st.datetimes())
def test_a_timestamp_survives_the_way_to_a_driver_and_back(value: datetime.datetime) -> None:
    column = Column("c", DataType("timestamp"))
    canonical = pa.array([text_of(value.isoformat(" "), untrusted=True)])
    assert to_parameters(canonical, column, TSQL) == [value]


def test_carriers_become_what_the_driver_takes() -> None:
    def one(kind: str, text: object, facts: Facts = ORACLE, native: str | None = None) -> object:
        column = Column("c", DataType.parse(kind), native_type=native)
        return to_parameters(pa.array([text]), column, facts)[0]

    assert one("decimal(9,2)", "1.50") == decimal.Decimal("1.50")
    assert one("timestamptz", "2024-02-29 12:00:00+00") == datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    assert one("date", "2024-02-29") == datetime.date(2024, 2, 29)
    assert one("time", "12:00:00.5", TSQL) == datetime.time(12, 0, 0, 500_000)
    assert one("uuid", str(uuid.UUID(int=1)), TSQL) == uuid.UUID(int=1)
    assert one("decimal(1,0)", True) == 1
    assert one("boolean", True, TSQL) is True
    assert one("timestamptz", "2024-02-29 12:00:00+00", MYSQL) == "2024-02-29 12:00:00"
    assert one("date", "infinity", POSTGRES) == "infinity"
    assert one("float", -0.0, POSTGRES) == "-0.0"
    assert one("timestamp", "2024-02-29 12:00:00", native="date") == datetime.datetime(2024, 2, 29, 12)
    with pytest.raises(BadRowsError, match="fraction"):
        one("timestamp", "2024-02-29 12:00:00.5", native="date")


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paramstyle", "marked"),
    [
        ("qmark", "SELECT '?%', \"?\", a FROM t -- ?\n WHERE a = ? AND b = ? /* ? */"),
        ("pyformat", "SELECT '?%%', \"?\", a FROM t -- ?\n WHERE a = %s AND b = %s /* ? */"),
        ("named", "SELECT '?%', \"?\", a FROM t -- ?\n WHERE a = :1 AND b = :2 /* ? */"),
        ("numeric_dollar", "SELECT '?%', \"?\", a FROM t -- ?\n WHERE a = $1 AND b = $2 /* ? */"),
    ],
)
def test_parameters_are_marked_in_the_drivers_style(paramstyle: str, marked: str) -> None:
    sql = "SELECT '?%', \"?\", a FROM t -- ?\n WHERE a = ? AND b = ? /* ? */"
    assert mark_parameters(sql, 2, paramstyle) == marked


def test_without_parameters_a_statement_stays_as_it_is() -> None:
    assert mark_parameters("SELECT '50%'", 0, "pyformat") == "SELECT '50%'"
    assert mark_parameters("SELECT [what?] = ?", 1, "qmark", brackets=True) == "SELECT [what?] = ?"
    with pytest.raises(DatabaseError, match="1 parameters and was given 2"):
        mark_parameters("SELECT ?", 2, "qmark")


# --- errors ---------------------------------------------------------------------------------------------------------


class _DriverError(Exception):
    pass


def wrapped(kind: type[sa.exc.DBAPIError], sqlglot: str, *arguments: object, **more: Any) -> SynqxError:
    original = _DriverError(*arguments)
    lost = more.pop("lost", False)
    exc = kind("INSERT ...", {"c0": "secret"}, original, hide_parameters=True, connection_invalidated=lost)
    return wrap_error(exc, "writing to db", sqlglot, **more)


@pytest.mark.parametrize(
    ("kind", "sqlglot", "arguments", "more", "expected"),
    [
        (sa.exc.OperationalError, "mysql", (1213, "Deadlock found"), {}, RetryableError),
        (sa.exc.OperationalError, "oracle", ("ORA-00060: deadlock detected",), {}, RetryableError),
        (sa.exc.DBAPIError, "tsql", ("40001", "[40001] deadlock victim (1205)"), {}, RetryableError),
        (sa.exc.OperationalError, "postgres", ("gone",), {"lost": True}, RetryableError),
        (sa.exc.OperationalError, "oracle", ("ORA-01013: user requested cancel",), {}, StatementTimeoutError),
        (sa.exc.OperationalError, "", ("whatever",), {"stopped": True}, StatementTimeoutError),
        (sa.exc.IntegrityError, "oracle", ("ORA-00001: unique constraint violated",), {}, BadRowsError),
        (sa.exc.DataError, "postgres", ('invalid input "secret"',), {}, BadRowsError),
        (sa.exc.ProgrammingError, "tsql", ("42S02", "Invalid object name 'secret'. (208)"), {}, DatabaseError),
    ],
)
def test_errors_are_sorted_by_what_to_do_and_show_no_value(
    kind: type[sa.exc.DBAPIError],
    sqlglot: str,
    arguments: tuple[object, ...],
    more: dict[str, Any],
    expected: type[SynqxError],
) -> None:
    error = wrapped(kind, sqlglot, *arguments, **more)
    assert type(error) is expected
    assert "secret" not in str(error)


def test_a_refused_row_names_the_column_when_the_driver_does() -> None:
    error = wrapped(sa.exc.DataError, "mysql", 1406, "Data too long for column 'name' at row 1", columns=["id", "name"])
    assert error.context["column"] == "name"


def test_a_database_without_snapshots_says_how_to_allow_them() -> None:
    error = wrapped(sa.exc.DBAPIError, "tsql", "42000", "Snapshot isolation ... (3952)")
    assert "ALLOW_SNAPSHOT_ISOLATION" in (error.hint or "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((1045, "Access denied for user 'etl'"), "authentication"),
        (("ORA-01017: invalid username/password",), "authentication"),
        (("28000", "Login failed for user 'sa'. (18456)"), "authentication"),
        (("ORA-12514: service is not known to listener",), "database_missing"),
        (("could not translate host name",), "name_resolution"),
        (("connection refused",), "refused"),
        (("Login timeout expired",), "timeout"),
        (("certificate verify failed",), "tls"),
        (("anything else with secret",), "unknown"),
    ],
)
def test_a_connection_that_fails_says_why(arguments: tuple[object, ...], reason: str) -> None:
    exc = sa.exc.OperationalError(None, None, _DriverError(*arguments))
    error = wrap_connect_error(exc, "db:1521")
    assert isinstance(error, ConnectionFailedError)
    assert error.reason == reason
    assert "secret" not in str(error)


def test_every_kind_is_held_by_a_rule_or_whole() -> None:
    for facts in (ORACLE, TSQL, SNOWFLAKE, REDSHIFT):
        assert facts.holds is not None
        for kind in TYPE_KINDS:
            predicate = facts.holds(DataType(kind))
            assert predicate is None or "{value}" in predicate
    assert UNKNOWN.holds is None


def test_a_record_without_a_drivername_is_refused() -> None:
    record = Connection(name="c", db_type="sqlalchemy")
    with pytest.raises(ConfigurationError, match=r"options\.drivername"):
        make_connector(record, lambda *_: None)
