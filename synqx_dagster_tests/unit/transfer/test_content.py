"""The decisions of a comparison that need no database: what is split, read, listed and said."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import DatabaseError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind
from synqx_dagster.transfer import content
from synqx_dagster.transfer.content_plan import choose_form
from synqx_dagster.transfer.content_report import ColumnDifference, ContentReport, Difference, SideReport
from synqx_dagster.transfer.content_side import Checksum, Ranges, common_scheme

SIDE = SideReport("shop", "customer", 3, "database")
REPORT = ContentReport(
    mapping="customers",
    source=SIDE,
    target=replace(SIDE, connection="warehouse"),
    key=("id",),
    columns=4,
    ranges=4096,
    differing_ranges=0,
    missing=0,
    extra=0,
    different=0,
    set_aside=0,
    complete=True,
    allows_extra=False,
    differences=(),
    seconds=0.25,
)


class Session:
    """A session of which one call waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    def wait(self) -> str:
        if not self.cancelled.wait(timeout=30):
            raise AssertionError("nobody cancelled")
        raise DatabaseError("cancelled")


def both_sides(source: Any, target: Any) -> content._BothSides:
    return content._BothSides(source, target)


def test_both_sides_answer() -> None:
    with both_sides(Session(), Session()) as both:
        assert both.ask(lambda: 1, lambda: "two") == (1, "two")


@pytest.mark.parametrize("fails", ["source", "target"])
def test_a_side_that_fails_ends_the_other_and_is_the_error(fails: str) -> None:
    def fail() -> str:
        raise DatabaseError("the disk is gone")

    session = Session()
    with both_sides(session, session) as both, pytest.raises(DatabaseError, match="the disk is gone"):
        both.ask(fail, session.wait) if fails == "source" else both.ask(session.wait, fail)


def test_ranges_that_differ_are_those_whose_rows_or_sums_do() -> None:
    source = {1: Checksum(2, 10), 2: Checksum(1, 5), 3: Checksum(1, 7), 4: Checksum(1, 0)}
    target = {1: Checksum(2, 10), 2: Checksum(1, 6), 5: Checksum(9, 9)}
    assert content._differing(source, target) == {2: 1, 3: 1, 4: 1, 5: 9}


def test_small_ranges_are_read_as_they_are() -> None:
    assert content._bits_to_split({1: content.RANGE_ROWS, 2: 5}, 12) == 0
    assert content._bits_to_split({}, 12) == 0


@given(
    weights=st.dictionaries(st.integers(0, 2**12 - 1), st.integers(1, 10**9), min_size=1),
    bits=st.integers(12, content.MAX_BITS),
)
def test_a_split_is_bounded(weights: dict[int, int], bits: int) -> None:
    split = content._bits_to_split(weights, bits)
    assert 0 <= split <= content.MAX_SPLIT_BITS
    assert bits + split <= content.MAX_BITS
    if max(weights.values()) <= content.RANGE_ROWS:
        assert len(weights) << split <= content.MAX_RANGES


@given(weights=st.dictionaries(st.integers(0, 50), st.integers(1, 1000), min_size=1), rows=st.integers(1, 5000))
def test_what_is_read_is_bounded_and_never_nothing(weights: dict[int, int], rows: int) -> None:
    chosen = content._first_rows(weights, rows)
    assert chosen
    assert sum(chosen.values()) <= rows or len(chosen) == 1


def test_keys_are_listed_in_the_order_that_people_expect() -> None:
    keys = [("10",), ("9",), (None,), ("-3",), ("b",), ("a",), ("²",)]
    found = [Difference("missing", key) for key in keys]
    listed = content._chosen(found, 10, extra_last=False)
    assert [one.key[0] for one in listed] == ["-3", "a", "b", "²", "9", "10", None]


def test_what_is_no_fault_is_listed_last() -> None:
    found = [Difference("extra", ("1",)), Difference("missing", ("2",))]
    assert [one.kind for one in content._chosen(found, 10, extra_last=True)] == ["missing", "extra"]


def test_a_condition_names_ranges_by_their_lowest_bits() -> None:
    assert Ranges(12).condition("d") == ""
    assert Ranges(3, (1, 5)).condition("d") == "(d & 7) IN (1, 5)"


def test_the_fastest_scheme_of_both_is_taken() -> None:
    assert common_scheme(("postgresql:UTF8:1", "md5"), ("postgresql:UTF8:1", "md5")) == "postgresql:UTF8:1"
    assert common_scheme(("postgresql:UTF8:1", "md5"), ("postgresql:UTF8:2", "md5")) == "md5"
    assert common_scheme((), ("postgresql:UTF8:1", "md5")) == "md5"


@pytest.mark.parametrize(
    ("field", "column", "form"),
    [
        ("integer", "bigint", "integer"),
        ("bigint", "decimal", "decimal"),
        ("decimal", "decimal", "decimal"),
        ("real", "float", "float"),
        ("boolean", "smallint", "boolean"),
        ("binary", "binary", "binary"),
        ("date", "date", "plain"),
        ("timestamptz", "timestamptz", "plain"),
        ("uuid", "uuid", "plain"),
        ("uuid", "string", "text"),
        ("json", "json", "text"),
        ("date", "string", "text"),
        ("string", "string", "text"),
    ],
)
def test_the_form_follows_from_both_types(field: TypeKind, column: TypeKind, form: str) -> None:
    assert choose_form(Column("c", DataType(field)), Column("c", DataType(column))) == form


def test_a_report_passes_only_if_all_was_seen_and_nothing_is_wrong() -> None:
    assert REPORT.passed
    assert REPORT.description == "3 rows of 4 columns are the same on both sides"
    assert not replace(REPORT, complete=False).passed
    assert not replace(REPORT, missing=1).passed
    assert not replace(REPORT, different=1).passed
    assert not replace(REPORT, extra=1).passed
    assert replace(REPORT, extra=1, allows_extra=True).passed
    single = replace(REPORT, source=replace(REPORT.source, rows=1), columns=1, extra=1, allows_extra=True)
    assert single.description == (
        "1 row of 1 column is the same on both sides; the target has 1 more, which the load mode keeps"
    )


def test_the_event_log_gets_counts_and_columns_but_no_key_and_no_value() -> None:
    difference = Difference("different", ("canary-key",), (ColumnDifference("email", "canary-1", "canary-2"),))
    outcome = replace(REPORT, different=1, differences=(difference,)).to_outcome()
    assert not outcome.passed
    assert outcome.metadata["differing_columns"] == "email"
    assert outcome.metadata["different"] == 1
    assert "canary" not in repr(outcome)
