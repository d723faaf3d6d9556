"""Asks MySQL and MariaDB which privileges of a load their user lacks, and spells the statements that grant them.

``information_schema`` tells what is granted to the account itself. What comes with a role it does not tell on all
servers, so where a role is active nothing is said to be missing: the server decides when the load runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synqx_dagster.connectors.mysql_catalog import FetchAll
from synqx_dagster.connectors.protocol import MissingPrivilege, TableNeed
from synqx_dagster.model.table import TableName

#: What a load does with the tables that it makes beside its target.
_BESIDE = ("CREATE", "DROP", "SELECT", "INSERT")
_BESIDE_REASON = ", for the tables that a load makes there"

#: One row for each privilege: the table, or NULL where it is on all of the database, and which privilege it is.
_GRANTED_SQL = """
SELECT NULL, privilege_type FROM information_schema.user_privileges WHERE grantee = ?
UNION ALL
SELECT NULL, privilege_type FROM information_schema.schema_privileges
WHERE grantee = ? AND (? LIKE table_schema OR table_schema = ?)
UNION ALL
SELECT table_name, privilege_type FROM information_schema.table_privileges
WHERE grantee = ? AND table_schema = ?
UNION ALL
SELECT table_name, privilege_type FROM information_schema.column_privileges
WHERE grantee = ? AND table_schema = ?
"""


def find_missing(
    fetch_all: FetchAll,
    database: str,
    quote: Callable[[str], str],
    needs: Sequence[TableNeed],
    creates_beside: TableName | None,
) -> list[MissingPrivilege]:
    """The privileges that the session's account lacks.

    Args:
        database: The connection's own database.
        quote: Spells a name.
    """
    (account, role), *_ = fetch_all("SELECT CURRENT_USER(), CURRENT_ROLE()", ())
    if role is not None and str(role).upper() not in ("", "NONE"):
        return []
    asked = _Asked(fetch_all, quote, str(account))
    # A privilege on a database brings that on all of its tables, so nothing is asked for twice.
    wanted: dict[tuple[str, str, str | None], str] = {}
    if creates_beside is not None:
        schema = creates_beside.schema or database
        wanted = {(privilege, schema, None): _BESIDE_REASON for privilege in _BESIDE}
    for need in needs:
        schema = need.table.schema or database
        for privilege in need.privileges:
            if asked.holds(privilege, schema, need.table.name):
                continue
            if asked.is_visible(schema, need.table.name):
                wanted.setdefault((privilege, schema, need.table.name), "")
            elif creates_beside is None:
                wanted.setdefault((privilege, schema, need.table.name), ", or there is no such table")
            else:
                wanted.setdefault((privilege, schema, None), _BESIDE_REASON)
    return [
        asked.missing(privilege, schema, table, more)
        for (privilege, schema, table), more in wanted.items()
        if not asked.holds(privilege, schema, table)
        and (table is None or (privilege, schema, None) not in wanted or asked.holds(privilege, schema, None))
    ]


class _Asked:
    """What a server has said of an account, each thing asked once."""

    def __init__(self, fetch_all: FetchAll, quote: Callable[[str], str], account: str) -> None:
        self._fetch_all = fetch_all
        self._quote = quote
        self._account = account
        user, _, host = account.rpartition("@")
        self._grantee = f"'{user}'@'{host}'"
        self._granted: dict[str, set[tuple[str, str | None]]] = {}

    def holds(self, privilege: str, schema: str, table: str | None) -> bool:
        """Whether the account has a privilege on a table (or on a column of it), or on all of a database."""
        if schema not in self._granted:
            name = self._grantee
            rows = self._fetch_all(_GRANTED_SQL, (name, name, schema, schema, name, schema, name, schema))
            self._granted[schema] = {
                (str(found).upper(), None if on is None else str(on).casefold()) for on, found in rows
            }
        granted = self._granted[schema]
        return (privilege, None) in granted or (table is not None and (privilege, table.casefold()) in granted)

    def is_visible(self, schema: str, table: str) -> bool:
        """Whether there is a table, and the account may know it."""
        sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?"
        return self._fetch_all(sql, (schema, table)) != [(0,)]

    def missing(self, privilege: str, schema: str, table: str | None, more: str) -> MissingPrivilege:
        """A privilege that the account lacks, and how to grant it."""
        on = f"database {schema}" if table is None else f"table {schema}.{table}"
        place = f"{self._quote(schema)}.{'*' if table is None else self._quote(table)}"
        return MissingPrivilege(
            self._account, f"{privilege} on the {on}{more}", f"GRANT {privilege} ON {place} TO {self._grantee}"
        )
