"""Fits targets to the relations of the log: creates tables, follows changed columns, and says which tables stop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from synqx_dagster.connectors.protocol import ChangingWriteSession, Connector
from synqx_dagster.errors import PlanError, RetryableError, SourceChangedError, TargetMismatchError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column
from synqx_dagster.replication.changes import Relation
from synqx_dagster.replication.evolution import Evolved, compare, numbers_of
from synqx_dagster.replication.position import TableState
from synqx_dagster.replication.source_columns import KnownRelation, SourceColumn, ask_source
from synqx_dagster.replication.tables import FollowedTable
from synqx_dagster.replication.target_plan import SOURCE_DIALECT, TargetPlan, plan_target
from synqx_dagster.transfer.alter import ColumnChange, alter_statements
from synqx_dagster.transfer.evolve import apply_to

logger = logging.getLogger(__name__)

#: In place of a copy's load, for a table that changes have filled from the beginning.
WITHOUT_COPY = "without a copy"


class TargetAlteredError(RetryableError):
    """The target's tables were changed where such a change commits; the batch is to be read again."""


@dataclass(frozen=True)
class Adapted:
    """What a relation has come to.

    Attributes:
        plan: None for a table that has stopped.
        state: To be kept in the transaction of the changes.
        schema_changes: What happened to the target, in words.
    """

    plan: TargetPlan | None
    state: TableState
    schema_changes: tuple[str, ...] = ()


class Adapter:
    """Fits the targets of one replication; `source` tells what the log does not."""

    def __init__(self, replication: Replication, target: Connector, source: Connector | None) -> None:
        self._replication = replication
        self._target = target
        self._source = source

    def adapt(
        self, table: FollowedTable, relation: Relation, state: TableState, session: ChangingWriteSession
    ) -> Adapted:
        """Fit a table to a relation, within the open transaction where the database's own allows it.

        Raises:
            TargetAlteredError: It does not; the table fits when the batch is read again.
        """
        known = None if state.relation is None else KnownRelation.from_json(state.relation)
        now: Mapping[str, SourceColumn] | None = None
        if self._source is not None and (known is None or known.oid == relation.oid):
            now = ask_source(self._source, relation.oid)
        evolved = Evolved()
        if known is not None:
            evolved = compare(known, relation, now, self._replication.evolution)
            if evolved.stopped is not None:
                return self._stop(state, evolved.stopped)
        numbers = numbers_of(relation, now)
        if not numbers and known is not None:
            # The catalog is ahead of the log: of a column that it calls otherwise by now, only we know the number.
            names = {column.name for column in relation.columns}
            numbers = {name: number for name, number in known.numbers.items() if name in names}
        kept = replace(KnownRelation.of(relation.oid, relation.columns, {}), numbers=numbers)
        try:
            plan, words = self._fit(table, relation, evolved, session, was_there=state.load_id is not None)
        except (PlanError, SourceChangedError, TargetMismatchError) as error:
            return self._stop(state, str(error))
        # A table that was never copied is there from now on, too.
        state = replace(state, load_id=state.load_id or WITHOUT_COPY, relation=kept.to_json())
        return Adapted(plan, state, tuple(words))

    def _stop(self, state: TableState, reason: str) -> Adapted:
        return Adapted(None, replace(state, status="stopped", reason=reason))

    def _fit(
        self,
        table: FollowedTable,
        relation: Relation,
        evolved: Evolved,
        session: ChangingWriteSession,
        *,
        was_there: bool,
    ) -> tuple[TargetPlan, list[str]]:
        words: list[str] = []
        existing = session.find_columns(table.target)
        if existing is None and was_there:
            # Made anew it would have the rows of these changes alone.
            raise TargetMismatchError(
                f"the target table {table.target} is gone",
                hint=f"`synqx replications resync {self._replication.name} --table {table.source}` copies it anew",
                table=str(table.target),
            )
        freed: list[ColumnChange] = []
        if existing is not None:
            if table.definition.column_mappings is None:
                existing = self._rename(table, evolved, existing, session, words)
            freed = self._free_dropped(existing, evolved)
            existing = apply_to(existing, freed)
        plan = plan_target(self._replication, table, relation, existing, self._target)
        if plan.created_key is not None:
            self._create(plan, session)
            words.append(f"{table.target}: created")
        else:
            self._check_key(plan, session)
            changes = [*freed, *plan.schema_changes]
            words += [f"{table.target}: {change}" for change in changes]
            self._run_ddl(alter_statements(self._target, table.target, changes), session)
        for name, value in (evolved.added or {}).items():
            self._fill(plan, name, value, session)
        if plan.schema_changes or evolved.renamed:
            plan = plan_target(self._replication, table, relation, session.find_columns(table.target), self._target)
        for word in words:
            logger.info("%s: %s", self._replication.name, word)
        return plan, words

    def _rename(
        self,
        table: FollowedTable,
        evolved: Evolved,
        existing: tuple[Column, ...],
        session: ChangingWriteSession,
        words: list[str],
    ) -> tuple[Column, ...]:
        names = {column.name for column in existing}
        renamed = [(old, new) for old, new in evolved.renamed if old in names]
        if not renamed:
            return existing
        if not self._target.capabilities.transactional_ddl:
            old, new = renamed[0]
            raise TargetMismatchError(
                f"{table.source}: the column {old!r} was renamed to {new!r}, which cannot be followed into"
                f" {self._target.db_type} in one transaction",
                hint=f"rename it in {table.target} too, then copy the table again",
            )
        quote = self._target.quote
        while renamed:
            # One whose new name is free: it may be the earlier name of another.
            old, new = next((pair for pair in renamed if pair[1] not in names), renamed[0])
            if new in names:
                raise TargetMismatchError(f"{table.target} has a column {new!r} already, as {old!r} is called now")
            renamed.remove((old, new))
            names = names - {old} | {new}
            session.execute(
                f"ALTER TABLE {self._target.qualify(table.target)} RENAME COLUMN {quote(old)} TO {quote(new)}"
            )
            words.append(f"{table.target}: {old} renamed to {new}")
        return session.find_columns(table.target) or ()

    def _free_dropped(self, existing: tuple[Column, ...], evolved: Evolved) -> list[ColumnChange]:
        """Columns that the source has no more are NULL in rows to come."""
        if "allow_null" not in self._target.capabilities.alters:
            return []
        return [
            ColumnChange("allow_null", replace(column, nullable=True))
            for column in existing
            if column.name in evolved.dropped and not (column.nullable or column.has_default or column.generated)
        ]

    def _check_key(self, plan: TargetPlan, session: ChangingWriteSession) -> None:
        if self._replication.mode == "history":
            return
        key = set(plan.changed.key)
        if not any(set(columns) <= key for columns in session.find_unique_keys(plan.changed.table)):
            names = ", ".join(self._target.quote(name) for name in plan.changed.key)
            raise TargetMismatchError(
                f"{plan.changed.table} has no unique index on ({', '.join(plan.changed.key)}), by which its rows are"
                " matched",
                hint=f"ALTER TABLE {self._target.qualify(plan.changed.table)} ADD PRIMARY KEY ({names})",
                table=str(plan.changed.table),
            )

    def _create(self, plan: TargetPlan, session: ChangingWriteSession) -> None:
        if self._target.capabilities.transactional_ddl:
            create_target(plan, session)
            return
        with self._target.write() as fresh:
            assert isinstance(fresh, ChangingWriteSession)
            create_target(plan, fresh)
        raise TargetAlteredError(f"{plan.changed.table} was created", table=str(plan.changed.table))

    def _run_ddl(self, statements: list[str], session: ChangingWriteSession) -> None:
        if not statements:
            return
        if self._target.capabilities.transactional_ddl:
            for statement in statements:
                session.execute(statement)
            return
        # What the transaction has locked would keep the statement waiting for it.
        session.rollback()
        for statement in statements:
            session.execute(statement)
        raise TargetAlteredError("the target's columns were changed")

    def _fill(self, plan: TargetPlan, name: str, value: str | None, session: ChangingWriteSession) -> None:
        """Give the rows that are there what the source's rows have in a new column."""
        if value is None or self._replication.mode == "history":
            return
        fields = [one for one in plan.compiled.fields if name in one.source_columns]
        if not fields:
            return
        field = fields[0]
        if len(fields) > 1 or not field.is_identity:
            raise TargetMismatchError(
                f"{plan.table.source}: the new column {name!r} has a default in the rows that are there, and a mapping"
                " makes something of it",
                hint="copy the table again",
            )
        column = next(one for one in plan.changed.columns if one.name == field.column.name)
        given: object = value
        kind = field.column.data_type.kind
        if self._target.dialect != SOURCE_DIALECT and kind == "boolean":
            given = value in ("t", "true")
        elif self._target.dialect != SOURCE_DIALECT and kind == "binary":
            given = bytes.fromhex(value.removeprefix("\\x"))
        # A parameter is a text, which only MySQL reads as whatever the column is.
        mark = "?" if self._target.dialect == "mysql" else f"CAST(? AS {self._target.native_type(column)})"
        session.execute(
            f"UPDATE {self._target.qualify(plan.changed.table)} SET {self._target.quote(column.name)} = {mark}",
            (given,),
        )


def create_target(plan: TargetPlan, session: ChangingWriteSession) -> None:
    """Create a missing target."""
    table = plan.changed.table
    session.ensure_schema(table)
    session.create_table(table, plan.changed.columns, plan.created_key or ())
