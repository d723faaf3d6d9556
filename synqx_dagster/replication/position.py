"""How far a replication has come, kept in its target: what makes it effectively once.

Two tables in the target change only in the transactions that change the rows they speak of:

* ``_synqx_replications`` holds one row for each replication: its position, the slot that this is a place in, and an
  epoch. An attempt raises the epoch when it begins, and finds it unchanged, under a row lock, in every transaction that
  it commits; a newer attempt has raised it, and the older one is refused. Epochs begin anywhere, so that one of a
  replication that was dropped and made again is none of those before.
* ``_synqx_replicated_tables`` holds one row for each table: whether its rows were copied, which changes it takes, and
  how the log described it last.

Guarantee: of any number of attempts, in any number of processes, dead, paused or alive, only the newest commits; and
rows, states and position are always of one moment of the source.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.errors import DatabaseError, FatalError, FencedError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import format_lsn, parse_lsn

REPLICATIONS_TABLE = "_synqx_replications"
TABLES_TABLE = "_synqx_replicated_tables"

#: How often an attempt may lose the race for the first epoch before it gives up.
MAX_RACES = 5

#: ``pending``: to be copied. ``copying``: a copy has begun. ``following``: it takes changes. ``stopped``: it takes none
#: until it is copied again.
TableStatus = Literal["pending", "copying", "following", "stopped"]


@dataclass(frozen=True)
class ReplicationState:
    """What the target knows of a replication.

    Attributes:
        epoch: Of the newest attempt; 0 before the first.
        slot: The slot that `position` is a place in, with what else tells it apart; None before there was one.
        position: Changes of transactions that committed before it are stored; None before there was a slot.
        status: A word for people and for the run: ``new``, ``following``, ``lost``, ...
    """

    epoch: int = 0
    run_id: str | None = None
    slot: str | None = None
    position: int | None = None
    status: str = "new"


@dataclass(frozen=True)
class TableState:
    """What the target knows of one followed table.

    Attributes:
        source: Always with its schema.
        copied_at: The copy shows the transactions before it; changes of those that commit at or after it are taken.
        load_id: Of the copy that began last, by which the transfer engine's ledger knows whether it has committed. None
            where the target table may have to be made yet.
        relation: How the log described the table last, as JSON; None before its first change.
        reason: Why it has stopped; of one that follows, why its rows may differ from the source's all the same.
        definition: Digest of what the record said when its copy began, or when it began to follow; None before that,
            and of a state that an earlier version has kept.
        partitions: Those of a partitioned table when they were last looked at, as JSON.
        published: By which publication, and which entry of it, its changes come.
    """

    source: TableName
    target: TableName
    status: TableStatus = "pending"
    copied_at: int | None = None
    load_id: str | None = None
    relation: str | None = None
    reason: str | None = None
    definition: str | None = None
    partitions: str | None = None
    published: str | None = None


def _text(
    name: str, dialect: str, *, nullable: bool = False, key_position: int | None = None, length: int = 255
) -> Column:
    # varchar is spelt the same everywhere and, unlike text, may be a key in MySQL.
    return Column(name, DataType("string"), nullable, f"varchar({length})", dialect, key_position)


def replications_columns(dialect: str) -> tuple[Column, ...]:
    """The columns of ``_synqx_replications`` as a database of this dialect spells them."""
    return (
        _text("name", dialect, key_position=1),
        Column("epoch", DataType("bigint"), False),
        _text("run_id", dialect, nullable=True),
        Column("slot", DataType("string")),
        _text("position", dialect, nullable=True),
        _text("status", dialect),
        Column("updated_at", DataType("timestamp"), False),
    )


def tables_columns(dialect: str) -> tuple[Column, ...]:
    """The columns of ``_synqx_replicated_tables`` as a database of this dialect spells them."""
    return (
        _text("replication", dialect, key_position=1),
        _text("source_table", dialect, key_position=2, length=300),
        Column("target_table", DataType("string"), False),
        _text("status", dialect),
        _text("copied_at", dialect, nullable=True),
        Column("load_id", DataType("string")),
        Column("relation", DataType("string")),
        Column("reason", DataType("string")),
        Column("updated_at", DataType("timestamp"), False),
    )


#: What lies in the column of a table's relation beside it: tables of earlier versions have that column, too.
_BESIDE_RELATION = ("definition", "partitions", "published")

_TABLE_FIELDS = ("source_table", "target_table", "status", "copied_at", "load_id", "relation", "reason")


class PositionBook:
    """The state of one replication, over one write session.

    Args:
        schema: Where the two tables lie; None: the connector's default schema.
    """

    def __init__(self, connector: Connector, session: WriteSession, replication: str, schema: str | None) -> None:
        self._connector = connector
        self._session = session
        self._name = replication
        self._replications_name = TableName(REPLICATIONS_TABLE, schema)
        self._tables_name = TableName(TABLES_TABLE, schema)
        self._replications = connector.qualify(self._replications_name)
        self._tables = connector.qualify(self._tables_name)
        # Some are reserved words somewhere.
        self._quote = connector.quote

    # --- looking --------------------------------------------------------------------------------------------

    def find_state(self) -> ReplicationState:
        """What is known of the replication; a state of epoch 0 where nothing is."""
        if self._session.find_columns(self._replications_name) is None:
            return ReplicationState()
        rows = self._read_state("")
        return _state_of(rows[0]) if rows else ReplicationState()

    def find_tables(self) -> dict[TableName, TableState]:
        """The state of every table that was ever followed, by source table."""
        if self._session.find_columns(self._tables_name) is None:
            return {}
        names = ", ".join(map(self._quote, _TABLE_FIELDS))
        rows = self._session.fetch_all(
            f"SELECT {names} FROM {self._tables} WHERE {self._quote('replication')} = ? ORDER BY source_table",
            (self._name,),
        )
        states = [_table_of(row) for row in rows]
        return {state.source: state for state in states}

    def find_other_writers(self) -> dict[TableName, str]:
        """Which other replication writes a target table, of those whose state lies beside this one's."""
        rows = self._session.fetch_all(
            f"SELECT target_table, {self._quote('replication')} FROM {self._tables}"
            f" WHERE {self._quote('replication')} <> ?",
            (self._name,),
        )
        return {TableName.parse(str(table)): str(name) for table, name in rows}

    # --- the fence ------------------------------------------------------------------------------------------

    def begin_attempt(self, run_id: str) -> ReplicationState:
        """Raise the epoch and commit that; returns the state with the new epoch.

        Creates the tables if they are missing. Must be called outside a transaction. From then on no earlier attempt
        commits: what this one reads of position and tables stays true until it changes them itself.

        Raises:
            RetryableError: Other attempts keep beginning at the same time.
        """
        self._ensure_tables()
        for _ in range(MAX_RACES):
            self._session.begin()
            try:
                # The row lock makes two attempts take turns.
                found = self._lock_state()
                if found is None:
                    state = ReplicationState(_make_first_epoch(), run_id)
                    self._insert(state)
                else:
                    state = replace(found, epoch=found.epoch + 1, run_id=run_id)
                    self._update(state)
                self._session.commit()
            except (DatabaseError, RetryableError):
                # Two first attempts meet at the primary key: the loser finds the winner's row.
                self._session.rollback()
                if self.find_state().epoch == 0:
                    raise
                continue
            return state
        raise RetryableError(
            f"replication {self._name!r}: other runs of it keep beginning at the same time",
            hint="a replication wants one run at a time; look for a second schedule or process",
        )

    def check_fence(self, epoch: int) -> ReplicationState:
        """Refuse to go on if a newer attempt has begun; holds a row lock until the transaction ends.

        Raises:
            FencedError: The epoch has moved.
        """
        state = self._lock_state() or ReplicationState()
        if state.epoch != epoch:
            raise FencedError(
                f"a newer run has taken over replication {self._name!r}: this one has epoch {epoch}, the newest"
                f" {state.epoch}",
                hint="nothing more was committed by this run; the newer one goes on where it had come",
                newer_run_id=state.run_id,
            )
        return state

    # --- changing, in the transaction that changes the rows ---------------------------------------------------

    def advance(self, state: ReplicationState) -> None:
        """Write position, slot and status; the fence has been checked in this transaction."""
        self._update(state)

    def put_table(self, state: TableState) -> None:
        """Write the state of a table; the fence has been checked in this transaction."""
        values = _values_of(state)
        assignments = ", ".join(f"{self._quote(name)} = ?" for name in _TABLE_FIELDS[1:])
        where = f"{self._quote('replication')} = ? AND source_table = ?"
        key = (self._name, values[0])
        if self._session.fetch_all(f"SELECT 1 FROM {self._tables} WHERE {where}", key):
            self._session.execute(
                f"UPDATE {self._tables} SET {assignments}, updated_at = CURRENT_TIMESTAMP WHERE {where}",
                (*values[1:], *key),
            )
            return
        names = ", ".join(map(self._quote, ("replication", *_TABLE_FIELDS, "updated_at")))
        marks = ", ".join("?" for _ in range(len(_TABLE_FIELDS) + 1))
        self._session.execute(
            f"INSERT INTO {self._tables} ({names}) VALUES ({marks}, CURRENT_TIMESTAMP)", (self._name, *values)
        )

    def is_pending(self, source: TableName) -> bool:
        """Whether a table is to be copied, as its row says now; the fence has been checked in this transaction."""
        where = f"{self._quote('replication')} = ? AND source_table = ?"
        rows = self._session.fetch_all(
            f"SELECT {self._quote('status')} FROM {self._tables} WHERE {where}", (self._name, str(source))
        )
        return bool(rows) and rows[0][0] == "pending"

    def forget_table(self, source: TableName) -> None:
        """Remove a table that is followed no more; the fence has been checked in this transaction."""
        self._session.execute(
            f"DELETE FROM {self._tables} WHERE {self._quote('replication')} = ? AND source_table = ?",
            (self._name, str(source)),
        )

    def forget(self) -> None:
        """Remove all that is known of the replication, in the open transaction; for one that is dropped."""
        if self._session.find_columns(self._tables_name) is not None:
            self._session.execute(f"DELETE FROM {self._tables} WHERE {self._quote('replication')} = ?", (self._name,))
        if self._session.find_columns(self._replications_name) is not None:
            self._session.execute(f"DELETE FROM {self._replications} WHERE {self._quote('name')} = ?", (self._name,))

    def settle_commit(self, epoch: int, position: int | None) -> bool:
        """Whether a commit whose reply was lost has happened, asked over a fresh session.

        Waits, by the row lock, until the server is done with the lost transaction. A position is reached once.

        Raises:
            FencedError: A newer attempt has begun, and knows.
        """
        self._session.begin()
        try:
            state = self.check_fence(epoch)
        finally:
            self._session.rollback()
        return state.position == position

    # --- statements -----------------------------------------------------------------------------------------

    def _lock_state(self) -> ReplicationState | None:
        suffix = self._session.lock_row_suffix()
        if not suffix:
            # Engines without row locks for readers: touching the row waits for, or conflicts with, whoever changes it.
            self._session.execute(
                f"UPDATE {self._replications} SET run_id = run_id WHERE {self._quote('name')} = ?", (self._name,)
            )
        rows = self._read_state(suffix)
        if len(rows) > 1:
            raise FatalError(f"{self._replications_name} holds replication {self._name!r} more than once")
        return _state_of(rows[0]) if rows else None

    def _read_state(self, suffix: str) -> list[tuple[object, ...]]:
        names = ", ".join(map(self._quote, ("epoch", "run_id", "slot", "position", "status")))
        return self._session.fetch_all(
            f"SELECT {names} FROM {self._replications} WHERE {self._quote('name')} = ? {suffix}", (self._name,)
        )

    def _insert(self, state: ReplicationState) -> None:
        names = ", ".join(map(self._quote, ("name", "epoch", "run_id", "slot", "position", "status", "updated_at")))
        self._session.execute(
            f"INSERT INTO {self._replications} ({names}) VALUES (?, ?, ?, ?, ?, ?, CURRENT_TIMESTAMP)",
            (self._name, state.epoch, state.run_id, state.slot, _lsn_text(state.position), state.status),
        )

    def _update(self, state: ReplicationState) -> None:
        names = ("epoch", "run_id", "slot", "position", "status")
        assignments = ", ".join(f"{self._quote(name)} = ?" for name in names)
        self._session.execute(
            f"UPDATE {self._replications} SET {assignments}, updated_at = CURRENT_TIMESTAMP"
            f" WHERE {self._quote('name')} = ?",
            (state.epoch, state.run_id, state.slot, _lsn_text(state.position), state.status, self._name),
        )

    def _ensure_tables(self) -> None:
        """Create what is missing. Two first attempts may do so at once: the loser finds the winner's tables."""
        dialect = self._connector.dialect
        wanted: Mapping[TableName, tuple[Sequence[Column], tuple[str, ...]]] = {
            self._replications_name: (replications_columns(dialect), ("name",)),
            self._tables_name: (tables_columns(dialect), ("replication", "source_table")),
        }
        for name, (columns, key) in wanted.items():
            if self._session.find_columns(name) is not None:
                continue
            try:
                self._session.begin()
                self._session.ensure_schema(name)
                self._session.create_table(name, columns, key)
                self._session.commit()
            except (DatabaseError, RetryableError):
                self._session.rollback()
                if self._session.find_columns(name) is None:
                    raise


def _make_first_epoch() -> int:
    """Where the epochs of a replication begin that nothing is known of.

    One of this name may have been dropped while a run of it slept: it must not wake up to find its epoch in use again.
    """
    return 1 + secrets.randbelow(2**48)


def _lsn_text(lsn: int | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)


def _lsn_of(value: object) -> int | None:
    return None if value is None else parse_lsn(str(value))


def _optional(value: object) -> str | None:
    return None if value is None else str(value)


def _state_of(row: Sequence[object]) -> ReplicationState:
    epoch, run_id, slot, position, status = row
    return ReplicationState(int(str(epoch)), _optional(run_id), _optional(slot), _lsn_of(position), str(status))


def _values_of(state: TableState) -> tuple[object, ...]:
    copied_at = _lsn_text(state.copied_at)
    return (
        str(state.source),
        str(state.target),
        state.status,
        copied_at,
        state.load_id,
        _join_relation(state),
        state.reason,
    )


def _join_relation(state: TableState) -> str | None:
    beside = {name: value for name in _BESIDE_RELATION if (value := getattr(state, name)) is not None}
    if not beside:
        return state.relation
    found = {} if state.relation is None else json.loads(state.relation)
    return json.dumps({**found, **beside})


def _split_relation(text: str | None) -> tuple[str | None, dict[str, str]]:
    """The relation, and what lies beside it."""
    if text is None:
        return None, {}
    try:
        found = json.loads(text)
    except ValueError:
        return text, {}  # Who needs it says that it is not what we wrote.
    if not isinstance(found, dict) or found.keys().isdisjoint(_BESIDE_RELATION):
        return text, {}
    beside = {name: str(found.pop(name)) for name in _BESIDE_RELATION if name in found}
    return (json.dumps(found) if found else None), beside


def _table_of(row: Sequence[object]) -> TableState:
    source, target, status, copied_at, load_id, relation, reason = row
    if status not in ("pending", "copying", "following", "stopped"):
        raise FatalError(f"{TABLES_TABLE}: {source} has a status that this version does not know")
    known, beside = _split_relation(_optional(relation))
    return TableState(
        TableName.parse(str(source)),
        TableName.parse(str(target)),
        status,
        _lsn_of(copied_at),
        _optional(load_id),
        known,
        _optional(reason),
        **beside,
    )
