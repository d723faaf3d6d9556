"""Rows of one load that share a key: found in the staging table, and moved to the spool of bad rows.

All rows of such a key are bad: which of them is the right one the source does not say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.transfer.quarantine import BadRow, BadRowSpool, Breach, key_of

DUPLICATE_REASON = "the key occurs more than once"
#: More rows than this that share a key are not bad rows but a wrong key; they are not brought into memory.
MAX_ROWS = 100_000

#: Bytes as the quarantine has them, ``\\x`` and hex digits; NULL stays NULL.
_HEX = {
    "mysql": "CONCAT('\\\\x', LOWER(HEX({0})))",
    "sqlite": "CASE WHEN {0} IS NOT NULL THEN '\\x' || lower(hex({0})) END",
}
_GEOMETRIES = frozenset(
    (
        *("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"),
        *("geometrycollection", "geomcollection"),
    )
)

PRESENT_REASON = "the key is in the target already"


def set_duplicates_aside(
    session: WriteSession,
    connector: Connector,
    staging: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
    spool: BadRowSpool,
    *,
    present_in: TableName | None,
) -> int:
    """Move the staged rows whose key is not unique into the spool; within the open transaction. Returns the rows.

    Args:
        key: The key's columns; none of them is NULL in a staged row.
        present_in: A table that keeps its rows (append): a key that it has already is a duplicate too.
    """
    moved = _move(
        session, connector, staging, columns, key, spool, _repeated(connector, staging, key), DUPLICATE_REASON
    )
    if present_in is not None:
        keys = ", ".join(connector.quote(name) for name in key)
        known = f"SELECT {keys} FROM {connector.qualify(present_in)}"
        moved += _move(session, connector, staging, columns, key, spool, known, PRESENT_REASON)
    return moved


def refuse_duplicates(session: WriteSession, connector: Connector, staging: TableName, key: Sequence[str]) -> None:
    """Refuse staged rows of which some share a key.

    Raises:
        BadRowsError: Says how many keys, and which columns they are of.
    """
    repeated = count_repeated(session, connector, staging, key)
    if repeated:
        keys = "1 key" if repeated == 1 else f"{repeated:,} keys"
        raise BadRowsError(
            f"({', '.join(key)}): {DUPLICATE_REASON}, for {keys} of the rows that were read",
            hint="nothing was loaded: which row is right the source does not say; correct it there, name other columns"
            " by key: [...], or set on_bad_row: quarantine",
            keys=repeated,
        )


def count_repeated(
    session: WriteSession, connector: Connector, table: TableName, key: Sequence[str], only: str = ""
) -> int:
    """How many keys a table has more than once, among its rows that hold a condition; keys with a NULL do not count."""
    keys = ", ".join(connector.quote(name) for name in key)
    conditions = [f"{connector.quote(name)} IS NOT NULL" for name in key] + ([only] if only else [])
    repeated = (
        f"SELECT 1 AS one FROM {connector.qualify(table)} WHERE {' AND '.join(conditions)}"
        f" GROUP BY {keys} HAVING count(*) > 1"
    )
    return int(str(session.fetch_all(f"SELECT count(*) FROM ({repeated}) doubles")[0][0]))


def _repeated(connector: Connector, staging: TableName, key: Sequence[str]) -> str:
    keys = ", ".join(connector.quote(name) for name in key)
    return f"SELECT {keys} FROM {connector.qualify(staging)} GROUP BY {keys} HAVING count(*) > 1"


def _move(
    session: WriteSession,
    connector: Connector,
    staging: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
    spool: BadRowSpool,
    keys_sql: str,
    reason: str,
) -> int:
    quoted_key = [connector.quote(name) for name in key]
    # The inner table is derived, because MySQL cannot read the table it deletes from.
    same_key = " AND ".join(f"doubles.{name} = {connector.qualify(staging)}.{name}" for name in quoted_key)
    condition = f"EXISTS (SELECT 1 FROM (SELECT * FROM ({keys_sql}) found) doubles WHERE {same_key})"
    count = int(str(session.fetch_all(f"SELECT count(*) FROM {connector.qualify(staging)} WHERE {condition}")[0][0]))
    if count > MAX_ROWS:
        raise BadRowsError(
            f"{count:,} rows of {', '.join(key)}: {reason}; nothing was loaded",
            hint="so many doubles mean another key: look at primary_key",
            rows=count,
        )
    if not count:
        return 0
    texts = ", ".join(_as_text(connector, column) for column in columns)
    rows = session.fetch_all(f"SELECT {texts} FROM {connector.qualify(staging)} WHERE {condition}")
    names = [column.name for column in columns]
    breach = Breach(", ".join(key), reason)
    for row in rows:
        text = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=str)
        spool.add(BadRow(text, (breach,), key_of(text, key)))
    session.execute(f"DELETE FROM {connector.qualify(staging)} WHERE {condition}")
    return len(rows)


def _as_text(connector: Connector, column: Column) -> str:
    import sqlglot.expressions as exp

    name = connector.quote(column.name)
    if connector.dialect == "mysql" and (column.native_type or "").partition("(")[0] in _GEOMETRIES:
        # MariaDB does not cast a geometry to text.
        return f"ST_AsText({name})"
    if connector.dialect in ("mysql", "sqlite") and column.data_type.kind == "binary":
        # Their cast takes the bytes for characters, and not all bytes are.
        return _HEX[connector.dialect].format(name)
    reference = exp.column(exp.to_identifier(column.name, quoted=True))
    return exp.cast(reference, exp.DataType.Type.TEXT).sql(connector.dialect)
