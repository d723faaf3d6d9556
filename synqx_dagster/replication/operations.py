"""What people do with a replication: make it, have it copied anew, drop it.

Guarantee: what was begun and not finished leaves no slot at the source; what is dropped leaves neither slot nor
publication of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.errors import (
    ConfigurationError,
    NotFoundError,
    NotPermittedError,
    PlanError,
    SlotLostError,
    SynqxError,
)
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.identity import SourceProblem
from synqx_dagster.replication.own_slot import make_own_slot, refuse_foreign_slot
from synqx_dagster.replication.position import PositionBook, ReplicationState, TableState
from synqx_dagster.replication.preparation import read_state, require_source
from synqx_dagster.replication.publication import (
    drop_publication,
    ensure_publication,
    was_made_by_us,
)
from synqx_dagster.replication.run_plan import (
    FindLoad,
    find_publication_loss,
    followed_of,
    judge_loads,
    judge_mappings,
)
from synqx_dagster.replication.slot import SourceConnector, drop_slot, find_slot
from synqx_dagster.replication.source import SourceReport, SourceTable, inspect_source
from synqx_dagster.replication.status import BY_HAND, Seen, look
from synqx_dagster.replication.tables import FollowedTable, refuse_shared_targets, state_schema


def _nothing(_table: TableName) -> str | None:
    return None


@dataclass(frozen=True)
class CheckedTable:
    """One line of the report of a source."""

    source: TableName
    target: TableName
    key: tuple[str, ...]
    replica_identity: str
    note: str | None = None


@dataclass(frozen=True)
class SourceCheck:
    """What there is to follow, and everything that is in the way of it."""

    tables: tuple[CheckedTable, ...]
    problems: tuple[SourceProblem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tables": [
                {
                    "source": str(table.source),
                    "target": str(table.target),
                    "key": list(table.key),
                    "replica_identity": table.replica_identity,
                    "note": table.note,
                }
                for table in self.tables
            ],
            "problems": [
                {
                    "message": problem.message,
                    "remedy": problem.remedy,
                    "table": None if problem.table is None else str(problem.table),
                }
                for problem in self.problems
            ],
        }


@dataclass(frozen=True)
class Made:
    """What `create` has found and done; nothing was made where there are problems."""

    source: SourceCheck
    publication: str
    slot: str
    made_publication: bool = False
    made_slot: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """What was done, for people."""
        if self.source.problems:
            return ()
        return (
            f"publication {self.publication}: {'made, or made to fit' if self.made_publication else 'is there'}",
            f"slot {self.slot}: {'made' if self.made_slot else 'is there already'}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "publication": self.publication,
            "slot": self.slot,
            "made_publication": self.made_publication,
            "made_slot": self.made_slot,
            **self.source.to_dict(),
        }


def check_source(
    replication: Replication, source: Connector, target: Connector, find_load: FindLoad = _nothing
) -> tuple[SourceReport, SourceCheck]:
    """Look whether a replication can be made; changes nothing."""
    with require_source(source).write() as session:
        report = inspect_source(session, replication)
    followed = followed_of(replication, report.tables)
    problems = [
        *report.problems,
        *judge_mappings(replication, report.tables),
        *_judge_targets(followed, target, find_load),
    ]
    noted = {
        problem.table: problem.message.removeprefix(f"{problem.table}: ")
        for problem in reversed(problems)
        if problem.table is not None
    }
    tables = tuple(
        CheckedTable(
            table.table, place.target, table.key, table.replica_identity, noted.get(table.table) or _note_of(table)
        )
        for table, place in zip(report.tables, followed, strict=True)
    )
    return report, SourceCheck(tables, tuple(problems))


def _note_of(table: SourceTable) -> str | None:
    parts = []
    if table.left_out:
        parts.append(f"without generated columns: {', '.join(table.left_out)}")
    if table.is_partitioned:
        parts.append(f"{len(table.leaves)} partitions")
    return "; ".join(parts) or None


def _judge_targets(tables: Sequence[FollowedTable], target: Connector, find_load: FindLoad) -> Iterator[SourceProblem]:
    try:
        refuse_shared_targets(tables, folds_case=target.capabilities.folds_case)
    except PlanError as error:
        yield SourceProblem(error.message, error.hint or "")
    yield from judge_loads(tables, find_load)


def create(replication: Replication, source: Connector, target: Connector, find_load: FindLoad = _nothing) -> Made:
    """Make publication and slot, if nothing is in the way; what is there already is left. May be repeated.

    Raises:
        SlotLostError: There was a slot, and it has lost changes.
        ConfigurationError: Somebody else has a slot of this name; nothing was changed.
        SynqxError: One of the databases refuses; what was made here is gone again.
    """
    report, check = check_source(replication, source, target, find_load)
    made = Made(check, replication.publication_name, replication.slot_name)
    seen = look(replication, source, target)
    loss = seen.loss or find_publication_loss(
        seen.state, seen.tables.values(), report.publication, replication.publication_name
    )
    if loss is not None:
        raise SlotLostError(loss, hint=f"`synqx replications resync {replication.name}` copies the tables anew")
    if check.problems or seen.state.position is not None:
        # Of one that has begun, a run makes the publication fit: it knows of which tables changes were left out.
        return made
    refuse_foreign_slot(replication, seen.slot, seen.state)
    connector = require_source(source)
    try:
        with connector.write() as session:
            changed = ensure_publication(session, replication.publication_name, report.published, report.server.version)
        made = replace(made, made_publication=changed)
        _make_slot(replication, connector, target, report)
    except BaseException as error:
        # Ctrl-C, too.
        if report.publication.found is None:
            _unmake_publication(error, replication, connector, target)
        raise
    return replace(made, made_slot=True)


def _unmake_publication(
    error: BaseException, replication: Replication, source: SourceConnector, target: Connector
) -> None:
    """Drop the publication that was just made, unless its slot was made by now; that it could not be is noted."""
    name = replication.publication_name
    try:
        if read_state(replication, target).position is not None:
            return
        with source.write() as session:
            if was_made_by_us(session, name):
                drop_publication(session, name)
    except SynqxError as second:
        error.add_note(f"the publication {name!r} was left: {second}")


def _make_slot(replication: Replication, source: SourceConnector, target: Connector, report: SourceReport) -> None:
    with Applier(replication, target, followed_of(replication, report.tables), source=source) as applier:
        if applier.begin(BY_HAND) is not None:
            return
        with make_own_slot(applier, source, replication):
            pass


# --- copying anew ---------------------------------------------------------------------------------------------------


def _find_publication_loss(replication: Replication, source: SourceConnector, seen: Seen) -> str | None:
    """Why the slot's log cannot be read by the publication that there is; None if it can."""
    with source.write() as session:
        publication = inspect_source(session, replication).publication
    return find_publication_loss(seen.state, seen.tables.values(), publication, replication.publication_name)


def resync(
    replication: Replication, source: Connector, target: Connector, tables: Sequence[str] = ()
) -> list[TableName]:
    """Have tables copied anew by the next run, or by the one that goes on; all of them where none is named.

    Where the slot has lost changes it is dropped, and the next run begins with a new one.

    Raises:
        NotFoundError: A table is not followed.
        SlotLostError: Some tables alone are named, and the slot has lost changes of all.
    """
    seen = look(replication, source, target)
    slot, state, known, loss = seen.slot, seen.state, seen.tables, seen.loss
    if not state.epoch:
        raise ConfigurationError(
            f"replication {replication.name!r} has not begun yet: its first run copies its tables",
            hint=f"`synqx replications start {replication.name}`",
        )
    chosen = _choose(replication, known, tables)
    if loss is None and state.position is not None:
        loss = _find_publication_loss(replication, require_source(source), seen)
    if loss is None and state.status != "lost":
        with _book(replication, target) as (_, book):
            # The run that goes on stays the newest, and finds them when it looks round.
            book.check_fence(book.find_state().epoch)
            for source_table in chosen:
                book.put_table(TableState(source_table, known[source_table].target))
        return chosen
    if tables:
        raise SlotLostError(
            loss or "the slot was given up",
            hint=f"all tables have lost changes: `synqx replications resync {replication.name}` copies all of them",
        )
    if slot is not None and state.slot == slot.name:
        with require_source(source).write() as session:
            drop_slot(session, replication.slot_name)
    with target.write() as session:
        state = _open(replication, target, session).begin_attempt(BY_HAND)
    with _book(replication, target) as (_, book):
        book.check_fence(state.epoch)
        book.advance(replace(state, position=None, status="new"))
        for source_table in known:
            book.put_table(TableState(source_table, known[source_table].target))
    return list(known)


def _choose(replication: Replication, known: dict[TableName, TableState], tables: Sequence[str]) -> list[TableName]:
    if not tables:
        return list(known)
    chosen = []
    for text in tables:
        try:
            table = TableName.parse(text)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        table = TableName(table.name, table.schema or "public")
        if table not in known:
            raise NotFoundError(
                f"replication {replication.name!r} does not follow {table}",
                hint=f"it follows {', '.join(str(one) for one in list(known)[:10]) or 'nothing yet'}",
            )
        chosen.append(table)
    return chosen


# --- dropping -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dropped:
    """What `drop` has done."""

    slot: bool
    publication: bool
    lines: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"dropped_slot": self.slot, "dropped_publication": self.publication, "notes": list(self.lines)}


def drop(replication: Replication, source: Connector, target: Connector) -> Dropped:
    """Drop slot and publication, whoever reads the slot, and forget how far the target was. May be repeated.

    What somebody else has made is left. Of a target that does not answer nobody knows whether it has made the slot:
    then a publication of ours at the source has to stand for that.

    Raises:
        SynqxError: The source does not answer, or refuses; or the target does not, and the hint says what was done.
    """
    try:
        # A run that still goes on is overtaken before what it stands on is gone.
        state = _overtake(replication, target)
    except SynqxError as error:
        lines, _, _ = _drop_at_source(replication, source, None)
        error.hint = "; ".join((*lines, "drop it again when the target answers"))
        raise
    lines, had_slot, had_publication = _drop_at_source(replication, source, state)
    _forget(replication, target, state)
    # A run that was just beginning was not there to be overtaken, and may have made them again.
    state = _overtake(replication, target)
    _, slot_again, publication_again = _drop_at_source(replication, source, state)
    _forget(replication, target, state)
    lines.append("the target's tables stay as they are")
    return Dropped(had_slot or slot_again, had_publication or publication_again, tuple(lines))


def _overtake(replication: Replication, target: Connector) -> ReplicationState:
    """Have every run that goes on commit nothing more; what the target knows."""
    state = read_state(replication, target)
    if not state.epoch:
        return state
    with target.write() as session:
        return _open(replication, target, session).begin_attempt(BY_HAND)


def _forget(replication: Replication, target: Connector, state: ReplicationState) -> None:
    if state.epoch:
        with _book(replication, target) as (_, book):
            book.forget()


def _drop_at_source(
    replication: Replication, source: Connector, state: ReplicationState | None
) -> tuple[list[str], bool, bool]:
    """What was done, whether the slot was dropped, and whether the publication was.

    Args:
        state: None: the target does not answer.
    """
    slot, name = replication.slot_name, replication.publication_name
    with require_source(source).write() as session:
        is_ours = was_made_by_us(session, name)
        if is_ours if state is None else state.slot == slot:
            had_slot = drop_slot(session, slot, ends_consumer=True)
            said = "dropped" if had_slot else "was not there"
        else:
            had_slot = False
            by_hand = f"; if it is this one's, SELECT pg_drop_replication_slot('{slot}') drops it"
            doubt = "cannot be asked whose it is" if state is None else "does not know it as this replication's"
            said = "was not there" if find_slot(session, slot) is None else f"left: the target {doubt}{by_hand}"
        lines = [f"slot {slot}: {said}"]
        said = "was not there" if is_ours is None else "left: SynqX has not made it"
        if is_ours:
            try:
                drop_publication(session, name)
                said = "dropped"
            except NotPermittedError:
                is_ours, said = False, "left: only its owner may drop it"
        lines.append(f"publication {name}: {said}")
    return lines, had_slot, bool(is_ours)


def _open(replication: Replication, target: Connector, session: WriteSession) -> PositionBook:
    return PositionBook(target, session, replication.name, state_schema(replication))


@contextmanager
def _book(replication: Replication, target: Connector) -> Iterator[tuple[WriteSession, PositionBook]]:
    """The target's state in a transaction that is committed at the end."""
    with target.write() as session:
        session.begin()
        try:
            yield session, _open(replication, target, session)
            session.commit()
        except BaseException:
            session.rollback()
            raise
