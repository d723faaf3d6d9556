"""What MySQL's and MariaDB's errors mean to a user; servers quote values, so only names are taken from messages."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Collection
from typing import TYPE_CHECKING

from synqx_dagster.connectors.tls import explain_alert, explain_certificate, explain_no_tls
from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    DatabaseError,
    NotPermittedError,
    PlanError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
)

if TYPE_CHECKING:
    import pymysql

#: Errors of the connection itself: gone away, lost, killed, shutting down.
LOST_CONNECTION = frozenset(
    {0, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2014, 2027, 2055, 4031}
)

_TIMEOUTS = frozenset({1969, 3024})
_INTERRUPTED = frozenset({1317})
_BUSY = {
    1040: "the server has too many connections",
    1203: "the user has too many connections",
    1226: "the user has used up a limit of the server",
    1205: "a lock was held by another transaction for too long",
    1213: "a deadlock with another transaction",
    1021: "the server's disk is full",
    1114: "the table, or the server's disk, is full",
    1041: "the server is out of memory",
    1037: "the server is out of memory",
}
#: What an account may not do; the message names privilege, account, database, table and column.
_NOT_GRANTED = frozenset({1142, 1143, 1044, 1227, 1370, 1698})
#: What nobody may do: a server or a transaction that only reads.
_NOT_PERMITTED = frozenset({1290, 1792, 1836})

#: A row that the table does not take: out of range, too long, wrong text, null, double key, foreign key, check.
_REFUSED_ROW = {
    1048: "NULL where it is not allowed",
    1062: "a key occurs twice",
    1263: "NULL where it is not allowed",
    1264: "a value out of range",
    1265: "a value that would be cut",
    1292: "a value that is not of the type",
    1364: "a missing value",
    1366: "a value that is not of the type or character set",
    1406: "a value that is too long",
    1416: "a value that is not a geometry",
    1451: "a row to which another table refers",
    1452: "a row that refers to nothing",
    1526: "a row that no partition takes",
    1586: "a key occurs twice",
    1690: "a value out of range",
    3140: "a value that is not JSON",
    3819: "a row that breaks a check",
    3854: "text that the column's character set does not have",
    3988: "text that the column's character set does not have",
    4025: "a row that breaks a check",
}

#: Messages that name tables, columns and databases only.
_NAMES_ONLY = frozenset(
    {1046, 1049, 1050, 1051, 1052, 1054, 1059, 1060, 1068, 1071, 1072, 1075, 1103, 1109, 1113, 1117}
)
_NAMES_ONLY |= {1118, 1146, 1166, 1170, 1222, 1247, 1305, 1356, 1439, 1665}

_CANNOT_CREATE, _TOO_MANY_COLUMNS = 1005, "Too many columns"

_COLUMN = re.compile(r"(?:for column|Column|Field) (?:`[^`]*`\.`[^`]*`\.)?[`']([^`']+)[`']")
_KEY = re.compile(r"for key '([^']+)'$")
_CONSTRAINT = re.compile(r"CONSTRAINT `([^`]+)`|[Cc]heck constraint '([^']+)'")
_SILENCE = re.compile(r"\((the server was silent for .*|no answer within .*)\)$")
_LINE = re.compile(r"at line (\d+)$")


def code_of(exc: pymysql.err.Error) -> int:
    """The server's or the client's error number, 0 without one."""
    code = exc.args[0] if exc.args else 0
    return code if isinstance(code, int) else 0


def wrap_connect_error(
    exc: Exception, place: str, database: str | None, host: str, *, has_certificate: bool
) -> SynqxError:
    """The error to raise when a connection cannot be made.

    Args:
        place: Host and port, or the socket's path.
        host: The name that the server's certificate must be for.
        has_certificate: Whether the connection has a client certificate.
    """
    code = exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0
    cause = getattr(exc, "original_exception", None) or exc.__cause__ or exc.__context__ or exc
    if code in (1045, 1698, 1862, 1820):
        return ConnectionFailedError(
            f"{place} refused the user name or password",
            reason="authentication",
            hint="check username and password; a user may also be limited to certain hosts, to TLS,"
            " or to those who show a client certificate (tls: {cert_file: PATH, key_file: PATH})",
        )
    if code == 1049:
        return ConnectionFailedError(
            f"{place} has no database {database!r}", reason="database_missing", hint="check the connection's database"
        )
    if code == 1044:
        return ConnectionFailedError(
            f"the user may not use the database {database!r} at {place}", reason="permission", hint="grant the rights"
        )
    broke_off = isinstance(cause, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError))
    if has_certificate and broke_off:
        # The server does not tell the client; TLS 1.3 has the client believe for a while that all went well.
        return ConnectionFailedError(
            f"{place}: the server broke off the handshake, as it does when it refuses the client's certificate",
            reason="tls",
            hint="has tls.cert_file expired, and does the server trust the authority that signed it?",
        )
    if code in (2026, 3159) or isinstance(cause, ssl.SSLError):
        what, hint = _explain_tls(cause, host, code, has_certificate=has_certificate)
        return ConnectionFailedError(f"{place}: {what}", reason="tls", hint=hint)
    if code in _BUSY:
        return RetryableError(f"{place}: {_BUSY[code]}")
    if isinstance(cause, socket.gaierror):
        return ConnectionFailedError(
            f"{place}: the host name is unknown", reason="name_resolution", hint="check the connection's host"
        )
    if isinstance(cause, TimeoutError):
        return ConnectionFailedError(
            f"{place} did not answer in time", reason="timeout", hint="is a firewall in between?"
        )
    if isinstance(cause, (ConnectionRefusedError, FileNotFoundError)):
        return ConnectionFailedError(
            f"{place} refused the connection", reason="refused", hint="is the server running there?"
        )
    if isinstance(cause, PermissionError):
        return ConnectionFailedError(f"{place}: not permitted", reason="permission", hint="check the socket's rights")
    return ConnectionFailedError(f"{place}: the connection failed ({type(cause).__name__}, {code})")


def _explain_tls(cause: BaseException, host: str, code: int, *, has_certificate: bool) -> tuple[str, str]:
    """What is wrong, and what to do; in the library's own words about TLS, which hold no secrets."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return explain_certificate(cause, host)
    if isinstance(cause, ssl.SSLError):
        reason = cause.reason or "the handshake failed"
        alert = explain_alert(reason if "ALERT" in reason else str(cause), has_certificate=has_certificate)
        return alert or (f"TLS could not be agreed on: {reason}", "check tls, and which versions the server speaks")
    if code == 3159:
        return "the server lets in only those who use TLS", "leave tls out, or raise tls: {mode: require}"
    return explain_no_tls()


def wrap_error(exc: pymysql.err.Error, doing: str, columns: Collection[str] = ()) -> SynqxError:
    """The error to raise for one of the driver's.

    Args:
        doing: What was under way, and where.
        columns: Names that a message may be quoted for; what else stands in a message's quotes may be a value.
    """
    code = code_of(exc)
    message = str(exc.args[1]) if len(exc.args) > 1 else ""
    if code in _TIMEOUTS:
        return StatementTimeoutError(f"{doing}: the statement took too long and was stopped")
    if code in (2006, 2013) and (silence := _SILENCE.search(message)):
        # Of our own: see synqx_dagster.connectors.mysql_watch.
        return RetryableError(f"{doing}: {silence[1]}", hint="the load may be run again")
    if code in LOST_CONNECTION or code in _INTERRUPTED:
        return RetryableError(f"{doing}: the connection was lost or the statement killed (error {code})")
    if code in _BUSY:
        return RetryableError(f"{doing}: {_BUSY[code]}")
    if code in (1153, 1301, 2020):
        return BadRowsError(
            f"{doing}: a row is larger than the server takes in one packet", hint="raise max_allowed_packet there"
        )
    if code in _REFUSED_ROW:
        return _wrap_refused_row(code, message, doing, columns)
    if code == _CANNOT_CREATE and _TOO_MANY_COLUMNS in message:
        return PlanError(
            f"{doing}: the table has too many columns; InnoDB's most are 1,017",
            hint="choose the columns to load by column_mappings",
        )
    if code in _NOT_PERMITTED:
        return DatabaseError(f"{doing}: not permitted (error {code})", hint="is the server, or the session, read-only?")
    if code in _NOT_GRANTED:
        return NotPermittedError(f"{doing}: {message} (error {code})", hint="grant the user the rights it needs")
    if code in _NAMES_ONLY:
        return DatabaseError(f"{doing}: {message}")
    if code == 1064:
        line = _LINE.search(message)
        return DatabaseError(f"{doing}: syntax error" + (f" at line {line[1]}" if line else ""))
    return DatabaseError(f"{doing}: error {code}" if code else f"{doing}: {type(exc).__name__}")


def _wrap_refused_row(code: int, message: str, doing: str, columns: Collection[str]) -> BadRowsError:
    what = _REFUSED_ROW[code]
    names = [name for name in _COLUMN.findall(message) if name in columns]
    if names:
        return BadRowsError(f"{doing}: column {names[-1]!r}: {what}", column=names[-1])
    if code in (1062, 1586) and (key := _KEY.search(message)):
        return BadRowsError(f"{doing}: {what}, against {key[1]}", key=key[1])
    if constraint := _CONSTRAINT.search(message):
        name = constraint[1] or constraint[2]
        return BadRowsError(f"{doing}: {what}: {name}", constraint=name)
    return BadRowsError(f"{doing}: {what}")
