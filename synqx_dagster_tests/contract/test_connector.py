"""What every connector promises, tested on each of them against a real database."""

from __future__ import annotations

import decimal
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import (
    Connector,
    ReadLimits,
    ReadSession,
    WriteSession,
    carrier_type,
    untrusted_text,
)
from synqx_dagster.errors import PlanError, SynqxError
from synqx_dagster.model.table import Column, TableName, primary_key_of
from synqx_dagster.model.types import DataType

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

TABLE = TableName("customer")


def column(name: str, kind: str, **more: Any) -> Column:
    return Column(name, DataType.parse(kind), **more)


ID = column("id", "integer", nullable=False)
NAME = column("name", "string")


@dataclass
class Rows:
    """Rows of carriers to be written."""

    columns: Sequence[Column]
    values: list[tuple[Any, ...]] = field(default_factory=list)

    def batches(self, batch_rows: int = 1000) -> Iterable[pa.RecordBatch]:
        types = [carrier_type(item.data_type) for item in self.columns]
        for start in range(0, len(self.values), batch_rows):
            lists = zip(*self.values[start : start + batch_rows], strict=True)
            arrays = [pa.array(values, arrow_type) for values, arrow_type in zip(lists, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, names=[item.name for item in self.columns])


_epochs = itertools.count(1)


def spelt(connector: Connector, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Columns as a plan hands them to a target: with its own spelling."""
    return tuple(
        Column(item.name, item.data_type, item.nullable, connector.native_type(item), connector.dialect)
        for item in columns
    )


def stage(connector: Connector, session: WriteSession, rows: Rows, table: TableName = TABLE) -> TableName:
    """Stage rows as the transfer engine does, up to where it publishes; the transaction is open."""
    session.begin()
    staging = session.create_staging(table, spelt(connector, rows.columns), epoch=next(_epochs))
    written, size_bytes = session.write_batches(staging, spelt(connector, rows.columns), rows.batches())
    assert written == len(rows.values)
    assert size_bytes > 0 or not rows.values
    if not connector.capabilities.transactional_ddl:
        session.commit()
        session.begin()
    return staging


def load(
    connector: Connector, rows: Rows, *, table: TableName = TABLE, key: Sequence[str] = ("id",), append: bool = False
) -> None:
    """Load rows as the transfer engine does; creates the table if it is missing."""
    with connector.write() as session:
        if session.find_columns(table) is None:
            session.begin()
            session.ensure_schema(table)
            session.create_table(table, spelt(connector, rows.columns), key)
            session.commit()
        staging = stage(connector, session, rows, table)
        if append:
            session.publish_append(staging, table, spelt(connector, rows.columns))
        else:
            session.publish_replace(staging, table, spelt(connector, rows.columns), key)
        session.commit()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)


def read_with(
    connector: Connector,
    session: ReadSession,
    table: TableName = TABLE,
    *,
    batch_rows: int = 1000,
    order_by: str = "id",
) -> list[tuple[Any, ...]]:
    """A table's rows in their carriers, in order."""
    columns = session.find_columns(table)
    assert columns is not None
    encoded = [session.encode(f"s.{connector.quote(c.name)}", c.data_type, c.native_type) for c in columns]
    schema = pa.schema([pa.field(c.name, item.arrow_type) for c, item in zip(columns, encoded, strict=True)])
    expressions = ", ".join(
        f"{item.sql} AS {connector.quote(c.name)}" for c, item in zip(columns, encoded, strict=True)
    )
    sql = f"SELECT {expressions} FROM {connector.qualify(table)} AS s ORDER BY s.{connector.quote(order_by)}"
    rows: list[tuple[Any, ...]] = []
    for batch in session.iter_batches(sql, schema, batch_rows=batch_rows):
        assert batch.schema.equals(schema)
        assert 0 < batch.num_rows <= batch_rows
        rows.extend(zip(*(values.to_pylist() for values in batch.columns), strict=True))
    return rows


def read_all(connector: Connector, table: TableName = TABLE, **more: Any) -> list[tuple[Any, ...]]:
    with connector.read() as session:
        return read_with(connector, session, table, **more)


def held(connector: Connector, data_type: DataType, values: Sequence[Any]) -> list[Any]:
    """The values that a connector says it can store."""
    predicate = connector.holds(data_type)
    if predicate is None:
        return list(values)
    with duckdb.connect() as judge:
        table = pa.table({"v": pa.array(values, carrier_type(data_type))})
        judge.register("t", table)
        return [value for (value,) in judge.sql(f"SELECT v FROM t WHERE {predicate.format(value='v')}").fetchall()]


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_that_is_held_comes_back_as_it_was(connector: Connector, kind: str) -> None:
    wanted = column("value", kind)
    try:
        connector.native_type(wanted)
    except PlanError as error:
        pytest.skip(f"{connector.db_type} refuses {kind} when planning: {error.message}")
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


# --- metadata -----------------------------------------------------------------------------------------------


def test_columns_are_found_with_key_and_nullability(connector: Connector) -> None:
    columns = (
        column("b", "bigint", nullable=False),
        column("a", "string", nullable=False),
        column("c", "decimal(9,3)"),
    )
    load(connector, Rows(columns), key=("a", "b"))
    with connector.write() as session:
        found = session.find_columns(TABLE)
        assert session.find_columns(TableName("missing")) is None
    assert found is not None
    assert [item.name for item in found] == ["b", "a", "c"]
    assert [item.nullable for item in found] == [False, False, True]
    assert primary_key_of(found) == ("a", "b")
    assert [item.data_type for item in found] == [item.data_type for item in columns]
    assert all(item.native_dialect == connector.dialect for item in found)
    with connector.read() as reader:
        assert reader.find_columns(TABLE) == found


def test_a_query_is_described_by_its_own_names(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.read() as session:
        described = session.describe_query(f'SELECT name AS "Full Name", id FROM {_from(connector)} WHERE id > 5')
    assert [item.name for item in described] == ["Full Name", "id"]
    assert described[0].data_type == DataType("string")


def _from(connector: Connector) -> str:
    return connector.qualify(TABLE)


def test_what_is_loaded_is_discovered(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.execute(f"CREATE VIEW {connector.quote('names')} AS SELECT name FROM {connector.qualify(TABLE)}")
    found = {item.table.name: item for item in connector.discover()}
    assert set(found) == {"customer", "names"}
    assert not found["customer"].is_view
    assert found["names"].is_view
    assert [item.name for item in found["customer"].columns] == ["id", "name"]


HOSTILE_NAMES = [
    'quo"te',
    "back`tick",
    "per%cent %s",
    "what?",
    "select",
    "Mixed Case",
    "naïve-名前",
    "a;b--c",
    "'x'",
    "a\\b",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_only_names(connector: Connector, name: str) -> None:
    table = TableName(name)
    rows = Rows((ID, column(name, "string")), [(1, "x")])
    load(connector, rows, table=table)
    load(connector, rows, table=table)
    assert [row[1] for row in read_all(connector, table)] == ["x"]
    with connector.write() as session:
        session.execute(f"UPDATE {connector.qualify(table)} SET {connector.quote(name)} = ?", ("y",))
    assert [row[1] for row in read_all(connector, table)] == ["y"]


def test_the_longest_name_works_and_a_longer_one_is_known_to_be_too_long(connector: Connector) -> None:
    longest = connector.capabilities.max_identifier_bytes or 200
    table = TableName("t" * longest)
    load(connector, Rows((ID, column("c" * longest, "string")), [(1, "x")]), table=table)
    assert [row[1] for row in read_all(connector, table)] == ["x"]


def test_a_nul_is_never_part_of_a_name(connector: Connector) -> None:
    with pytest.raises(SynqxError):
        connector.quote("a\0b")


# --- publishing ---------------------------------------------------------------------------------------------


def names_in(connector: Connector, table: TableName = TABLE) -> list[str]:
    return [row[1] for row in read_all(connector, table)]


def test_replace_leaves_only_the_new_rows_and_append_adds(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one"), (2, "two")]))
    load(connector, Rows((ID, NAME), [(2, "zwei"), (3, "drei")]))
    assert names_in(connector) == ["zwei", "drei"]
    load(connector, Rows((ID, NAME), [(4, "vier")]), append=True)
    assert names_in(connector) == ["zwei", "drei", "vier"]
    load(connector, Rows((ID, NAME)))
    assert names_in(connector) == []
    assert [item.table.name for item in connector.discover()] == ["customer"]


def test_a_load_that_is_rolled_back_leaves_nothing(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    for publish in ("replace", "append"):
        with connector.write() as session:
            staging = stage(connector, session, Rows((ID, NAME), [(2, "two")]))
            if publish == "replace":
                session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
            else:
                session.publish_append(staging, TABLE, spelt(connector, (ID, NAME)))
            session.rollback()
            if not connector.capabilities.transactional_ddl:
                session.drop_staging(staging)
        assert names_in(connector) == ["one"]
    assert [item.table.name for item in connector.discover()] == ["customer"]


def test_leaving_a_session_without_a_commit_rolls_back(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.begin()
        session.execute(f"DELETE FROM {connector.qualify(TABLE)}")
    assert names_in(connector) == ["one"]


def test_what_hangs_on_a_table_survives_its_replacement(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.execute(f"CREATE VIEW loud AS SELECT id, upper(name) AS name FROM {connector.qualify(TABLE)}")
        session.execute(f"CREATE INDEX by_name ON {connector.qualify(TABLE)} (name)")
        before = session.find_columns(TABLE)
    load(connector, Rows((ID, NAME), [(2, "two")]))
    assert names_in(connector, TableName("loud")) == ["TWO"]
    with connector.write() as session:
        assert session.find_columns(TABLE) == before
        with pytest.raises(SynqxError):
            session.execute(f"CREATE INDEX by_name ON {connector.qualify(TABLE)} (name)")


def test_columns_that_are_not_loaded_get_their_default(connector: Connector) -> None:
    with connector.write() as session:
        session.execute(
            f"CREATE TABLE {connector.qualify(TABLE)}"
            " (id integer PRIMARY KEY, name varchar(20), kind varchar(9) DEFAULT 'new')"
        )
    load(connector, Rows((ID, NAME), [(1, "one")]))
    load(connector, Rows((ID, NAME), [(2, "two")]), append=True)
    assert [row[1:] for row in read_all(connector)] == [("one", "new"), ("two", "new")]


@pytest.mark.parametrize("bad", [[(1, "one"), (1, "again")], [(None, "nobody")]], ids=["double key", "null key"])
def test_rows_that_break_the_key_are_refused_and_nothing_changes(connector: Connector, bad: list[Any]) -> None:
    load(connector, Rows((ID, NAME), [(7, "seven")]))
    with connector.write() as session:
        with pytest.raises(SynqxError):  # noqa: PT012  # some engines refuse when staging, some when publishing
            staging = stage(connector, session, Rows((ID, NAME), bad))
            session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
        session.rollback()
        if not connector.capabilities.transactional_ddl:
            for item in connector.discover():
                if item.table.name != TABLE.name:
                    session.drop_staging(item.table)
    assert names_in(connector) == ["seven"]
    assert [item.table.name for item in connector.discover()] == ["customer"]


def test_an_error_of_the_batches_ends_the_write_as_it_is(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(7, "seven")]))

    class SourceBrokeError(Exception):
        """Stands for whatever a source may raise."""

    def batches() -> Iterable[pa.RecordBatch]:
        yield from Rows((ID, NAME), [(number, "x") for number in range(5_000)]).batches()
        raise SourceBrokeError

    with connector.write() as session:
        session.begin()
        staging = session.create_staging(TABLE, spelt(connector, (ID, NAME)), epoch=next(_epochs))
        with pytest.raises(SourceBrokeError):
            session.write_batches(staging, spelt(connector, (ID, NAME)), batches())
        session.rollback()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)
    assert names_in(connector) == ["seven"]


# --- statements and transactions ----------------------------------------------------------------------------


def test_parameters_are_values_whatever_they_hold(connector: Connector) -> None:
    load(connector, Rows((ID, NAME)))
    texts = ["?", "%s", "100%", "it's", 'say "hi"', "back\\slash", "", "😀", "a;b", None]
    table = connector.qualify(TABLE)
    with connector.write() as session:
        for number, text in enumerate(texts):
            affected = session.execute(f"INSERT INTO {table} (id, name) VALUES (?, ?)", (number, text))
            assert affected in (1, -1)
        rows = session.fetch_all(f"SELECT name, '?%' FROM {table} WHERE id >= ? ORDER BY id", (0,))
    assert rows == [(text, "?%") for text in texts]


def test_a_locked_row_can_be_read_and_changed_by_its_session(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    table = connector.qualify(TABLE)
    with connector.write() as session:
        session.begin()
        rows = session.fetch_all(f"SELECT name FROM {table} WHERE id = ? {session.lock_row_suffix()}", (1,))
        assert rows == [("one",)]
        session.execute(f"UPDATE {table} SET name = ? WHERE id = ?", ("uno", 1))
        session.commit()
    assert names_in(connector) == ["uno"]


def test_a_read_session_sees_one_snapshot(connector: Connector) -> None:
    if not connector.capabilities.concurrent_writers:
        pytest.skip("one process at a time")
    load(connector, Rows((ID, NAME), [(1, "one")]))
    table = connector.qualify(TABLE)
    with connector.read() as reader:
        assert reader.fetch_value(f"SELECT count(*) FROM {table}") == 1
        with connector.write() as session:
            session.execute(f"INSERT INTO {table} (id, name) VALUES (2, 'two')")
        assert reader.fetch_value(f"SELECT count(*) FROM {table}") == 1
        assert [row[1] for row in read_with(connector, reader)] == ["one"]
    assert names_in(connector) == ["one", "two"]


def test_readers_see_the_old_rows_until_the_commit(connector: Connector) -> None:
    if not connector.capabilities.concurrent_writers:
        pytest.skip("one process at a time")
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        # An outer reader keeps the engine from taking the table away; an inner one must not wait for it.
        with connector.read() as reader:
            assert reader.fetch_value(f"SELECT count(*) FROM {connector.qualify(TABLE)}") == 1
            staging = stage(connector, session, Rows((ID, NAME), [(2, "two"), (3, "three")]))
            if connector.capabilities.transactional_ddl:
                session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
            assert names_in(connector) == ["one"]
        if not connector.capabilities.transactional_ddl:
            session.publish_replace(staging, TABLE, spelt(connector, (ID, NAME)), ("id",))
        session.commit()
        if not connector.capabilities.transactional_ddl:
            session.drop_staging(staging)
    assert names_in(connector) == ["two", "three"]


def test_a_session_goes_on_after_a_refused_statement(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.begin()
        with pytest.raises(SynqxError):
            session.execute("SELECT * FROM there_is_no_such_table")
        session.rollback()
        session.rollback()
        session.begin()
        session.execute(f"UPDATE {connector.qualify(TABLE)} SET name = 'uno'")
        session.commit()
    assert names_in(connector) == ["uno"]


# --- the connection -----------------------------------------------------------------------------------------


def test_a_connection_that_works_says_so(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    report = connector.test()
    assert report.ok, report.message
    assert report.reason is None
    assert report.server_version
    assert report.latency_seconds is not None
    assert 0 <= report.latency_seconds < 5
    assert (report.can_read, report.can_write) == (True, True)


def test_a_closed_connector_may_be_used_again(connector: Connector) -> None:
    load(connector, Rows((ID, NAME), [(1, "one")]))
    connector.close()
    assert names_in(connector) == ["one"]


def test_a_configuration_is_checked_without_connecting(connector: Connector) -> None:
    cls = type(connector)
    assert cls.check_config(connector.config) == []
    odd = {"no_such_option": "x"}
    problems = cls.check_config(type(connector.config)(**{**vars(connector.config), "options": odd}))
    assert any("no_such_option" in problem for problem in problems)
    assert cls.check_config(type(connector.config)("empty", connector.db_type))
