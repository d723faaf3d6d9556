"""About how much a load is going to move, asked of the source's own statistics; only for showing how far a load is.

Guarantee: nothing is counted. Where a database cannot tell without reading the table, the answer is that nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from synqx_dagster.connectors.protocol import Connector, ReadSession
from synqx_dagster.model.table import TableName

#: What is taken for the size of a row of a PostgreSQL table that was never analysed.
_ROW_BYTES = 100


@dataclass(frozen=True)
class SizeEstimate:
    """About how many rows a table has, and bytes on the server's disk; None for what nobody knows."""

    rows: int | None = None
    bytes: int | None = None


def estimate_size(table: TableName | None, source: Connector, read: ReadSession) -> SizeEstimate:
    """The size of a source table as the database believes it to be; a query (None) is not estimated."""
    if table is None:
        return SizeEstimate()
    qualified = source.qualify(table)
    if source.dialect == "postgres" and source.capabilities.copy_binary:
        # A table that was never analysed says -1; its pages then tell.
        return _parse(
            read.fetch_value(
                "SELECT CASE WHEN reltuples > 0 THEN reltuples::bigint ELSE pg_catalog.pg_relation_size(oid) /"
                f" {_ROW_BYTES} END || ' ' || pg_catalog.pg_relation_size(oid) FROM pg_catalog.pg_class"
                f" WHERE oid = {_text(qualified)}::regclass AND relkind IN ('r', 'm')"
            )
        )
    if source.dialect == "duckdb" and source.db_type == "duckdb":
        name, schema = _text(table.name), _text(table.schema or source.capabilities.default_schema or "main")
        return _parse(
            read.fetch_value(
                "SELECT CAST(estimated_size AS VARCHAR) FROM duckdb_tables()"
                f" WHERE database_name = current_database() AND schema_name = {schema} AND table_name = {name}"
            )
        )
    if source.db_type == "mysql":
        schema = "database()" if table.schema is None else _text(table.schema)
        return _parse(
            read.fetch_value(
                "SELECT CAST(table_rows AS CHAR) FROM information_schema.tables"
                f" WHERE table_schema = {schema} AND table_name = {_text(table.name)} AND table_type = 'BASE TABLE'"
            )
        )
    return SizeEstimate()


def _parse(answer: object) -> SizeEstimate:
    numbers = [int(part) for part in str(answer or "").split()]
    return SizeEstimate(*numbers)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
