"""Whether SQLite sorts a column's values as their type does: it compares what is stored, and not what that means.

Numbers sort before all texts, and moments as their characters: ``2024-02-01T01:00`` after ``2024-02-01 23:00``, and
``10:00+05:30`` after ``06:00+00``. A window or a partition of such rows would leave some of them out in silence, so
they are refused before anything is read. Written alike, texts sort as the moments do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from synqx_dagster.connectors.protocol import Connector, ReadSession
from synqx_dagster.errors import DataError, PlanError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import TypeKind
from synqx_dagster.transfer.facts import SOURCE_ALIAS, relation_sql

MOMENTS: frozenset[TypeKind] = frozenset({"date", "timestamp", "timestamptz"})
_NUMBERS: frozenset[TypeKind] = frozenset({"smallint", "integer", "bigint", "real", "float", "decimal"})

Use = Literal["cursor", "partition"]

_UTC = frozenset({"Z", "+00", "+0000", "+00:00", "-00", "-0000", "-00:00"})

#: How a stored value is written; what is no text is named by its type. A fraction's digits are counted, and whether it
#: ends with a zero (1) or has nothing else (2). SQLite takes February 30 for March 1: it
#: must print a day alike after a sum, without which it does not look. A LIMIT keeps it from computing each part anew
#: wherever it is used, which takes more than twice as long.
SPELLINGS_SQL = """
SELECT json_group_array(spelling) FROM (SELECT DISTINCT CASE
    WHEN typeof(stored) <> 'text' THEN typeof(stored)
    WHEN date(day, '+0 days') IS NOT day THEN 'other'
    WHEN stored = day THEN 'day'
    WHEN separator NOT IN (' ', 'T') OR substr(time(clock, '+0 days'), 1, length(clock)) IS NOT clock
        OR rest = '.' || zone OR (length(clock) = 5 AND rest <> zone)
        OR NOT (zone IN ('', 'Z') OR zone GLOB '[+-][0-9][0-9]' OR zone GLOB '[+-][0-9][0-9][0-9][0-9]'
            OR zone GLOB '[+-][0-9][0-9]:[0-9][0-9]')
        OR substr(zone, 2, 2) >= '24' OR (length(zone) > 3 AND substr(zone, -2) >= '60') THEN 'other'
    ELSE separator || '|' || length(clock) || '|' || (length(rest) - length(zone)) || '|'
        || CASE WHEN rest = zone THEN 0 WHEN trim(substr(rest, 2, length(rest) - length(zone) - 1), '0') = '' THEN 2
            ELSE substr(rest, length(rest) - length(zone), 1) = '0' END
        || '|' || zone
    END AS spelling FROM (
        SELECT *, CASE substr(rest, 1, 1) WHEN '.' THEN ltrim(substr(rest, 2), '0123456789') ELSE rest END AS zone
        FROM (
            SELECT stored, substr(stored, 1, 10) AS day, substr(stored, 11, 1) AS separator,
                substr(stored, 12, CASE substr(stored, 17, 1) WHEN ':' THEN 8 ELSE 5 END) AS clock,
                substr(stored, CASE substr(stored, 17, 1) WHEN ':' THEN 20 ELSE 17 END) AS rest
            FROM ({stored}) LIMIT -1
        ) LIMIT -1
    )
)
"""


@dataclass(frozen=True)
class Spelling:
    """How all moments of a column are written.

    Attributes:
        is_zoned: They are moments in time, and not what a wall clock shows.
        separator: What stands between day and time.
        zone: The offset behind the time, such as ``Z`` or ``+05:30``; empty without one, which is UTC.
        digits: How many digits of a second's fraction they have, where all have as many.
    """

    is_zoned: bool
    separator: str = " "
    zone: str = ""
    digits: int | None = None

    def bound(self, text: str) -> str:
        """The first of all texts for a moment: those for earlier ones sort before it, and the others do not.

        Raises:
            PlanError: None can be written so: in the column's zone it lies beyond the calendar.
        """
        try:
            return self.earlier(text, timedelta())
        except (ValueError, OverflowError) as exc:
            raise PlanError(
                f"the source's moments end in {self.zone or 'no offset'}, and {text} cannot be written so",
                hint="ask for a moment that is not at the calendar's very end",
            ) from exc

    def earlier(self, text: str, elapsed: timedelta) -> str:
        """The bound of a moment before another one.

        Raises:
            ValueError, OverflowError: The text is no moment, or none that can be written so.
        """
        moment = datetime.fromisoformat(text)
        if self.is_zoned:
            zone = datetime.fromisoformat(f"2024-02-29T12:00{self.zone}").tzinfo or UTC
            moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(zone)
        moment -= elapsed
        if self.zone == "Z" and self.digits is not None:
            # Z sorts behind all digits: 10:00:00Z is not before 10:00:00.5.
            step = 10 ** (6 - min(self.digits, 6))
            moment += timedelta(microseconds=-moment.microsecond % step)
        # 10:00 is what 10:00:00, 10:00:00.0 and 10:00Z begin with, and no earlier one is above it.
        clock = f"{moment:%H:%M:%S.%f}".rstrip("0").removesuffix(".")
        if len(clock) == len("10:00:00"):
            clock = clock.removesuffix(":00")
        day = f"{moment:%Y-%m-%d}".zfill(len("2024-02-29"))
        return day if clock == "00:00" else f"{day}{self.separator}{clock}"


def find_spelling(
    mapping: Mapping, source: Connector, read: ReadSession, column: Column, use: Use, *, also: object = None
) -> Spelling | None:
    """How SQLite's moments of a cursor or partition column are written, once it is clear that they sort as such.

    Args:
        also: A value that theirs are compared with: a watermark.

    Returns:
        None where the column holds no moments, or the source is no SQLite.

    Raises:
        DataError: The column's values do not sort as its type does.
    """
    if source.dialect != "sqlite":
        return None
    name = f"{SOURCE_ALIAS}.{source.quote(column.name)}"
    relation = relation_sql(mapping, source, [f"{name} IS NOT NULL"])
    kind = column.data_type.kind
    if kind not in MOMENTS:
        # Numbers sort before texts, and these before blobs, so that two values tell of all.
        types = (str(read.fetch_value(f"SELECT typeof({end}({name})) FROM {relation}")) for end in ("min", "max"))
        given = [] if also is None or kind in _NUMBERS else ["text" if isinstance(also, str) else "integer"]
        why = why_mixed(kind, [*types, *given], use=use)
        spelling = None
    else:
        stored = f"SELECT {name} AS stored FROM {relation}"
        if also is not None:
            stored += f" UNION ALL SELECT {_literal(also)}"
        found = json.loads(str(read.fetch_value(SPELLINGS_SQL.replace("{stored}", stored))))
        why = why_unordered(column, found, use=use)
        spelling = _common(kind, found)
    if why is not None:
        raise DataError(
            f"mapping {mapping.name!r}: the {use} column {column.name!r} ({column.data_type}) of the source holds"
            f" {why}; SQLite compares them as they are written, so that rows would be left out",
            hint="write them all alike (an UPDATE), or read a source_query that prints them alike",
            column=column.name,
        )
    return spelling


def why_mixed(kind: TypeKind, types: Sequence[str], *, use: Use) -> str | None:
    """What a column holds besides the values of its kind, told by the types of the first and the last one."""
    found = {"number" if stored in ("integer", "real") else stored for stored in types} - {"null", "None"}
    if kind in _NUMBERS:
        # In a partition texts are as numbers that nobody lists.
        is_mixed = use == "cursor" and found & {"text", "blob"}
        return "texts, which do not sort as numbers" if is_mixed else None
    if use == "partition" and found - {"text"}:
        return "numbers or blobs, which no text is equal to"
    return "numbers, texts or blobs side by side, which do not compare" if len(found) > 1 else None


def why_unordered(column: Column, spellings: Sequence[str], *, use: Use) -> str | None:
    """Why texts that are written in these ways (`SPELLINGS_SQL`) do not sort as the moments do; None if they do.

    The bounds of a partition are so written that no more than one separator and one offset matters to them.
    """
    if set(spellings) & {"integer", "real", "blob"}:
        return "numbers or blobs, which SQLite does not take for moments"
    if "other" in spellings:
        return f"texts that are no {column.data_type} such as 2024-02-29 12:00:00.5+00"
    parts = [tuple(spelling.split("|")) for spelling in spellings if spelling != "day"]
    separators, clocks, fractions, endings, zones = (
        {part[place] for part in parts} if parts else set[str]() for place in range(5)
    )
    if use == "partition":
        zones = {"" if zone in _UTC else zone for zone in zones}
    if len(zones) > 1 or ("day" in spellings and zones - {""}):
        return "moments with different offsets"
    if len(separators) > 1:
        return "moments with a T between day and time, and others with a blank"
    if use == "partition":
        return None
    if len(clocks) > 1 or (parts and "day" in spellings):
        return "moments with seconds, and others without them or without a time"
    if len(fractions) > 1 and not _sorts(fractions, endings, zones):
        return "moments whose seconds have different numbers of digits"
    return None


def _sorts(fractions: set[str], endings: set[str], zones: set[str]) -> bool:
    """Whether fractions of different lengths sort by their digits, and no two of them are one number."""
    if "Z" in zones:
        return False  # sorts behind every digit
    return "2" not in endings and ("1" not in endings or len(fractions - {"0"}) == 1)


def _common(kind: TypeKind, spellings: Sequence[str]) -> Spelling:
    is_zoned = kind == "timestamptz"
    parts = [spelling.split("|") for spelling in spellings if "|" in spelling]
    if not parts:
        return Spelling(is_zoned)
    separator, _, _, _, zone = parts[0]
    fractions = {int(part[2]) for part in parts}
    # The point is counted with the digits.
    return Spelling(is_zoned, separator, zone, max(0, fractions.pop() - 1) if len(fractions) == 1 else None)


def _literal(value: object) -> str:
    return str(value) if isinstance(value, (int, float)) else "'" + str(value).replace("'", "''") + "'"
