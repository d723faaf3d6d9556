"""Patterns of table names: ``*`` stands for any number of characters of a part, ``?`` for one."""

from __future__ import annotations

import re
from functools import lru_cache

from synqx_dagster.model.table import TableName


def is_pattern(text: str) -> bool:
    """Whether a text stands for any number of others."""
    return "*" in text or "?" in text


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern stands for a text; upper and lower case differ, as they do in PostgreSQL's catalog."""
    return _compiled(pattern).fullmatch(text) is not None


def may_meet(first: str, second: str) -> bool:
    """Whether there is a text for which both patterns stand. A pattern may be a plain text."""
    # Which ends of `second` are reached once so much of `first` is used: columns of the usual table of an alignment.
    reached = _skip_stars(second, {0})
    for symbol in first:
        following: set[int] = set()
        if symbol == "*":
            # It takes nothing, or any number of symbols.
            following = _skip_stars(second, set(range(min(reached, default=len(second) + 1), len(second) + 1)))
        else:
            for place in reached:
                if place < len(second):
                    other = second[place]
                    if other == "*":
                        following.add(place)
                    elif "?" in (symbol, other) or symbol == other:
                        following.add(place + 1)
            following = _skip_stars(second, following)
        reached = following
    return len(second) in reached


def tables_may_meet(first: TableName, second: TableName) -> bool:
    """Whether there is a table for which both names, each of which may be a pattern, stand."""
    return may_meet(first.name, second.name) and may_meet(first.schema or "", second.schema or "")


def _skip_stars(text: str, places: set[int]) -> set[int]:
    """The places, and those behind stars that take nothing."""
    found = set(places)
    for place in sorted(places):
        while place < len(text) and text[place] == "*":
            place += 1
            found.add(place)
    return found


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(character) or re.escape(character) for character in pattern), re.DOTALL)
