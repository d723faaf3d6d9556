"""What the guard writes into the catalog, and reads from it again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.defs.replication_guard import GuardState, _reason, _replication_of, read_cursor, write_cursor


@given(st.text(min_size=1, max_size=128), st.text(max_size=2000))
def test_a_reason_names_its_replication_whatever_the_name_holds(name: str, why: str) -> None:
    assert _replication_of(_reason(name, why)) == name


@pytest.mark.parametrize(
    "reason", [None, "", "x", "replication orders: it holds 9 GB", "replication 7: x", 'replication "a', "1"]
)
def test_a_reason_that_is_not_the_guards_names_none(reason: str | None) -> None:
    assert _replication_of(reason) is None


def test_a_cursor_comes_back_and_a_foreign_one_is_forgotten() -> None:
    states = {"a": GuardState(3, 1.5), "b": GuardState()}
    assert read_cursor(write_cursor(states)) == {"a": GuardState(3, 1.5)}
    for foreign in (None, "", "x", "[1]", '{"a": 1}'):
        assert read_cursor(foreign) == {}
