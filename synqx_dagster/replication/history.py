"""Collects the changes of a table that keeps every one of them; pure.

A change is a row: what happened, where in the log, when, then the source's columns as they were after it. Of a deletion
they are the old row as far as the log tells it, of a truncation they are all NULL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter

from synqx_dagster.errors import SourceChangedError
from synqx_dagster.replication.changes import UNCHANGED, Row, Value
from synqx_dagster.replication.fold import ROW_BYTES, VALUE_BYTES, Budget, Folded, FoldShape, Key, Known, complete_row

#: Values that stand before the source's own: operation, LSN, ordinal, time.
LOG_WIDTH = 4


class History:
    """Takes changes of one table in the order of the log, until `take`.

    What the log does not tell of a row is taken from the change before it, here or in the target: found by the key of
    `shape`, whose positions are those of the source's columns. Without a key such a change is refused.
    """

    def __init__(self, shape: FoldShape, budget: Budget) -> None:
        self._shape = shape
        self._budget = budget
        self._key_of: Callable[[Sequence[Value]], Key] | None = itemgetter(*shape.key) if shape.key else None
        self._row_bytes = ROW_BYTES + VALUE_BYTES * (shape.width + LOG_WIDTH)
        self._whole: list[Row] = []
        self._known: list[tuple[Row, Known]] = []
        #: By key, what is known of its row now.
        self._newest: dict[Key, Row | Known] = {}

    def insert(self, log: Row, new: Row) -> None:
        """A new row; `log` is what stands before it.

        Raises:
            SourceChangedError: The log does not tell all of its values.
        """
        self._add(log, new, None)

    def update(self, log: Row, new: Row, old: Row | None, *, old_is_key: bool) -> None:
        """A changed row.

        Raises:
            SourceChangedError: The log does not tell all of its values, and there is no key to find them by.
        """
        if old is not None and UNCHANGED in new:
            new = complete_row(new, old, self._shape.identity if old_is_key else None)
        self._add(log, new, new if old is None else old)

    def delete(self, log: Row, old: Row, *, old_is_key: bool) -> None:
        """A row that is gone."""
        if old_is_key:
            old = tuple(value if at in self._shape.identity else None for at, value in enumerate(old))
        self._append((*log, *old))
        if self._key_of is not None:
            self._newest.pop(self._key_of(old), None)

    def truncate(self, log: Row) -> None:
        """All rows are gone."""
        self._append((*log, *(None,) * self._shape.width))
        self._newest.clear()

    def take(self) -> Folded:
        """All changes since the last time: whole ones, and those that are to be completed."""
        moved: dict[tuple[int, ...], list[tuple[Row, Key]]] = defaultdict(list)
        for log, known in self._known:
            row = (*log, *known.row)
            positions = tuple(at for at, value in enumerate(row) if value is not UNCHANGED)
            moved[positions].append((row, known.origin))
        folded = Folded(whole=self._whole, moved=dict(moved))
        self._whole, self._known, self._newest = [], [], {}
        return folded

    def _add(self, log: Row, new: Row, before: Row | None) -> None:
        if UNCHANGED not in new:
            self._append((*log, *new))
            return
        if self._key_of is None or before is None:
            raise SourceChangedError(
                "the log leaves out large values that have not changed, and there is no key to find them by",
                hint="at the source: ALTER TABLE ... REPLICA IDENTITY FULL; then copy the table again",
            )
        origin = self._key_of(before)
        newest = self._newest.get(origin)
        if newest is None:
            known = Known(new, origin)
        else:
            new = complete_row(new, newest.row if isinstance(newest, Known) else newest, None)
            if UNCHANGED not in new:
                self._append((*log, *new))
                return
            assert isinstance(newest, Known)
            known = Known(new, newest.origin)
        self._known.append((log, known))
        self._count((*log, *new))
        self._newest.pop(origin, None)
        self._newest[self._key_of(new)] = known

    def _append(self, row: Row) -> None:
        self._whole.append(row)
        self._count(row)
        if self._key_of is not None and self._shape.long:
            self._newest[self._key_of(row[LOG_WIDTH:])] = row[LOG_WIDTH:]

    def _count(self, row: Row) -> None:
        size = self._row_bytes
        for at in self._shape.long:
            value = row[LOG_WIDTH + at]
            if isinstance(value, str):
                size += len(value)
        self._budget.bytes += size
