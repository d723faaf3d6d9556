"""The short way of the arrow lane: which loads have it, and which batches take it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from synqx_dagster.connectors.duckdb_types import holds, native_type
from synqx_dagster.connectors.protocol import ENDLESS_DAYS, Capabilities, Connector, Encoded, ReadSession
from synqx_dagster.mapping.compile import CompiledMapping, compile_mapping
from synqx_dagster.model import Mapping
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.arrow import Transform
from synqx_dagster.transfer.direct import PATIENCE_BATCHES, CommonTest, find_common_tests, find_direct, sift
from synqx_dagster.transfer.quarantine import BadRowSpool

MONEY, DAY = DataType("decimal", 9, 2), DataType("date")
COLUMNS = (
    Column("id", DataType("integer"), nullable=False),
    Column("money", MONEY),
    Column("day", DAY),
)
ARRIVING = pa.schema([("id", pa.int32()), ("money", pa.string()), ("day", pa.date32())])
TARGET = cast(Connector, SimpleNamespace(capabilities=Capabilities(direct_kinds=frozenset({"date", "decimal"}))))
HOLDS = {"money": str(holds(MONEY)), "day": "{value} NOT IN ('infinity', '-infinity')"}


class Reads:
    """A read session that knows the direct form of everything."""

    def encode_direct(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded | None:
        return Encoded(expression, pa.date32())


def compiled(columns: Sequence[Column] = COLUMNS, **fields: Any) -> CompiledMapping:
    record = Mapping.model_validate(
        {
            "name": "load",
            "source_connection": "source",
            "target_connection": "target",
            "source_table": "t",
            "target_table": "t",
            **fields,
        }
    )
    return compile_mapping(record, None, columns, source_dialect="postgres")


def staged(mapping: CompiledMapping) -> list[Column]:
    return [Column(one.column.name, one.column.data_type, True, native_type(one.column)) for one in mapping.fields]


def direct_columns(mapping: CompiledMapping, columns: Sequence[Column] | None = None) -> frozenset[str]:
    return find_direct(
        mapping, columns or staged(mapping), cast(ReadSession, Reads()), TARGET.capabilities.direct_kinds
    )


def find_tests(
    mapping: CompiledMapping, schema: pa.Schema = ARRIVING, checked: frozenset[str] = frozenset(HOLDS)
) -> tuple[CommonTest, ...] | None:
    return find_common_tests(mapping, staged(mapping), schema, checked, TARGET)


def batch(ids: list[int], money: list[str | None], days: list[int | None]) -> pa.RecordBatch:
    day = pa.array(days, pa.int32()).view(pa.date32())
    return pa.record_batch([pa.array(ids, pa.int32()), pa.array(money, pa.string()), day], schema=ARRIVING)


COMMON = ([1, 2], ["1.50", None], [0, None])


class Counted(Transform):
    """Counts what it is asked for."""

    calls = 0

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        self.calls += 1
        return super().run(batches)


def run(batches: Sequence[pa.RecordBatch]) -> tuple[list[dict[str, Any]], list[tuple[str, str | None]], int]:
    """Good rows (days as numbers), bad rows with their first reasons, and how often the transform ran."""
    mapping = compiled()
    arrow_types = {field.name: field.type for field in ARRIVING}
    tests = find_tests(mapping)
    assert tests is not None
    names = [column.name for column in COLUMNS]
    rows: list[dict[str, Any]] = []
    with BadRowSpool() as spool, Counted(mapping.duckdb(arrow_types, holds=HOLDS), ARRIVING) as transform:
        for one in sift(iter(batches), tests, mapping, names, transform, spool, ["id"]):
            assert one.schema.types == ARRIVING.types
            days = one.column("day").view(pa.int32())
            rows.extend(one.set_column(2, "day", days).to_pylist())
        bad = [
            (str(row["source_row"]), str(row["column_name"]))
            for found in spool.iter_batches()
            for row in found.to_pylist()
        ]
        return rows, bad, transform.calls


def test_common_batches_do_not_meet_the_transform() -> None:
    rows, bad, calls = run([batch(*COMMON), batch([3], ["-0.01"], [-719_162]), batch([4], ["9"], [2_932_896])])
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert rows[0] == {"id": 1, "money": "1.50", "day": 0}
    assert (bad, calls) == ([], 0)


def test_a_batch_with_an_uncommon_value_is_looked_at_row_by_row() -> None:
    uncommon = batch([3, 4, 5], ["NaN", "2.00", "3.00"], [1, ENDLESS_DAYS, -800_000])
    rows, bad, calls = run([batch(*COMMON), uncommon, batch(*COMMON)])
    assert [row["id"] for row in rows] == [1, 2, 5, 1, 2]
    assert rows[2]["day"] == -800_000
    assert [column for _, column in bad] == ["money", "day"]
    assert '"day":"infinity"' in bad[1][0]
    assert calls == 1


def test_a_year_before_christ_is_canonical_text_in_a_bad_row() -> None:
    days = (datetime.date(1, 1, 1) - datetime.date(1970, 1, 1)).days - 1
    _, bad, _ = run([batch([1], ["NaN"], [days])])
    assert '"day":"0001-12-31 BC"' in bad[0][0]


def test_only_the_part_of_a_batch_that_is_meant_is_looked_at() -> None:
    whole = batch([1, 2, 3], ["NaN", "2.00", "NaN"], [ENDLESS_DAYS, 2, ENDLESS_DAYS])
    rows, bad, calls = run([whole.slice(1, 1)])
    assert ([row["id"] for row in rows], bad, calls) == ([2], [], 0)


def test_an_empty_batch_is_a_common_one() -> None:
    assert run([batch([], [], []), batch(*COMMON).slice(1, 0)]) == ([], [], 0)


def test_many_uncommon_batches_make_one_stream() -> None:
    rows, bad, calls = run([batch([number], ["NaN"], [0]) for number in range(10)] + [batch(*COMMON)])
    assert [row["id"] for row in rows] == [1, 2]
    assert len(bad) == 10
    assert calls == PATIENCE_BATCHES


def test_null_in_a_field_that_has_none_is_looked_for() -> None:
    mapping = compiled().requiring(["day"])
    assert find_tests(mapping) == (
        CommonTest(0, True, None),
        CommonTest(1, False, "decimal"),
        CommonTest(2, True, "date"),
    )


@pytest.mark.parametrize(
    "column_mappings",
    [
        [{"type": "join", "source_columns": ["id", "money"], "target_fields": ["both"], "config": {"separator": "-"}}],
        [{"type": "hash", "source_columns": ["day"], "target_fields": ["digest"]}],
    ],
)
def test_a_mapping_that_computes_has_no_short_way(column_mappings: list[dict[str, Any]]) -> None:
    mapping = compiled(column_mappings=column_mappings)
    assert find_tests(mapping) is None
    assert direct_columns(mapping) == frozenset()


def test_a_column_that_is_also_computed_with_keeps_its_carrier() -> None:
    mapping = compiled(
        column_mappings=[
            {"type": "direct", "source_columns": ["day"], "target_fields": ["day"]},
            {"type": "hash", "source_columns": ["day"], "target_fields": ["digest"]},
        ]
    )
    assert direct_columns(mapping) == frozenset()
    assert direct_columns(compiled()) == {"money", "day"}


def test_a_column_of_another_type_in_the_target_gets_the_carrier() -> None:
    mapping = compiled()
    other = [Column(column.name, DataType("string")) for column in staged(mapping)]
    assert direct_columns(mapping, other) == frozenset()
    assert find_common_tests(mapping, other, ARRIVING, frozenset(HOLDS), TARGET) is None


def test_values_that_are_looked_at_in_other_ways_have_no_short_way() -> None:
    columns = (*COLUMNS, Column("document", DataType("json")))
    schema = ARRIVING.append(pa.field("document", pa.string()))
    assert find_tests(compiled(columns), schema, frozenset({"document"})) is None
    assert find_tests(compiled(columns), schema) is not None
    # Text that is not known to be a value of its column's type.
    untrusted = ARRIVING.set(1, pa.field("money", pa.large_string()))
    assert find_tests(compiled(), untrusted) is None


@pytest.mark.parametrize("data_type", [DataType("decimal"), DataType("decimal", 40, 2)])
def test_decimals_that_not_every_digit_fits_have_no_short_way(data_type: DataType) -> None:
    mapping = compiled((COLUMNS[0], Column("money", data_type)))
    columns = [Column("id", DataType("integer")), Column("money", data_type)]
    schema = pa.schema([("id", pa.int32()), ("money", pa.string())])
    assert find_common_tests(mapping, columns, schema, frozenset({"money"}), TARGET) is None
