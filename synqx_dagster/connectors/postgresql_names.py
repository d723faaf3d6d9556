"""How PostgreSQL writes names and literals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from synqx_dagster.connectors.postgresql_columns import DEFAULT_SCHEMA
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import TableName

#: NAMEDATALEN - 1. The server cuts longer names without an error, and two may then become one.
MAX_IDENTIFIER_BYTES = 63

_PIECE = re.compile(
    r"""
      [eE]'(?:[^'\\]|''|\\.)*'            # text with backslash escapes
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | \$((?:[A-Za-z_]\w*)?)\$.*?\$\1\$    # dollar quotes
    | --[^\n]*
    | /\*.*?\*/
    | [?%]
    """,
    re.VERBOSE | re.DOTALL,
)


def quote(identifier: str) -> str:
    """An identifier in double quotes.

    Raises:
        PlanError: It is empty, holds a NUL character, or is longer than the server keeps.
    """
    if not identifier or "\x00" in identifier:
        raise PlanError(f"{identifier!r} cannot be a name in PostgreSQL: it is empty or holds a NUL character")
    if len(identifier.encode("utf-8", "surrogatepass")) > MAX_IDENTIFIER_BYTES:
        raise PlanError(f"the name {identifier!r} is longer than the {MAX_IDENTIFIER_BYTES} bytes of PostgreSQL")
    return '"' + identifier.replace('"', '""') + '"'


def qualify(table: TableName) -> str:
    """A table's quoted name with its schema."""
    return f"{quote(table.schema or DEFAULT_SCHEMA)}.{quote(table.name)}"


def quote_names(names: Sequence[str]) -> str:
    """A list of quoted identifiers."""
    return ", ".join(quote(name) for name in names)


def quote_text(text: str) -> str:
    """A string literal that means the same whatever ``standard_conforming_strings`` is."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f" E'{escaped}'"


def to_pyformat(sql: str) -> str:
    """``?`` as psycopg2's ``%s``, outside of texts, names and comments; ``%`` is doubled everywhere."""

    def replace(match: re.Match[str]) -> str:
        piece = match[0]
        return "%s" if piece == "?" else piece.replace("%", "%%")

    return _PIECE.sub(replace, sql)
