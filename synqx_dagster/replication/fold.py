"""Folds the changes of one table into their net effect for each key; pure.

Law: applying what was folded does to a table what applying the changes one by one does, wherever the changes are cut
into pieces. It holds because the source has at most one row of a key at any time, and because a key is the text that
the source prints: a row whose key changes between texts that the target calls equal (``1.0``, ``1.00``) has moved.

A value that the source did not send (`UNCHANGED`) is taken from what the same piece said of the row before; if nothing
did, it is the target's: the column is not set, or, where the row's key has changed, it comes from the target's row of
the earlier key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from synqx_dagster.errors import SourceChangedError
from synqx_dagster.replication.changes import UNCHANGED, Row, Value

#: A key's values in key order; of a single column the bare value.
Key = Any

#: About what Python takes for a value of a row beyond its characters, and for a row beyond its values.
VALUE_BYTES = 60
ROW_BYTES = 120

#: Positions of a row whose values are known.
Positions = tuple[int, ...]


@dataclass(frozen=True)
class FoldShape:
    """What a fold must know of a table's rows.

    Attributes:
        key: Positions of the columns by which rows are matched.
        identity: Positions of the columns that an old row holds where it holds only a key.
        width: How many values a row has.
        long: Positions of columns whose values may be long; of no others the log leaves out values.
        marks_deleted: Rows end with two more values, whether and when the source deleted the row; none goes.
    """

    key: Positions
    identity: Positions
    width: int
    long: Positions
    marks_deleted: bool = False


@dataclass(slots=True)
class Known:
    """A row of which some values are not known.

    Attributes:
        origin: The key of the target's row that has them.
        has_moved: Its key has changed since; it is to be completed and put in place as a whole.
        may_miss: It is only marked as deleted, and need not be in the target.
    """

    row: Row
    origin: Key
    has_moved: bool = False
    may_miss: bool = False


@dataclass
class Folded:
    """The net effect, to be brought into the table in the order of these fields.

    Attributes:
        truncated_at: All rows of the table go before anything else happens, or are marked with this moment; None:
            nothing of the kind. The empty text where rows are not marked.
        moved: By the positions of known values: rows to be completed from the target's row of a key, before it goes.
        deleted: Keys whose rows go.
        updated: Rows to be put in place of those of their key, which should be there.
        whole: Rows to be put in place of those of their key, which should not.
        partial: By the positions of known values: rows of which only these are set.
        marked: The same, of rows that need not be there.
    """

    truncated_at: str | None = None
    moved: dict[Positions, list[tuple[Row, Key]]] = field(default_factory=dict)
    deleted: list[Key] = field(default_factory=list)
    updated: list[Row] = field(default_factory=list)
    whole: list[Row] = field(default_factory=list)
    partial: dict[Positions, list[Row]] = field(default_factory=dict)
    marked: dict[Positions, list[Row]] = field(default_factory=dict)

    @property
    def has_rows(self) -> bool:
        """Whether there is anything to be staged."""
        return bool(self.moved or self.deleted or self.updated or self.whole or self.partial or self.marked)


_ALIVE: Row = ("f", None)


@dataclass(slots=True)
class Budget:
    """About how many bytes of changes are held by all folds that share this."""

    bytes: int = 0


class Fold:
    """Takes changes of one table in the order of the log, until `take`."""

    def __init__(self, shape: FoldShape, budget: Budget) -> None:
        self._shape = shape
        self._budget = budget
        self._key_of: Callable[[Sequence[Value]], Key] = itemgetter(*shape.key)
        self._row_bytes = ROW_BYTES + VALUE_BYTES * shape.width
        self._long = shape.long
        self._marks_deleted = shape.marks_deleted
        #: By key: None for one that is to go, a row that is known as a whole, or one that is not.
        self._entries: dict[Key, Row | Known | None] = {}
        #: Keys that came into being: the target has no row of them.
        self._born: set[Key] = set()
        self._truncated_at: str | None = None

    def insert(self, new: Row) -> None:
        """A new row.

        Raises:
            SourceChangedError: The log does not tell all of its values.
        """
        if not self._measure(new):
            # PostgreSQL makes an insert of an update that brings a row into a row filter, and leaves out large values
            # that have not changed.
            raise SourceChangedError(
                "the log tells of a row that has come into the table's row filter, without its large values",
                hint="at the source: ALTER TABLE ... REPLICA IDENTITY FULL; then copy the table again",
            )
        if self._marks_deleted:
            new = new + _ALIVE
        key = self._key_of(new)
        if key not in self._entries:
            self._born.add(key)
        self._entries[key] = new

    def update(self, new: Row, old: Row | None, *, old_is_key: bool, at: str = "") -> None:
        """A changed row; `at` is when it was committed."""
        is_known = self._measure(new)
        if old is not None and not is_known:
            new = complete_row(new, old, self._shape.identity if old_is_key else None)
            is_known = UNCHANGED not in new
        key = self._key_of(new)
        if self._marks_deleted:
            new = new + _ALIVE
        origin = key if old is None else self._key_of(old)
        if origin == key:
            self._entries[key] = new if is_known else self._known(new, origin, has_moved=False)
            return
        moved = new if is_known else self._known(new, origin, has_moved=True)
        self._remove(origin, at)
        if key not in self._entries:
            self._born.add(key)
        self._entries[key] = moved

    def delete(self, old: Row, *, at: str = "") -> None:
        """A row that is gone; of `old` the key's values count. `at` is when it was committed."""
        self._budget.bytes += self._row_bytes
        self._remove(self._key_of(old), at)

    def truncate(self, *, at: str = "") -> None:
        """All rows are gone."""
        if not self._marks_deleted:
            self._truncated_at = ""
            self._entries.clear()
            self._born.clear()
            return
        if self._truncated_at is None:
            # Rows that no entry speaks of have been there since; a second truncation finds them marked.
            self._truncated_at = at
        for key in self._entries:
            self._remove(key, at)

    def take(self) -> Folded:
        """The net effect of all changes since the last time."""
        folded = Folded(self._truncated_at)
        deleted, updated, whole, born = folded.deleted, folded.updated, folded.whole, self._born
        if self._truncated_at is not None and not self._shape.marks_deleted:
            # The table is empty; what was born before the truncation is not known any more.
            updated = whole
        moved: dict[Positions, list[tuple[Row, Key]]] = defaultdict(list)
        partial: dict[Positions, list[Row]] = defaultdict(list)
        marked: dict[Positions, list[Row]] = defaultdict(list)
        for key, entry in self._entries.items():
            if entry is None:
                deleted.append(key)
            elif not isinstance(entry, Known):
                (whole if key in born else updated).append(entry)
            else:
                positions = tuple(at for at, value in enumerate(entry.row) if value is not UNCHANGED)
                if entry.has_moved:
                    moved[positions].append((entry.row, entry.origin))
                elif entry.may_miss:
                    marked[positions].append(entry.row)
                else:
                    partial[positions].append(entry.row)
        folded.moved, folded.partial, folded.marked = dict(moved), dict(partial), dict(marked)
        self._entries, self._born = {}, set()
        self._truncated_at = None
        return folded

    def _measure(self, row: Row) -> bool:
        """Count a row into the budget; returns whether all of its values are known."""
        size = self._row_bytes
        is_known = True
        for at in self._long:
            value = row[at]
            if value is UNCHANGED:
                is_known = False
            elif value is not None:
                size += len(value)
        self._budget.bytes += size
        return is_known

    def _known(self, row: Row, origin: Key, *, has_moved: bool) -> Row | Known:
        """A row with what is known of it from before."""
        if origin not in self._entries:
            return Known(row, origin, has_moved)
        before = self._entries[origin]
        if before is None or (isinstance(before, Known) and before.may_miss):
            raise SourceChangedError(
                "the log tells of a row that it has deleted before",
                hint="the target does not hold what the source did; copy the table again",
            )
        if isinstance(before, Known):
            row = complete_row(row, before.row, None)
            if UNCHANGED in row:
                return Known(row, before.origin, has_moved or before.has_moved)
            return row
        return complete_row(row, before, None)

    def _remove(self, key: Key, at: str) -> None:
        if not self._marks_deleted:
            self._entries[key] = None
            return
        mark: Row = ("t", at)
        entry = self._entries.get(key)
        width = self._shape.width
        if entry is None:
            row: list[Value] = [UNCHANGED] * width
            values = (key,) if len(self._shape.key) == 1 else key
            for position, value in zip(self._shape.key, values, strict=True):
                row[position] = value
            self._entries[key] = Known((*row, *mark), key, may_miss=True)
            return
        row_now = entry.row if isinstance(entry, Known) else entry
        if row_now[width] == "t":
            return
        if isinstance(entry, Known):
            self._entries[key] = Known((*row_now[:width], *mark), entry.origin, entry.has_moved)
        else:
            self._entries[key] = (*row_now[:width], *mark)


def complete_row(row: Row, other: Row, positions: Positions | None) -> Row:
    """A row that takes what is not known of it from another one, of which only some positions may count."""
    return tuple(
        other[at] if value is UNCHANGED and (positions is None or at in positions) else value
        for at, value in enumerate(row)
    )
