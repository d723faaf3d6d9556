"""The catalog's tables, as SQLAlchemy Core describes them; `migrations/` makes them.

Their names begin with ``synqx_``, so that a catalog can share a PostgreSQL database with Dagster's own storage.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from synqx_dagster.catalog import hub_tables, monitor_tables, people_tables
from synqx_dagster.catalog.table_base import Id as _Id
from synqx_dagster.catalog.table_base import UtcDateTime, metadata

__all__ = [
    "VERSION_TABLE",
    "UtcDateTime",
    "catalog",
    "connection_test",
    "hub_tables",
    "metadata",
    "monitor_tables",
    "people_tables",
    "record",
    "record_version",
    "revision",
    "secret",
    "vault_state",
]

VERSION_TABLE = "synqx_alembic_version"

#: One row: which catalog this is. Writers lock it, so that they come one after the other.
catalog = Table(
    "synqx_catalog",
    metadata,
    Column("singleton", Integer, primary_key=True),
    Column("catalog_id", String(36), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("singleton = 1", name="singleton"),
)

#: One row for each change of the catalog; never updated, never deleted.
revision = Table(
    "synqx_revision",
    metadata,
    Column("number", _Id, primary_key=True, autoincrement=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("author", String(256), nullable=False),
    Column("reason", Text),
    Column("created_records", Integer, nullable=False),
    Column("changed_records", Integer, nullable=False),
    Column("removed_records", Integer, nullable=False),
    CheckConstraint("number > 0", name="number"),
)

#: The identity of a record: stable, and given out once. A record that is removed and declared again is the same.
#: ``number`` counts the records of a kind from 1: what the API calls them by.
record = Table(
    "synqx_record",
    metadata,
    Column("record_id", _Id, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("name", String(128), nullable=False),
    Column("number", _Id, nullable=False, server_default="0"),
    UniqueConstraint("kind", "name"),
    sqlite_autoincrement=True,
)

Index("uq_synqx_record_kind_number", record.c.kind, record.c.number, unique=True)

#: What a record was from one revision (inclusive) to another (exclusive; NULL: still is).
record_version = Table(
    "synqx_record_version",
    metadata,
    Column("record_id", _Id, ForeignKey("synqx_record.record_id"), primary_key=True, autoincrement=False),
    Column("valid_from", _Id, ForeignKey("synqx_revision.number"), primary_key=True, autoincrement=False),
    Column("valid_to", _Id, ForeignKey("synqx_revision.number")),
    Column("body", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    CheckConstraint("valid_to > valid_from", name="validity"),
)
#: Whatever the history holds, a record is one thing at a time.
Index(
    "uq_synqx_record_version_current",
    record_version.c.record_id,
    unique=True,
    sqlite_where=record_version.c.valid_to.is_(None),
    postgresql_where=record_version.c.valid_to.is_(None),
)
Index("ix_synqx_record_version_valid_from", record_version.c.valid_from)
Index("ix_synqx_record_version_valid_to", record_version.c.valid_to)

#: Every value that a secret field ever had, encrypted; bodies name the version that they mean.
secret = Table(
    "synqx_secret",
    metadata,
    Column("record_id", _Id, ForeignKey("synqx_record.record_id"), primary_key=True, autoincrement=False),
    Column("field", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary, nullable=False),
)

#: One row, once the vault is initialised: keyslots and wrapped keys. Replaced by compare-and-swap.
vault_state = Table(
    "synqx_vault_state",
    metadata,
    Column("singleton", Integer, primary_key=True),
    Column("state", Text, nullable=False),
    CheckConstraint("singleton = 1", name="singleton"),
)

#: The last test of each connection: what operators see, no part of any revision.
connection_test = Table(
    "synqx_connection_test",
    metadata,
    Column("record_id", _Id, primary_key=True, autoincrement=False),
    Column("tested_at", UtcDateTime, nullable=False),
    Column("status", String(16), nullable=False),
    Column("report", Text, nullable=False),
    ForeignKeyConstraint(["record_id"], ["synqx_record.record_id"]),
)
