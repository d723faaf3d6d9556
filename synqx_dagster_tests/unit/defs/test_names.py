"""Names that Dagster sees."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.defs.names import dagster_kind, dagster_owner, is_dagster_tag, op_name, resource_key

PARTS = st.lists(st.text(st.sampled_from("ab_. ä客'"), min_size=1, max_size=4), min_size=1, max_size=3)


def test_op_name_of_plain_parts_is_readable():
    assert op_name(["warehouse", "analytics", "customer"]) == "warehouse__analytics__customer"


@settings(max_examples=200)
@given(PARTS, PARTS)
def test_op_names_are_valid_and_differ_where_tables_differ(first, second):
    assert re.fullmatch(r"[A-Za-z0-9_]+", op_name(first))
    assert (op_name(first) == op_name(second)) == (first == second)


@pytest.mark.parametrize(
    ("owner", "expected"),
    [("ana@example.com", "ana@example.com"), ("team:data", "team:data"), ("Data Team", "team:Data_Team")],
)
def test_owners(owner, expected):
    assert dagster_owner(owner) == expected


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("domain", "sales", True),
        ("team/domain", "sales", True),
        ("dagster/concurrency_key", "sales", False),
        ("a b", "sales", False),
        ("domain", "two words", False),
        ("domain", "x" * 64, False),
    ],
)
def test_tags(key, value, accepted):
    assert is_dagster_tag(key, value) is accepted


def test_resource_key_and_kind_fit_dagster():
    assert resource_key("Shop (old)") == "conn_Shop_old_"
    assert dagster_kind("My DB!") == "my-db-"
