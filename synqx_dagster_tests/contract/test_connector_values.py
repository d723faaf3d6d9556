"""What every connector promises of values: those that it says it can store come back as they were."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import Connector, ReadLimits, carrier_type, untrusted_text
from synqx_dagster.errors import PlanError
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.contract.loading import ID, NAME, TABLE, Rows, column, load, read_all, read_with

#: Values of each logical type in their carriers. What a database cannot hold it says by `Connector.holds`.
VALUES: dict[str, list[Any]] = {
    "string": [
        "",
        "a",
        " blank ",
        "tab\tnewline\ncr\r",
        "back\\slash \\N \\.",
        "'\"`",
        "😀é",
        "x" * 100_000,
        "NULL",
        "\0",
    ],
    "smallint": [0, 1, -1, -(2**15), 2**15 - 1],
    "integer": [0, -(2**31), 2**31 - 1],
    "bigint": [0, -(2**63), 2**63 - 1],
    "decimal": ["0", "-1.5", "123456789012345678.12345678901234567890", "NaN", "9" * 60, "Infinity"],
    "decimal(38,10)": ["0.0000000000", "-1.5000000000", "9" * 28 + "." + "9" * 10],
    "decimal(5,2)": ["0.00", "-999.99", "999.99"],
    "real": [0.0, -0.0, 1.5, 1.401298464324817e-45, 3.4028234663852886e38, float("inf"), float("-inf"), float("nan")],
    "float": [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")],
    "boolean": [True, False],
    "date": ["2024-02-29", "0001-01-01", "9999-12-31", "0044-03-15 BC", "infinity", "-infinity", "5874897-12-31"],
    "time": ["00:00:00", "12:34:56.789012", "23:59:59.999999", "24:00:00"],
    "timestamp": ["2024-02-29 12:00:00", "0001-01-01 00:00:00.000001", "0044-03-15 00:00:00 BC", "infinity"],
    "timestamptz": ["2024-02-29 12:00:00+00", "1970-01-01 00:00:00.5+00", "-infinity"],
    "json": [
        '{"b": 1, "a": [1.0, null, "\\u00e9"]}',
        "null",
        '"text"',
        '{"a": 1, "a": 2}',
        "123456789012345678901234567890",
    ],
    "uuid": ["00000000-0000-0000-0000-000000000000", "123e4567-e89b-12d3-a456-426614174000"],
    "binary": [b"", b"\x00", bytes(range(256)), b"\\x41", b"x" * 100_000],
}

#: Whose decimals all have a precision: one without is refused when planning, as docs/types.md says.
BOUND_DECIMALS = {"mysql", "duckdb", "sqlalchemy_mysql", "files_parquet", "files_s3"}


def held(connector: Connector, data_type: DataType, values: Sequence[Any]) -> list[Any]:
    """The values that a connector says it can store."""
    predicate = connector.holds(data_type)
    if predicate is None:
        return list(values)
    with duckdb.connect() as judge:
        table = pa.table({"v": pa.array(values, carrier_type(data_type))})
        judge.register("t", table)
        return [value for (value,) in judge.sql(f"SELECT v FROM t WHERE {predicate.format(value='v')}").fetchall()]


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_that_is_held_comes_back_as_it_was(
    request: pytest.FixtureRequest, connector: Connector, kind: str
) -> None:
    wanted = column("value", kind)
    if kind == "decimal" and request.node.callspec.params["connector"] in BOUND_DECIMALS:
        with pytest.raises(PlanError, match="precision"):
            connector.native_type(wanted)
        return
    values = [*held(connector, wanted.data_type, VALUES[kind]), None]
    assert len(values) > 1, "a type of which no value is held should be refused when planning"
    load(connector, Rows((ID, wanted), list(enumerate(values))))

    with connector.read() as session:
        columns = session.find_columns(TABLE)
        assert columns is not None
        arrow_type = session.encode("x", columns[1].data_type, columns[1].native_type).arrow_type
        got = [value for _, value in read_with(connector, session)]
    if kind == "boolean" and columns[1].data_type == DataType("smallint"):
        # Where there is no boolean, a number is what comes back.
        assert got == [value if value is None else int(value) for value in values]
    elif arrow_type != carrier_type(wanted.data_type):
        assert arrow_type == untrusted_text()
        assert [cast_text(text, wanted.data_type) for text in got] == [
            value if value is None else repr(value) for value in values
        ]
    else:
        # By repr, because -0.0 == 0.0 and NaN != NaN.
        assert [repr(value) for value in got] == [repr(value) for value in values]


def cast_text(text: str | None, data_type: DataType) -> str | None:
    """What the transform makes of text that is not yet a carrier, as its repr."""
    if text is None:
        return None
    if data_type.kind in ("smallint", "integer", "bigint"):
        return repr(int(text))
    if data_type.kind in ("real", "float"):
        return repr(float(text))
    if data_type.kind == "boolean":
        return repr({"1": True, "0": False, "true": True, "false": False}[text])
    if data_type.kind == "decimal" and data_type.scale is not None:
        return repr(f"{decimal.Decimal(text):.{data_type.scale}f}")
    return repr(text)


def test_a_row_of_nothing_but_nulls_is_a_row(connector: Connector) -> None:
    only = Rows((NAME,), [(None,), ("",), (None,)])
    load(connector, only, key=())
    with connector.read() as session:
        table = connector.qualify(TABLE)
        assert session.fetch_value(f"SELECT count(*) FROM {table}") == 3
        assert session.fetch_value(f"SELECT count(*) FROM {table} WHERE name = ''") == 1


def test_batches_are_as_small_as_asked_and_lose_nothing(connector: Connector) -> None:
    rows = Rows((ID, NAME), [(number, f"n{number}") for number in range(2_500)])
    load(connector, rows)
    assert [row[0] for row in read_all(connector, batch_rows=700)] == [
        str(row[0]) if connector.db_type == "sqlite" else row[0] for row in rows.values
    ]


def test_limits_end_a_read_early(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(number, "x" * 1000) for number in range(3_000)]))
    sql = f"SELECT name FROM {connector.qualify(TABLE)}"
    schema = pa.schema([pa.field("name", pa.string())])
    for limits, most in ((ReadLimits(max_rows=10), 10), (ReadLimits(max_bytes=50_000), 2_000)):
        with connector.read(limits) as session:
            encoded = session.encode("name", DataType("string"), None)
            assert encoded.arrow_type == pa.string()
            read = sum(
                batch.num_rows
                for batch in session.iter_batches(sql.replace("name", encoded.sql, 1), schema, batch_rows=1000)
            )
        assert 0 < read <= most
