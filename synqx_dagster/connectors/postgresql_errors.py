"""Turns what psycopg2, ADBC and the pool raise into SynqX's errors.

Guarantee: no cell value gets out. PostgreSQL quotes values in the messages of some errors and in their DETAIL and
CONTEXT, so only the parts that name objects are kept, and the driver's exception is not chained: Dagster would write
its text into the event log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    DatabaseError,
    NotPermittedError,
    RetryableError,
    SourceChangedError,
    StatementTimeoutError,
    SynqxError,
)
from synqx_dagster.model.table import TableName

#: SQLSTATE classes whose message speaks of objects and syntax, never of values.
#: Source: PostgreSQL manual, Appendix A, and the calls of ereport() behind them.
_SAFE_CLASSES = frozenset({"08", "0A", "25", "26", "28", "2B", "34", "3D", "3F", "42", "53", "54", "55", "57", "58"})

_RETRYABLE_CLASSES = frozenset({"08", "40", "53", "57", "58"})
_RETRYABLE_STATES = frozenset({"55P03", "55006", "25P03", "25P04"})

_NOT_PERMITTED = "42501"
_UNDEFINED = frozenset({"42P01", "42703", "3F000"})

_HINTS = {
    "25006": "the statement wants to write; a source is only read",
    "55000": "of a table that has no replica identity: give it a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL",
    "53100": "the server's disk is full",
    "53300": "the server has no free connection slots; lower the pool or raise max_connections",
    "55P03": "another session holds a lock on the table; the load may be run again",
    "40P01": "two sessions waited for each other; the load may be run again",
    "25P03": "the server ended the transaction because it was idle for too long",
}

#: Names for the states that loads meet; the rest is known by its number.
_CONDITIONS = {
    "22001": "text is too long for the column",
    "22003": "a number is out of the column's range",
    "22007": "a date or time cannot be read",
    "22008": "a date or time is out of range",
    "22012": "division by zero",
    "22021": "text holds a character that the database's encoding does not have",
    "22023": "a value is not allowed",
    "22P02": "text is not a value of the column's type",
    "22P03": "binary data is not of the column's type",
    "22P04": "a row has the wrong number of columns",
    "22P05": "text holds a character that the database's encoding does not have",
    "23502": "NULL in a column that is not null",
    "23503": "a foreign key points to a row that is not there",
    "23505": "a key occurs more than once",
    "23514": "a row breaks a check constraint",
    "23P01": "a row breaks an exclusion constraint",
    "44000": "a row breaks a view's check option",
    "P0001": "a trigger or function refused the statement",
}

_COPY_COLUMN = re.compile(r"^COPY .*?, line \d+, column (.+?)(?:: |$)", re.MULTILINE | re.DOTALL)


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of a driver's error; None when the server did not send one."""
    for name in ("pgcode", "sqlstate"):
        state = getattr(error, name, None)
        if state:
            return str(state)
    return None


def is_driver_error(error: BaseException) -> bool:
    """Whether psycopg2 or ADBC raised it."""
    return any(base.__module__.partition(".")[0] in ("psycopg2", "adbc_driver_manager") for base in type(error).__mro__)


@contextmanager
def wrap_errors(action: str, *, rows_at: str | None = None, columns: Sequence[str] = ()) -> Iterator[None]:
    """Raise SynqX's errors in place of the drivers'.

    Args:
        action: What was being done, as it stands in a message: ``reading from 'shop'``.
        rows_at: Set where rows are written: the table they go to. A refused value or row is then a `BadRowsError`.
        columns: Names among which the column of a refused value is looked for.
    """
    try:
        yield
    except SynqxError:
        raise
    except Exception as error:
        if not is_driver_error(error):
            raise
        raise translate(error, action, rows_at=rows_at, columns=columns) from None


def translate(
    error: BaseException, action: str, *, rows_at: str | None = None, columns: Sequence[str] = ()
) -> SynqxError:
    """The error of SynqX that stands for a driver's; see `wrap_errors`."""
    state = sqlstate_of(error)
    if state is None:
        return _without_state(error, action)
    text = f"{action}: {_describe(error, state)}"
    hint = _HINTS.get(state)
    if state == "57014":
        return StatementTimeoutError(f"{action}: the server ended the statement: time-out or cancel", sqlstate=state)
    if state[:2] in ("22", "23", "44") and rows_at is not None:
        column = _find_column(error, columns)
        place = f"{rows_at}, column {column!r}" if column else rows_at
        constraint = _diagnostic(error, "constraint_name")
        named = f" ({constraint})" if constraint else ""
        return BadRowsError(
            f"{place}: {_CONDITIONS.get(state, f'the server refused a row with SQLSTATE {state}')}{named}",
            hint="nothing was loaded; correct the rows at the source, or declare the contract and quarantine them",
            table=rows_at,
            column=column,
            constraint=constraint,
            sqlstate=state,
        )
    if state[:2] in _RETRYABLE_CLASSES or state in _RETRYABLE_STATES:
        return RetryableError(text, hint=hint, sqlstate=state)
    if state in _UNDEFINED:
        return SourceChangedError(text, hint="compare the mapping with `synqx connections discover`", sqlstate=state)
    if state == _NOT_PERMITTED:
        user = _user_of(error)
        return NotPermittedError(
            text if user is None else f"{text} (user {user!r})",
            hint=f"grant the privilege to {repr(user) if user else 'the user of the connection'};"
            " of a _synqx_ table to all users who load into its schema",
            user=user,
            sqlstate=state,
        )
    return DatabaseError(text, hint=hint, sqlstate=state)


def translate_refused_commit(error: BaseException, action: str, connection: str) -> SynqxError:
    """The same for a COMMIT that the server has refused, of a transaction that had gone well until then.

    A constraint that is checked only there names its table, whatever the last statement was about.
    """
    name = _diagnostic(error, "table_name")
    place = connection if name is None else str(TableName(name, _diagnostic(error, "schema_name")))
    found = translate(error, action, rows_at=place)
    if isinstance(found, BadRowsError):
        found.hint = "it is checked at COMMIT, and nothing was stored; correct the rows, or drop the constraint"
        if name is None:
            del found.context["table"]
    return found


def _user_of(error: BaseException) -> str | None:
    """Whose session it was; ADBC does not tell."""
    connection = getattr(getattr(error, "cursor", None), "connection", None)
    if connection is None or connection.closed:
        return None
    user: str | None = connection.info.user
    return user


def _without_state(error: BaseException, action: str) -> SynqxError:
    kind = type(error).__name__
    if kind == "SilenceError":
        # Of our own: see synqx_dagster.connectors.postgresql_watch.
        return RetryableError(f"{action}: {error}", hint="the load may be run again")
    if kind in ("OperationalError", "InterfaceError", "InternalError", "DatabaseError"):
        return RetryableError(f"{action}: the connection to the server was lost", hint="the load may be run again")
    return DatabaseError(f"{action}: the driver failed with {kind}")


def _describe(error: BaseException, state: str) -> str:
    message = _diagnostic(error, "message_primary")
    if message and state[:2] in _SAFE_CLASSES:
        return f"{message} [{state}]"
    constraint = _diagnostic(error, "constraint_name")
    named = f" ({constraint})" if constraint else ""
    return f"{_CONDITIONS.get(state, 'the server refused the statement')}{named} [{state}]"


def _diagnostic(error: BaseException, name: str) -> str | None:
    """One field of the server's error report, from either driver."""
    diagnostics: Any = getattr(error, "diag", None)
    if diagnostics is not None:
        found: str | None = getattr(diagnostics, name)
        return found
    wanted = f"PG_DIAG_{name.upper()}"
    for key, value in getattr(error, "details", None) or ():
        if (key.decode() if isinstance(key, bytes) else key) == wanted:
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return None


def _find_column(error: BaseException, columns: Sequence[str]) -> str | None:
    column = _diagnostic(error, "column_name")
    if column:
        return column
    context = _diagnostic(error, "context") or ""
    found = _COPY_COLUMN.search(context)
    if found is None:
        return None
    # The context goes on with the value, so only a name that is known is believed.
    tail = context[found.start(1) :]
    known = [name for name in columns if tail == name or tail.startswith((f"{name}: ", f"{name}\n"))]
    return max(known, key=len, default=None)


#: What libpq and the server say when no connection comes about. The server speaks its own ``lc_messages`` before it
#: knows the session's, so `classify_failure` also looks for the names that it quotes.
_FAILURES: tuple[tuple[str, str], ...] = (
    ("could not translate host name", "name_resolution"),
    ("Name or service not known", "name_resolution"),
    ("certificate", "tls"),
    ("SSL", "tls"),
    ("timeout expired", "timeout"),
    ("timed out", "timeout"),
    ("Connection refused", "refused"),
    ("No such file or directory", "refused"),
    ("Network is unreachable", "refused"),
    ("No route to host", "refused"),
    ("password authentication failed", "authentication"),
    ("authentication failed", "authentication"),
    ("no password supplied", "authentication"),
    ("pg_hba.conf", "authentication"),
    ("permission denied for database", "permission"),
)

_MISSING_DATABASE = re.compile(r'database ".*" does not exist')
_MISSING_ROLE = re.compile(r'role ".*" does not exist')

_FAILURE_HINTS = {
    "name_resolution": "check host",
    "refused": "is the server running, and are host and port right?",
    "timeout": "a firewall may drop the packets; are host and port right?",
    "authentication": "check username and password, and the server's pg_hba.conf",
    "database_missing": "check database",
    "tls": "set options.sslmode and options.sslrootcert to what the server offers",
    "permission": "grant CONNECT on the database to the user",
}


def classify_failure(message: str, *, database: str | None, username: str | None) -> str:
    """The `ConnectionFailedError` reason that a failed connection's message stands for."""
    # With several addresses libpq reports each; the last one is what ended the attempt.
    if _MISSING_DATABASE.search(message):
        return "database_missing"
    if _MISSING_ROLE.search(message):
        return "authentication"
    # A server that allows no unencrypted connection refuses by pg_hba.conf; that is about rights, not TLS.
    if "pg_hba.conf" in message:
        return "authentication"
    for text, reason in _FAILURES:
        if text in message:
            return reason
    if "FATAL" in message or "\n" not in message.strip():
        if database and database in message:
            return "database_missing"
        if username and username in message:
            return "authentication"
    return "unknown"


def connection_failed(name: str, message: str, *, database: str | None, username: str | None) -> ConnectionFailedError:
    """The error for a connection that did not come about; `message` is libpq's, which holds no password."""
    reason = classify_failure(message, database=database, username=username)
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return ConnectionFailedError(
        f"connection {name!r}: {lines[0] if lines else 'no connection'}",
        reason=reason,
        hint=_FAILURE_HINTS.get(reason),
        connection=name,
    )
