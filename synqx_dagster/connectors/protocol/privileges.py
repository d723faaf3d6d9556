"""What a load needs to be allowed to do, so that a plan can say what is missing before a row is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from synqx_dagster.model.table import TableName

Privilege = Literal["SELECT", "INSERT", "UPDATE", "DELETE"]


@dataclass(frozen=True)
class TableNeed:
    """What is going to be done with a table, if it is there.

    Attributes:
        all_columns: Every column is going to be read; else a privilege on one of them is taken for enough.
    """

    table: TableName
    privileges: tuple[Privilege, ...]
    all_columns: bool = False


@dataclass(frozen=True)
class MissingPrivilege:
    """A privilege that the session's user does not have.

    Attributes:
        user: The database's own name of the user.
        what: The privilege and its object, such as ``CREATE on the schema analytics``.
        grant: The statement that gives it.
    """

    user: str
    what: str
    grant: str


@runtime_checkable
class PrivilegedSession(Protocol):
    """A session of a database that can tell what its user may do."""

    def find_missing(
        self, needs: Sequence[TableNeed], *, creates_beside: TableName | None = None
    ) -> list[MissingPrivilege]:
        """The privileges that the user lacks; asks the catalog only.

        Args:
            creates_beside: Tables are going to be made in this one's schema, which is made itself if it is missing.
        """
        ...
