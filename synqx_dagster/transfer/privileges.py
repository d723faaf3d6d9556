"""What a load needs to be allowed to do on both sides, asked before anything is read or written.

Databases that tell are asked; of others the load itself finds out.
"""

from __future__ import annotations

from synqx_dagster.connectors.protocol import (
    MissingPrivilege,
    PrivilegedSession,
    ReadSession,
    TableNeed,
    WriteSession,
)
from synqx_dagster.connectors.protocol.privileges import Privilege
from synqx_dagster.errors import NotPermittedError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.ledger import FENCE_TABLE, LEDGER_TABLE
from synqx_dagster.transfer.quarantine import QUARANTINE_TABLE
from synqx_dagster.transfer.range_book import RANGES_TABLE


def require_privileges(mapping: Mapping, read: ReadSession, write: WriteSession) -> None:
    """Refuse a load that its users are not allowed to make.

    Raises:
        NotPermittedError: Lists what is missing on both sides, with the statements that grant it.
    """
    missing: list[tuple[str, MissingPrivilege]] = []
    if mapping.source is not None and isinstance(read, PrivilegedSession):
        # A mirror reads every column; of others the source's planner says which.
        whole = mapping.column_mappings is None and mapping.target_schema is None
        needs = [TableNeed(mapping.source, ("SELECT",), all_columns=whole)]
        missing += [(mapping.source_connection, found) for found in read.find_missing(needs)]
    if isinstance(write, PrivilegedSession):
        found_there = write.find_missing(target_needs(mapping), creates_beside=mapping.target)
        missing += [(mapping.target_connection, found) for found in found_there]
    if not missing:
        return
    listing = "\n".join(f"  {name}: the user {found.user!r} lacks {found.what}" for name, found in missing)
    grants = "; ".join(dict.fromkeys(found.grant for _, found in missing))
    raise NotPermittedError(
        f"mapping {mapping.name!r}: privileges are missing, and nothing was loaded:\n{listing}",
        hint=f"have an owner or administrator run: {grants};",
        mapping=mapping.name,
    )


def target_needs(mapping: Mapping) -> list[TableNeed]:
    """What a load does with its target, and with the tables that SynqX keeps beside it."""
    deletes = mapping.mode == "replace" or mapping.delete_missing or mapping.soft_delete_column is not None
    privileges: list[Privilege] = ["SELECT", "INSERT"]
    if mapping.mode in ("merge", "scd2"):
        privileges.append("UPDATE")
    if mapping.mode == "replace" or (mapping.mode == "merge" and deletes):
        privileges.append("DELETE")

    def beside(name: str, *needed: Privilege) -> TableNeed:
        return TableNeed(TableName(name, mapping.target.schema), needed)

    needs = [
        TableNeed(mapping.target, tuple(privileges)),
        beside(FENCE_TABLE, "SELECT", "INSERT", "UPDATE"),
        beside(LEDGER_TABLE, "SELECT", "INSERT"),
        beside(RANGES_TABLE, "SELECT"),
    ]
    if mapping.on_bad_row == "quarantine":
        needs.append(beside(QUARANTINE_TABLE, "SELECT", "INSERT", "DELETE"))
    elif mapping.mode == "replace" or mapping.delete_missing:
        needs.append(beside(QUARANTINE_TABLE, "SELECT", "DELETE"))
    return needs
