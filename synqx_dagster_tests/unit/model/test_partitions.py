"""Partitions as users write them."""

from __future__ import annotations

import pytest

from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.model import Mapping
from synqx_dagster.model.partitions import StaticPartitions, TimePartitions, find_difference

MAPPING = {
    "name": "orders",
    "source_connection": "shop",
    "source_table": "orders",
    "target_connection": "warehouse",
    "target_table": "orders",
}
DAILY = {"type": "daily", "start": "2024-01-01"}


def refusals(**values: object) -> str:
    with pytest.raises(InvalidRecordError) as caught:
        build_record("mapping", {**MAPPING, **values})
    return " / ".join(f"{'.'.join(map(str, problem.path))}: {problem.message}" for problem in caught.value.problems)


def test_a_day_is_written_as_it_is_in_yaml_and_comes_out_the_same() -> None:
    record = build_record("mapping", {**MAPPING, "partitions": DAILY, "partition_column": "day"})
    assert isinstance(record, Mapping)
    assert isinstance(record.partitions, TimePartitions)
    dumped = record.model_dump(mode="json", exclude_defaults=True)
    assert dumped["partitions"] == DAILY
    assert build_record("mapping", dumped) == record


def test_whole_numbers_are_keys_too() -> None:
    assert StaticPartitions(type="static", values=(1, "b")).values == ("1", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        ({"type": "daily"}, "start"),
        ({"type": "daily", "start": "yesterday"}, "must be a day, such as 2024-01-31"),
        ({"type": "daily", "start": "2024-01-01 12:00"}, "must be a day, such as 2024-01-31"),
        ({"type": "daily", "start": 20240101}, "must be a day, such as 2024-01-31"),
        ({**DAILY, "end": "2024-01-01"}, "end (2024-01-01) must be after start (2024-01-01)"),
        ({"type": "monthly", "start": "2024-01-15"}, "start (2024-01-15) must be the first day of a month"),
        ({**DAILY, "timezone": "Mars/Olympus"}, "is not a time zone of the IANA database"),
        ({**DAILY, "partitions_per_run": 0}, "partitions_per_run"),
        ({"type": "weekly", "start": "2024-01-01"}, "type"),
        ({"type": "static", "values": []}, "values"),
        ({"type": "static", "values": ["a", "a"]}, "'a' stands there twice"),
        ({"type": "static", "values": ["a...b"]}, "cannot name a partition"),
        ({"type": "static", "values": [" a"]}, "cannot name a partition"),
        ({"type": "static", "values": ["a\nb"]}, "cannot name a partition"),
        ({"type": "static", "values": [True]}, "values"),
    ],
)
def test_what_is_wrong_with_partitions_is_said(partitions: dict[str, object], message: str) -> None:
    assert message in refusals(partitions=partitions, partition_column="day")


def test_partitions_and_their_column_go_together() -> None:
    assert "partitions and partition_column go together" in refusals(partitions=DAILY)
    assert "partitions and partition_column go together" in refusals(partition_column="day")


def test_partitions_are_replaced() -> None:
    assert "this mapping has mode append" in refusals(partitions=DAILY, partition_column="day", mode="append")


def test_the_column_is_filled_by_one_column_of_the_source() -> None:
    computed = [{"type": "expression", "expression": "now()", "target_fields": ["day"]}]
    message = refusals(partitions=DAILY, partition_column="day", column_mappings=computed)
    assert "partition_column 'day' must be filled by one column of the source (type: direct)" in message
    direct = [{"type": "direct", "source_columns": ["created"], "target_fields": ["day"]}]
    record = build_record(
        "mapping", {**MAPPING, "partitions": DAILY, "partition_column": "day", "column_mappings": direct}
    )
    assert isinstance(record, Mapping)
    assert record.partition_source == "created"


def test_what_runs_together_has_the_same_partitions() -> None:
    daily, other = TimePartitions(**DAILY), StaticPartitions(type="static", values=("a",))  # type: ignore[arg-type]
    assert find_difference({"a": daily, "b": None, "c": TimePartitions(**DAILY)}) is None  # type: ignore[arg-type]
    assert find_difference({"n": None, "a": daily, "b": other}) == ("a", "b")
    assert find_difference({}) is None
