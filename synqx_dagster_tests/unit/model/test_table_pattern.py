"""Patterns of table names: what they stand for, and whether two of them can stand for one table."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.model import TableName
from synqx_dagster.model.table_pattern import is_pattern, matches, may_meet, tables_may_meet

patterns = st.text("ab*?", max_size=6)
texts = st.text("ab", max_size=6)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("orders", "orders", True),
        ("orders", "Orders", False),
        ("ord*", "orders", True),
        ("*", "", True),
        ("o?ders", "orders", True),
        ("o?ders", "oders", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("a*c", "a\nb c", True),
    ],
)
def test_what_a_pattern_stands_for(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


@given(patterns, patterns)
def test_two_patterns_may_meet_where_a_text_fits_both(first: str, second: str) -> None:
    # A text that fits both needs no more than one character for each symbol of the two.
    longest = len(first) + len(second)
    short = itertools.chain.from_iterable(itertools.product("ab", repeat=size) for size in range(min(longest, 7) + 1))
    found = any(matches(first, "".join(text)) and matches(second, "".join(text)) for text in short)
    if found or longest <= 7:
        assert may_meet(first, second) is found


@given(patterns, patterns, texts)
def test_it_is_symmetric_and_true_of_what_both_stand_for(first: str, second: str, text: str) -> None:
    assert may_meet(first, second) == may_meet(second, first)
    assert may_meet(first, text) == matches(first, text)
    assert may_meet(first, first)


def test_tables_meet_in_both_parts() -> None:
    assert tables_may_meet(TableName("*", "public"), TableName("orders", "p*"))
    assert not tables_may_meet(TableName("*", "public"), TableName("*", "sales"))
    assert tables_may_meet(TableName("a"), TableName("a"))
    assert is_pattern("a?")
    assert not is_pattern("a.b")
