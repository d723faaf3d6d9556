"""The catalog's layout: which version it has, and how it is brought to this one.

Guarantee: a catalog of a version that this SynqX does not know is refused before anything is written to it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from synqx_dagster.catalog.engine import Address, translate_errors, translate_sqlite, write_transaction
from synqx_dagster.catalog.tables import VERSION_TABLE
from synqx_dagster.errors import CatalogVersionError, NotInitialisedError

if TYPE_CHECKING:
    from alembic.config import Config

#: The newest migration. A constant, so that opening a catalog does not import Alembic; a test compares the two.
HEAD = "0003"

#: "synqx" in ASCII: migrations of one PostgreSQL database come one after the other.
_ADVISORY_LOCK = 0x73796E7178


def find_version(connection: Connection) -> str | None:
    """The migration that the catalog was last brought to; None when there is no catalog."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = sa.column("version_num", sa.String())
    return connection.execute(sa.select(version).select_from(sa.table(VERSION_TABLE))).scalar()


def check_version(connection: Connection, address: Address) -> None:
    """Refuse what `HEAD` cannot work with; reads only.

    Raises:
        NotInitialisedError: There is no catalog.
        CatalogVersionError: It is newer, or older and waits to be migrated.
    """
    version = find_version(connection)
    if version is None:
        raise NotInitialisedError(f"There is no catalog at {address.display}")
    if version == HEAD:
        return
    if version in _known_versions():
        raise CatalogVersionError(
            f"The catalog at {address.display} was written by an older version of SynqX",
            hint="run `synqx init` to bring it up to date; make a backup first",
            version=version,
        )
    raise _too_new(address, version)


def upgrade(engine: Engine, address: Address) -> None:
    """Make the tables, or bring them to this version. Idempotent; one process does it, others wait and find it done.

    Raises:
        CatalogVersionError: The catalog is newer; nothing was changed.
    """
    with _alone(address):
        with translate_errors(address, first_contact=True), engine.connect() as connection:
            version = find_version(connection)
            if version is not None and version != HEAD and version not in _known_versions():
                raise _too_new(address, version)
            connection.rollback()
            if version == HEAD:
                return
        if address.path is not None:
            _use_write_ahead_log(engine, address)
        with write_transaction(engine, address) as connection:
            if address.path is None:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            _run_migrations(connection)


def _use_write_ahead_log(engine: Engine, address: Address) -> None:
    # The mode stays with the file, and cannot be changed within a transaction.
    with translate_errors(address), engine.connect() as connection:
        driver_connection: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]  # SQLite's
        try:
            driver_connection.execute("pragma journal_mode = wal")
        except sqlite3.Error as error:
            raise translate_sqlite(str(error).lower(), address) from error


@contextmanager
def _alone(address: Address) -> Iterator[None]:
    """Keep other processes out while an SQLite file changes its journal mode, which does not wait for locks."""
    if address.path is None:
        yield
        return
    directory = os.open(address.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _run_migrations(connection: Connection) -> None:
    from alembic import command

    config = _alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _known_versions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions()}


def _alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    location = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _too_new(address: Address, version: str) -> CatalogVersionError:
    return CatalogVersionError(
        f"The catalog at {address.display} was written by a newer version of SynqX; it was not touched",
        hint="install the version of SynqX that the others use",
        version=version,
    )
