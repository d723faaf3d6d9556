"""The MySQL connector's parts that need no server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import duckdb
import pymysql
import pytest

from synqx_dagster.connectors.mysql import MysqlConnector, _rights
from synqx_dagster.connectors.mysql_errors import wrap_error
from synqx_dagster.connectors.mysql_staging import StagingTables, staging_prefix
from synqx_dagster.connectors.mysql_types import NativeType, holds, native_type
from synqx_dagster.connectors.mysql_values import fill_parameters
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import BadRowsError, DatabaseError, PlanError, RetryableError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType


@pytest.mark.parametrize(
    ("sql", "parameters", "filled"),
    [
        ("SELECT ?, ?", (1, "it's"), "SELECT 1, 'it\\'s'"),
        (
            "SELECT '?', \"?\", `?`, '\\'?', '''?' /* ? */ -- ?\n, ?",
            (None,),
            "SELECT '?', \"?\", `?`, '\\'?', '''?' /* ? */ -- ?\n, NULL",
        ),
        ("SELECT ? # ?", (b"\0'",), "SELECT x'0027' # ?"),
        ("SELECT 1--?", (True,), "SELECT 1--1"),
        ("SELECT 100%, %s, ?", (0.5,), "SELECT 100%, %s, 0.5e0"),
    ],
)
def test_parameters_are_filled_outside_texts_and_comments(
    sql: str, parameters: tuple[object, ...], filled: str
) -> None:
    assert fill_parameters(sql, parameters) == filled


@pytest.mark.parametrize(("sql", "parameters"), [("SELECT ?", ()), ("SELECT '?'", (1,))])
def test_too_few_or_too_many_parameters(sql: str, parameters: tuple[object, ...]) -> None:
    with pytest.raises(DatabaseError, match="parameters"):
        fill_parameters(sql, parameters)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("int(10) unsigned zerofill", NativeType("int", (10,), is_unsigned=True, is_zerofill=True)),
        ("decimal(10,2)", NativeType("decimal", (10, 2))),
        ("enum('a','it''s',',)')", NativeType("enum", members=("a", "it's", ",)"))),
        ("datetime(6) /* mariadb-5.3 */", NativeType("datetime", (6,))),
        ("", NativeType("")),
    ],
)
def test_types_are_taken_apart(text: str, parsed: NativeType) -> None:
    assert NativeType.parse(text) == parsed


@pytest.mark.parametrize(
    ("column", "spelt"),
    [
        (Column("c", DataType("string")), "longtext"),
        (Column("c", DataType("string"), key_position=1), "varchar(255)"),
        (Column("c", DataType("string"), native_type="character varying(20)", key_position=1), "varchar(20)"),
        (Column("c", DataType("binary"), key_position=1), "varbinary(255)"),
        (Column("c", DataType("decimal", 5, -2)), "decimal(7,0)"),
        (Column("c", DataType("string"), native_type="enum('a')", native_dialect="mysql"), "enum('a')"),
    ],
)
def test_spelling(column: Column, spelt: str) -> None:
    assert native_type(column) == spelt


@pytest.mark.parametrize("data_type", [DataType("decimal"), DataType("decimal", 66, 0), DataType("decimal", 40, 31)])
def test_decimal_that_does_not_fit_is_refused_by_name(data_type: DataType) -> None:
    with pytest.raises(PlanError, match="'amount'"):
        native_type(Column("amount", data_type))


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        ("date", "2024-02-29", True),
        ("date", "0001-01-01", True),
        ("date", "0044-03-15 BC", False),
        ("date", "10000-01-01", False),
        ("date", "infinity", False),
        ("date", "-infinity", False),
        ("timestamp", "9999-12-31 23:59:59.999999", True),
        ("timestamp", "0044-03-15 12:00:00 BC", False),
        ("timestamptz", "1970-01-01 00:00:00+00", False),
        ("timestamptz", "1970-01-01 00:00:01+00", True),
        ("timestamptz", "2038-01-19 03:14:07.999999+00", True),
        ("timestamptz", "2038-01-19 03:14:08+00", False),
        ("timestamptz", "infinity", False),
        ("decimal(5,2)", "NaN", False),
        ("decimal(5,2)", "1.50", True),
        ("float", float("inf"), False),
        ("float", float("nan"), False),
        ("float", -0.0, False),
        ("float", 5e-324, True),
        ("real", 0.0, True),
    ],
)
def test_holds(kind: str, value: object, fits: bool) -> None:
    predicate = holds(DataType.parse(kind))
    assert predicate is not None
    with duckdb.connect(":memory:") as connection:
        (row,) = connection.execute(f"SELECT {predicate.replace('{value}', '$1')}", [value]).fetchall()
    assert row == (fits,)


@pytest.mark.parametrize(
    ("code", "message", "kind", "says"),
    [
        (1062, "Duplicate entry 'hush' for key 'PRIMARY'", BadRowsError, "PRIMARY"),
        (1366, "Incorrect string value: 'hush' for column `d`.`t`.`c` at row 1", BadRowsError, "'c'"),
        (1292, "Incorrect date value: 'for column 'hush'' for column 'c' at row 1", BadRowsError, "'c'"),
        (1406, "Data too long for column 'hush' at row 1", BadRowsError, "too long"),
        (1064, "You have an error near 'hush' at line 3", DatabaseError, "line 3"),
        (1146, "Table 'd.t' doesn't exist", DatabaseError, "d.t"),
        (1213, "Deadlock found", RetryableError, "deadlock"),
        (2013, "Lost connection", RetryableError, "lost"),
        (9999, "hush", DatabaseError, "9999"),
    ],
)
def test_errors_keep_names_and_drop_values(code: int, message: str, kind: type[SynqxError], says: str) -> None:
    error = wrap_error(pymysql.err.OperationalError(code, message), "writing to here", ["c"])
    assert type(error) is kind
    assert says in str(error)
    assert "hush" not in str(error)


def test_checks_its_configuration() -> None:
    check = MysqlConnector.check_config
    good = ConnectionConfig("c", "mysql", host="h", database="d", username="u", options={"read_timeout_seconds": 5})
    assert check(good) == []
    bad = ConnectionConfig(
        "c",
        "mysql",
        host="h",
        options={"ssl_mode": "maybe", "sslmode": "x", "connect_timeout_seconds": 0, "ssl_key": "k", "unix_socket": "s"},
    )
    assert len(check(bad)) == 7


def test_rights_count_for_the_whole_database_only() -> None:
    grants = [
        "GRANT USAGE ON *.* TO `u`@`%`",
        "GRANT SELECT, INSERT ON `my\\_db`.* TO `u`@`%`",
        "GRANT DELETE ON `my_db`.`t` TO `u`@`%`",
        "GRANT `role` TO `u`@`%`",
    ]
    assert _rights(grants, "my_db") == {"USAGE", "SELECT", "INSERT"}
    assert "DROP" in _rights(["GRANT ALL PRIVILEGES ON *.* TO `u`@`%`"], "x")


def test_staging_names_fit_and_tell_targets_apart() -> None:
    long = "x" * 64
    assert len(staging_prefix(TableName(long)) + str(2**63) + "_bad") <= 64
    assert staging_prefix(TableName(long)) != staging_prefix(TableName(long[:-1] + "y"))


class _Refusing(StagingTables):
    """A session of a cluster that forbids locks by name."""

    _database, _place = "shop", "cluster:3306"

    def __init__(self) -> None:
        self._held = {}
        self.asked: list[str] = []

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        raise AssertionError(sql)

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        self.asked.append(sql)
        raise DatabaseError("error 1105")

    def _run(self, sql: str) -> int:
        raise AssertionError(sql)

    def _errors(self, doing: str, columns: Sequence[str] = ()) -> AbstractContextManager[None]:
        return nullcontext()

    def _table_options(self) -> str:
        return ""


def test_a_cluster_that_forbids_locks_by_name_is_loaded_without_them() -> None:
    session, staging = _Refusing(), TableName("staging")
    session.join_writers(staging)
    session.evict_writers(staging)
    session.leave_writers()
    assert [sql.partition("(")[0] for sql in session.asked] == ["SELECT GET_LOCK", "SELECT CONNECTION_ID"]
