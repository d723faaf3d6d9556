"""What a plan knows: the columns that both databases say they have, and how the source is named in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import Connector, ReadSession, WriteSession
from synqx_dagster.errors import SourceChangedError
from synqx_dagster.model.mapping import KEYED_MODES, Mapping
from synqx_dagster.model.table import Column

#: The name under which every rendering of a mapping knows the source.
SOURCE_ALIAS = "source"


@dataclass(frozen=True)
class Facts:
    """What the databases say: the columns of the source, and of the target if it is there.

    ``predicates`` narrow what is read of the source: conditions in its dialect over its columns, all of which hold.
    ``target_keys`` are the columns of the target's unique indexes, asked for where a load matches rows by a key.
    """

    source_columns: tuple[Column, ...]
    target_columns: tuple[Column, ...] | None
    predicates: tuple[str, ...] = ()
    target_keys: tuple[tuple[str, ...], ...] = ()


def gather_facts(mapping: Mapping, source: Connector, read: ReadSession, write: WriteSession) -> Facts:
    """Ask both databases for the columns that a plan needs."""
    target_columns = write.find_columns(mapping.target)
    keys = write.find_unique_keys(mapping.target) if mapping.mode in KEYED_MODES and target_columns is not None else ()
    return Facts(describe_source(mapping, source, read), target_columns, target_keys=keys)


def describe_source(mapping: Mapping, source: Connector, read: ReadSession) -> tuple[Column, ...]:
    """Columns of the mapping's table or query."""
    if mapping.source is None:
        return read.describe_query(_clean_query(mapping, source))
    columns = read.find_columns(mapping.source)
    if columns is None:
        raise SourceChangedError(
            f"mapping {mapping.name!r}: the source has no table {mapping.source}",
            hint=f"`synqx connections discover {mapping.source_connection}` lists what is there",
            table=str(mapping.source),
        )
    return columns


def relation_sql(mapping: Mapping, source: Connector, predicates: Sequence[str] = ()) -> str:
    """The mapping's table or query as it stands behind FROM, under `SOURCE_ALIAS`; only rows that hold `predicates`."""
    if mapping.source is not None:
        # Without AS, which Oracle does not know here.
        relation = f"{source.qualify(mapping.source)} {SOURCE_ALIAS}"
    else:
        relation = f"({_clean_query(mapping, source)}) {SOURCE_ALIAS}"
    if not predicates:
        return relation
    # A derived table: whoever puts this behind FROM adds conditions of their own.
    where = " AND ".join(f"({predicate})" for predicate in predicates)
    return f"(SELECT * FROM {relation} WHERE {where}) {SOURCE_ALIAS}"


def _clean_query(mapping: Mapping, source: Connector) -> str:
    # Not for all: the parser takes more memory than a load of a table.
    from synqx_dagster.mapping.query import clean_query

    return clean_query(mapping.source_query or "", source.dialect)
