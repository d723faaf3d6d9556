"""How MySQL and MariaDB spell the names of tables and columns."""

from __future__ import annotations

from synqx_dagster.errors import DatabaseError
from synqx_dagster.model.table import TableName


def quote(identifier: str) -> str:
    """An identifier in backticks."""
    if "\x00" in identifier:
        raise DatabaseError("a name must not hold a NUL character")
    return "`" + identifier.replace("`", "``") + "`"


def qualify(table: TableName) -> str:
    """A table's quoted name, with its database if it is not the connection's."""
    name = quote(table.name)
    return f"{quote(table.schema)}.{name}" if table.schema is not None else name
