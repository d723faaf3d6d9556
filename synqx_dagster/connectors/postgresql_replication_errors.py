"""Explains why a server refuses to make or read a replication slot, or ended its stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from synqx_dagster.connectors.postgresql_errors import is_driver_error, sqlstate_of, translate
from synqx_dagster.errors import (
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    FatalError,
    NotPermittedError,
    RetryableError,
    SlotInUseError,
    SlotLostError,
    SynqxError,
)

if TYPE_CHECKING:
    from synqx_dagster.connectors.postgresql_copy_both import StreamEndedError

#: What the server says before it knows our language, so these may come in another; then the general reason stands.
_NO_REPLICATION_RIGHT = ("replication role", "permission denied to start WAL sender")
_NO_WAL_SENDER = ("max_wal_senders",)

#: What is said of a slot whose log was thrown away, in versions 13 to 18.
_LOST = (
    "invalidated",
    "can no longer access replication slot",
    "can no longer get changes from replication slot",
    "has already been removed",
)

_GRANT_HINT = "ALTER ROLE {user} REPLICATION, as a superuser (on Amazon RDS: GRANT rds_replication TO {user})"


@contextlib.contextmanager
def explain_refusal(action: str, *, while_connecting: bool = False) -> Iterator[None]:
    """Raise SynqX's errors in place of the driver's, with what must be changed at the server.

    Args:
        action: What was being done, as it stands in a message.
        while_connecting: What failed is already an error of ours, which knows only connections in general.
    """
    try:
        yield
    except ConnectionFailedError as error:
        if not while_connecting:
            raise
        raise _explain_connection(error) from None
    except SynqxError:
        raise
    except Exception as error:
        if not is_driver_error(error):
            raise
        raise _explain(error, action) from None


def _explain_connection(error: ConnectionFailedError) -> SynqxError:
    text = error.message
    if any(mark in text for mark in _NO_REPLICATION_RIGHT):
        return NotPermittedError(
            f"{text}: the user lacks the right to replicate", hint=_GRANT_HINT.format(user="the connection's user")
        )
    if any(mark in text for mark in _NO_WAL_SENDER):
        return RetryableError(text, hint="raise max_wal_senders at the source (it needs a restart), or free one")
    if "pg_hba.conf" in text:
        error.hint = (
            "the source's pg_hba.conf must let this user connect to the database from here;"
            " logical replication needs no line for 'replication'"
        )
    return error


def _explain(error: Exception, action: str) -> SynqxError:
    state = sqlstate_of(error)
    diagnostics = getattr(error, "diag", None)
    message = (getattr(diagnostics, "message_primary", None) or "").strip()
    detail = (getattr(diagnostics, "message_detail", None) or "").strip()
    found = _by_state(state, message, detail, action)
    return found if found is not None else translate(error, action)


def explain_stream_end(error: StreamEndedError, action: str) -> SynqxError:
    """The error for a stream that the server or the network has ended."""
    found = _by_state(error.sqlstate, str(error), error.detail, action)
    if found is not None:
        return found
    state = error.sqlstate
    if state is not None and state[:2] not in ("08", "40", "53", "57", "58"):
        # Only what names objects: a message may quote a value.
        text = str(error) if state[:2] in ("42", "55", "0A") else "the server ended the stream"
        return DatabaseError(f"{action}: {text} [{state}]", sqlstate=state)
    text = str(error).splitlines()[0] if state is not None else "the connection to the server was lost"
    return RetryableError(f"{action}: {text}", hint="the run may be started again", sqlstate=state)


def _by_state(state: str | None, message: str, detail: str, action: str) -> SynqxError | None:
    """What a server's refusal means for slots; None when it means nothing special."""
    text = f"{action}: {message} [{state}]"
    if state in ("55000", "58P01", "XX000", "22023") and any(mark in f"{message} {detail}" for mark in _LOST):
        why = f" ({detail})" if detail else ""
        return SlotLostError(f"{action}: the source has thrown away what the slot needs{why}", sqlstate=state)
    if state == "42704" and "publication" in message:
        return FatalError(
            text,
            hint="somebody has dropped or renamed the publication; make it again, and resync: what was changed"
            " meanwhile was not sent",
            sqlstate=state,
        )
    if state == "42704":
        return SlotLostError(f"{action}: the source has no such slot", sqlstate=state)
    if state == "55006":
        return SlotInUseError(text, hint="one consumer reads a slot; end the other one", sqlstate=state)
    if state == "42710":
        return ConfigurationError(
            text, hint="drop it with pg_drop_replication_slot(), or give the replication another slot", sqlstate=state
        )
    if state == "53400":
        return RetryableError(
            text,
            hint="raise max_replication_slots at the source (it needs a restart), or drop a slot that nobody needs",
            sqlstate=state,
        )
    if state == "55000" and "wal_level" in message:
        return ConfigurationError(
            text, hint="ALTER SYSTEM SET wal_level = 'logical' at the source, and restart it", sqlstate=state
        )
    if state == "55P03":
        return RetryableError(
            f"{action}: transactions of the source that were open before have not ended in time",
            hint="a slot can only be made when all transactions that were open have ended;"
            " select pid, xact_start, query from pg_stat_activity order by xact_start shows them",
            sqlstate=state,
        )
    if state == "42501":
        return NotPermittedError(text, hint=_GRANT_HINT.format(user="the connection's user"), sqlstate=state)
    return None
