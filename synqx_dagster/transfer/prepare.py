"""Planning with both databases at hand: their columns, the watermark, and the plan that follows from them."""

from __future__ import annotations

import logging
from dataclasses import replace

from synqx_dagster.connectors.protocol import (
    Connector,
    LockingConnector,
    PartitionWriteSession,
    PublishedWriteSession,
    ReadSession,
    WriteSession,
)
from synqx_dagster.errors import PlanError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import primary_key_of
from synqx_dagster.transfer.alter import alter_statements
from synqx_dagster.transfer.facts import gather_facts
from synqx_dagster.transfer.ledger import Ledger
from synqx_dagster.transfer.partition import PartitionPlan, plan_partition
from synqx_dagster.transfer.plan import LoadPlan, make_plan
from synqx_dagster.transfer.privileges import require_privileges
from synqx_dagster.transfer.range_plan import plan_ranges
from synqx_dagster.transfer.result import ReadWindow
from synqx_dagster.transfer.retry import plan_retry
from synqx_dagster.transfer.watermark import Watermark
from synqx_dagster.transfer.window import Window, plan_window

logger = logging.getLogger(__name__)


def plan_load(
    mapping: Mapping,
    schema: Schema | None,
    source: Connector,
    target: Connector,
    *,
    asked: ReadWindow | None = None,
) -> LoadPlan:
    """Plan a load by asking both databases; changes nothing on either.

    Raises:
        PlanError: The mapping cannot be run at all; says which field.
        NotPermittedError: Privileges are missing on either side; lists them.
        SourceChangedError: The source lacks a table or a column that the mapping reads.
        TargetMismatchError: The target table exists and its columns do not fit.
        DataError: The rows have no usable cursor values.
    """
    refuse_locked(mapping, source, target)
    with source.read() as read, target.write() as write:
        preparation = Preparation(mapping, schema, source, target, read, write)
        plan = preparation.plan()
        window = preparation.find_window(plan, asked or ReadWindow())
        plan = preparation.narrow(plan, window)
        ranges = plan_ranges(mapping, (source, target), read, write, plan.source_columns, may_count=False)
        return replace(plan, ranges=ranges)


def refuse_locked(mapping: Mapping, source: Connector, target: Connector) -> None:
    """Refuse a load whose own reading would keep it from committing; asked before a session is opened.

    Raises:
        PlanError: Says which file, and what to do.
    """
    reason = target.why_locked_by(source) if isinstance(target, LockingConnector) else None
    if reason is not None:
        message, hint = reason
        raise PlanError(f"mapping {mapping.name!r}: {message}", hint=hint)


class Preparation:
    """Plans one load over two open sessions; what the databases say of their columns is asked once."""

    def __init__(
        self,
        mapping: Mapping,
        schema: Schema | None,
        source: Connector,
        target: Connector,
        read: ReadSession,
        write: WriteSession,
    ) -> None:
        self._mapping = mapping
        self._schema = schema
        self._source = source
        self._target = target
        self._read = read
        self._write = write
        require_privileges(mapping, read, write)
        self._facts = gather_facts(mapping, source, read, write)
        self._partition: PartitionPlan | None = None
        self._refuse_unidentified()
        self._refuse_whole_files()

    def plan(self) -> LoadPlan:
        """The plan for all rows of the source."""
        return self._make_plan(())

    def _refuse_unidentified(self) -> None:
        """Refuse to change or delete rows of a target where the database is going to refuse it after the copy.

        Raises:
            PlanError: The target is published, and nothing tells its rows apart.
        """
        columns, target = self._facts.target_columns, self._mapping.target
        if self._mapping.mode == "append" or columns is None or primary_key_of(columns):
            return
        if isinstance(self._write, PublishedWriteSession) and self._write.is_unidentified(target):
            raise PlanError(
                f"mapping {self._mapping.name!r}: {target} is in a publication and has no replica identity, so its"
                f" rows can be neither changed nor deleted, as mode {self._mapping.mode} does",
                hint=f"give it a primary key, or run: ALTER TABLE {self._target.qualify(target)} REPLICA IDENTITY FULL",
                table=str(target),
            )

    def _refuse_whole_files(self) -> None:
        """Refuse partitions of a target that is only ever written as a whole.

        Raises:
            PlanError: Says which connection.
        """
        if self._mapping.partitions is not None and not isinstance(self._write, PartitionWriteSession):
            raise PlanError(
                f"mapping {self._mapping.name!r}: a {self._target.db_type} target cannot replace some of its rows, as"
                " partitions need",
                hint="leave partitions out, or load into a database",
            )

    def alter_target(self, plan: LoadPlan, ledger: Ledger, epoch: int) -> LoadPlan:
        """Make the changes of the target's columns that a plan asks for; returns the plan for the altered table.

        They are committed by themselves: they keep all rows as they are, and a lock on the table that lasted as long
        as the load would keep its readers out.

        Raises:
            FencedError: A newer attempt has taken over.
            DatabaseError: The server refuses, because something depends on a column.
        """
        if not plan.schema_changes:
            return plan
        for change in plan.schema_changes:
            logger.info("%s: %s: %s", self._mapping.name, plan.target, change)
        self._write.begin()
        try:
            ledger.check_fence(epoch)
            for statement in alter_statements(self._target, plan.target, plan.schema_changes):
                self._write.execute(statement)
            self._write.commit()
        except BaseException:
            self._write.rollback()
            raise
        self._facts = replace(self._facts, target_columns=self._write.find_columns(plan.target))
        return replace(self.plan(), schema_changes=plan.schema_changes)

    def find_window(self, plan: LoadPlan, asked: ReadWindow, *, made_by_nodes: bool = False) -> Window | None:
        """What is read this time; None for everything.

        With `made_by_nodes` the rows come from the nodes of a pipeline, and are read as they come.

        A table that is not there has nothing of what earlier loads brought, whatever the ledger says.

        Raises:
            PlanError, SourceChangedError, DataError: As `plan_window`.
        """
        if asked.partition is not None:
            ends = self._source, self._target
            self._partition = plan_partition(
                self._mapping,
                asked.partition,
                ends,
                self._read,
                self._facts.source_columns,
                plan.columns,
                made_by_nodes=made_by_nodes,
            )
            return Window(self._partition.predicates, None, None, self._partition.description)
        if asked.condition is not None:
            return Window((asked.condition,), None, None, f"rows for which {asked.condition}")
        if self._mapping.cursor is None and not asked.quarantined:
            return None
        ledger = Ledger(self._target, self._write, self._mapping.target)
        text = None if plan.target_action == "create" else ledger.find_watermark()
        before = None if text is None else Watermark.from_json(text)
        if asked.quarantined:
            condition = plan_retry(self._mapping, plan, self._source, self._target, self._write)
            return Window((condition,), before, before, "the rows that lie in quarantine")
        return plan_window(self._mapping, asked, self._source, self._read, self._facts.source_columns, before)

    def narrow(self, plan: LoadPlan, window: Window | None) -> LoadPlan:
        """The same plan for the rows of a window only."""
        if window is None:
            return plan
        if window.predicates or self._partition is not None:
            plan = self._make_plan(window.predicates)
        return replace(plan, window=window.description)

    def with_predicates(self, predicates: tuple[str, ...], window: Window | None) -> LoadPlan:
        """The plan for the rows of a window that hold these conditions too."""
        return self._make_plan((*(() if window is None else window.predicates), *predicates))

    def _make_plan(self, predicates: tuple[str, ...]) -> LoadPlan:
        facts = replace(self._facts, predicates=predicates)
        plan = make_plan(self._mapping, self._schema, self._source, self._target, self._read, facts)
        return replace(plan, partition=self._partition)
