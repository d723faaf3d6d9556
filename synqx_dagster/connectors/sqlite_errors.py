"""What SQLite's errors mean to a user; no message of SQLite that may quote a value gets through."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    DatabaseError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
)

#: Messages that name tables, columns or a place in the statement, and nothing else.
_NAMES_ONLY = re.compile(
    r"no such (table|column|function|collation sequence|module|view|index): .*"
    r"|(table|view|index) .* already exists"
    r"|ambiguous column name: .*"
    r"|table .* has no column named .*"
    r"|too many columns.*"
    r'|near "[^"]{0,64}": syntax error'
    r"|incomplete input"
    r"|not authorized",
    re.DOTALL,
)

#: The default text factory says which column does not decode, then quotes the value.
_UNDECODABLE = re.compile(r"Could not decode to UTF-8 column '(.*?)' with text '", re.DOTALL)

#: ``UNIQUE constraint failed: orders.id`` names columns; ``cannot store TEXT value in INTEGER column t.a`` too.
_CONSTRAINT = re.compile(
    r"(UNIQUE|NOT NULL|CHECK) constraint failed(: .*)?"
    r"|FOREIGN KEY constraint failed"
    r"|cannot store \w+ value in \w+ column .*"
)


def wrap_error(exc: sqlite3.Error, path: Path, doing: str) -> SynqxError:
    """The error to raise for one of SQLite's.

    Args:
        doing: What was under way, such as ``reading``.
    """
    code: str = getattr(exc, "sqlite_errorname", None) or ""
    message = str(exc)
    if match := _UNDECODABLE.match(message):
        return BadRowsError(
            f"column {match[1]!r} holds text that is not UTF-8",
            hint="select hex(column), or CAST(column AS BLOB), in a source_query",
            column=match[1],
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return RetryableError(
            f"{doing} {path}: the file is locked by another connection",
            hint="wait for the other one; in WAL mode (PRAGMA journal_mode=WAL) readers and a writer do not meet",
        )
    if code == "SQLITE_INTERRUPT":
        return StatementTimeoutError(f"{doing} {path}: the statement took too long and was stopped")
    if code.startswith("SQLITE_FULL"):
        return RetryableError(f"{doing} {path}: the disk is full", hint="make room")
    if code.startswith("SQLITE_CANTOPEN"):
        return _cannot_open(path)
    if code.startswith("SQLITE_NOTADB"):
        return ConnectionFailedError(
            f"{path} is not a SQLite database", reason="unknown", hint="check the connection's database path"
        )
    if code.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return DatabaseError(f"{doing} {path}: not permitted", hint="is the file or its directory read-only?")
    if code.startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")):
        detail = message if _CONSTRAINT.fullmatch(message) else code
        return BadRowsError(f"{doing} {path}: the database refused a row: {detail}")
    detail = message if _NAMES_ONLY.fullmatch(message) else code or type(exc).__name__
    return DatabaseError(f"{doing} {path}: {detail}")


def _cannot_open(path: Path) -> ConnectionFailedError:
    if not path.exists():
        return ConnectionFailedError(
            f"there is no file {path}",
            reason="database_missing",
            hint="check the connection's database path; the first load into a new one creates it",
        )
    return ConnectionFailedError(
        f"{path} cannot be opened", reason="permission", hint="may this user read the file and its directory?"
    )
