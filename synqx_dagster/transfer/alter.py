"""How databases spell changes of a table's columns; every change here keeps all rows as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.model.table import Column, TableName

AlterKind = Literal["add", "retype", "allow_null"]


@dataclass(frozen=True)
class ColumnChange:
    """One change of a column.

    Attributes:
        kind: ``add`` a column that may be NULL, ``retype`` to a type that holds all values of the old one, or
            ``allow_null``.
        column: The column as it is afterwards, in the table's own spelling.
        before: The type that it had; None for a new one.
    """

    kind: AlterKind
    column: Column
    before: str | None = None

    def __str__(self) -> str:
        match self.kind:
            case "add":
                return f"{self.column.name}: added as {self.column.native_type}"
            case "retype":
                return f"{self.column.name}: {self.before} becomes {self.column.native_type}"
            case "allow_null":
                return f"{self.column.name}: may be NULL"


def alter_statements(connector: Connector, table: TableName, changes: Sequence[ColumnChange]) -> list[str]:
    """The statements that make these changes, in order; each is one that the connector's ``alters`` lists."""
    return [f"ALTER TABLE {connector.qualify(table)} {_action(connector, change)}" for change in changes]


def _action(connector: Connector, change: ColumnChange) -> str:
    name, spelling = connector.quote(change.column.name), change.column.native_type
    match change.kind:
        case "add":
            return f"ADD COLUMN {name} {spelling}"
        case "retype":
            return f"ALTER COLUMN {name} TYPE {spelling}"
        case "allow_null":
            return f"ALTER COLUMN {name} DROP NOT NULL"
