"""What a driver's errors mean to a user, whatever the driver; no message that may quote a value gets through."""

from __future__ import annotations

import re
from collections.abc import Collection
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
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

#: Errors that pass: deadlocks, lost races, locks, no room. SQLSTATE, or the number that the server gives.
_BUSY: dict[str, frozenset[str]] = {
    "postgres": frozenset({"40001", "40P01", "55P03", "53000", "53100", "53200", "53300", "57P01", "57P02", "57P03"}),
    "redshift": frozenset({"40001", "40P01", "55P03", "1023"}),
    "mysql": frozenset({"1021", "1037", "1040", "1041", "1114", "1203", "1205", "1213", "1226"}),
    "oracle": frozenset({"54", "60", "1555", "1652", "1653", "4021", "8177", "30006"}),
    "tsql": frozenset({"40001", "1105", "1205", "1222", "3960", "9002"}),
    "snowflake": frozenset({"625", "630"}),
}
_STOPPED: dict[str, frozenset[str]] = {
    "postgres": frozenset({"57014"}),
    "redshift": frozenset({"57014"}),
    "mysql": frozenset({"1317", "1969", "3024"}),
    "oracle": frozenset({"1013"}),
    "tsql": frozenset({"HY008", "HYT00"}),
    "snowflake": frozenset({"604"}),
}
#: PostgreSQL 28xxx; MySQL, Oracle, SQL Server, Snowflake.
_AUTHENTICATION = frozenset({"28000", "28P01", "1045", "1698", "1017", "1005", "18456", "250001", "251005"})
_DATABASE_MISSING = frozenset({"3D000", "1049", "4060", "12514", "12505"})

#: Snapshot isolation is not allowed in the database.
_NO_SNAPSHOT = "3952"

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_ORACLE = re.compile(r"\b(?:ORA|DPY)-0*(\d+)\b")
_ODBC = re.compile(r"\((\d{2,6})\)")
_LINE = re.compile(r"[\x00-\x1f].*", re.DOTALL)
_TLS = re.compile(r"certificate|\bssl\b|\btls\b", re.IGNORECASE)
_RESOLUTION = re.compile(r"could not translate host|name or service|getaddrinfo|name resolution|resolve", re.IGNORECASE)
_REFUSED = re.compile(r"refused|no such file|can't connect|could not open a connection|unreachable", re.IGNORECASE)
_TIMEOUT = re.compile(r"time[d-]? ?out", re.IGNORECASE)


def codes_of(error: BaseException | None) -> frozenset[str]:
    """What a driver's error says by codes: SQLSTATE and the server's number."""
    if error is None:
        return frozenset()
    found = {str(value) for name in ("sqlstate", "pgcode", "errno") if (value := getattr(error, name, None))}
    for argument in error.args:
        if isinstance(argument, int):
            found.add(str(argument))
        elif isinstance(argument, dict) and _SQLSTATE.fullmatch(str(argument.get("C", ""))):
            # pg8000 gives the fields of PostgreSQL's message.
            found.add(str(argument["C"]))
        elif isinstance(argument, str):
            if _SQLSTATE.fullmatch(argument):
                found.add(argument)
            found.update(_ORACLE.findall(argument))
            found.update(_ODBC.findall(argument))
        elif code := getattr(argument, "code", None):
            # oracledb gives an object.
            found.add(str(code))
    return frozenset(found)


def wrap_connect_error(exc: SQLAlchemyError, place: str) -> SynqxError:
    """The error to raise when a connection cannot be made; says why as far as codes and words tell."""
    original = getattr(exc, "orig", None)
    codes, text = codes_of(original), str(original or "")
    if codes & _AUTHENTICATION or "password authentication failed" in text:
        return ConnectionFailedError(
            f"{place} refused the user name or password",
            reason="authentication",
            hint="check username and password",
        )
    if codes & _DATABASE_MISSING or re.search(r"database .* does not exist", text):
        return ConnectionFailedError(
            f"{place} has no such database", reason="database_missing", hint="check the connection's database"
        )
    if _TLS.search(text):
        return ConnectionFailedError(
            f"{place}: TLS could not be agreed on",
            reason="tls",
            hint="tls: {ca_file: PATH} names the authority that signed the server's certificate",
        )
    if _RESOLUTION.search(text):
        return ConnectionFailedError(
            f"{place}: the host name is unknown", reason="name_resolution", hint="check the connection's host"
        )
    if _TIMEOUT.search(text):
        return ConnectionFailedError(
            f"{place} did not answer in time", reason="timeout", hint="is a firewall in between?"
        )
    if _REFUSED.search(text):
        return ConnectionFailedError(
            f"{place} refused the connection", reason="refused", hint="is the server running there?"
        )
    return ConnectionFailedError(f"{place}: the connection failed ({_name(exc, codes)})")


def wrap_socket_error(exc: OSError, place: str) -> ConnectionFailedError:
    """The error to raise when a server cannot be reached at all."""
    if isinstance(exc, TimeoutError):
        return ConnectionFailedError(
            f"{place} did not answer in time", reason="timeout", hint="is a firewall in between?"
        )
    return ConnectionFailedError(
        f"{place} refused the connection: {exc.strerror or type(exc).__name__}",
        reason="refused",
        hint="is the server running there?",
    )


def wrap_error(
    exc: SQLAlchemyError, doing: str, sqlglot: str, *, columns: Collection[str] = (), stopped: bool = False
) -> SynqxError:
    """The error to raise for one of SQLAlchemy's.

    Args:
        doing: What was under way, and where.
        sqlglot: The dialect, for the meaning of codes.
        columns: Names that a message may be quoted for; what else stands in a message may be a value.
        stopped: We have asked the driver to end the statement.
    """
    import sqlalchemy.exc as errors

    if isinstance(exc, errors.TimeoutError):
        return RetryableError(
            f"{doing}: all sessions of the connection are in use",
            hint="raise pool.size or pool.max_overflow, or run fewer loads at once",
        )
    if not isinstance(exc, errors.DBAPIError):
        # SQLAlchemy's own: a name or a type that it does not take. No values are in it.
        return DatabaseError(f"{doing}: {_first_line(str(exc))}")
    codes = codes_of(exc.orig)
    if stopped or codes & _STOPPED.get(sqlglot, frozenset()):
        return StatementTimeoutError(f"{doing}: the statement took too long and was stopped")
    if exc.connection_invalidated:
        return RetryableError(f"{doing}: the connection was lost ({_name(exc, codes)})")
    if codes & _BUSY.get(sqlglot, frozenset()):
        return RetryableError(f"{doing}: a lock, a deadlock or no room ({_name(exc, codes)})")
    if sqlglot == "tsql" and _NO_SNAPSHOT in codes:
        return DatabaseError(
            f"{doing}: the database does not allow snapshot isolation",
            hint="ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON, or options.isolation_level: SERIALIZABLE",
        )
    return _wrap_statement(exc, doing, codes, columns)


def _wrap_statement(exc: DBAPIError, doing: str, codes: frozenset[str], columns: Collection[str]) -> SynqxError:
    import sqlalchemy.exc as errors

    text = str(exc.orig)
    if isinstance(exc, (errors.DataError, errors.IntegrityError)):
        named = [name for name in columns if re.search(rf"['\"`.]{re.escape(name)}['\"`]", text)]
        place = f"column {named[0]!r}: " if len(named) == 1 else ""
        what = "a key, a foreign key, NULL or a check" if isinstance(exc, errors.IntegrityError) else "its value"
        return BadRowsError(
            f"{doing}: {place}the database refused a row for {what} ({_name(exc, codes)})",
            column=named[0] if len(named) == 1 else None,
        )
    if isinstance(exc, errors.ProgrammingError) and not exc.params:
        # A statement of the engine or of the user without bound values; the message names tables and words of it.
        detail = text if not exc.orig or not exc.orig.args else str(exc.orig.args[-1])
        return DatabaseError(f"{doing}: {_first_line(detail)} ({_name(exc, codes)})")
    return DatabaseError(f"{doing}: the database refused a statement ({_name(exc, codes)})")


def _first_line(text: str) -> str:
    return _LINE.sub("", text.strip())[:300]


def _name(exc: SQLAlchemyError, codes: frozenset[str]) -> str:
    return " ".join([type(getattr(exc, "orig", None) or exc).__name__, *sorted(codes)])
