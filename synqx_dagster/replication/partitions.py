"""The partitions of a followed table: what changed of them of which the log does not tell.

A partitioned table is published as one, so the log brings the rows of its partitions as its own. What it does not bring
is what happens to one of them as a whole: `ATTACH` of a filled table, `DETACH`, `DROP`, `TRUNCATE`. The source's
catalog shows these, and is looked at again and again. Comparing is pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from synqx_dagster.connectors.protocol import ReadSession, WriteSession
from synqx_dagster.errors import FatalError
from synqx_dagster.mapping.quoting import quote_text
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.changes import format_lsn, parse_lsn
from synqx_dagster.replication.identity import sql_name
from synqx_dagster.replication.queries import load_query

#: So many partitions are named where one thing happened to many.
_MOST_NAMES = 5
#: So many things are kept of one table; by then it is clear that it has to be copied anew.
_MOST_DOUBTS = 10

_EMPTY_SQL = """
select p.oid from pg_catalog.unnest(?::bigint[]) as p (oid)
where coalesce(pg_catalog.pg_relation_size(p.oid::oid), 0) = 0
"""


@dataclass(frozen=True)
class Partition:
    """One partition, or a part of the tree of them, which holds no rows itself.

    Attributes:
        filenode: Another one after TRUNCATE, VACUUM FULL, CLUSTER and whatever else writes its rows anew.
        attached_by: The transaction that made it a partition.
        is_born: It was made as a partition, and so without rows.
    """

    oid: int
    parent: int
    name: str
    is_partitioned: bool
    filenode: int
    attached_by: str
    is_born: bool = False


@dataclass(frozen=True)
class PartitionSet:
    """A table's partitions at one moment; kept in the target as JSON.

    Attributes:
        lsn: What committed before it is in this.
        columns: Numbers and types of the table's columns, as text.
        was_truncated: Since then the log has brought a TRUNCATE of the whole table.
        doubts: What happened before, of which the log did not tell; until the table is copied anew.
    """

    lsn: int
    columns: str
    partitions: Mapping[int, Partition]
    was_truncated: bool = False
    doubts: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(
            {
                "lsn": format_lsn(self.lsn),
                "columns": self.columns,
                "partitions": [
                    [one.oid, one.parent, one.name, one.is_partitioned, one.filenode, one.attached_by]
                    for one in self.partitions.values()
                ],
                "truncated": self.was_truncated,
                "doubts": self.doubts,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> PartitionSet:
        """Read what was kept.

        Raises:
            FatalError: It is not that.
        """
        try:
            found = json.loads(text)
            partitions = {int(values[0]): Partition(*values) for values in found["partitions"]}
            lsn = parse_lsn(found["lsn"])
            return cls(lsn, found["columns"], partitions, bool(found["truncated"]), tuple(found["doubts"]))
        except (ValueError, KeyError, TypeError, IndexError):
            raise FatalError("the target's state of a table's partitions is not what SynqX wrote") from None


def read_partitions(session: WriteSession, table: TableName) -> PartitionSet | None:
    """A table's partitions as they are now; None where it is not partitioned, or is gone."""
    name = sql_name(table)
    rows = session.fetch_all(load_query("partitions").format(table="?"), [name, name])
    return _decode(rows[0][0]) if rows else None


def read_partitions_at(session: ReadSession, table: TableName, lsn: int | None) -> PartitionSet | None:
    """The same as a session's snapshot shows it.

    Args:
        lsn: The snapshot shows the transactions before it; None: it is of this moment.
    """
    name = quote_text(sql_name(table), "postgres")
    value = session.fetch_value(f"SELECT ({load_query('partitions').format(table=name)})")
    found = None if value is None else _decode(value)
    return found if found is None or lsn is None else replace(found, lsn=lsn)


def _decode(value: object) -> PartitionSet:
    found = json.loads(str(value))
    listed = sorted((Partition(*values) for values in found["partitions"]), key=lambda one: one.name)
    partitions = {one.oid: one for one in listed}
    return PartitionSet(parse_lsn(found["lsn"]), json.dumps(found["columns"]), partitions)


def find_empty(session: WriteSession, partitions: Sequence[Partition]) -> set[int]:
    """Those that hold no rows, and held none since they were made or truncated; their oids.

    Raises:
        RetryableError: One of them is locked for now.
    """
    if not partitions:
        return set()
    session.begin()
    try:
        # Who truncates one, or writes it anew, locks it for as long as that takes.
        session.execute("set local lock_timeout = '1s'")
        rows = session.fetch_all(_EMPTY_SQL, [[one.oid for one in partitions]])
    finally:
        session.rollback()
    return {int(str(row[0])) for row in rows}


# --- comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What changed of a table's partitions between two looks.

    Attributes:
        attached: Those that were tables of their own before, and hold rows, or may.
        returned: Detached and attached again.
        gone: Detached or dropped.
        rewritten: Truncated, or their rows written anew.
        all_rewritten: That is so of all that were there, and the columns are the same: the whole table may have been
            truncated, of which the log tells.
        has_news: Anything has changed, such as a partition that was made.
    """

    attached: tuple[Partition, ...] = ()
    returned: tuple[Partition, ...] = ()
    gone: tuple[Partition, ...] = ()
    rewritten: tuple[Partition, ...] = ()
    all_rewritten: bool = False
    has_news: bool = False

    @property
    def is_suspicious(self) -> bool:
        """Whether rows may have come or gone without the log."""
        return bool(self.attached or self.returned or self.gone or self.rewritten)


def compare(known: PartitionSet, now: PartitionSet) -> Difference:
    """What changed since `known`."""
    before, after = known.partitions, now.partitions

    def was_attached(oid: int) -> bool:
        """Whether the partition, or what it is a part of, was attached since."""
        while (one := after.get(oid)) is not None:
            earlier = before.get(oid)
            if earlier is None and not one.is_born:
                return True
            if earlier is not None and (earlier.attached_by, earlier.parent) != (one.attached_by, one.parent):
                return True
            oid = one.parent
        return False

    leaves = [one for one in after.values() if not one.is_partitioned]
    stayed = [one for one in leaves if one.oid in before]
    returned = tuple(one for one in stayed if was_attached(one.oid))
    rewritten = tuple(one for one in stayed if one.filenode != before[one.oid].filenode and one not in returned)
    all_rewritten = bool(rewritten) and len(rewritten) == len(stayed)
    if all_rewritten and known.columns != now.columns:
        # A column of another type; what becomes of it is decided where the columns are compared.
        rewritten, all_rewritten = (), False
    return Difference(
        tuple(one for one in leaves if one.oid not in before and was_attached(one.oid)),
        returned,
        tuple(one for one in before.values() if one.oid not in after and not one.is_partitioned),
        rewritten,
        all_rewritten,
        _marks(before) != _marks(after),
    )


def _marks(partitions: Mapping[int, Partition]) -> dict[int, tuple[object, ...]]:
    return {one.oid: (one.parent, one.filenode, one.attached_by) for one in partitions.values()}


def describe(difference: Difference, empty: Collection[int], *, was_truncated: bool) -> tuple[str, ...]:
    """What of it may have brought or taken rows, in words.

    Args:
        empty: Oids of attached partitions without rows.
        was_truncated: The log has told that the whole table was truncated.
    """
    filled = [one for one in difference.attached if one.oid not in empty]
    rewritten = () if difference.all_rewritten and was_truncated else difference.rewritten
    return tuple(
        _iter_doubts(
            (filled, "attached with rows"),
            (difference.returned, "detached and attached again"),
            (difference.gone, "detached or dropped"),
            (rewritten, "truncated, or written anew by VACUUM FULL or CLUSTER, which changes no rows"),
        )
    )


def _iter_doubts(*found: tuple[Sequence[Partition], str]) -> Iterator[str]:
    for partitions, what in found:
        if not partitions:
            continue
        names = [one.name for one in partitions[:_MOST_NAMES]]
        if more := len(partitions) - len(names):
            names.append(f"{more} more")
        yield f"{', '.join(names)}: {what}"


def add_doubts(now: PartitionSet, earlier: Sequence[str], new: Sequence[str]) -> PartitionSet:
    """What is kept of a table from now on."""
    return replace(now, doubts=tuple(dict.fromkeys((*earlier, *new)))[:_MOST_DOUBTS])


def reason_of(doubts: Sequence[str]) -> str | None:
    """Why a table that takes changes may all the same differ from the source; None where there is no doubt."""
    if not doubts:
        return None
    return f"rows may differ from the source's: the log tells nothing of single partitions ({'; '.join(doubts)})"
