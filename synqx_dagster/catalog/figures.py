"""Puts rows of figures together: pure.

Guarantee: what comes out was there, or is a sum of what was there, by the column's rule; and it does not matter in how
many steps rows are put together, as long as their order stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Table

from synqx_dagster.catalog.monitor_tables import RULE

Row = Mapping[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _last(values: Sequence[Any]) -> Any:
    return values[-1]


def _merge_slots(texts: Sequence[str]) -> str:
    """Slots by name as they were last, each with the largest of its lags; those that went away meanwhile, too."""
    found: dict[str, dict[str, Any]] = {}
    for slot in (slot for text in texts for slot in json.loads(text)):
        before = found.pop(slot["name"], None)
        merged = dict(slot)
        for name in [name for name in {**slot, **(before or {})} if name.endswith("_max")]:
            known = [item[name] for item in (before or {}, slot) if item.get(name) is not None]
            merged[name] = max(known, default=None)
        found[slot["name"]] = merged
    return encode_slots(list(found.values()))


def encode_slots(slots: Sequence[Mapping[str, Any]]) -> str:
    """Slots as they are stored."""
    return json.dumps(sorted(slots, key=lambda slot: str(slot["name"])), separators=(",", ":"))


_RULES: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "last": _last,
    "sum": sum,
    "max": max,
    "min": min,
    "slots": _merge_slots,
}


def rules_of(table: Table) -> dict[str, str]:
    """The rule of each column that is a figure."""
    return {column.name: column.info[RULE] for column in table.columns if RULE in column.info}


def combine(rows: Sequence[Row], rules: Mapping[str, str]) -> dict[str, Any]:
    """One row for several of one series in their order; its moment, and all that is no figure, is the last one's."""
    combined = dict(rows[-1])
    for name, rule in rules.items():
        known = [row[name] for row in rows if row[name] is not None]
        combined[name] = _RULES[rule](known) if known else None
    return combined


def floor_moment(moment: datetime, seconds: int) -> datetime:
    """The beginning of the span of so many seconds, counted from 1970, that a moment lies in."""
    passed = moment - _EPOCH
    return moment - timedelta(
        seconds=passed // timedelta(seconds=1) % seconds, microseconds=passed.microseconds % 1_000_000
    )


def iter_spans(rows: Iterable[Row], seconds: int) -> Iterator[list[Row]]:
    """Rows of one series, in order of time, by the spans of so many seconds that they lie in."""
    for _, span in groupby(rows, key=lambda row: floor_moment(row["sampled_at"], seconds)):
        yield list(span)
