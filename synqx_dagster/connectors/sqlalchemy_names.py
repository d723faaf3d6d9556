"""Names as a dialect of SQLAlchemy quotes them.

Guarantee: a name that the Inspector gave is the same name in SQL. Where a server folds names to upper case (Oracle,
Snowflake), SQLAlchemy shows the folded ones in lower case and leaves them unquoted, and quotes all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synqx_dagster.errors import DatabaseError
from synqx_dagster.model.table import TableName

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class Names:
    """Quotes names for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._preparer = dialect.identifier_preparer
        self._doubles_percent = dialect.paramstyle in ("format", "pyformat")

    def quote(self, identifier: str) -> str:
        """An identifier, in quotes where it needs them.

        Raises:
            DatabaseError: It holds a NUL character.
        """
        if "\x00" in identifier:
            raise DatabaseError("a name must not hold a NUL character")
        quoted: str = self._preparer.quote(identifier)
        # The preparer writes for drivers that look for parameters; ours are marked later.
        return quoted.replace("%%", "%") if self._doubles_percent else quoted

    def qualify(self, table: TableName) -> str:
        """A table's name with its schema, if it has one."""
        name = self.quote(table.name)
        return f"{self.quote(table.schema)}.{name}" if table.schema is not None else name
