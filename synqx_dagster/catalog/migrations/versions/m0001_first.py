"""The first layout: revisions, records and their versions, secrets, the vault's state, connection tests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Written out, and not made from `tables.metadata`: a migration says what was, whatever the tables become later.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "synqx_catalog",
        sa.Column("singleton", sa.Integer(), nullable=False),
        sa.Column("catalog_id", sa.String(36), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_synqx_catalog")),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_synqx_catalog_singleton")),
    )
    op.create_table(
        "synqx_revision",
        sa.Column("number", _ID, autoincrement=False, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("author", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("created_records", sa.Integer(), nullable=False),
        sa.Column("changed_records", sa.Integer(), nullable=False),
        sa.Column("removed_records", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_synqx_revision")),
        sa.CheckConstraint("number > 0", name=op.f("ck_synqx_revision_number")),
    )
    op.create_table(
        "synqx_record",
        sa.Column("record_id", _ID, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_synqx_record")),
        sa.UniqueConstraint("kind", "name", name=op.f("uq_synqx_record_kind_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "synqx_record_version",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("valid_from", _ID, autoincrement=False, nullable=False),
        sa.Column("valid_to", _ID),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("record_id", "valid_from", name=op.f("pk_synqx_record_version")),
        sa.ForeignKeyConstraint(
            ["record_id"], ["synqx_record.record_id"], name=op.f("fk_synqx_record_version_record_id")
        ),
        sa.ForeignKeyConstraint(
            ["valid_from"], ["synqx_revision.number"], name=op.f("fk_synqx_record_version_valid_from")
        ),
        sa.ForeignKeyConstraint(
            ["valid_to"], ["synqx_revision.number"], name=op.f("fk_synqx_record_version_valid_to")
        ),
        sa.CheckConstraint("valid_to > valid_from", name=op.f("ck_synqx_record_version_validity")),
    )
    op.create_index(
        "uq_synqx_record_version_current",
        "synqx_record_version",
        ["record_id"],
        unique=True,
        sqlite_where=sa.text("valid_to IS NULL"),
        postgresql_where=sa.text("valid_to IS NULL"),
    )
    op.create_index("ix_synqx_record_version_valid_from", "synqx_record_version", ["valid_from"])
    op.create_table(
        "synqx_secret",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("field", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", "field", "version", name=op.f("pk_synqx_secret")),
        sa.ForeignKeyConstraint(["record_id"], ["synqx_record.record_id"], name=op.f("fk_synqx_secret_record_id")),
    )
    op.create_table(
        "synqx_vault_state",
        sa.Column("singleton", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_synqx_vault_state")),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_synqx_vault_state_singleton")),
    )
    op.create_table(
        "synqx_connection_test",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("tested_at", _MOMENT, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_synqx_connection_test")),
        sa.ForeignKeyConstraint(
            ["record_id"], ["synqx_record.record_id"], name=op.f("fk_synqx_connection_test_record_id")
        ),
    )
