"""SQLite as a source of windows and partitions: it compares what is stored, and no row is left out for that."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import DataError, PlanError
from synqx_dagster.model import Column, DataType
from synqx_dagster.transfer.load import LoadResult, run_load
from synqx_dagster.transfer.result import LoadRequest, PartitionSlice, ReadWindow
from synqx_dagster.transfer.sqlite_order import SPELLINGS_SQL, Spelling, why_unordered
from synqx_dagster_tests.integration.transfer.loading import connect, make_mapping


class File:
    """A source whose table ``ct`` has a column ``at``, and a target."""

    def __init__(self, directory: Path, declared: str) -> None:
        self.source_path, self.target_path = directory / "source.db", directory / "target.db"
        self.execute(f"create table ct (id integer primary key, at {declared} not null)")
        self.pair: tuple[Connector, Connector] = (
            connect(ConnectionConfig(name="source", db_type="sqlite", database=str(self.source_path))),
            connect(ConnectionConfig(name="target", db_type="sqlite", database=str(self.target_path))),
        )
        self.loads = 0

    def execute(self, sql: str) -> None:
        with closing(sqlite3.connect(self.source_path)) as connection:
            connection.execute(sql)
            connection.commit()

    def add(self, *values: object) -> None:
        with closing(sqlite3.connect(self.source_path)) as connection:
            connection.executemany("insert into ct (at) values (?)", [(value,) for value in values])
            connection.commit()

    def load(self, window: ReadWindow | None = None, **fields: Any) -> LoadResult:
        self.loads += 1
        name = f"load-{self.loads}"
        fields = {"mode": "merge", **fields}
        if fields["mode"] == "merge":
            fields["key"] = ["id"]
        mapping = make_mapping(source_table="ct", target_table="ct", **fields)
        return run_load(LoadRequest(mapping, None, *self.pair, name, name, window=window or ReadWindow()))

    def ids(self) -> list[int]:
        self.pair[1].close()
        with closing(sqlite3.connect(self.target_path)) as connection:
            return [number for (number,) in connection.execute("select id from ct order by id")]


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path, request.param)
    yield made
    for connector in made.pair:
        connector.close()


CURSOR = {"cursor": {"column": "at"}}


@pytest.mark.parametrize(
    ("file", "loaded", "later", "words"),
    [
        ("timestamp", "2024-02-01T01:00:00", ["2024-02-01 23:00:00"], "with a T between day and time"),
        ("timestamptz", "2024-02-01 10:00:00+05:30", ["2024-02-01 06:00:00+00"], "different offsets"),
        ("date", "2024-02-01", [20240301, "2024-02-02"], "numbers or blobs"),
        ("date", "2024-02-01", ["tomorrow"], "no date"),
        ("date", "2024-02-01", ["2024-02-30"], "no date"),
        ("timestamp", "2024-02-01 10:00:00.50", ["2024-02-01 10:00:00.5"], "different numbers of digits"),
        ("timestamptz", "2024-02-01T10:00:00Z", ["2024-02-01T10:00:00.5Z"], "different numbers of digits"),
        ("timestamp", "2024-02-01 00:00:00", ["2024-02-01"], "without a time"),
        ("timestamptz", "2024-02-01 10:00:00+05", ["2024-02-01 10:00:00+25"], "no timestamptz"),
        ("timestamptz", "2024-02-01 10:00:00+05", ["2024-02-01 10:00:00+05:70"], "no timestamptz"),
        ("decimal text(30, 0)", "9", ["10"], "texts, which do not sort as numbers"),
        ("numeric", 9, ["nine"], "texts, which do not sort as numbers"),
        ("", "9", [10], "side by side"),
    ],
    indirect=["file"],
)
def test_values_that_do_not_sort_as_their_type_are_refused(
    file: File, loaded: object, later: list[object], words: str
) -> None:
    file.add(loaded)
    if loaded != "9":
        file.load(on_bad_row="quarantine", **CURSOR)
    file.add(*later)
    with pytest.raises(DataError, match=words) as caught:
        file.load(on_bad_row="quarantine", **CURSOR)
    assert caught.value.hint
    assert not any(str(value) in str(caught.value) for value in later)


@pytest.mark.parametrize("file", ["timestamptz"], indirect=True)
def test_a_column_that_was_written_anew_in_another_way_is_compared_with_the_watermark(file: File) -> None:
    file.add("2024-02-01T10:00:00Z")
    file.load(**CURSOR)
    file.execute("update ct set at = '2024-02-01 10:00:00+00'")
    with pytest.raises(DataError, match="different offsets"):
        file.load(**CURSOR)
    assert file.load(ReadWindow(full=True), **CURSOR).rows_in == 1
    assert file.load(**CURSOR).rows_in == 1


@pytest.mark.parametrize("file", ["timestamptz"], indirect=True)
def test_windows_of_what_is_written_alike(file: File) -> None:
    file.add(*(f"2024-02-01T{hour:02}:00:00.000Z" for hour in range(1, 11)))
    part = ReadWindow(start="2024-02-01 04:30:00+01:00", end="2024-02-01 06:00:00+00:00")
    assert file.load(part, **CURSOR).rows_in == 2
    assert file.load(**CURSOR).rows_in == 10
    assert file.load(cursor={"column": "at", "lag_seconds": 7200}).rows_in == 3
    assert file.ids() == list(range(1, 11))


@pytest.mark.parametrize("file", ["timestamptz"], indirect=True)
def test_a_unique_cursor_does_not_hold_the_newest_row_back(file: File) -> None:
    file.execute("drop table ct")
    file.execute("create table ct (id integer not null, at timestamptz primary key not null)")
    file.execute("insert into ct values (1, '2024-02-01 10:00:00+00')")
    assert file.load(mode="append", **CURSOR).rows_in == 1
    assert file.load(mode="append", **CURSOR).rows_in == 0


def hours(first: int, count: int) -> ReadWindow:
    start = datetime(2024, 2, 1, first, tzinfo=UTC)
    end = start + timedelta(hours=count)
    return ReadWindow(partition=PartitionSlice(f"{start:%F-%H:%M}", f"{end:%F-%H:%M}", count, start, end))


@pytest.mark.parametrize("file", ["timestamptz"], indirect=True)
@pytest.mark.parametrize("written", ["{:02}:00:00Z", "{:02}:00:00.25+00"])
def test_hours_are_found_however_they_are_written(file: File, written: str) -> None:
    file.add(*(f"2024-02-01T{written.format(hour)}" for hour in range(10)))
    fields = {"partitions": {"type": "hourly", "start": "2024-01-01"}, "partition_column": "at"}
    assert file.load(hours(3, 2), mode="replace", **fields).rows_in == 2
    assert file.ids() == [4, 5]


@pytest.mark.parametrize("file", ["timestamptz"], indirect=True)
@pytest.mark.parametrize("later", ["2024-02-01 05:30+05:30", 20240201, "today"])
def test_rows_that_no_partition_would_find_are_refused(file: File, later: object) -> None:
    file.add("2024-02-01 01:00:00+00", later)
    fields = {"partitions": {"type": "daily", "start": "2024-01-01"}, "partition_column": "at"}
    with pytest.raises(DataError, match="the partition column 'at'"):
        file.load(hours(0, 24), mode="replace", **fields)


@pytest.mark.parametrize("file", [""], indirect=True)
def test_a_number_is_in_no_partition_of_texts(file: File) -> None:
    file.add(1, "1")
    fields = {"partitions": {"type": "static", "values": ["1"]}, "partition_column": "at"}
    with pytest.raises(DataError, match="numbers or blobs, which no text is equal to"):
        file.load(ReadWindow(partition=PartitionSlice("1", "1", 1, values=("1",))), mode="replace", **fields)


MOMENTS = st.datetimes(datetime(2024, 2, 1), datetime(2024, 2, 1, 0, 2)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 100_000 * 100_000)
)
FORMS = [
    f"%Y-%m-%d{separator}%H:%M{rest}"
    for separator, rest in itertools.product(" T", ["", ":%S", ":%S.%f", "Z", ":%SZ", ":%S.%fZ", ":%S.%f+00"])
] + ["%Y-%m-%d"]


@given(st.lists(st.tuples(MOMENTS, st.sampled_from(FORMS), st.integers(1, 6)), min_size=2, max_size=5))
def test_what_is_not_refused_sorts_as_the_moments(rows: list[tuple[datetime, str, int]]) -> None:
    texts = []
    for moment, form, digits in rows:
        text = moment.strftime(form.replace("%f", f"{moment.microsecond:06}"[:digits]))
        texts.append(text)
    moments = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in texts]
    with closing(sqlite3.connect(":memory:")) as connection:
        stored = " UNION ALL ".join(f"SELECT '{text}' AS stored" for text in texts)
        found = json.loads(connection.execute(SPELLINGS_SQL.replace("{stored}", stored)).fetchone()[0])
    assert "other" not in found
    if why_unordered(Column("at", DataType("timestamptz")), found, use="cursor") is not None:
        return
    for (text, moment), (other, later) in itertools.combinations(zip(texts, moments, strict=True), 2):
        assert (text < other, text == other) == (moment < later, moment == later)


@pytest.mark.parametrize(
    ("spelling", "moment", "bound"),
    [
        (Spelling(is_zoned=False), "2024-02-01 10:00:00", "2024-02-01 10:00"),
        (Spelling(is_zoned=False), "2024-02-01 00:00:10.50", "2024-02-01 00:00:10.5"),
        (Spelling(is_zoned=False), "0044-02-01", "0044-02-01"),
        (Spelling(True, "T", "+05:30"), "2024-02-01 20:00:00+00", "2024-02-02T01:30"),
        (Spelling(True, " ", ""), "2024-02-01 20:00:00+02:00", "2024-02-01 18:00"),
        (Spelling(True, "T", "Z", 0), "2024-02-01T10:00:00.5Z", "2024-02-01T10:00:01"),
    ],
)
def test_a_bound_is_written_as_the_column(spelling: Spelling, moment: str, bound: str) -> None:
    assert spelling.bound(moment) == bound


def test_a_bound_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(PlanError, match=r"0001-01-01 cannot be written so") as caught:
        Spelling(True, "T", "-05:30", 0).bound("0001-01-01")
    assert caught.value.hint
