"""The control plane: people, sessions and keys, the audit trail, agents and what is searched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# Written out, and not made from `tables.metadata`: a migration says what was, whatever the tables become later.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _records()
    _people()
    _audit()
    _agents()


def _records() -> None:
    # Ids count from 1 within a kind: "asset 1" is the first asset.
    op.add_column("synqx_record", sa.Column("number", _ID, nullable=False, server_default="0"))
    record = sa.table("synqx_record", sa.column("record_id"), sa.column("kind"), sa.column("number"))
    connection = op.get_bind()
    counts: dict[str, int] = {}
    numbers = []
    for record_id, kind in connection.execute(sa.select(record.c.record_id, record.c.kind).order_by(record.c.record_id)):
        counts[kind] = counts.get(kind, 0) + 1
        numbers.append({"wanted": record_id, "given": counts[kind]})
    if numbers:
        update = sa.update(record).where(record.c.record_id == sa.bindparam("wanted"))
        connection.execute(update.values(number=sa.bindparam("given")), numbers)
    op.create_index("uq_synqx_record_kind_number", "synqx_record", ["kind", "number"], unique=True)
    # What ended since a revision: a server that follows the catalog asks for it before each write.
    op.create_index("ix_synqx_record_version_valid_to", "synqx_record_version", ["valid_to"])


def _people() -> None:
    pass


def _audit() -> None:
    pass


def _agents() -> None:
    pass
