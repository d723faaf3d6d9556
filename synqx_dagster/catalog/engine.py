"""From ``SYNQX_CATALOG_URL`` to an SQLAlchemy engine, and from its errors to ours.

Guarantee: no message holds a password, a bound value or more of the URL than scheme, user, host and database.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from synqx_dagster.errors import (
    ConfigurationError,
    DatabaseError,
    IntegrityError,
    NotInitialisedError,
    RetryableError,
    SynqxError,
)
from synqx_dagster.settings import Settings

#: How long a writer waits for another one, on either backend.
LOCK_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10

_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg2")
_SQLITE = ("sqlite", "sqlite+pysqlite")
_WHERE_TO_LOOK = "look at SYNQX_CATALOG_URL"

# What libpq says (PostgreSQL's sources, fe-connect.c and the server's own messages) and what it means. Connection
# failures carry no SQLSTATE in psycopg2, so the text is all there is.
_CONNECT_FAILURES = (
    ("invalid connection option", "the URL has an option after ? that libpq does not know"),
    ("password authentication failed", "the user name or the password is wrong"),
    ("no password supplied", "the server asks for a password and the URL has none"),
    ("no pg_hba.conf entry", "the server's pg_hba.conf does not let this user in from here"),
    ("authentication failed", "the server does not accept this user"),
    ("could not translate host name", "the host name does not resolve"),
    ("connection refused", "nothing listens at this host and port"),
    ("no such file or directory", "there is no server socket at this path"),
    ("timeout expired", f"no answer within {CONNECT_TIMEOUT_SECONDS} seconds"),
    ("the database system is starting up", "the server is still starting"),
    ("too many clients", "the server has no free connection"),
    ("ssl", "TLS failed"),
)


@dataclass(frozen=True)
class Address:
    """Where a catalog is. ``path`` is the database file of SQLite, None for a server."""

    url: URL
    path: Path | None

    @property
    def display(self) -> str:
        """The address for messages: without password and options."""
        if self.path is not None:
            return str(self.path)
        user = f"{self.url.username}@" if self.url.username else ""
        port = f":{self.url.port}" if self.url.port else ""
        host = self.url.host or self.url.query.get("host") or ""
        return f"postgresql://{user}{host}{port}/{self.url.database or ''}"


def parse_address(settings: Settings) -> Address:
    """Read the catalog's URL.

    Raises:
        ConfigurationError: It is no URL, names another kind of database, or a database in memory.
    """
    text = settings.catalog_url
    default = settings.home / "catalog.db"
    if text == f"sqlite:///{default}":
        # As a path, not as a URL: a directory may hold ? or # in its name.
        return _sqlite_address(default)
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        # Nothing of the text is shown: without its structure the password cannot be told from the rest.
        raise ConfigurationError(
            "SYNQX_CATALOG_URL is not a database URL",
            hint="write postgresql://user:password@host:5432/database, with %40 for an @ in the password, "
            "or sqlite:////absolute/path.db",
        ) from None
    if url.drivername in _SQLITE:
        if not url.database or url.database == ":memory:":
            raise ConfigurationError(
                "SYNQX_CATALOG_URL names an SQLite database in memory, which no other process could see",
                hint="write sqlite:////absolute/path.db",
            )
        if url.query or url.host:
            raise ConfigurationError(
                "SYNQX_CATALOG_URL has a host or options, which SQLite does not take",
                hint="write sqlite:////absolute/path.db",
            )
        return _sqlite_address(Path(url.database).expanduser().absolute())
    if url.drivername in _POSTGRESQL:
        if not url.database:
            raise ConfigurationError(
                "SYNQX_CATALOG_URL names no database",
                hint="write postgresql://user:password@host:5432/database",
            )
        return Address(url.set(drivername="postgresql+psycopg2"), None)
    raise ConfigurationError(
        f"SYNQX_CATALOG_URL begins with {url.drivername!r}, which cannot hold a catalog",
        hint="write postgresql:// or sqlite://",
    )


def _sqlite_address(path: Path) -> Address:
    return Address(URL.create("sqlite", database=str(path)), path)


def make_engine(address: Address) -> Engine:
    """Make an engine; nothing is opened yet.

    Transactions that begin with the execution option ``synqx_write`` take SQLite's write lock at once: one that
    began by reading and then wants to write could only be refused (SQLite manual, "BEGIN IMMEDIATE").
    """
    if address.path is not None:
        # No pool: opening takes a fraction of a millisecond, and an SQLite handle must not cross a fork.
        engine = sa.create_engine(
            address.url,
            hide_parameters=True,
            poolclass=NullPool,
            connect_args={"timeout": LOCK_TIMEOUT_SECONDS},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    connect_args: dict[str, Any] = {"application_name": "synqx", "client_encoding": "utf8"}
    if "connect_timeout" not in address.url.query:
        connect_args["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
    return sa.create_engine(
        address.url,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        # Opened as they are needed, and kept: a server has one in use for each request that is under way.
        pool_size=10,
        max_overflow=20,
        pool_pre_ping=True,
        connect_args=connect_args,
    )


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Python's driver would begin transactions by itself, late and only for some statements.
    connection.isolation_level = None
    connection.execute("pragma foreign_keys = on")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("synqx_write", False)
    connection.exec_driver_sql("begin immediate" if writes else "begin")


@contextmanager
def read_transaction(engine: Engine, address: Address) -> Iterator[Connection]:
    """A transaction that only reads."""
    with translate_errors(address), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def write_transaction(engine: Engine, address: Address) -> Iterator[Connection]:
    """A transaction that may write; commits at the end, rolls back on an error."""
    with (
        translate_errors(address),
        engine.connect().execution_options(synqx_write=True) as connection,
        connection.begin(),
    ):
        if address.path is None:
            connection.exec_driver_sql(f"set local lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        yield connection


@contextmanager
def translate_errors(address: Address, *, first_contact: bool = False) -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours.

    Args:
        address: For the message.
        first_contact: Nothing has worked yet, so that a failure to connect is a wrong address and not a passing
            fault.
    """
    try:
        yield
    except exc.DBAPIError as error:
        translated = _translate(error, address, first_contact=first_contact)
        # Without the cause: libpq quotes pieces of what it was given.
        raise translated from (None if _is_connect_failure(error) else error)
    except exc.TimeoutError as error:
        raise RetryableError("All connections to the catalog are in use") from error


def _is_connect_failure(error: exc.DBAPIError) -> bool:
    return error.statement is None


def _translate(error: exc.DBAPIError, address: Address, *, first_contact: bool) -> SynqxError:
    text = str(error.orig).lower()
    if address.path is not None:
        return translate_sqlite(text, address)
    code = getattr(error.orig, "pgcode", None)
    if code == "55P03":
        return RetryableError("Somebody else is changing the catalog", hint="try again in a moment")
    if code == "42501":
        return ConfigurationError(
            f"The user of the catalog at {address.display} lacks a privilege", hint=_WHERE_TO_LOOK
        )
    if _is_connect_failure(error) or error.connection_invalidated:
        reason = next((meaning for sign, meaning in _CONNECT_FAILURES if sign in text), None)
        if reason is None and "database" in text and "does not exist" in text:
            reason = "there is no such database"
        message = f"The catalog at {address.display} cannot be reached: {reason or 'the connection failed'}"
        if first_contact:
            return ConfigurationError(message, hint=_WHERE_TO_LOOK)
        return RetryableError(message)
    return DatabaseError(f"The catalog's database refused a statement: SQLSTATE {code}")


def translate_sqlite(text: str, address: Address) -> SynqxError:
    """Our error for what SQLite said (in lower case)."""
    if "locked" in text or "busy" in text:
        return RetryableError("Somebody else is changing the catalog", hint="try again in a moment")
    if "not a database" in text:
        return ConfigurationError(f"{address.display} is not an SQLite database", hint=_WHERE_TO_LOOK)
    if "malformed" in text:
        return IntegrityError(f"The catalog {address.display} is damaged", hint="restore it from a backup")
    if "readonly" in text or "unable to open" in text:
        return ConfigurationError(
            f"The catalog {address.display} cannot be opened for writing",
            hint="look at the permissions of the file and of its directory",
        )
    if "full" in text or "disk i/o" in text:
        return RetryableError(f"The disk of the catalog {address.display} is full or failing")
    return DatabaseError(f"The catalog {address.display} refused a statement: {text.splitlines()[0]}")


def require_file(address: Address) -> None:
    """Refuse to go on without the file of an SQLite catalog: to connect would create it.

    Raises:
        NotInitialisedError: There is no file.
        ConfigurationError: Something else is in its place.
    """
    path = address.path
    if path is None:
        return
    try:
        if path.is_dir():
            raise ConfigurationError(f"{path} is a directory, not a catalog", hint=_WHERE_TO_LOOK)
        if not path.exists():
            raise NotInitialisedError(f"There is no catalog at {path}")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The catalog {path} cannot be read", hint=_WHERE_TO_LOOK) from error


def make_file(address: Address) -> None:
    """Make the file and the directory of an SQLite catalog, for nobody else to read; what is there stays."""
    path = address.path
    if path is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.is_dir():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The catalog {path} cannot be made: {getattr(error, 'strerror', None) or 'the path is not valid'}",
            hint="look at SYNQX_HOME and SYNQX_CATALOG_URL",
        ) from error
    require_file(address)
