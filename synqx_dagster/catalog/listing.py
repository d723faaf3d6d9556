"""Pages of records: filtered, sorted and counted by the database, with who made and last changed each of them.

Guarantee: a page is of one moment's latest revision. Only the authors of what it holds are looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.revisions import RecordKey, decode_body, find_record_numbers
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.model import RECORD_TYPES, Record, RecordKind
from synqx_dagster.model.base import with_article

SortField = Literal["name", "id", "created_at", "updated_at"]

#: A value that a field must have; None: not set.
FilterValue = str | bool | None


@dataclass(frozen=True)
class ListQuery:
    """Which records of a kind, in which order.

    Attributes:
        name_contains: Upper and lower case are the same.
        fields: Fields of the record that hold one value, with those of which they must have one.
        names: Only records of these names; None for all.
    """

    kind: RecordKind
    skip: int = 0
    limit: int = 50
    sort: SortField = "name"
    descending: bool = False
    name_contains: str | None = None
    fields: Mapping[str, tuple[FilterValue, ...]] = field(default_factory=dict)
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class StoredRecord:
    """A record of the latest revision with what the catalog knows of it.

    Attributes:
        number: What the API calls it by, counted from 1 within its kind. Stable; also when the record is removed and
            made again.
        revision: The one that wrote what the record is now; each change has another.
        version: How many versions there have been, this one included.
    """

    number: int
    record: Record
    revision: int
    version: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str

    @property
    def etag(self) -> str:
        """What `If-Match` compares, without quotes."""
        return f"{self.number}.{self.revision}"


@dataclass(frozen=True)
class RecordPage:
    """Some records, and how many there are in all."""

    items: tuple[StoredRecord, ...]
    total: int


def list_records(catalog: Catalog, query: ListQuery) -> RecordPage:
    """A page of the latest revision's records.

    Raises:
        ValueError: A filter names what is no field of the kind.
    """
    with catalog.read() as connection:
        found = _selected(connection, query)
        page = found.order_by(*_order(query)).offset(query.skip).limit(query.limit)
        if query.fields:
            # Every body is looked into for this: counted in the same pass.
            rows = connection.execute(page.add_columns(sa.func.count().over().label("total"))).all()
            if rows:
                is_one = tables.record.c.record_id.in_([row.record_id for row in rows])
                return RecordPage(tuple(_read(connection, _current(query.kind).where(is_one), query)), rows[0].total)
        total = connection.execute(found.with_only_columns(sa.func.count())).scalar_one()
        return RecordPage(tuple(_read(connection, page, query)), int(total))


def find_stored(catalog: Catalog, kind: RecordKind, reference: str | int) -> StoredRecord | None:
    """The record of a name or of a number; None where there is none now."""
    record = tables.record
    is_it = record.c.name == reference if isinstance(reference, str) else record.c.number == reference
    query = ListQuery(kind, limit=1)
    with catalog.read() as connection:
        return next(_read(connection, _current(kind).where(is_it), query), None)


def find_numbers(catalog: Catalog, keys: Iterable[RecordKey]) -> dict[RecordKey, int]:
    """The numbers of records by kind and name, also of those that were removed; those that never were are left out."""
    wanted = set(keys)
    if not wanted:
        return {}
    with catalog.read() as connection:
        return find_record_numbers(connection, wanted)


def find_name(catalog: Catalog, kind: RecordKind, number: int) -> str | None:
    """The name of the record of a number; None where the latest revision has none."""
    with catalog.read() as connection:
        row = connection.execute(_current(kind).where(tables.record.c.number == number)).first()
    return None if row is None else str(row.name)


# --- statements -------------------------------------------------------------------------------------------------


def _current(kind: RecordKind) -> sa.Select[Any]:
    """The records of a kind, without what is in them: they are sorted before it is read."""
    record, version = tables.record, tables.record_version
    return (
        sa.select(
            record.c.record_id,
            record.c.number,
            record.c.name,
            version.c.valid_from,
        )
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .where(record.c.kind == kind, version.c.valid_to.is_(None))
    )


def _selected(connection: Connection, query: ListQuery) -> sa.Select[Any]:
    found = _current(query.kind)
    if query.name_contains:
        found = found.where(tables.record.c.name.icontains(query.name_contains, autoescape=True))
    if query.names is not None:
        found = found.where(tables.record.c.name.in_(query.names))
    for name, values in query.fields.items():
        if name not in RECORD_TYPES[query.kind].model_fields:
            raise ValueError(f"{with_article(query.kind)} has no field {name!r}")
        found = found.where(_has_one_of(connection, name, values))
    return found


def _has_one_of(connection: Connection, name: str, values: tuple[FilterValue, ...]) -> sa.ColumnElement[bool]:
    body = tables.record_version.c.body
    value: sa.ColumnElement[Any]
    if connection.dialect.name == "sqlite":
        # json_extract gives 1 and 0 for true and false.
        value = sa.func.json_extract(body, f"$.{name}")
        texts: list[Any] = [int(item) if isinstance(item, bool) else item for item in values if item is not None]
    else:
        value = sa.cast(body, sa.JSON).op("->>", return_type=sa.Text())(sa.literal(name, sa.Text()))
        texts = [str(item).lower() if isinstance(item, bool) else item for item in values if item is not None]
    is_one = value.in_(texts) if texts else sa.false()
    return sa.or_(is_one, value.is_(None)) if None in values else is_one


def _order(query: ListQuery) -> tuple[sa.ColumnElement[Any], ...]:
    record, version = tables.record, tables.record_version
    columns: dict[SortField, tuple[sa.ColumnElement[Any], ...]] = {
        "name": (record.c.name,),
        "id": (record.c.number,),
        # Numbers are given out under the catalog's lock, in the order in which records are first made.
        "created_at": (record.c.number,),
        # So are the numbers of revisions.
        "updated_at": (version.c.valid_from, record.c.number),
    }
    return tuple(column.desc() if query.descending else column.asc() for column in columns[query.sort])


def _read(connection: Connection, page: sa.Select[Any], query: ListQuery) -> Iterator[StoredRecord]:
    """The rows of a page with their authors: looked up for them, and not for all that were sorted."""
    version, revision = tables.record_version, tables.revision
    rows = page.subquery("page")
    body = version.alias("body")
    own = sa.select(version).where(version.c.record_id == rows.c.record_id).correlate(rows)
    first = own.with_only_columns(sa.func.min(version.c.valid_from)).scalar_subquery()
    count = own.with_only_columns(sa.func.count()).scalar_subquery()
    created, updated = revision.alias("created"), revision.alias("updated")
    statement = (
        sa.select(
            rows,
            body.c.body,
            body.c.digest,
            count.label("version"),
            created.c.created_at.label("created_at"),
            created.c.author.label("created_by"),
            updated.c.created_at.label("updated_at"),
            updated.c.author.label("updated_by"),
        )
        .join_from(rows, body, sa.and_(body.c.record_id == rows.c.record_id, body.c.valid_from == rows.c.valid_from))
        .join(updated, updated.c.number == rows.c.valid_from)
        .join(created, created.c.number == first)
    )
    # The order of a subquery is not that of the whole.
    names = {"name": rows.c.name, "id": rows.c.number, "created_at": rows.c.number}
    order = [names[query.sort]] if query.sort in names else [rows.c.valid_from, rows.c.number]
    statement = statement.order_by(*(column.desc() if query.descending else column.asc() for column in order))
    for row in connection.execute(statement):
        yield StoredRecord(
            number=int(row.number),
            record=decode_body(query.kind, row.name, row.body, row.digest),
            revision=int(row.valid_from),
            version=int(row.version),
            created_at=row.created_at,
            created_by=row.created_by,
            updated_at=row.updated_at,
            updated_by=row.updated_by,
        )
