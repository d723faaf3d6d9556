"""The SQLAlchemy connector without a server: values, parameters and errors on their way to a driver and back.

What is checked of Oracle, SQL Server, Snowflake and Redshift is the text that would be sent, nothing more.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.protocol import ConnectionConfig, untrusted_text
from synqx_dagster.connectors.registry import make_connector
from synqx_dagster.connectors.sqlalchemy_dialects import Facts, facts_of
from synqx_dagster.connectors.sqlalchemy_errors import wrap_connect_error, wrap_error
from synqx_dagster.connectors.sqlalchemy_values import mark_parameters, to_array, to_parameters
from synqx_dagster.errors import (
    BadRowsError,
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
)
from synqx_dagster.model import Connection
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import TYPE_KINDS, DataType

ORACLE, TSQL, SNOWFLAKE, REDSHIFT = map(facts_of, ("oracle+oracledb", "mssql+pyodbc", "snowflake", "redshift"))
POSTGRES, MYSQL, UNKNOWN = map(facts_of, ("postgresql+pg8000", "mysql+pymysql", "firebird+firebird"))


def config(drivername: str = "oracle+oracledb", **more: Any) -> ConnectionConfig:
    options = {"drivername": drivername, **more.pop("options", {})}
    return ConnectionConfig("erp", "sqlalchemy", options=options, **more)


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
