"""Assets for the tables that are found at a connection: named so that each has a name of its own, none made twice.

Pure: it looks at what was found and at the records that there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pydantic

from synqx_dagster.connectors.protocol import TableDescription
from synqx_dagster.model import Dataset, dagster_name
from synqx_dagster.model.mapping import RESERVED_PREFIX
from synqx_dagster.model.table import TableName

#: What no name may hold.
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
#: Leaves room for a number behind the name, of the 128 characters that a name may have.
_NAME_CHARACTERS = 120


@dataclass(frozen=True)
class DraftedAssets:
    """Records for tables.

    Attributes:
        created: Those that the catalog lacks, in the order of the tables.
        existing: Those that it has already, whatever they are called and whatever else they say.
        unnamed: Tables for which no record can be made.
    """

    created: tuple[Dataset, ...]
    existing: tuple[Dataset, ...]
    unnamed: tuple[TableName, ...]


def draft_assets(
    connection: str, tables: Iterable[TableDescription], known: Iterable[Dataset], *, default_schema: str | None
) -> DraftedAssets:
    """Assets for tables and views of a connection.

    SynqX's own tables are left out: some of them come and go. An asset is called as its table; with its schema before
    it where that is not the default one or the name is taken, and with the connection's name before that where this is
    taken, too.

    Args:
        connection: The connection's name.
        tables: What was found there.
        known: All assets of the catalog.
        default_schema: Where a table lies that is named without a schema; None where the database has no schemas.
    """
    taken: set[str] = set()
    by_table: dict[tuple[str | None, str], Dataset] = {}
    for asset in known:
        taken.add(dagster_name(asset.name))
        if asset.connection == connection and (table := asset.table_name) is not None:
            by_table.setdefault((table.schema or default_schema, table.name), asset)
    created: list[Dataset] = []
    existing: list[Dataset] = []
    unnamed: list[TableName] = []
    for description in tables:
        table = description.table
        if table.name.startswith(RESERVED_PREFIX):
            continue
        present = by_table.get((table.schema or default_schema, table.name))
        if present is not None:
            existing.append(present)
            continue
        made = _make(connection, table, taken, default_schema)
        if made is None:
            unnamed.append(table)
        else:
            taken.add(dagster_name(made.name))
            created.append(made)
    return DraftedAssets(tuple(created), tuple(existing), tuple(unnamed))


def _make(connection: str, table: TableName, taken: set[str], default_schema: str | None) -> Dataset | None:
    for name in _iter_names(connection, table, taken, default_schema):
        try:
            return Dataset(name=name, connection=connection, table=str(table))
        except pydantic.ValidationError:
            continue  # What a table may be called, a record may not always be.
    return None


def _iter_names(connection: str, table: TableName, taken: set[str], default_schema: str | None) -> Iterator[str]:
    """Names that are free, the best one first."""
    texts = [str(table), f"{connection}.{table}"]
    if table.schema in (None, default_schema):
        texts.insert(0, table.name)
    names = [_CONTROL.sub(" ", text).strip()[:_NAME_CHARACTERS].strip() for text in texts]
    yield from (name for name in names if dagster_name(name) not in taken)
    for name in names:
        number = 2
        while dagster_name(f"{name} {number}") in taken:
            number += 1
        yield f"{name} {number}"
