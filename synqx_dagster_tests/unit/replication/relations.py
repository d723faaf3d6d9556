"""Strategies for tables and changes of them."""

from __future__ import annotations

from hypothesis import strategies as st

from synqx_dagster.model.table import Column, TableName
from synqx_dagster.replication.changes import UNCHANGED, Change, Delete, Insert, Relation, Row, Truncate, Update
from synqx_dagster_tests.unit.replication.pgoutput_encoder import TYPES, delete, insert, truncate, update

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.none() | st.just(UNCHANGED) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def relations(draw: st.DrawFn, oid: int | None = None) -> Relation:
    """A table as the log may describe it."""
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    identity = draw(st.sampled_from(["default", "nothing", "full", "index"]))
    in_key = [identity == "full" or (identity != "nothing" and draw(st.booleans())) for _ in names]
    columns, position = [], 0
    for name, is_key in zip(names, in_key, strict=True):
        native = TYPES[draw(st.sampled_from(sorted(TYPES)))]
        tells = is_key and identity in ("default", "index")
        position += tells
        columns.append(
            Column(name, native.data_type, not tells, native.native_type, "postgres", position if tells else None)
        )
    return Relation(
        draw(st.integers(1, 2**32 - 1)) if oid is None else oid,
        TableName(draw(NAMES), draw(NAMES)),
        identity,
        tuple(columns),
        tuple(name for name, is_key in zip(names, in_key, strict=True) if is_key),
    )


def rows(relation: Relation) -> st.SearchStrategy[Row]:
    """Rows of a table."""
    return st.tuples(*(VALUES for _ in relation.columns))


@st.composite
def changes(draw: st.DrawFn, relation: Relation) -> Change:
    """One change of a table."""
    row = rows(relation)
    match draw(st.sampled_from("IUDT")):
        case "I":
            return Insert(relation, draw(row))
        case "U":
            old = draw(st.none() | row)
            return Update(relation, old, old is not None and draw(st.booleans()), draw(row))
        case "D":
            return Delete(relation, draw(row), draw(st.booleans()))
        case _:
            return Truncate((relation,), draw(st.booleans()), draw(st.booleans()))


def encode(change: Change, xid: int | None = None) -> bytes:
    """The message of a change."""
    match change:
        case Insert():
            return insert(change.relation, change.new, xid)
        case Update():
            return update(change.relation, change.old, change.old_is_key, change.new, xid)
        case Delete():
            return delete(change.relation, change.old, change.old_is_key, xid)
        case Truncate():
            return truncate(change.relations, change.cascade, change.restarts_identity, xid)
