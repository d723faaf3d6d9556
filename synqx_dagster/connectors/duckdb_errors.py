"""What DuckDB's errors mean to a user; DuckDB quotes values in its messages, so only names are taken from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    DatabaseError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
)

if TYPE_CHECKING:
    import duckdb

_CONSTRAINTS = (
    re.compile(r"NOT NULL constraint failed: (?P<column>[^\n]+)"),
    re.compile(r'Duplicate key "(?P<column>[^":]+): [\s\S]*?violates (?P<kind>primary key|unique) constraint'),
    re.compile(r'(?P<kind>CHECK) constraint failed on table "(?P<column>[^"]+)"'),
)
#: The second is the message of our own guards; see `duckdb_session`.
_SOURCE_COLUMN = re.compile(r"(?:when casting from|synqx rounds) source column (\w+)")


def wrap_open_error(exc: duckdb.Error, path: Path) -> SynqxError:
    """The error to raise when a file does not open."""
    message = str(exc)
    if "lock on file" in message:
        return locked(path)
    if "different configuration" in message:
        return RetryableError(
            f"{path} is open in this process by other means than SynqX", hint="close the other connection"
        )
    if not path.exists():
        return ConnectionFailedError(
            f"there is no file {path}",
            reason="database_missing",
            hint="check the connection's database path; the first load into a new one creates it",
        )
    if "ermission denied" in message:
        return ConnectionFailedError(
            f"{path} cannot be opened", reason="permission", hint="may this user read the file and its directory?"
        )
    return ConnectionFailedError(
        f"{path} is not a DuckDB database that this version of DuckDB reads",
        reason="unknown",
        hint="check the connection's database path, and which version of DuckDB wrote the file",
    )


def locked(path: Path) -> RetryableError:
    """The error for a file that another process has open."""
    return RetryableError(
        f"{path} is locked: another process has this DuckDB file open",
        hint="one process writes to a DuckDB file at a time; end the other one, or try again when it is done",
    )


def was_interrupted(exc: RuntimeError) -> bool:
    """Whether Ctrl-C ended a query: DuckDB makes an error of its own of it."""
    return str(exc) == "Query interrupted"


def repeated_key(path: Path, doing: str) -> BadRowsError:
    """The error for rows that share a key."""
    return BadRowsError(f"{doing} {path}: a key occurs twice, against a primary key or unique constraint")


def wrap_error(exc: duckdb.Error, path: Path, doing: str, columns: dict[str, str] | None = None) -> SynqxError:
    """The error to raise for one of DuckDB's.

    Args:
        doing: What was under way, such as ``reading``.
        columns: Names of the columns by the names under which their values were handed to DuckDB.
    """
    import duckdb

    message = str(exc)
    if isinstance(exc, duckdb.InterruptException):
        return StatementTimeoutError(f"{doing} {path}: the statement took too long and was stopped")
    if isinstance(exc, duckdb.ConstraintException):
        return _wrap_constraint(message, path, doing)
    if isinstance(exc, (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)):
        if columns is None:
            return DatabaseError(
                f"{doing} {path}: {type(exc).__name__} in the statement",
                hint="if an expression fails on a value, guard it (TRY_CAST, NULLIF, CASE)",
            )
        match = _SOURCE_COLUMN.search(message)
        column = columns.get(match[1]) if match else None
        where = f" in column {column!r}" if column else ""
        return BadRowsError(f"{doing} {path}: a value{where} does not fit its type", column=column)
    if isinstance(exc, duckdb.TransactionException):
        if "onflict" in message:
            return RetryableError(f"{doing} {path}: another transaction changed the same rows")
        if "Failed to commit" in message and "duplicate key" in message:
            return repeated_key(path, doing)
        if "Failed to commit" in message:
            # Small transactions reach the file only now. DuckDB has rolled this one back.
            return RetryableError(f"{doing} {path}: the transaction could not be written", hint="is the disk full?")
        return DatabaseError(f"{doing} {path}: the transaction cannot go on")
    if isinstance(exc, duckdb.OutOfMemoryException):
        return DatabaseError(
            f"{doing} {path}: DuckDB is out of memory or temporary space",
            hint="raise the connection's options.memory_limit, or make room on the disk",
        )
    if isinstance(exc, duckdb.IOException):
        if "lock on file" in message:
            return locked(path)
        return RetryableError(f"{doing} {path}: the file cannot be read or written", hint="is the disk full?")
    if isinstance(exc, (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException)):
        # Speaks of the statement's names, not of rows; what follows the first line quotes the statement.
        return DatabaseError(f"{doing} {path}: {message.splitlines()[0]}")
    return DatabaseError(f"{doing} {path}: {type(exc).__name__}")


def _wrap_constraint(message: str, path: Path, doing: str) -> SynqxError:
    if "still referenced by a foreign key" in message:
        return BadRowsError(
            f"{doing} {path}: a foreign key of another table still refers to a row",
            hint="DuckDB checks foreign keys at once; load the referring table's rows elsewhere first, or drop the key",
        )
    for pattern in _CONSTRAINTS:
        if match := pattern.search(message):
            kind = match.groupdict().get("kind") or "not null"
            return BadRowsError(
                f"{doing} {path}: a row breaks a {kind} constraint of {match['column']}", column=match["column"]
            )
    if "duplicate key" in message:
        return repeated_key(path, doing)
    return BadRowsError(f"{doing} {path}: a row breaks a constraint of the table")
