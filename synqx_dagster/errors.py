"""Every error of SynqX: one root, grouped by what the user can do about it.

An error carries a message (what is wrong), an optional hint (what to do) and a context of safe facts
(table, column, count). It never carries a cell value, a password or a DSN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SynqxError(Exception):
    """Something went wrong in SynqX.

    Args:
        message: What is wrong, in one sentence. Left out: the first line of the class docstring.
        hint: What the user can do about it.
        context: Safe facts by name, such as ``table`` or ``rows``; never cell values or credentials.
    """

    exit_code = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None, **context: object) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        self.context = {name: value for name, value in context.items() if value is not None}
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


# --- configuration: change the input -------------------------------------------------------------------


class ConfigurationError(SynqxError):
    """The input is wrong; nothing was changed."""

    exit_code = 2


@dataclass(frozen=True)
class SourceLocation:
    """A place in a file that the user wrote. ``line`` is one-based; ``field`` is a dotted path."""

    file: str | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        return f"{place} {self.field}".strip() if self.field else place


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input: what, where, and what to do."""

    message: str
    location: SourceLocation | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location and str(self.location) else ""
        return f"{place}{self.message}" + (f" ({self.hint})" if self.hint else "")


class InvalidInputError(ConfigurationError):
    """The input has problems; each is listed with its place."""

    def __init__(self, problems: Sequence[Problem], message: str | None = None) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(message or f"{count} problem{'' if count == 1 else 's'} found")

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {problem}" for problem in self.problems)])


class NotFoundError(ConfigurationError):
    """There is no record of this name."""


class NotInitialisedError(ConfigurationError):
    """There is no catalog yet."""

    def __init__(self, message: str | None = None, *, hint: str | None = None, **context: object) -> None:
        super().__init__(message, hint=hint or "run `synqx init` first", **context)


class CatalogVersionError(ConfigurationError):
    """The catalog was written by a newer version of SynqX."""


class ConflictError(ConfigurationError):
    """Somebody else changed the catalog in the meantime."""


class InUseError(ConfigurationError):
    """Other records refer to it; nothing was changed."""

    def __init__(self, message: str | None = None, *, hint: str | None = None, **context: object) -> None:
        super().__init__(message, hint=hint or "change or remove what refers to it first", **context)


class HostRefusedError(ConfigurationError):
    """The operator, or common sense, does not let connections go to this host."""


class QueryRefusedError(ConfigurationError):
    """The query is not exactly one SELECT."""


# --- access: be somebody else, or ask somebody else ------------------------------------------------------------


class AccessError(SynqxError):
    """You may not do this."""


class LoginFailedError(AccessError):
    """The user name or the password is wrong."""


# --- sealed ------------------------------------------------------------------------------------------------


class SealedError(SynqxError):
    """The vault is sealed."""

    exit_code = 3

    def __init__(self, message: str | None = None, *, hint: str | None = None, **context: object) -> None:
        hint = hint or "set SYNQX_MASTER_PASSWORD or SYNQX_KEY_FILE, or run `synqx unlock`"
        super().__init__(message, hint=hint, **context)


class WrongPasswordError(SealedError):
    """The password or key opens no keyslot."""


class UnlockDelayedError(SealedError):
    """Too many wrong passwords; wait before the next attempt."""


# --- the plan: change the definition, or the databases --------------------------------------------------------


class PlanError(SynqxError):
    """The load cannot be made with the databases as they are; neither side was touched.

    The definition passes `synqx check`, which asks no database: what both say of their tables does not go with it.
    """


class RequestError(PlanError, ConfigurationError):
    """What is asked of the load, beside its definition, cannot be had; neither side was touched."""

    exit_code = ConfigurationError.exit_code


# --- data: change the data or the contract -------------------------------------------------------------------


class DataError(SynqxError):
    """The data does not fit; nothing was committed."""


class BadRowsError(DataError):
    """Rows break the target's contract."""


class SourceChangedError(DataError):
    """The source no longer has the columns that the mapping reads."""


class TargetMismatchError(DataError):
    """The target table exists with columns that do not fit."""


class IntegrityError(DataError):
    """A ciphertext or a stored record is not what was written."""


# --- retryable: the same call may succeed later ---------------------------------------------------------------


class RetryableError(SynqxError):
    """A passing fault; the same call may succeed later."""


class ConnectionFailedError(RetryableError):
    """The server cannot be reached, or refused the connection.

    ``reason`` is one of: ``name_resolution``, ``refused``, ``timeout``, ``authentication``, ``database_missing``,
    ``tls``, ``host_key``, ``tunnel``, ``host_refused``, ``permission``, ``unknown``.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str = "unknown",
        hint: str | None = None,
        **context: object,
    ) -> None:
        self.reason = reason
        super().__init__(message, hint=hint, reason=reason, **context)


class TooManyAttemptsError(RetryableError):
    """Too many attempts; ``context["retry_after_seconds"]`` says how long to wait."""


class AlertDeliveryError(RetryableError):
    """An alert could not be told."""


class StatementTimeoutError(RetryableError):
    """The server ended a statement that took too long."""


class SlotInUseError(RetryableError):
    """Somebody else reads the replication slot."""


class CommitUnknownError(RetryableError):
    """The connection broke during COMMIT; the ledger decides whether it happened."""


# --- fatal: this attempt must end ------------------------------------------------------------------------------


class FatalError(SynqxError):
    """This attempt must end; a retry would not help."""


class FencedError(FatalError):
    """A newer attempt has taken over this load; this one was refused at its commit."""


class SlotLostError(FatalError):
    """The replication slot is gone, or no longer holds what is needed; only a new copy helps."""

    def __init__(self, message: str | None = None, *, hint: str | None = None, **context: object) -> None:
        super().__init__(message, hint=hint or "`synqx replications resync` copies the tables anew", **context)


class OperatorFailedError(FatalError):
    """The code of a pipeline's node failed, or did not give what it must."""


class NodeTimeoutError(FatalError):
    """A node of a pipeline did not end in its time."""


class DriverMissingError(FatalError):
    """The driver for this connection is not installed."""


class DatabaseError(FatalError):
    """The database refused a statement."""


class NotPermittedError(DatabaseError):
    """The connection's user lacks a privilege."""
