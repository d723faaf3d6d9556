"""What DuckDB's errors about files mean to a user; DuckDB quotes lines and values, so only places are taken from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from synqx_dagster.errors import (
    BadRowsError,
    DatabaseError,
    DataError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
)

if TYPE_CHECKING:
    pass

_CSV_LINE = re.compile(r"CSV Error on Line: (\d+)")
_CSV_FILE = re.compile(r"^\s*file\s*=\s*(.+?)\s*$", re.MULTILINE)
_CSV_COUNT = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")
_SOURCE_COLUMN = re.compile(r"(from source column|^Invalid Input Error: synqx null) (c\d+)")
_NUL_COLUMN = re.compile(r"^Invalid Input Error: synqx nul ([^\n]*)")
_TEXT_COLUMN = re.compile(r"^Invalid Input Error: synqx text ([^\n]*)")
_CONSTRAINTS = (
    re.compile(r"NOT NULL constraint failed: (?P<column>[^\n]+)"),
    re.compile(r'Duplicate key "(?P<column>[^":]+): '),
)


def wrap_error(
    exc: Exception, where: str, doing: str, shown: Mapping[str, str], columns: Mapping[str, str] | None = None
) -> SynqxError:
    """The error to raise for one of DuckDB's, or of Arrow's that carries one.

    Args:
        where: The connection's root.
        doing: What was under way, such as ``reading``.
        shown: Names of files by the paths that DuckDB was given.
        columns: Names of the columns by the names under which their values were handed to DuckDB.
    """
    import duckdb

    message = str(exc)
    if isinstance(exc, duckdb.InterruptException) or "INTERRUPT" in message[:40]:
        return StatementTimeoutError(f"{doing} {where}: the statement took too long and was stopped")
    problem = _wrap_data(message, shown)
    if problem is not None:
        return problem
    match = _SOURCE_COLUMN.search(message)
    if match is not None and columns is not None and match[2] in columns:
        column = columns[match[2]]
        what = "is NULL, and the column is not nullable" if "null" in match[1] else "does not fit its type"
        return BadRowsError(f"{doing} {where}: a value in column {column!r} {what}", column=column)
    if isinstance(exc, duckdb.ConstraintException):
        for pattern in _CONSTRAINTS:
            if match := pattern.search(message):
                return BadRowsError(
                    f"{doing} {where}: a row breaks the constraint of {match['column']}", column=match["column"]
                )
        return BadRowsError(f"{doing} {where}: a row breaks a constraint of the table")
    if isinstance(exc, (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)):
        return DatabaseError(
            f"{doing} {where}: {type(exc).__name__} in the statement",
            hint="if an expression fails on a value, guard it (TRY_CAST, NULLIF, CASE)",
        )
    if isinstance(exc, duckdb.OutOfMemoryException):
        return DatabaseError(
            f"{doing} {where}: DuckDB is out of memory or temporary space",
            hint="raise the connection's options.memory_limit, or make room for temporary files",
        )
    if isinstance(exc, duckdb.IOException):
        return RetryableError(f"{doing} {where}: a file cannot be read or written", hint="is the disk full?")
    if isinstance(exc, (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException)):
        # Speaks of the statement's names, not of rows; what follows the first line quotes the statement.
        return DatabaseError(f"{doing} {where}: {message.splitlines()[0]}")
    return DatabaseError(
        f"{doing} {where}: {type(exc).__name__}",
        hint="if an expression fails on a value, guard it (TRY_CAST, NULLIF, CASE)",
    )


def _wrap_data(message: str, shown: Mapping[str, str]) -> DataError | None:
    """What is wrong with a file's content; None when the message speaks of something else."""
    match = _CSV_LINE.search(message)
    named = _CSV_FILE.search(message)
    file = shown.get(named[1], "") if named else _find_file(message, shown)
    if match is not None or "CSV Parser state machine" in message:
        place = f"{file or 'a CSV file'}, line {match[1]}" if match else (file or "a CSV file")
        return DataError(f"{place}: {_describe_csv(message)}", hint=_hint_csv(message))
    if not file and len(set(shown.values())) == 1:
        file = next(iter(shown.values()))
    if found := _NUL_COLUMN.search(message):
        return DataError(
            f"{file or 'a file'}: column {found[1]!r} holds a NUL character",
            hint="no text of CSV holds one; is options.encoding right?",
            column=found[1],
        )
    if found := _TEXT_COLUMN.search(message):
        return DataError(
            f"{file or 'a file'}: column {found[1]!r} holds text that is not a value of its type",
            hint="SynqX wrote the column with a type, and somebody has changed the file",
            column=found[1],
        )
    if "GZIP" in message or "gzip" in message or "ZSTD" in message or "zstd" in message:
        return DataError(
            f"{file or 'a file'}: the compressed data are cut or damaged",
            hint="was the file still being written? copy it again",
        )
    if file and ("arquet" in message or "magic bytes" in message or "Thrift" in message):
        return DataError(
            f"{file} is not a Parquet file, or it is damaged", hint="was the file still being written? copy it again"
        )
    return None


def _find_file(message: str, shown: Mapping[str, str]) -> str:
    # The longest path first: one may begin with another.
    for path in sorted(shown, key=len, reverse=True):
        if path in message:
            return shown[path]
    return ""


def _describe_csv(message: str) -> str:
    if match := _CSV_COUNT.search(message):
        return f"{match[2]} fields where the header has {match[1]}"
    if "quote" in message.partition("Possible")[0]:
        return "a quote is not closed, or text follows a closing quote"
    if "unicode" in message or "not utf-8" in message:
        return "bytes that are not of the file's encoding"
    if "aximum line size" in message:
        return "the line is too long"
    return "the line is not CSV of this delimiter, quote and newline"


def _hint_csv(message: str) -> str:
    if "unicode" in message or "not utf-8" in message:
        return "set options.encoding to the file's own"
    return "check options.delimiter, quote and escape, and that all lines end alike; or correct the file"
