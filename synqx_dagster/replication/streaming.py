"""Reads a replication's stream in batches and applies them, until there is a reason to end.

Guarantee: the source is told that something is stored only after the target's commit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from synqx_dagster.errors import DatabaseError, SlotLostError
from synqx_dagster.replication.account import Account
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import Transaction
from synqx_dagster.replication.guard import judge, wal_of
from synqx_dagster.replication.partition_watch import PartitionWatch
from synqx_dagster.replication.preparation import Prepared
from synqx_dagster.replication.progress import Ending, FollowRequest
from synqx_dagster.replication.slot import SlotState, drop_slot, find_slot, heartbeat
from synqx_dagster.replication.stream import ChangeStream, open_stream
from synqx_dagster.transfer.failpoints import reach

#: How often a stream that waits for changes looks whether it should end.
_WAIT_SECONDS = 0.25
#: A batch is applied when nothing more came for so long, although its first change is not old.
_QUIET_SECONDS = 0.2
#: How often the slot is looked at: its lag for the report, and the guard.
_SLOT_SECONDS = 5.0
#: How often the source is asked for new tables and partitions, and the target for tables that are to be copied anew.
_TABLES_SECONDS = 30.0
#: How often at most an idle stream's place is written down.
_IDLE_SECONDS = 5.0


@dataclass
class _Clock:
    """When something is due again."""

    every_seconds: float
    due: float = field(default=0.0)

    def is_due(self, now: float) -> bool:
        """Whether it is; if so it is due again after the interval."""
        if now < self.due:
            return False
        self.due = now + self.every_seconds
        return True


class StreamLoop:
    """One stream of one run."""

    def __init__(
        self,
        request: FollowRequest,
        account: Account,
        applier: Applier,
        prepared: Prepared,
        partitions: PartitionWatch,
    ) -> None:
        self._request = request
        self._replication = request.replication
        self._account = account
        self._applier = applier
        self._prepared = prepared
        self._partitions = partitions
        now = time.monotonic()
        self._slot_clock = _Clock(_SLOT_SECONDS)
        self._tables_clock = _Clock(_TABLES_SECONDS, now + _TABLES_SECONDS)
        self._idle_clock = _Clock(_IDLE_SECONDS)
        self._report_clock = _Clock(self._request.report_seconds, now + self._request.report_seconds)
        self._heartbeat_due = now + self._replication.heartbeat_seconds
        self._idle_since: float | None = None
        #: Where the source's log ended when there was nothing to do: an idle stream has come so far before it ends.
        self._idle_wal_end = 0

    def run(self) -> Ending | None:
        """Stream; None where a new round has to prepare tables."""
        position = self._applier.state.position
        assert position is not None
        slot = self._replication.slot_name
        with open_stream(
            self._prepared.source,
            slot,
            self._replication.publication_name,
            after_lsn=position,
            memory_bytes=self._request.memory_bytes,
            spill_directory=self._prepared.spill_directory,
        ) as stream:
            if self._applier.state.status != "following":
                self._applier.set_position(position, slot=slot, status="following")
            try:
                return self._loop(stream)
            finally:
                lag = stream.lag()
                self._account.lag_seconds = lag.seconds

    def _loop(self, stream: ChangeStream) -> Ending | None:
        while True:
            ending = self._account.why_end()
            if ending is not None:
                self._end(stream)
                return ending
            now = time.monotonic()
            batch = self._collect(stream)
            if batch:
                self._idle_since = None
                report = self._applier.apply(batch)
                self._account.take_batch(report)
                reach("replication_before_confirm")
                stream.confirm(report.position)
            self._account.lag_seconds = stream.lag().seconds
            self._look_round(stream, now)
            if not batch:
                if self._is_done(stream, now):
                    self._end(stream)
                    return "idle"
                self._move_on(stream, now)
            if self._tables_clock.is_due(now):
                self._partitions.look()
                if self._prepared.has_news(self._applier, self._request.target):
                    self._settle(stream)
                    return None
            self._account.tell_stream(now)

    def _end(self, stream: ChangeStream) -> None:
        """Write down how far the log was read, and look a last time at what the report tells."""
        self._settle(stream)
        self._partitions.look()
        self._find_slot()

    def _collect(self, stream: ChangeStream) -> list[Transaction]:
        """Transactions for one batch: enough changes, or those that come before the first is too old, or a pause."""
        first = stream.next_transaction(_WAIT_SECONDS)
        if first is None:
            return []
        batch: list[Transaction] = [first]
        changes = first.change_count
        deadline = time.monotonic() + self._replication.batch_seconds
        # A source that pauses for so long has nothing more in hand: there is nothing to wait for.
        quiet = min(_QUIET_SECONDS, self._replication.batch_seconds / 4)
        try:
            while changes < self._replication.batch_changes:
                following = stream.next_transaction(min(quiet, max(0.0, deadline - time.monotonic())))
                if following is None:
                    break
                batch.append(following)
                changes += following.change_count
        except BaseException:
            for transaction in batch:
                transaction.close()
            raise
        return batch

    # --- an idle stream -------------------------------------------------------------------------------------

    def _is_done(self, stream: ChangeStream, now: float) -> bool:
        """Whether there was nothing to do for long enough, and the source has read its log so far."""
        if not stream.is_idle:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
            self._idle_wal_end = self._find_slot().wal_end
        if self._replication.continuous or now - self._idle_since < self._replication.idle_seconds:
            return False
        read_lsn = max(stream.confirmed_lsn, stream.idle_lsn or 0)
        # A source that says nothing of its log for so long will not say more.
        return read_lsn >= self._idle_wal_end or now - self._idle_since > 6 * self._replication.idle_seconds + 60

    def _move_on(self, stream: ChangeStream, now: float) -> None:
        """Let the slot of an idle database move: what others write in the log is passed over, and need not be kept."""
        if self._idle_clock.is_due(now):
            self._settle(stream)
        every = self._replication.heartbeat_seconds
        if every and now >= self._heartbeat_due:
            self._heartbeat_due = now + every
            try:
                with self._request.source.write() as session:
                    heartbeat(session)
            except DatabaseError as error:
                # A standby takes none. Its primary's neighbours move the log anyway.
                self._account.warn("heartbeat", f"the source takes no heartbeat: {error.message}")
                self._heartbeat_due = float("inf")

    def _settle(self, stream: ChangeStream) -> None:
        """Write down how far the log was read where nothing in it concerns us, and only then confirm it."""
        lsn = stream.idle_lsn
        position = self._applier.state.position
        if lsn is None or position is None or lsn <= position:
            return
        self._applier.set_position(lsn, slot=self._replication.slot_name, status="following")
        stream.confirm(lsn)

    # --- looking round ----------------------------------------------------------------------------------------

    def _look_round(self, stream: ChangeStream, now: float) -> None:
        if self._slot_clock.is_due(now):
            self._guard(stream, self._find_slot())
        if self._report_clock.is_due(now) and self._request.on_tables is not None:
            self._account.take_states(self._applier.table_states)
            self._request.on_tables(self._account.report("max_run", self._applier.state.position))

    def _find_slot(self) -> SlotState:
        with self._request.source.write() as session:
            slot = find_slot(session, self._replication.slot_name)
        if slot is None:
            raise SlotLostError(f"the slot {self._replication.slot_name!r} is gone")
        self._account.slot = slot
        return slot

    def _guard(self, stream: ChangeStream, slot: SlotState) -> None:
        verdict = judge(self._replication.wal_guard, wal_of(slot))
        if verdict.level == "ok":
            self._account.forget_warning("guard")
            return
        self._account.warn("guard", f"WAL guard: the slot {slot.name}: {verdict.text}")
        if verdict.level == "act" and verdict.action == "drop_slot":
            stream.close()
            with self._request.source.write() as session:
                drop_slot(session, slot.name)
            state = self._applier.state
            self._applier.set_position(state.position, slot=None, status="lost")
            raise SlotLostError(f"the WAL guard has dropped the slot {slot.name!r}: {verdict.text}")
