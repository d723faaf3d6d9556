"""A source table that changes at random, and what its log says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import (
    UNCHANGED,
    Change,
    Delete,
    Insert,
    Relation,
    ReplicaIdentity,
    Row,
    Truncate,
    Update,
)

COLUMNS = (
    Column("k1", DataType("integer"), False, "integer", "postgres", 1),
    Column("k2", DataType("string"), False, "text", "postgres", 2),
    Column("plain", DataType("string"), True, "text", "postgres"),
    Column("big", DataType("string"), True, "text", "postgres"),
    Column("other", DataType("string"), True, "text", "postgres"),
)
#: Columns whose values the log leaves out when they have not changed.
LARGE = (3, 4)


def make_relation(identity: ReplicaIdentity = "default", *, key: int = 1, name: str = "t", oid: int = 1) -> Relation:
    """A table whose key are the first one or two columns."""
    names = tuple(column.name for column in COLUMNS)
    return Relation(oid, TableName(name, "public"), identity, COLUMNS, names if identity == "full" else names[:key])


@dataclass
class Source:
    """The table's rows by key, and the log so far."""

    relation: Relation
    key: int = 1
    rows: dict[Row, Row] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)

    def key_of(self, row: Row) -> Row:
        return row[: self.key]

    def insert(self, row: Row) -> None:
        if self.key_of(row) not in self.rows:
            self.rows[self.key_of(row)] = row
            self.log.append(Insert(self.relation, row))

    def update(self, key: Row, new: Row) -> None:
        old = self.rows.get(key)
        new_key = self.key_of(new)
        if old is None or (new_key != key and new_key in self.rows):
            return
        del self.rows[key]
        self.rows[new_key] = new
        # As PostgreSQL: of a large value that stays the same nothing is said.
        told = tuple(
            UNCHANGED if at in LARGE and value is not None and value == old[at] else value
            for at, value in enumerate(new)
        )
        if self.relation.replica_identity == "full":
            self.log.append(Update(self.relation, old, False, told))
        elif new_key != key:
            self.log.append(Update(self.relation, self._only_key(old), True, told))
        else:
            self.log.append(Update(self.relation, None, False, told))

    def delete(self, key: Row) -> None:
        old = self.rows.pop(key, None)
        if old is not None:
            if self.relation.replica_identity == "full":
                self.log.append(Delete(self.relation, old, False))
            else:
                self.log.append(Delete(self.relation, self._only_key(old), True))

    def truncate(self) -> None:
        self.rows.clear()
        self.log.append(Truncate((self.relation,), False, False))

    def _only_key(self, row: Row) -> Row:
        return (*row[: self.key], *(None,) * (len(row) - self.key))


_numbers = st.sampled_from(["1", "2", "3", "4"])
_texts = st.one_of(st.none(), st.sampled_from(["", "a", "b'\\\t\n\"", "\\N", "ü😀"]))


def rows_strategy() -> st.SearchStrategy[Row]:
    """Rows with few keys, so that they meet."""
    return st.tuples(_numbers, st.sampled_from(["x", "y"]), _texts, _texts, _texts)


@st.composite
def sources(draw: st.DrawFn, *, with_truncate: bool = True) -> tuple[Source, dict[Row, Row]]:
    """A source that has changed, and the rows that it had before."""
    key = draw(st.sampled_from([1, 2]))
    relation = make_relation(draw(st.sampled_from(["default", "full"])), key=key)
    source = Source(relation, key)
    for row in draw(st.lists(rows_strategy(), max_size=4)):
        source.rows.setdefault(source.key_of(row), row)
    before = dict(source.rows)
    kinds = ["insert", "update", "update", "move", "delete", "truncate" if with_truncate else "delete"]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=25)):
        row = draw(rows_strategy())
        if kind == "insert":
            source.insert(row)
        elif kind == "delete":
            source.delete(source.key_of(row))
        elif kind == "truncate":
            source.truncate()
        elif source.rows:
            old_key = draw(st.sampled_from(sorted(source.rows, key=str)))
            old = source.rows[old_key]
            kept = draw(st.sets(st.integers(2, 4)))
            new = tuple(old[at] if at in kept else value for at, value in enumerate(row))
            if kind == "update":
                new = (*old_key, *new[key:])
            source.update(old_key, new)
    return source, before
