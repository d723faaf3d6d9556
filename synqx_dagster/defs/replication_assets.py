"""The tables that a replication writes, as Dagster shows them: keys, specs, and what a run says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from synqx_dagster.defs.names import METADATA_PREFIX, dagster_kind, dagster_owner, revision_metadata
from synqx_dagster.defs.translator import Translator, connection_uri, loaded_columns, qualified_name
from synqx_dagster.model import Replication, TableName, dagster_name
from synqx_dagster.replication.changes import format_lsn
from synqx_dagster.replication.progress import FollowReport, TableFigures

#: The replication that a run follows, and an asset's materialization is of.
REPLICATION_TAG = f"{METADATA_PREFIX}replication"


def target_key(translator: Translator, replication: Replication, target: TableName) -> dg.AssetKey:
    """The asset of a target table; the same as that of a mapping which loads it would be.

    Raises:
        ConfigurationError, DriverMissingError: The kind of the connection is unknown here.
    """
    return translator.asset_key(translator.snapshot.get_connection(replication.target_connection), target)


def table_specs(translator: Translator, replication: Replication) -> list[dg.AssetSpec]:
    """The assets of tables that a replication names; those of patterns show when a run has written them.

    Raises:
        NotFoundError: A connection is missing.
        ConfigurationError, DriverMissingError: The kind of a connection is unknown here.
    """
    return [
        _spec(translator, replication, table.source, replication.target_of(table))
        for table in replication.tables
        if not table.is_pattern
    ]


def _spec(translator: Translator, replication: Replication, source: TableName, target: TableName) -> dg.AssetSpec:
    snapshot = translator.snapshot
    source_connection = snapshot.get_connection(replication.source_connection)
    target_connection = snapshot.get_connection(replication.target_connection)
    key = translator.asset_key(target_connection, target)
    marks = translator.marks(key)
    return dg.AssetSpec(
        key,
        deps=[translator.asset_key(source_connection, source)],
        description=replication.description or f"Follows {source} of {source_connection.name}",
        group_name=dagster_name(replication.target_connection),
        owners=list(dict.fromkeys([*(dagster_owner(owner) for owner in replication.owners), *marks.owners])),
        tags=dict(marks.tags),
        kinds={"synqx", dagster_kind(target_connection.db_type)},
        metadata={
            **marks.metadata,
            "dagster/table_name": qualified_name(target_connection, key),
            "dagster/uri": connection_uri(target_connection, key.path[1:]),
            REPLICATION_TAG: replication.name,
            f"{METADATA_PREFIX}source": f"{source_connection.name}: {source}",
            f"{METADATA_PREFIX}mode": replication.mode,
            **revision_metadata(snapshot.revision),
        },
    )


def materializations(
    translator: Translator, replication: Replication, report: FollowReport, figures: Iterable[TableFigures]
) -> Iterator[dg.AssetMaterialization]:
    """What a run has done to its target tables, one for each."""
    for table in figures:
        yield dg.AssetMaterialization(
            target_key(translator, replication, table.target),
            description=f"{replication.name}: {describe_table(table)}",
            metadata=table_metadata(translator, replication, report, table),
        )


def table_metadata(
    translator: Translator, replication: Replication, report: FollowReport, table: TableFigures
) -> dict[str, Any]:
    """The figures of one table."""
    figures: dict[str, Any] = {
        "replication": replication.name,
        "source": f"{replication.source_connection}: {table.source}",
        "mode": replication.mode,
        "status": table.status,
        "rows_inserted": table.rows_inserted,
        "rows_updated": table.rows_updated,
        "rows_deleted": table.rows_deleted,
    }
    optional: Mapping[str, Any] = {
        "rows_copied": table.rows_copied,
        "reason": table.reason,
        "lag_seconds": None if report.lag_seconds is None else round(report.lag_seconds, 3),
        "lag_bytes": report.lag_bytes,
        "position": None if report.position is None else format_lsn(report.position),
    }
    figures |= {name: value for name, value in optional.items() if value is not None}
    metadata = {f"{METADATA_PREFIX}{name}": value for name, value in figures.items()}
    metadata.update(revision_metadata(translator.snapshot.revision))
    if table.columns:
        metadata["dagster/column_schema"] = loaded_columns(table.columns)
    return metadata


def describe_table(table: TableFigures) -> str:
    """What was done to one table, in a line."""
    copied = "" if table.rows_copied is None else f"{table.rows_copied:,} rows copied, "
    return (
        f"{copied}{table.rows_inserted:,} inserted, {table.rows_updated:,} updated, {table.rows_deleted:,} deleted"
        + (f"; {table.status}: {table.reason}" if table.reason else "")
    )
