"""Tables and columns as a MySQL or MariaDB server describes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from synqx_dagster.connectors.mysql_connect import Server
from synqx_dagster.connectors.mysql_types import DIALECT, NativeType, check_name
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

#: Runs a query with ``?`` parameters.
FetchAll = Callable[[str, Sequence[object]], list[tuple[object, ...]]]

_COLUMNS_SQL = """
SELECT table_name, column_name, column_type, is_nullable, column_default, extra
FROM information_schema.columns WHERE table_schema = ? {only} ORDER BY table_name, ordinal_position
"""
_KEYS_SQL = """
SELECT table_name, column_name, seq_in_index
FROM information_schema.statistics WHERE table_schema = ? AND index_name = 'PRIMARY' {only}
"""
#: MariaDB's JSON is a text with a check that the server itself adds.
_JSON_CHECKS_SQL = """
SELECT table_name, check_clause
FROM information_schema.check_constraints WHERE constraint_schema = ? AND check_clause LIKE 'json\\_valid(%' {only}
"""

_UNSIGNED_FLAG, _ZEROFILL_FLAG = 32, 64
_BINARY_CHARSET = 63

#: Type codes of the protocol (MySQL manual, Protocol::ColumnDefinition).
_INTEGER_CODES = {1: "tinyint", 2: "smallint", 3: "int", 8: "bigint", 9: "mediumint"}
_PLAIN_CODES = {4: "float", 5: "double", 10: "date", 13: "year", 245: "json", 255: "geometry"}
_FRACTION_CODES = {7: "timestamp", 11: "time", 12: "datetime"}
_DECIMAL_CODES = (0, 246)
_BIT_CODE = 16
_TEXT_CODES = (249, 250, 251, 252, 253, 254, 15)


def read_columns(
    fetch_all: FetchAll, server: Server, schema: str, table: str | None = None
) -> dict[str, tuple[Column, ...]]:
    """Columns of a schema's tables and views by table, in order; of one table if it is given.

    Raises:
        PlanError: The table's name is none of this server's.
    """
    if table is not None:
        check_name(table, "table")
    only, parameters = ("AND table_name = ?", (schema, table)) if table is not None else ("", (schema,))
    keys = {(str(row[0]), str(row[1])): int(str(row[2])) for row in fetch_all(_KEYS_SQL.format(only=only), parameters)}
    json_clauses: set[tuple[str, str]] = set()
    if server.is_mariadb:
        rows = fetch_all(_JSON_CHECKS_SQL.format(only=only), parameters)
        json_clauses = {(str(row[0]), str(row[1])) for row in rows}
    found: dict[str, list[Column]] = defaultdict(list)
    for row in fetch_all(_COLUMNS_SQL.format(only=only), parameters):
        table_name, name = str(row[0]), str(row[1])
        native = "json" if (table_name, _json_clause(name)) in json_clauses else str(row[2])
        extra = str(row[5] or "").upper()
        found[table_name].append(
            Column(
                name,
                NativeType.parse(native).data_type,
                nullable=row[3] == "YES",
                native_type=native,
                native_dialect=DIALECT,
                key_position=keys.get((table_name, name)),
                # MySQL says DEFAULT_GENERATED of a default that is an expression.
                generated="VIRTUAL GENERATED" in extra or "STORED GENERATED" in extra or "PERSISTENT" in extra,
                # MariaDB spells the absence of a default of a nullable column as the text NULL.
                has_default="AUTO_INCREMENT" in extra or row[4] not in (None, "NULL"),
            )
        )
    return {name: tuple(columns) for name, columns in found.items()}


def _json_clause(column: str) -> str:
    return f"json_valid(`{column.replace('`', '``')}`)"


def column_of_field(field: Any) -> Column:
    """A column of a query's result, from the driver's description of it."""
    native = _native_of_field(field)
    if native is None:
        kind = "binary" if field.type_code in _TEXT_CODES and field.charsetnr == _BINARY_CHARSET else "string"
        return Column(field.name, DataType("binary") if kind == "binary" else DataType("string"))
    return Column(field.name, NativeType.parse(native).data_type, native_type=native, native_dialect=DIALECT)


def _native_of_field(field: Any) -> str | None:
    code = field.type_code
    if code in _PLAIN_CODES:
        return _PLAIN_CODES[code]
    if code == _BIT_CODE:
        return f"bit({field.length})"
    sign = " unsigned" if field.flags & _UNSIGNED_FLAG else ""
    if field.flags & _ZEROFILL_FLAG:
        sign += " zerofill"
    if code in _INTEGER_CODES:
        # Up to its length a number is filled with zeros.
        length = f"({field.length})" if field.flags & _ZEROFILL_FLAG else ""
        return _INTEGER_CODES[code] + length + sign
    if code in _DECIMAL_CODES:
        # The length counts a sign and a point where there may be one.
        precision = field.length - (1 if field.scale else 0) - (0 if sign else 1)
        return f"decimal({min(max(precision, 1), 65)},{field.scale}){sign}"
    if code in _FRACTION_CODES:
        name = _FRACTION_CODES[code]
        return f"{name}({field.scale})" if 0 < field.scale <= 6 else name
    return None
