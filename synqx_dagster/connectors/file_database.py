"""What databases of one file have in common: a path instead of a server, and tables that a rollback takes back.

Guarantee: a path is made absolute and checked in one way, and what a transaction staged is gone when it is undone.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import DatabaseError
from synqx_dagster.model.table import Column, TableName


def find_path(config: ConnectionConfig) -> Path:
    """A connection's file, absolute."""
    return Path(config.database or "").expanduser().absolute()


def check_file_config(config: ConnectionConfig, *, product: str, is_path: bool, hint: str) -> list[str]:
    """What is wrong with a configuration, its options aside.

    Args:
        product: Whose file it is.
        is_path: Whether the product takes ``database`` for the path of a local file.
        hint: What to do where it does not.
    """
    problems = []
    if not config.database:
        problems.append(f"database: give the path of the {product} file")
    elif not is_path:
        problems.append(f"database: {hint}")
    elif "\x00" in config.database:
        problems.append("database: a path must not hold a NUL character")
    problems.extend(
        f"{name}: means nothing for a file"
        for name in ("host", "port", "username", "password")
        if getattr(config, name) is not None
    )
    return problems


def can_write(path: Path) -> bool:
    """Whether a file may be changed; a writer makes a journal beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def quote(identifier: str) -> str:
    """An identifier in double quotes.

    Raises:
        DatabaseError: It holds a NUL character.
    """
    if "\x00" in identifier:
        raise DatabaseError("a name must not hold a NUL character")
    return '"' + identifier.replace('"', '""') + '"'


def process_moment() -> str:
    """This process's clock; a database in a file has no other."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}+00"


class FileTables(ABC):
    """The part of a write session that makes and drops tables; see `synqx_dagster.connectors.protocol.WriteSession`."""

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement."""

    @abstractmethod
    def _qualify(self, table: TableName) -> str:
        """A table's quoted name."""

    @abstractmethod
    def _spell(self, column: Column) -> str:
        """A column's type in DDL."""

    def create_table(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Create an empty table."""
        lines = [
            f"{quote(column.name)} {self._spell(column)}{'' if column.nullable else ' NOT NULL'}" for column in columns
        ]
        if primary_key:
            lines.append(f"PRIMARY KEY ({', '.join(map(quote, primary_key))})")
        self.execute(f"CREATE TABLE {self._qualify(table)} ({', '.join(lines)})")

    def create_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create an empty table that a rollback removes."""
        staging = TableName(f"_synqx_staging_{target.name}", target.schema)
        self.drop_staging(staging)
        collations = self._key_collations(target)
        lines = [
            f"{quote(column.name)} {self._spell(column)}{'' if column.nullable else ' NOT NULL'}"
            + (f" COLLATE {quote(collations[column.name])}" if column.name in collations else "")
            for column in columns
        ]
        self.execute(f"CREATE TABLE {self._qualify(staging)} ({', '.join(lines)})")
        return staging

    def _key_collations(self, target: TableName) -> dict[str, str]:
        """Under which collation a unique index of the target compares a column; empty where all compare bytes."""
        return {}

    def lock_table(self, table: TableName) -> None:  # noqa: B027  # there is nothing to do
        """Nothing: one transaction writes at a time, or two that meet conflict."""

    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is there."""
        self.execute(f"DROP TABLE IF EXISTS {self._qualify(staging)}")
