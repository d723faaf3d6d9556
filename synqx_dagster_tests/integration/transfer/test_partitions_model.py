"""A law: in whatever order partitions are loaded, and loaded again, the target's are the source's of that moment."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.transfer.result import PartitionSlice
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping

FIRST = datetime(2024, 2, 27, tzinfo=UTC)
DAYS = 5
#: Moments around the midnights of five days, one of them a leap day.
MOMENTS = [
    f"{FIRST + timedelta(days=day) + shift:%Y-%m-%d %H:%M:%S.%f}"
    for day in range(DAYS)
    for shift in (timedelta(), timedelta(microseconds=1), timedelta(hours=23, minutes=59, seconds=59.999999))
]
Rows = list[tuple[int, str]]

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.sampled_from(MOMENTS)),
        st.tuples(st.just("delete"), st.integers(0, 20)),
        st.tuples(st.just("load"), st.integers(0, DAYS - 1), st.integers(0, DAYS - 1)),
    ),
    max_size=8,
)


def day_of(moment: str) -> int:
    return (datetime.fromisoformat(moment).replace(tzinfo=UTC) - FIRST).days


def part(first: int, last: int) -> PartitionSlice:
    start, end = FIRST + timedelta(days=first), FIRST + timedelta(days=last)
    return PartitionSlice(f"{start:%Y-%m-%d}", f"{end:%Y-%m-%d}", last - first + 1, start, end + timedelta(days=1))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(MOMENTS), max_size=12), CHANGES)
def test_the_target_is_what_the_source_was_when_each_partition_was_loaded(
    moments: list[str], changes: list[tuple[Any, ...]]
) -> None:
    mapping = make_mapping(
        source_table="event",
        target_table="event",
        partitions={"type": "daily", "start": "2024-02-27"},
        partition_column="at",
    )
    rows: Rows = list(enumerate(moments))
    expected: Rows = []
    with tempfile.TemporaryDirectory() as name, closing(sqlite3.connect(Path(name) / "source.db")) as source:
        source.execute("create table event (id integer not null, at timestamp not null)")
        source.executemany("insert into event values (?, ?)", rows)
        source.commit()
        ends = [
            connect(ConnectionConfig(name=kind, db_type=kind, database=str(Path(name) / file)))
            for kind, file in (("sqlite", "source.db"), ("duckdb", "target.duckdb"))
        ]
        for number, (what, *values) in enumerate([*changes, ("load", 0, DAYS - 1)]):
            match what:
                case "insert":
                    rows.append((1000 + number, values[0]))
                    source.execute("insert into event values (?, ?)", rows[-1])
                case "delete" if rows:
                    gone = rows.pop(values[0] % len(rows))
                    source.execute("delete from event where id = ?", gone[:1])
                case "load":
                    first, last = sorted(values)
                    load(ends[0], ends[1], mapping, load_id=f"load-{number}", partition=part(first, last))
                    expected = [row for row in expected if not first <= day_of(row[1]) <= last]
                    expected += [row for row in rows if first <= day_of(row[1]) <= last]
                    ends[1].close()
                    assert Counter(fetch(Path(name) / "target.duckdb")) == Counter(expected)
            source.commit()
        for connector in ends:
            connector.close()
        assert Counter(expected) == Counter(rows)


def fetch(path: Path) -> Rows:
    query = "select id, strftime(\"at\", '%Y-%m-%d %H:%M:%S.%f') from event"
    with closing(duckdb.connect(str(path), read_only=True)) as target:
        return [(row[0], row[1]) for row in target.execute(query).fetchall()]
