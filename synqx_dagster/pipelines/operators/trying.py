"""Texts of a pipeline that only DuckDB can judge before any row comes: regular expressions, and values of its types."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _database(process_id: int) -> Any:
    """One for each process: what a fork inherits may hold locks that nobody lets go of."""
    import duckdb

    return duckdb.connect(":memory:", config={"threads": "1", "enable_external_access": "false"})


@lru_cache(maxsize=4096)
def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a regular expression; None if it is one."""
    import duckdb

    with _database(os.getpid()).cursor() as cursor:
        try:
            cursor.execute("SELECT regexp_full_match('', $1)", [pattern]).fetchall()
        except duckdb.Error as exc:
            return str(exc).splitlines()[0].partition(": ")[2] or type(exc).__name__
    return None


@lru_cache(maxsize=4096)
def is_value_of(text: str, native_type: str) -> bool:
    """Whether DuckDB reads a text as a value of a type."""
    with _database(os.getpid()).cursor() as cursor:
        found = cursor.execute(f"SELECT TRY_CAST($1 AS {native_type}) IS NOT NULL", [text]).fetchone()
    return bool(found[0])


@lru_cache(maxsize=4096)
def is_larger(one: str, other: str, native_type: str) -> bool:
    """Whether the one text is the larger value of a type; false where either is none."""
    with _database(os.getpid()).cursor() as cursor:
        casts = f"TRY_CAST($1 AS {native_type}) > TRY_CAST($2 AS {native_type})"
        found = cursor.execute(f"SELECT coalesce({casts}, false)", [one, other]).fetchone()
    return bool(found[0])
