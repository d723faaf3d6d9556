"""Names, literals and parameters of PostgreSQL, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.postgresql_names import qualify, quote, quote_text, to_pyformat
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import TableName


def test_names_are_quoted_and_qualified() -> None:
    assert quote('a"b') == '"a""b"'
    assert qualify(TableName("t")) == '"public"."t"'
    assert qualify(TableName('x"', "s.p")) == '"s.p"."x"""'


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "é" * 32])
def test_names_that_the_server_would_change_are_refused(name: str) -> None:
    with pytest.raises(PlanError):
        quote(name)


def test_the_longest_names_pass() -> None:
    assert quote("x" * 63)
    assert quote("é" * 31)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select ?", "select %s"),
        ("select '?', ?", "select '?', %s"),
        ("select 'it''s ?', ?", "select 'it''s ?', %s"),
        (r"select E'\'?', ?", r"select E'\'?', %s"),
        ('select "a?""?", ?', 'select "a?""?", %s'),
        ("select $$?$$, $x$ $$ ? $x$, ?", "select $$?$$, $x$ $$ ? $x$, %s"),
        ("select ? -- what?\n, ?", "select %s -- what?\n, %s"),
        ("select /* ? */ ?", "select /* ? */ %s"),
        ("select 5 % ?, '%s', \"100%\"", "select 5 %% %s, '%%s', \"100%%\""),
    ],
)
def test_parameters_are_found_outside_of_texts_names_and_comments(sql: str, expected: str) -> None:
    assert to_pyformat(sql) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="?%'\"\\$x- \n/*"))
def test_percent_signs_survive_the_round_trip(text: str) -> None:
    pieces = to_pyformat(text).replace("%%", "\0").split("%s")
    assert "?".join(pieces).replace("\0", "%") == text


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_a_literal_ends_where_it_should(text: str) -> None:
    literal = quote_text(text).strip()
    assert literal.startswith("E'")
    assert literal.endswith("'")
    inner = literal[2:-1]
    # Undoing both escapes, in order, gives the text back, and no quote stands alone.
    assert inner.replace("''", "").count("'") == 0
    assert inner.replace("\\\\", "\0").replace("''", "'").replace("\0", "\\") == text.replace("\0", "\\")
