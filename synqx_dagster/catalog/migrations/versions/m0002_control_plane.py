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
    _people()
    _audit()
    _agents()


def _people() -> None:
    pass


def _audit() -> None:
    pass


def _agents() -> None:
    op.create_table(
        "synqx_agent",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("agent_id", sa.String(36), nullable=False),
        sa.Column("view_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_synqx_agent")),
        sa.ForeignKeyConstraint(["record_id"], ["synqx_record.record_id"], name=op.f("fk_synqx_agent_record_id")),
        sa.UniqueConstraint("agent_id", name=op.f("uq_synqx_agent_agent_id")),
    )
    op.create_table(
        "synqx_agent_view",
        sa.Column("view_id", _ID, nullable=False),
        sa.Column("record_id", _ID, nullable=False),
        sa.Column("viewed_at", _MOMENT, nullable=False),
        sa.Column("user_id", sa.String(36)),
        sa.Column("session_id", sa.String(128)),
        sa.PrimaryKeyConstraint("view_id", name=op.f("pk_synqx_agent_view")),
        sa.ForeignKeyConstraint(["record_id"], ["synqx_agent.record_id"], name=op.f("fk_synqx_agent_view_record_id")),
    )
    op.create_index("ix_synqx_agent_view_record_id_viewed_at", "synqx_agent_view", ["record_id", "viewed_at"])
    op.create_index("ix_synqx_agent_view_viewed_at", "synqx_agent_view", ["viewed_at"])
    op.create_table(
        "synqx_search_state",
        sa.Column("singleton", sa.Integer(), nullable=False),
        sa.Column("revision", _ID, nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_synqx_search_state")),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_synqx_search_state_singleton")),
    )
    op.create_table(
        "synqx_search_document",
        sa.Column("document_id", _ID, autoincrement=False, nullable=False),
        sa.Column("record_id", _ID, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("record_kind", sa.String(32), nullable=False),
        sa.Column("record_name", sa.String(128), nullable=False),
        sa.Column("title", sa.String(512), nullable=False),
        sa.Column("title_words", sa.String(512), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("document_id", name=op.f("pk_synqx_search_document")),
        sa.ForeignKeyConstraint(
            ["record_id"], ["synqx_record.record_id"], name=op.f("fk_synqx_search_document_record_id")
        ),
    )
    op.create_index("ix_synqx_search_document_record_id", "synqx_search_document", ["record_id"])
    op.create_table(
        "synqx_search_word",
        sa.Column("word", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("word", name=op.f("pk_synqx_search_word")),
    )
    if op.get_bind().dialect.name == "sqlite":
        # The words come prepared: `ascii` takes every other character for part of a word, as they were cut.
        op.execute(
            "create virtual table synqx_search_text using fts5(title, keywords, body, tokenize='ascii', prefix='2 3 4')"
        )
    else:
        op.execute(
            "create table synqx_search_text ("
            "document_id bigint primary key references synqx_search_document on delete cascade, "
            "words tsvector not null)"
        )
        op.execute("create index ix_synqx_search_text_words on synqx_search_text using gin (words)")
