"""Asks MySQL and MariaDB which privileges of a load their user lacks, and spells the statements that grant them.

``information_schema`` tells what is granted to the account itself. What reaches it by a role, by PUBLIC or by the same
name at another host it does not tell, so whatever seems to be missing the server is asked for: by statements that name
a column or a table that there is not, or only explain, and so can do nothing if they are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synqx_dagster.connectors.mysql_catalog import FetchAll
from synqx_dagster.connectors.protocol import MissingPrivilege, TableNeed
from synqx_dagster.errors import DatabaseError, NotPermittedError
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


#: Statements that are refused for a missing privilege before anything else is looked at, and have no effect.
_PROBES = {
    "SELECT": "SELECT 1 FROM {table} LIMIT 0",
    "INSERT": "EXPLAIN INSERT INTO {table} (_synqx_probe) VALUES (1)",
    "UPDATE": "EXPLAIN UPDATE {table} SET _synqx_probe = 1",
    "DELETE": "EXPLAIN DELETE FROM {table} WHERE 1 = 0",
    "CREATE": "CREATE TABLE {table} LIKE {nothing}",
    "DROP": "DROP TABLE IF EXISTS {table}",
}
_PROBED_TABLE = "_synqx_probe"


def find_missing(
    fetch_all: FetchAll,
    database: str,
    quote: Callable[[str], str],
    needs: Sequence[TableNeed],
    creates_beside: TableName | None,
) -> list[MissingPrivilege]:
    """The privileges that the session's account lacks. Must be called outside a transaction that writes.

    Args:
        database: The connection's own database.
        quote: Spells a name.
    """
    asked = _Asked(fetch_all, quote)
    # A privilege on a database brings that on all of its tables, so nothing is asked for twice.
    wanted: dict[tuple[str, str, str | None], str] = {}
    if creates_beside is not None:
        schema = creates_beside.schema or database
        wanted = {(privilege, schema, None): _BESIDE_REASON for privilege in _BESIDE}
    for need in needs:
        schema = need.table.schema or database
        for privilege in need.privileges:
            if asked.is_granted(privilege, schema, need.table.name):
                continue
            if asked.is_visible(schema, need.table.name):
                wanted.setdefault((privilege, schema, need.table.name), "")
            elif creates_beside is None:
                wanted.setdefault((privilege, schema, need.table.name), ", or there is no such table")
            else:
                wanted.setdefault((privilege, schema, None), _BESIDE_REASON)
    missing = {key: more for key, more in wanted.items() if asked.lacks(*key)}
    return [
        asked.describe(privilege, schema, table, more)
        for (privilege, schema, table), more in missing.items()
        if table is None or (privilege, schema, None) not in missing
    ]


class _Asked:
    """What a server has said of an account, each thing asked once."""

    def __init__(self, fetch_all: FetchAll, quote: Callable[[str], str]) -> None:
        self._fetch_all = fetch_all
        self._quote = quote
        self._account = str(fetch_all("SELECT CURRENT_USER()", ())[0][0])
        user, _, host = self._account.rpartition("@")
        self._grantee = f"'{user}'@'{host}'"
        self._granted: dict[str, set[tuple[str, str | None]]] = {}

    def is_granted(self, privilege: str, schema: str, table: str | None) -> bool:
        """Whether the account itself has a privilege on a table (or on a column of it), or on all of a database."""
        if schema not in self._granted:
            name = self._grantee
            rows = self._fetch_all(_GRANTED_SQL, (name, name, schema, schema, name, schema, name, schema))
            self._granted[schema] = {
                (str(found).upper(), None if on is None else str(on).casefold()) for on, found in rows
            }
        granted = self._granted[schema]
        return (privilege, None) in granted or (table is not None and (privilege, table.casefold()) in granted)

    def lacks(self, privilege: str, schema: str, table: str | None) -> bool:
        """Whether the server refuses what a privilege is needed for."""
        if self.is_granted(privilege, schema, table):
            return False
        place = f"{self._quote(schema)}.{self._quote(table or _PROBED_TABLE)}"
        nothing = f"{self._quote(schema)}.{self._quote(f'{_PROBED_TABLE}_of_nothing')}"
        try:
            self._fetch_all(_PROBES[privilege].format(table=place, nothing=nothing), ())
        except NotPermittedError as error:
            # Creating a table like another one needs SELECT, too, which has a probe of its own.
            return f"{privilege} command denied" in error.message or "to database" in error.message
        except DatabaseError:
            return False  # There is no such table or column, and the privilege.
        return False

    def is_visible(self, schema: str, table: str) -> bool:
        """Whether there is a table, and the account may know it."""
        sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?"
        return self._fetch_all(sql, (schema, table)) != [(0,)]

    def describe(self, privilege: str, schema: str, table: str | None, more: str) -> MissingPrivilege:
        """A privilege that the account lacks, and how to grant it."""
        on = f"database {schema}" if table is None else f"table {schema}.{table}"
        place = f"{self._quote(schema)}.{'*' if table is None else self._quote(table)}"
        return MissingPrivilege(
            self._account, f"{privilege} on the {on}{more}", f"GRANT {privilege} ON {place} TO {self._grantee}"
        )
