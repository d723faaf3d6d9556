"""Names and texts as SQL literals: whatever they hold, they stay names and texts."""

from __future__ import annotations

#: Dialects that quote names in backticks.
BACKTICKS = frozenset({"bigquery", "databricks", "doris", "hive", "mysql", "spark", "starrocks"})

#: The alias under which every rendering sees the source's rows.
SOURCE = "source"


def quote_name(name: str, dialect: str) -> str:
    """A quoted identifier."""
    mark = "`" if dialect in BACKTICKS else '"'
    return mark + name.replace(mark, mark * 2) + mark


def source_column(name: str, dialect: str) -> str:
    """A column of the relation ``source``."""
    return f"{quote_name(SOURCE, dialect)}.{quote_name(name, dialect)}"


def quote_text(text: str, dialect: str) -> str:
    """A text literal, independent of the session's settings for backslashes.

    Only for dialects whose literals can be made independent of them: postgres, sqlite and duckdb.
    """
    literal = "'" + text.replace("'", "''") + "'"
    if dialect == "postgres" and "\\" in text:
        return "E" + literal.replace("\\", "\\\\")
    if dialect in {"sqlite", "duckdb"} and "\x00" in text:
        # both end or refuse a literal at NUL; char() and chr() make one
        function = "char" if dialect == "sqlite" else "chr"
        pieces = [quote_text(piece, dialect) for piece in text.split("\x00")]
        return "(" + f" || {function}(0) || ".join(pieces) + ")"
    return literal
