"""What SynqX knows of the dialects that SQLAlchemy speaks: a row of facts for each, and no driver.

Guarantee: a dialect without facts of its own is read by what its driver returns, and never written to; nothing is
assumed of a server that nobody has looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from synqx_dagster.connectors import mysql_types, postgresql_types
from synqx_dagster.connectors.protocol import Capabilities
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

#: Makes an expression of a type text that the server itself prints; ``{}`` is the expression.
Texts = Mapping[TypeKind, str]

_FINITE = "(isfinite({value}) AND NOT ({value} = 0 AND signbit({value})))"
_FOUR_DIGIT_YEAR = "(substr({value}, 5, 1) = '-' AND NOT ends_with({value}, ' BC'))"
_NO_NUL = "instr({value}, chr(0)) = 0"

#: What a driver that takes Python's own values can store: its dates end at the years 1 and 9999, its times at a day.
_PYTHON_HOLDS: dict[TypeKind, str] = {
    "string": _NO_NUL,
    "json": _NO_NUL,
    "real": _FINITE,
    "float": _FINITE,
    "decimal": "{value} NOT IN ('NaN', 'Infinity', '-Infinity')",
    "date": _FOUR_DIGIT_YEAR,
    "time": "{value} <> '24:00:00'",
    "timestamp": _FOUR_DIGIT_YEAR,
    "timestamptz": _FOUR_DIGIT_YEAR,
}


@dataclass(frozen=True)
class Facts:
    """What is known of one dialect of SQLAlchemy.

    Attributes:
        sqlglot: The dialect's name there; empty where sqlglot has none.
        capabilities: `Capabilities` of the connector.
        texts: How the server prints the kinds that its driver would round, cut or reinterpret. What is printed
            is cast before it counts, unless `canonical` says that it is canonical text already.
        text_types: Types, without arguments, whose values arrive as text unchanged. None: all do, by a cast.
        other_texts: How the server prints types that have no logical kind, by their name without arguments.
        spellings: How a new column of each kind is spelt; a kind that is left out has no exact type here.
        decimal_digits: How many digits a decimal may have; 0 means that there is none.
        key_text: How a text in a primary key is spelt.
        lossy_targets: Types, without arguments, that change in silence what is written to them: they round, pad,
            or have another character set. A table with one is refused as a target.
        binds_text: The server makes dates, times and decimals of canonical text by itself.
        read_isolation: SQLAlchemy's name of the isolation level of a read; None leaves the server's own.
        read_statements: What begins a read, so that all its statements see the same rows.
        write_isolation: The same of a write.
        session_statements: Settings without which values would depend on the server's.
        lock_row_suffix: What locks the rows of a SELECT; empty where only a change locks.
        lock_table: Keeps other writers from the table ``{}`` and readers not; None where there is no such lock.
        moment_sql: A query that gives the server's clock as `WriteSession.current_moment` wants it.
        copies_empty_table: ``CREATE TABLE ... AS SELECT`` keeps the columns as they are and nothing else.
        default_port: Where its servers listen; 0 where nobody knows.
        can_write_sql: A query that gives 1 where the user may create tables; None where it is not known.
        table_suffix: What follows the brackets of CREATE TABLE.
        nulls: What a nullable column says.
        system_schemas: Schemas that `discover` leaves out.
        discovers_schemas: `discover` looks into all schemas, not into the user's own alone.
    """

    sqlglot: str
    capabilities: Capabilities
    texts: Texts = field(default_factory=dict)
    canonical: bool = False
    text_types: frozenset[str] | None = frozenset()
    other_texts: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[TypeKind, str] = field(default_factory=dict)
    decimal_digits: int = 0
    key_text: str = ""
    holds: Callable[[DataType], str | None] | None = None
    lossy_targets: frozenset[str] = frozenset()
    binds_text: bool = False
    read_isolation: str | None = None
    read_statements: tuple[str, ...] = ()
    write_isolation: str | None = None
    session_statements: tuple[str, ...] = ()
    lock_row_suffix: str = ""
    lock_table: str | None = None
    moment_sql: str = ""
    copies_empty_table: bool = True
    default_port: int = 0
    can_write_sql: str | None = None
    table_suffix: str = ""
    nulls: str = ""
    system_schemas: frozenset[str] = frozenset()
    discovers_schemas: bool = False


def _python_holds(data_type: DataType) -> str | None:
    return _PYTHON_HOLDS.get(data_type.kind)


def _oracle_holds(data_type: DataType) -> str | None:
    # Oracle keeps the empty text as NULL.
    if data_type.kind == "string":
        return f"({_NO_NUL} AND {{value}} <> '')"
    return _python_holds(data_type)


def _redshift_holds(data_type: DataType) -> str | None:
    if data_type.kind in ("string", "json"):
        return f"({_NO_NUL} AND strlen({{value}}) <= 65535)"
    return _python_holds(data_type)


_POSTGRESQL = Facts(
    sqlglot="postgres",
    capabilities=Capabilities(default_schema="public", max_identifier_bytes=63),
    texts=dict.fromkeys(("decimal", "date", "time", "timestamp", "timestamptz", "json", "uuid"), "CAST({} AS text)"),
    canonical=True,
    text_types=None,
    holds=postgresql_types.holds,
    binds_text=True,
    read_isolation="REPEATABLE READ",
    read_statements=("SET TRANSACTION READ ONLY",),
    write_isolation="READ COMMITTED",
    session_statements=(
        "SET TimeZone = 'UTC'",
        "SET DateStyle = 'ISO, YMD'",
        "SET IntervalStyle = 'postgres'",
        "SET extra_float_digits = 1",
        "SET bytea_output = 'hex'",
    ),
    lock_row_suffix="FOR UPDATE",
    lock_table="LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
    moment_sql="SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'",
    default_port=5432,
    can_write_sql="SELECT CAST(has_schema_privilege(current_schema(), 'CREATE') AS integer)",
    system_schemas=frozenset({"information_schema", "pg_catalog", "pg_toast", "pg_internal", "crdb_internal"}),
    discovers_schemas=True,
)

_MYSQL = Facts(
    sqlglot="mysql",
    capabilities=Capabilities(
        transactional_ddl=False, schema_is_database=True, max_identifier_bytes=64, moment_kind="timestamp"
    ),
    texts={
        "real": "({} * 1e0)",
        "float": "({} * 1e0)",
        "decimal": "CAST({} AS CHAR)",
        "date": "CAST({} AS CHAR)",
        "time": "CAST({} AS CHAR)",
        "timestamp": "CAST({} AS CHAR)",
        "timestamptz": "CONCAT(CAST({} AS CHAR), '+00')",
        "uuid": "CAST({} AS CHAR)",
        "json": "CAST({} AS CHAR)",
        "boolean": "CASE {} WHEN 0 THEN 'false' WHEN 1 THEN 'true' ELSE CAST({} AS CHAR) END",
    },
    text_types=frozenset(
        "char varchar nchar nvarchar text tinytext mediumtext longtext enum set".split()  # noqa: SIM905
    ),
    other_texts={"bit": "LPAD(BIN({} + 0), {length}, '0')", "inet4": "CAST({} AS CHAR)", "inet6": "CAST({} AS CHAR)"},
    holds=mysql_types.holds,
    # A text that is no member may be a member's number; a year of two digits is one of this century.
    lossy_targets=frozenset({"enum", "set", "bit", "year", "binary", *mysql_types.GEOMETRIES}),
    binds_text=True,
    read_isolation="REPEATABLE READ",
    read_statements=("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",),
    write_isolation="READ COMMITTED",
    session_statements=(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO',"
        " time_zone = '+00:00', net_write_timeout = 3600, net_read_timeout = 3600, lock_wait_timeout = 60",
    ),
    lock_row_suffix="FOR UPDATE",
    moment_sql="SELECT CONCAT(UTC_TIMESTAMP(6), '+00')",
    default_port=3306,
    can_write_sql=(
        "SELECT 'CREATE' IN (SELECT privilege_type FROM information_schema.user_privileges UNION"
        " SELECT privilege_type FROM information_schema.schema_privileges WHERE table_schema = DATABASE())"
    ),
    table_suffix=" ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    # A TIMESTAMP that says neither is not null on some servers.
    nulls=" NULL",
    system_schemas=frozenset({"information_schema", "mysql", "performance_schema", "sys"}),
)

_ORACLE_INSTANT = "TO_CHAR({}, 'YYYY-MM-DD HH24:MI:SS.FF9 AD', 'NLS_DATE_LANGUAGE=AMERICAN')"

_ORACLE = Facts(
    sqlglot="oracle",
    capabilities=Capabilities(transactional_ddl=False, max_identifier_bytes=128, limit_clause=False),
    texts={
        # TM9 is the shortest text that has all digits; numbers of 64 and more get an exponent, which does not cast.
        "decimal": "TO_CHAR({}, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''')",
        # A DATE has a time of day, and no fraction; as a timestamp one format serves both.
        "timestamp": _ORACLE_INSTANT.format("CAST({} AS TIMESTAMP)"),
        "timestamptz": "TO_CHAR(SYS_EXTRACT_UTC({}), 'YYYY-MM-DD HH24:MI:SS.FF9\"+00\" AD',"
        " 'NLS_DATE_LANGUAGE=AMERICAN')",
        "json": "JSON_SERIALIZE({} RETURNING CLOB)",
    },
    text_types=frozenset({"varchar", "varchar2", "nvarchar2", "char", "nchar", "clob", "nclob"}),
    other_texts={"rowid": "ROWIDTOCHAR({})"},
    spellings={
        "string": "clob",
        "smallint": "number(5, 0)",
        "integer": "number(10, 0)",
        "bigint": "number(19, 0)",
        "decimal": "number({}, {})",
        "real": "binary_float",
        "float": "binary_double",
        "boolean": "number(1, 0)",
        "date": "date",
        "timestamp": "timestamp(6)",
        "timestamptz": "timestamp(6) with time zone",
        "json": "clob",
        "uuid": "varchar(36 char)",
        "binary": "blob",
    },
    decimal_digits=38,
    key_text="varchar(255 char)",
    holds=_oracle_holds,
    lossy_targets=frozenset({"char", "nchar"}),
    read_statements=("SET TRANSACTION READ ONLY",),
    session_statements=("ALTER SESSION SET TIME_ZONE = '+00:00'",),
    lock_row_suffix="FOR UPDATE",
    lock_table="LOCK TABLE {} IN EXCLUSIVE MODE",
    moment_sql="SELECT TO_CHAR(SYS_EXTRACT_UTC(SYSTIMESTAMP), 'YYYY-MM-DD HH24:MI:SS.FF6') || '+00' FROM dual",
    default_port=1521,
    can_write_sql="SELECT count(*) FROM session_privs WHERE privilege = 'CREATE TABLE'",
)

_TSQL = Facts(
    sqlglot="tsql",
    capabilities=Capabilities(default_schema="dbo", max_identifier_bytes=128, folds_case=True, limit_clause=False),
    texts={
        "decimal": "CONVERT(varchar(50), {})",
        "date": "CONVERT(varchar(10), {}, 23)",
        "time": "CONVERT(varchar(16), {}, 121)",
        "timestamp": "CONVERT(varchar(27), {}, 121)",
        "timestamptz": "CONVERT(varchar(34), SWITCHOFFSET({}, 0), 121)",
        "uuid": "LOWER(CONVERT(varchar(36), {}))",
    },
    text_types=frozenset({"char", "varchar", "nchar", "nvarchar", "text", "ntext", "sysname"}),
    other_texts={
        "xml": "CONVERT(nvarchar(max), {})",
        # Style 2 has all four places, and no separators.
        "money": "CONVERT(varchar(50), {}, 2)",
        "smallmoney": "CONVERT(varchar(50), {}, 2)",
    },
    spellings={
        "string": "nvarchar(max)",
        "smallint": "smallint",
        "integer": "integer",
        "bigint": "bigint",
        "decimal": "decimal({}, {})",
        "real": "real",
        "float": "float",
        "boolean": "bit",
        "date": "date",
        "time": "time(6)",
        "timestamp": "datetime2(6)",
        "timestamptz": "datetimeoffset(6)",
        "json": "nvarchar(max)",
        "uuid": "uniqueidentifier",
        "binary": "varbinary(max)",
    },
    decimal_digits=38,
    key_text="nvarchar(255)",
    holds=_python_holds,
    # What has no n in front has a code page, and a question mark for what is not in it.
    lossy_targets=frozenset({"char", "varchar", "text", "nchar", "datetime", "smalldatetime", "binary"}),
    read_isolation="SNAPSHOT",
    write_isolation="READ COMMITTED",
    moment_sql="SELECT CONVERT(varchar(26), CAST(SYSUTCDATETIME() AS datetime2(6)), 121) + '+00'",
    # SELECT INTO would keep IDENTITY.
    copies_empty_table=False,
    default_port=1433,
    can_write_sql="SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE')",
    nulls=" NULL",
    system_schemas=frozenset({"INFORMATION_SCHEMA", "sys", "guest"}),
    discovers_schemas=True,
)

_SNOWFLAKE_INSTANT = "TO_VARCHAR({}, 'YYYY-MM-DD HH24:MI:SS.FF9')"

_SNOWFLAKE = Facts(
    sqlglot="snowflake",
    capabilities=Capabilities(
        transactional_ddl=False, default_schema="public", max_identifier_bytes=255, snapshot_reads=False
    ),
    texts={
        "decimal": "TO_VARCHAR({})",
        "date": "TO_VARCHAR({}, 'YYYY-MM-DD')",
        "time": "TO_VARCHAR({}, 'HH24:MI:SS.FF9')",
        "timestamp": _SNOWFLAKE_INSTANT,
        "timestamptz": _SNOWFLAKE_INSTANT.format("CONVERT_TIMEZONE('UTC', {})") + " || '+00'",
        "json": "TO_JSON({})",
    },
    text_types=frozenset({"varchar", "text", "string", "char", "character"}),
    spellings={
        "string": "varchar(16777216)",
        "smallint": "decimal(38, 0)",
        "integer": "decimal(38, 0)",
        "bigint": "decimal(38, 0)",
        "decimal": "decimal({}, {})",
        "real": "float",
        "float": "float",
        "boolean": "boolean",
        "date": "date",
        "time": "time",
        "timestamp": "timestamp_ntz",
        "timestamptz": "timestamp_tz",
        # A variant reorders keys and rounds numbers.
        "json": "varchar(16777216)",
        "uuid": "varchar(36)",
        "binary": "binary",
    },
    decimal_digits=38,
    key_text="varchar(255)",
    holds=_python_holds,
    session_statements=("ALTER SESSION SET TIMEZONE = 'UTC'",),
    moment_sql="SELECT TO_VARCHAR(CONVERT_TIMEZONE('UTC', CURRENT_TIMESTAMP()), 'YYYY-MM-DD HH24:MI:SS.FF6') || '+00'",
    default_port=443,
    system_schemas=frozenset({"information_schema"}),
    discovers_schemas=True,
)

_REDSHIFT = Facts(
    sqlglot="redshift",
    capabilities=Capabilities(default_schema="public", max_identifier_bytes=127, folds_case=True),
    texts={
        "decimal": "CAST({} AS varchar)",
        "date": "CAST({} AS varchar)",
        "time": "CAST({} AS varchar)",
        "timestamp": "CAST({} AS varchar)",
        "timestamptz": "CAST({} AS varchar)",
        "json": "JSON_SERIALIZE({})",
    },
    text_types=frozenset({"varchar", "char", "text", "bpchar", "nchar", "nvarchar", "character"}),
    spellings={
        "string": "varchar(65535)",
        "smallint": "smallint",
        "integer": "integer",
        "bigint": "bigint",
        "decimal": "numeric({}, {})",
        "real": "real",
        "float": "double precision",
        "boolean": "boolean",
        "date": "date",
        "time": "time without time zone",
        "timestamp": "timestamp without time zone",
        "timestamptz": "timestamp with time zone",
        "json": "varchar(65535)",
        "uuid": "varchar(36)",
    },
    decimal_digits=38,
    key_text="varchar(255)",
    holds=_redshift_holds,
    lossy_targets=frozenset({"char", "bpchar", "nchar", "character"}),
    # Its only level, serializable, is by snapshot.
    session_statements=("SET TimeZone = 'UTC'", "SET DateStyle = 'ISO, YMD'"),
    lock_table="LOCK TABLE {}",
    moment_sql="SELECT to_char(GETDATE(), 'YYYY-MM-DD HH24:MI:SS.US') || '+00'",
    default_port=5439,
    system_schemas=frozenset({"information_schema", "pg_catalog", "pg_internal", "catalog_history"}),
    discovers_schemas=True,
)

_FACTS: dict[str, Facts] = {
    "postgresql": _POSTGRESQL,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "oracle": _ORACLE,
    "mssql": _TSQL,
    "snowflake": _SNOWFLAKE,
    "redshift": _REDSHIFT,
}

#: Dialects of SQLAlchemy that sqlglot knows by another name, or by its own; they are read from only.
_SQLGLOT: dict[str, str] = {
    "awsathena": "athena",
    "bigquery": "bigquery",
    "clickhouse": "clickhouse",
    "clickhousedb": "clickhouse",
    "cockroachdb": "postgres",
    "databricks": "databricks",
    "doris": "doris",
    "dremio": "dremio",
    "drill": "drill",
    "druid": "druid",
    "exa": "exasol",
    "hive": "hive",
    "materialize": "materialize",
    "presto": "presto",
    "risingwave": "risingwave",
    "spark": "spark",
    "starrocks": "starrocks",
    "teradatasql": "teradata",
    "trino": "trino",
}

#: Of these sqlglot knows that they have no LIMIT; of the unknown ones nobody does.
_WITHOUT_LIMIT = frozenset({"", "teradata"})


def dialect_name(drivername: str) -> str:
    """SQLAlchemy's name of a dialect: ``oracle`` of ``oracle+oracledb``."""
    return drivername.partition("+")[0].lower()


def facts_of(drivername: str) -> Facts:
    """What is known of a dialect; of one that is not listed, that it can be read."""
    name = dialect_name(drivername)
    if name in _FACTS:
        return _FACTS[name]
    sqlglot = _SQLGLOT.get(name, "")
    return Facts(
        sqlglot,
        Capabilities(
            writes=False,
            transactional_ddl=False,
            snapshot_reads=False,
            limit_clause=sqlglot not in _WITHOUT_LIMIT,
        ),
        text_types=None,
    )


def keeps_snapshot(facts: Facts, isolation: object) -> bool:
    """Whether reads at an isolation level agree with each other; None is the level that the server begins with."""
    if facts.sqlglot == "tsql":
        # Its REPEATABLE READ locks the rows that are there, and lets others in between.
        return isolation in ("SNAPSHOT", "SERIALIZABLE")
    # Oracle's reads agree by being READ ONLY, whatever the level.
    return isolation != "READ COMMITTED" or facts.sqlglot == "oracle"


def spell_type(facts: Facts, column: Column) -> str:
    """How a column's type is spelt in DDL.

    Raises:
        PlanError: No type of this dialect holds every value of the column's type, or none is known.
    """
    data_type = column.data_type
    if column.native_type is not None and column.native_dialect == facts.sqlglot:
        return column.native_type
    if facts.sqlglot == "postgres":
        return postgresql_types.native_type(column)
    if facts.sqlglot == "mysql":
        return mysql_types.native_type(column)
    if column.key_position is not None and data_type.kind == "string":
        return facts.key_text
    spelling = facts.spellings.get(data_type.kind)
    if spelling is None:
        raise PlanError(
            f"column {column.name!r}: {facts.sqlglot or 'this dialect'} has no type for {data_type}",
            hint="declare it as string in the target's schema",
            column=column.name,
        )
    if data_type.kind != "decimal":
        return spelling
    scale = data_type.scale or 0
    if data_type.precision is None or max(data_type.precision, scale) > facts.decimal_digits or scale < 0:
        raise PlanError(
            f"column {column.name!r} is {data_type}; {facts.sqlglot} holds decimals of up to"
            f" {facts.decimal_digits} digits with a precision",
            hint="declare a decimal(precision,scale) that fits, or string, in the target's schema",
            column=column.name,
        )
    return spelling.format(data_type.precision, scale)


def spell_key_type(facts: Facts, column: Column) -> str:
    """The spelling of a column in a primary key; a text needs a length there."""
    if facts.sqlglot == "mysql":
        return mysql_types.key_type(column)
    spelt = spell_type(facts, column)
    return facts.key_text if facts.key_text and spelt == facts.spellings["string"] else spelt
