"""The window: which rows of a source with a cursor one load reads, and how far the watermark moves with them.

Guarantee, for rows whose cursor value does not go back: no row is read by two loads of mode ``append``, none is left
out for ever, and what a load in mode ``merge`` or ``scd2`` reads again changes nothing.

==========================  ===========================================  =========================================
mode                        rows that are read                           rows at the newest value
==========================  ===========================================  =========================================
``merge``, ``scd2``         from the watermark less the lag on           read now, and again next time
``append``                  from the last bound to the newest less lag   held back until a newer one comes
``append``, unique cursor   after the watermark                          read now
==========================  ===========================================  =========================================

With ``late_commits: by_snapshot`` PostgreSQL's transaction numbers take the place of the cursor's values: what was
written by a transaction that was not finished at the last load is read, however old its cursor values are.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from synqx_dagster.connectors.protocol import Connector, ReadSession
from synqx_dagster.errors import DataError, PlanError, RequestError, SourceChangedError
from synqx_dagster.model.mapping import KEYED_MODES, Cursor, Mapping
from synqx_dagster.model.table import Column, primary_key_of
from synqx_dagster.transfer.cursor_values import UNORDERED, check_bounds, check_value, is_endless, literal, quoted
from synqx_dagster.transfer.facts import SOURCE_ALIAS, relation_sql
from synqx_dagster.transfer.result import ReadWindow
from synqx_dagster.transfer.sqlite_order import Spelling, find_spelling
from synqx_dagster.transfer.watermark import CursorValue, Watermark

#: PostgreSQL's transaction numbers have 64 bits; a row keeps the lower 32 of the one that wrote it.
_EPOCH = 2**32

_RELATION_HAS_ROWS_OF_ITS_OWN = "SELECT relkind IN ('r', 'p', 'm') FROM pg_catalog.pg_class WHERE oid = {}"


@dataclass(frozen=True)
class Window:
    """What one load reads of its source.

    Attributes:
        predicates: Conditions over the relation ``source``, all of which hold for every row read.
        before: The watermark that the load starts from; None at the first one.
        after: The watermark that is committed with the rows.
        description: What is read, for people.
    """

    predicates: tuple[str, ...]
    before: Watermark | None
    after: Watermark | None
    description: str


def plan_window(
    mapping: Mapping,
    asked: ReadWindow,
    source: Connector,
    read: ReadSession,
    source_columns: Sequence[Column],
    before: Watermark | None,
) -> Window:
    """Decide what to read, in the snapshot that the rows will be read from.

    Args:
        before: The watermark of the last load that committed; None when there was none, or the target is new.

    Raises:
        PlanError, SourceChangedError: The cursor column is missing or has no order, or the window cannot be had.
        DataError: Rows have no cursor value, or one after which nothing can come.
    """
    if mapping.cursor is None:
        raise RequestError(f"mapping {mapping.name!r} has no cursor")
    return _Planner(mapping, mapping.cursor, asked, source, read, source_columns, before).plan()


def check_part(mapping: Mapping, asked: ReadWindow) -> None:
    """Refuse what can be told from the mapping alone: a part (from, to) that it cannot be asked for.

    Raises:
        RequestError: It has no cursor, or it appends.
    """
    if asked.start is None and asked.end is None:
        return
    if mapping.cursor is None:
        raise RequestError(
            f"--from and --to need a cursor, and there is none in {mapping.name!r}",
            hint="add `cursor: {column: NAME}` to the mapping, or run it without them",
        )
    if mapping.mode == "append":
        # Without a watermark the next load would read these rows once more.
        raise RequestError(
            f"mapping {mapping.name!r} appends: --from and --to would leave no place to go on from",
            hint="use mode: merge, or a source_query with a condition",
        )


def check_asked(
    mapping: Mapping, cursor: Cursor, asked: ReadWindow, source_columns: Sequence[Column]
) -> tuple[CursorValue | None, CursorValue | None]:
    """The bounds (from, to) that somebody asked for, as values of the cursor column; None for one that is open.

    Raises:
        RequestError: One is no value of the column's type, or no row can lie between them.
        PlanError: As `plan_window`.
        SourceChangedError: The source has no such column.
    """
    column = _find_column(mapping, cursor, source_columns)
    start = None if asked.start is None else check_value(asked.start, column, what="--from")
    end = None if asked.end is None else check_value(asked.end, column, what="--to")
    if start is not None and end is not None:
        check_bounds(start, end, column)
    return start, end


class _Planner:
    def __init__(
        self,
        mapping: Mapping,
        cursor: Cursor,
        asked: ReadWindow,
        source: Connector,
        read: ReadSession,
        source_columns: Sequence[Column],
        before: Watermark | None,
    ) -> None:
        self.mapping = mapping
        self.cursor = cursor
        self.asked = asked
        self.source = source
        self.read = read
        self.column = _find_column(mapping, cursor, source_columns)
        self.bounds = check_asked(mapping, cursor, asked, source_columns)
        self.name = f"{SOURCE_ALIAS}.{source.quote(self.column.name)}"
        self.before = before
        self.is_keyed = mapping.mode in KEYED_MODES
        #: No two rows share a value, so that "after the newest" leaves none out.
        self.is_unique = primary_key_of(tuple(source_columns)) == (self.column.name,)
        #: How SQLite's moments are written.
        self.spelling: Spelling | None = None

    def plan(self) -> Window:
        self._check_request()
        self._check_nulls()
        is_part = self.asked.start is not None or self.asked.end is not None
        follows = None if is_part or self.asked.full or self.before is None else self.before.value
        self.spelling = find_spelling(self.mapping, self.source, self.read, self.column, "cursor", also=follows)
        if is_part:
            return self._asked_window()
        start = None if self.asked.full else self.before
        if self.cursor.late_commits == "by_snapshot":
            return self._by_transaction(start)
        return self._by_value(start)

    # --- checks ---------------------------------------------------------------------------------------------

    def _check_request(self) -> None:
        name, before = self.mapping.name, self.before
        if before is not None and before.column != self.column.name and not self.asked.full:
            raise PlanError(
                f"mapping {name!r}: the last load followed the cursor column {before.column!r}, this one follows"
                f" {self.column.name!r}, and their values do not compare",
                hint="`synqx run NAME --full` reads everything once and takes a new watermark",
            )
        if self.mapping.mode == "append" and before is not None and (self.asked.full or self.asked.start is not None):
            raise RequestError(
                f"mapping {name!r} appends: rows that were loaded before would be there twice",
                hint="use mode: merge for a mapping that may read rows again",
            )

    def _check_nulls(self) -> None:
        """A row without a cursor value would never be read. Where the column may hold NULL the rows are asked."""
        if not self.column.nullable:
            return
        relation = relation_sql(self.mapping, self.source, [f"{self.name} IS NULL"])
        rows = int(str(self.read.fetch_value(f"SELECT count(*) FROM {relation}")))
        if rows:
            raise DataError(
                f"mapping {self.mapping.name!r}: the cursor column {self.column.name!r} is NULL in"
                f" {rows:,} row{'' if rows == 1 else 's'}, which would never be read",
                hint="fill it and make it NOT NULL, or use a source_query that gives such rows a value",
                rows=rows,
                column=self.column.name,
            )

    # --- windows --------------------------------------------------------------------------------------------

    def _by_value(self, start: Watermark | None) -> Window:
        lag = self.cursor.lag_seconds
        lower = self._lower(start)
        newest = self._find_newest(lower)
        if newest is None:
            return Window(tuple(lower), self.before, self.before, self._describe(lower))
        if self.is_keyed:
            after = Watermark(self.column.name, newest)
            return Window(tuple(lower), self.before, after, self._describe(lower))
        if self.is_unique and not lag:
            upper = f"{self.name} <= {self._literal(newest)}"
            after = Watermark(self.column.name, newest)
        else:
            upper = f"{self.name} < {self._literal(newest, lag)}"
            after = Watermark(self.column.name, newest, is_loaded=False, lag_seconds=lag)
        predicates = (*lower, upper)
        return Window(predicates, self.before, after, self._describe(predicates))

    def _lower(self, start: Watermark | None) -> list[str]:
        if start is None or start.value is None:
            return []
        if self.is_keyed:
            return [f"{self.name} >= {self._literal(start.value, self.cursor.lag_seconds)}"]
        if start.is_loaded:
            return [f"{self.name} > {self._literal(start.value)}"]
        return [f"{self.name} >= {self._literal(start.value, start.lag_seconds)}"]

    def _asked_window(self) -> Window:
        """From and to as somebody asked; the watermark moves only where nothing is left out behind it."""
        check_part(self.mapping, self.asked)
        start, end = self.bounds
        predicates = []
        if start is not None:
            predicates.append(f"{self.name} >= {self._asked_literal(start)}")
        if end is not None:
            predicates.append(f"{self.name} < {self._asked_literal(end)}")
        after = self.before
        if end is None and self.cursor.late_commits == "by_lag":
            newest = self._find_newest(predicates)
            after = self.before if newest is None else Watermark(self.column.name, newest)
        return Window(tuple(predicates), self.before, after, self._describe(predicates))

    def _by_transaction(self, start: Watermark | None) -> Window:
        self._check_transactions()
        horizon = int(str(self.read.fetch_value("SELECT txid_snapshot_xmin(txid_current_snapshot())::text")))
        top = int(str(self.read.fetch_value("SELECT txid_snapshot_xmax(txid_current_snapshot())::text")))
        lower = []
        if start is not None:
            if start.transaction is None:
                lower = self._lower(start)
            elif start.transaction > top:
                raise PlanError(
                    f"mapping {self.mapping.name!r}: the source has counted fewer transactions than at the last load;"
                    " it is another server, or was restored",
                    hint="`synqx run NAME --full` reads everything once and takes a new watermark",
                )
            else:
                lower = [f"{_transaction_of_row(top)} >= {start.transaction}"]
        predicates = list(lower)
        if not self.is_keyed:
            # What a transaction beyond the horizon wrote may be seen now in part; the next load reads all of it.
            predicates.append(f"{_transaction_of_row(top)} < {horizon}")
        newest = self._find_newest(predicates)
        if newest is None and start is not None:
            newest = start.value
        after = Watermark(self.column.name, newest, transaction=horizon)
        oldest = (
            "everything" if not lower else "what transactions wrote that were open at the last load, or began later"
        )
        return Window(tuple(predicates), self.before, after, oldest)

    def _check_transactions(self) -> None:
        if self.source.dialect != "postgres" or not self.source.capabilities.copy_binary:
            raise PlanError(
                f"mapping {self.mapping.name!r}: late_commits: by_snapshot reads PostgreSQL's transaction numbers, and"
                f" {self.source.config.name!r} is {self.source.db_type}",
                hint="use late_commits: by_lag with lag_seconds",
            )
        table = self.mapping.source
        is_table = table is not None and self.read.fetch_value(
            _RELATION_HAS_ROWS_OF_ITS_OWN.format(f"'{_escaped(self.source.qualify(table))}'::regclass")
        )
        if not is_table:
            raise PlanError(
                f"mapping {self.mapping.name!r}: late_commits: by_snapshot needs a source_table that is a table:"
                " the rows of a view or a query do not say which transaction wrote them",
                hint="read the table itself, or use late_commits: by_lag with lag_seconds",
            )

    # --- values ---------------------------------------------------------------------------------------------

    def _find_newest(self, predicates: Sequence[str]) -> CursorValue | None:
        """The newest value within the window, as the source prints it; None without rows."""
        relation = relation_sql(self.mapping, self.source, predicates)
        if self.column.data_type.kind == "uuid":
            # PostgreSQL has max(uuid) from 18 on only.
            newest = f"SELECT {self.name} AS newest FROM {relation} ORDER BY {self.name} DESC LIMIT 1"
        else:
            newest = f"SELECT max({self.name}) AS newest FROM {relation}"
        encoded = self.read.encode("found.newest", self.column.data_type, self.column.native_type)
        value = self.read.fetch_value(f"SELECT {encoded.sql} FROM ({newest}) found")
        if value is None:
            return None
        if self.source.dialect == "sqlite":
            # A column of any type holds numbers and texts, and they do not compare as equal.
            stored = self.read.fetch_value(f"SELECT typeof(found.newest) FROM ({newest}) found")
            if stored == "integer":
                value = int(str(value))
        if not isinstance(value, (str, int, float)):
            value = str(value)
        if is_endless(value):
            raise DataError(
                f"mapping {self.mapping.name!r}: the newest value of the cursor column {self.column.name!r} is"
                f" {value}; nothing could ever come after it",
                hint="correct that row, or leave it out by a source_query",
                column=self.column.name,
            )
        return value

    def _literal(self, value: CursorValue, minus_seconds: int = 0) -> str:
        if self.spelling is None or not isinstance(value, str):
            return literal(value, self.column, self.source.dialect, minus_seconds=minus_seconds)
        if not minus_seconds:
            return quoted(value)
        # Of dates whole days.
        seconds = timedelta(seconds=minus_seconds)
        is_date = self.column.data_type.kind == "date"
        lag = timedelta(days=-(-minus_seconds // 86_400)) if is_date else seconds
        try:
            return quoted(self.spelling.earlier(value, lag))
        except (ValueError, OverflowError) as exc:
            raise PlanError(
                f"the cursor column {self.column.name!r} holds a moment from which lag_seconds cannot be subtracted",
                hint="leave lag_seconds out, or correct that row",
                column=self.column.name,
            ) from exc

    def _asked_literal(self, value: CursorValue) -> str:
        """A bound that somebody gave, who need not have written it as the column has its values."""
        if self.spelling is None or not isinstance(value, str):
            return self._literal(value)
        return quoted(self.spelling.bound(value))

    @staticmethod
    def _describe(predicates: Sequence[str]) -> str:
        prefix = f"{SOURCE_ALIAS}."
        return " and ".join(predicate.removeprefix(prefix) for predicate in predicates) or "everything"


def _find_column(mapping: Mapping, cursor: Cursor, columns: Sequence[Column]) -> Column:
    column = next((column for column in columns if column.name == cursor.column), None)
    if column is None:
        near = difflib.get_close_matches(cursor.column, [column.name for column in columns], n=1)
        raise SourceChangedError(
            f"mapping {mapping.name!r}: the source has no column {cursor.column!r} for its cursor",
            hint=f"did you mean {near[0]!r}?" if near else None,
            column=cursor.column,
        )
    if column.data_type.kind in UNORDERED:
        raise PlanError(
            f"mapping {mapping.name!r}: the cursor column {cursor.column!r} holds {column.data_type}, which has no"
            " order",
            hint="use a column that grows: a time of change, a sequence, a version",
            column=cursor.column,
        )
    return column


def _transaction_of_row(top: int) -> str:
    """The number of the transaction that wrote a row, in 64 bits.

    Numbers below 3 stand for "long ago" (PostgreSQL manual, Routine Vacuuming). A row's number is at most the
    snapshot's upper end; a greater one belongs to the epoch before.
    """
    base, low = top // _EPOCH * _EPOCH, top % _EPOCH
    number = f"{SOURCE_ALIAS}.xmin::text::bigint"
    of_epoch_before = f"WHEN {number} >= {low} THEN {number} + {base - _EPOCH}"
    return f"CASE WHEN {number} < 3 THEN 0 {of_epoch_before} ELSE {number} + {base} END"


def _escaped(text: str) -> str:
    return text.replace("'", "''")
