"""How Alembic runs the catalog's migrations: on a connection that is handed in, within its transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy.engine import Connection

from synqx_dagster.catalog.tables import VERSION_TABLE, metadata

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
