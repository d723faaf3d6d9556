"""Asks PostgreSQL which privileges of a load its user lacks, and spells the statements that grant them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synqx_dagster.connectors.postgresql_columns import DEFAULT_SCHEMA
from synqx_dagster.connectors.postgresql_names import quote
from synqx_dagster.connectors.protocol import MissingPrivilege, TableNeed
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.model.table import TableName


def find_missing(cursor: Any, needs: Sequence[TableNeed], creates_beside: TableName | None) -> list[MissingPrivilege]:
    """The privileges that the session's user lacks; one query of the catalog."""
    wanted = [
        (need.table.schema or DEFAULT_SCHEMA, need.table.name, privilege, need.all_columns)
        for need in needs
        for privilege in need.privileges
    ]
    schemas, tables, privileges, all_columns = (list(values) for values in zip(*wanted, strict=True))
    cursor.execute(
        load_query("postgresql_privileges"),
        {
            "schemas": schemas,
            "tables": tables,
            "privileges": privileges,
            "all_columns": all_columns,
            "creates_in": None if creates_beside is None else creates_beside.schema or DEFAULT_SCHEMA,
        },
    )
    return [_describe(*row) for row in cursor.fetchall()]


def _describe(kind: str, schema: str, table: str | None, privilege: str, user: str) -> MissingPrivilege:
    name, quoted = schema, quote(schema)
    if table is not None:
        name, quoted = f"{schema}.{table}", f"{quoted}.{quote(table)}"
    target = quoted if table is not None else f"{kind.upper()} {quoted}"
    return MissingPrivilege(
        user, f"{privilege} on the {kind} {name}", f"GRANT {privilege} ON {target} TO {quote(user)}"
    )
