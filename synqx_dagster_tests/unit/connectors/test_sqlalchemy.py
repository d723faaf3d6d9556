"""The SQLAlchemy connector without a server: options, values, errors, and the SQL for dialects that run nowhere here.

What is checked of Oracle, SQL Server, Snowflake and Redshift is the text that would be sent, nothing more.
"""

from __future__ import annotations

import decimal
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql

from synqx_dagster.connectors.protocol import ConnectionConfig, carrier_type, untrusted_text
from synqx_dagster.connectors.registry import capabilities_of, connector_class, dialect_of
from synqx_dagster.connectors.sqlalchemy import SqlalchemyConnector
from synqx_dagster.connectors.sqlalchemy_dialects import Facts, facts_of, spell_key_type, spell_type
from synqx_dagster.connectors.sqlalchemy_names import Names
from synqx_dagster.connectors.sqlalchemy_read import encode
from synqx_dagster.connectors.sqlalchemy_types import (
    UNKNOWN_TYPE,
    base_name,
    column_of_result,
    logical_type,
    spelling_of,
)
from synqx_dagster.errors import (
    DriverMissingError,
    HostRefusedError,
    PlanError,
)
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

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
