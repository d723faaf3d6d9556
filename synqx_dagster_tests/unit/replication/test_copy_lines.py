"""Rows as lines of COPY's text format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import FatalError
from synqx_dagster.replication.changes import UNCHANGED, Row
from synqx_dagster.replication.copy_lines import encode_lines

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}

_values = st.one_of(
    st.none(),
    st.sampled_from(["", "\\N", "\\", "\\.", "\t", "\n", "\r", "a\tb", "N", "ü😀"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
)


def read_field(field: str) -> str | None:
    """A field as PostgreSQL reads it."""
    if field == "\\N":
        return None
    found, characters = [], iter(field)
    for character in characters:
        found.append(_ESCAPES[next(characters)] if character == "\\" else character)
    return "".join(found)


@given(rows=st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[_values] * width), max_size=6)))
def test_lines_are_read_back_as_the_rows_that_they_were(rows: list[Row]) -> None:
    text = encode_lines(rows, "\t7").decode()
    lines = text.split("\n")[:-1]
    assert [tuple(map(read_field, line.split("\t"))) for line in lines] == [(*row, "7") for row in rows]
    assert text == "" or text.endswith("\n")


@pytest.mark.parametrize("row", [(UNCHANGED,), ("a", None, UNCHANGED)])
def test_a_value_that_is_not_known_is_never_written(row: Row) -> None:
    with pytest.raises(FatalError, match="does not tell"):
        encode_lines([row])
