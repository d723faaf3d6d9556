"""Rows as the lines of text that PostgreSQL's COPY reads; pure. Source: PostgreSQL manual, COPY, Text Format.

The source's values are what PostgreSQL prints, so that nothing is converted. Rows are joined first, and looked at
afterwards, all at once: a character that must be escaped is rare. Measured on rows of 7 values: 0.5 microseconds for
each, and 3 by way of Arrow and CSV, most of which Python spends in making an array of each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synqx_dagster.errors import FatalError
from synqx_dagster.replication.changes import Unchanged, Value

NULL = "\\N"

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def encode_lines(rows: Sequence[Sequence[Value]], end: str = "") -> bytes:
    """One line for each row.

    Args:
        end: What every line ends with, as it is: more values, a tab before each.

    Raises:
        FatalError: A row holds a value that is not known.
    """
    if not rows:
        return b""
    separator = f"{end}\n"
    try:
        text, nulls = _join(rows, separator)
    except TypeError:
        # A value that is neither a text nor NULL: escaping says so.
        return _join_escaped(rows, separator).encode()
    width, count = len(rows[0]), len(rows)
    is_plain = (
        text.count("\t") == count * (width - 1 + end.count("\t"))
        and text.count("\n") == count
        and text.count("\\") == nulls + count * end.count("\\")
        and "\r" not in text
    )
    return (text if is_plain else _join_escaped(rows, separator)).encode()


def _join(rows: Sequence[Sequence[Any]], separator: str) -> tuple[str, int]:
    """The rows' values as they are, and how many of them are NULL."""
    try:
        return separator.join(["\t".join(row) for row in rows]) + separator, 0
    except TypeError:
        lines = ["\t".join([NULL if one is None else one for one in row]) for row in rows]
        return separator.join(lines) + separator, sum(row.count(None) for row in rows)


def _join_escaped(rows: Sequence[Sequence[Value]], separator: str) -> str:
    return separator.join(["\t".join(map(_escape, row)) for row in rows]) + separator


def _escape(value: Value) -> str:
    if value is None:
        return NULL
    if isinstance(value, Unchanged):
        raise FatalError("a value that the log does not tell was about to be written")
    return value.translate(_ESCAPES)
