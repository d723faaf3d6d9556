"""The changes of one table in one destination transaction: collected, staged and brought into it, piece by piece."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from synqx_dagster.connectors.protocol import ChangingWriteSession, Connector, StagedParts
from synqx_dagster.errors import FatalError, SynqxError, TargetMismatchError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.replication.changes import Change, Delete, Insert, Truncate, Update, format_lsn
from synqx_dagster.replication.fold import Budget, Fold, Folded
from synqx_dagster.replication.history import History
from synqx_dagster.replication.report import TableCounts
from synqx_dagster.replication.staging import Stager
from synqx_dagster.replication.target_plan import TargetPlan
from synqx_dagster.transfer.failpoints import reach


@dataclass(frozen=True)
class Commit:
    """Where and when a transaction was committed, as texts."""

    lsn: str
    at: str
    at_without_zone: str

    @classmethod
    def of(cls, lsn: int, at: datetime) -> Commit:
        """From numbers."""
        moment = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
        return cls(format_lsn(lsn), f"{moment}+00", moment)


def placed(error: SynqxError, place: str) -> SynqxError:
    """The same error, saying of which table it is."""
    return type(error)(f"{place}: {error.message}", hint=error.hint, **error.context)


class TableChanges:
    """Collects changes of one table, and brings them into the target when it is told to."""

    def __init__(
        self, plan: TargetPlan, replication: Replication, target: Connector, budget: Budget, stack: ExitStack
    ) -> None:
        self.plan = plan
        self._replication = replication
        self._target = target
        self._stager = Stager(plan, target.dialect, stack)
        self._fold = Fold(plan.shape, budget) if replication.mode != "history" else None
        self._collected = History(plan.shape, budget)
        self._staging: TableName | None = None
        self._has_zone = _moment_kind(plan) == "timestamptz"
        self.counts = TableCounts()
        self.is_pending = False

    # --- collecting -----------------------------------------------------------------------------------------

    def add(self, change: Change, commit: Commit, ordinal: int) -> None:
        """Take one change.

        Raises:
            SourceChangedError: The log does not tell enough of it.
        """
        self.is_pending = True
        if self._fold is None:
            self._add_to_history(change, commit, ordinal)
            return
        counts = self.counts
        # In the order of how often they come.
        if isinstance(change, Insert):
            counts.inserted += 1
            self._fold.insert(change.new)
        elif isinstance(change, Update):
            counts.updated += 1
            self._fold.update(change.new, change.old, old_is_key=change.old_is_key, at=self._moment(commit))
        elif isinstance(change, Delete):
            counts.deleted += 1
            self._fold.delete(change.old, at=self._moment(commit))
        else:
            counts.truncated += 1
            self._fold.truncate(at=self._moment(commit))

    def _add_to_history(self, change: Change, commit: Commit, ordinal: int) -> None:
        history, counts = self._collected, self.counts
        place = (commit.lsn, str(ordinal), self._moment(commit))
        match change:
            case Insert():
                counts.inserted += 1
                history.insert(("insert", *place), change.new)
            case Update():
                counts.updated += 1
                history.update(("update", *place), change.new, change.old, old_is_key=change.old_is_key)
            case Delete():
                counts.deleted += 1
                history.delete(("delete", *place), change.old, old_is_key=change.old_is_key)
            case Truncate():
                counts.truncated += 1
                history.truncate(("truncate", *place))

    def _moment(self, commit: Commit) -> str:
        return commit.at if self._has_zone else commit.at_without_zone

    # --- bringing into the target -----------------------------------------------------------------------------

    def take(self) -> Folded:
        """What was collected, for `write`; collecting begins anew."""
        self.is_pending = False
        return self._fold.take() if self._fold is not None else self._collected.take()

    def write(self, session: ChangingWriteSession, folded: Folded) -> None:
        """Bring what was collected into the table, within the open transaction.

        Raises:
            TargetMismatchError: The table has lost rows that a change needs.
            BadRowsError: The table does not take a row.
        """
        changed = self.plan.changed
        if folded.truncated_at is not None:
            self._truncate(session, folded.truncated_at)
        if not folded.has_rows:
            return
        staged = self._stager.plan_parts(folded)
        if self._staging is None:
            self._staging = session.create_change_staging(changed)
        else:
            session.clear_change_staging(self._staging)
        self._stager.write(session, self._staging, staged)
        reach("replication_staged")
        missing = session.count_missing(self._staging, changed, staged.must_find)
        if missing:
            raise TargetMismatchError(
                f"{changed.table} has lost {missing:,} rows that {self.plan.table.source} has changed without the log"
                " telling their large values",
                hint="somebody else has changed the target; copy the table again",
                table=str(changed.table),
                rows=missing,
            )
        if self._fold is not None:
            session.apply_changes(self._staging, changed, staged.meaning)
        else:
            self._append(session, folded, staged.meaning, self._staging)
        reach("replication_changed")

    def _append(self, session: ChangingWriteSession, folded: Folded, parts: StagedParts, staging: TableName) -> None:
        log = self._replication.change_columns
        expected = len(folded.whole) + sum(map(len, folded.moved.values()))
        found = session.append_changes(staging, self.plan.changed, parts, (log.commit_lsn, log.ordinal))
        if found != expected:
            raise FatalError(f"{self.plan.changed.table}: {expected:,} changes were staged, {found:,} were added")

    def _truncate(self, session: ChangingWriteSession, at: str) -> None:
        # Not TRUNCATE: it commits in some databases, and in others readers see an empty table before the commit.
        name = self._target.qualify(self.plan.changed.table)
        if self._replication.mode != "soft_delete":
            session.execute(f"DELETE FROM {name}")
            return
        marks = self._replication.soft_delete
        is_deleted, deleted_at = self._target.quote(marks.is_deleted), self._target.quote(marks.deleted_at)
        # A literal, because a parameter's type is not everywhere that of the column; it holds digits alone.
        session.execute(f"UPDATE {name} SET {is_deleted} = TRUE, {deleted_at} = '{at}' WHERE {is_deleted} = FALSE")

    def close(self, session: ChangingWriteSession) -> None:
        """Drop the staging table; for the end of the transaction, and for a table whose columns change in it."""
        if self._staging is not None:
            session.drop_change_staging(self._staging)
            self._staging = None


def _moment_kind(plan: TargetPlan) -> str:
    """The kind of the moments that the replication writes itself."""
    own: list[Column] = [*plan.changed.columns[: plan.log_columns]]
    if plan.mark_columns:
        own += plan.changed.columns[-plan.mark_columns :]
    return next((column.data_type.kind for column in own if column.data_type.kind.startswith("timestamp")), "")
