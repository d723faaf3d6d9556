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
    op.create_table(
        "synqx_user",
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("username_key", sa.String(256), nullable=False),
        sa.Column("email", sa.String(254)),
        sa.Column("email_key", sa.String(512)),
        sa.Column("email_confirmed", sa.Boolean(), nullable=False),
        sa.Column("password_hash", sa.Text()),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("password_changed_at", _MOMENT),
        sa.Column("last_login_at", _MOMENT),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_synqx_user")),
        sa.UniqueConstraint("username_key", name=op.f("uq_synqx_user_username_key")),
        sa.UniqueConstraint("email_key", name=op.f("uq_synqx_user_email_key")),
        sa.CheckConstraint("role in ('viewer', 'operator', 'editor', 'admin')", name=op.f("ck_synqx_user_role")),
    )
    op.create_table(
        "synqx_user_team",
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("team", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "team", name=op.f("pk_synqx_user_team")),
        _user("synqx_user_team"),
    )
    op.create_table(
        "synqx_external_login",
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_synqx_external_login")),
        _user("synqx_external_login"),
    )
    op.create_index("ix_synqx_external_login_user_id", "synqx_external_login", ["user_id"])
    op.create_table(
        "synqx_token_family",
        sa.Column("family_id", sa.String(36), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("revoked_at", _MOMENT),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("user_agent", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("family_id", name=op.f("pk_synqx_token_family")),
        _user("synqx_token_family"),
    )
    op.create_index("ix_synqx_token_family_user_id", "synqx_token_family", ["user_id"])
    op.create_table(
        "synqx_refresh_token",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("family_id", sa.String(36), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_synqx_refresh_token")),
        sa.ForeignKeyConstraint(
            ["family_id"], ["synqx_token_family.family_id"], name=op.f("fk_synqx_refresh_token_family_id")
        ),
    )
    op.create_index("ix_synqx_refresh_token_family_id", "synqx_refresh_token", ["family_id"])
    op.create_table(
        "synqx_session",
        sa.Column("session_id", sa.String(36), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("last_seen_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("revoked_at", _MOMENT),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("user_agent", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_synqx_session")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_synqx_session_token_hash")),
        _user("synqx_session"),
    )
    op.create_index("ix_synqx_session_user_id", "synqx_session", ["user_id"])
    op.create_table(
        "synqx_api_key",
        sa.Column("key_id", sa.String(36), nullable=False),
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT),
        sa.Column("last_used_at", _MOMENT),
        sa.Column("revoked_at", _MOMENT),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_synqx_api_key")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_synqx_api_key_key_hash")),
        _user("synqx_api_key"),
    )
    op.create_index("ix_synqx_api_key_user_id", "synqx_api_key", ["user_id"])
    op.create_table(
        "synqx_signing_key",
        sa.Column("key_number", _ID, autoincrement=False, nullable=False),
        sa.Column("key_id", sa.String(36), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("retired_at", _MOMENT),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_number", name=op.f("pk_synqx_signing_key")),
        sa.UniqueConstraint("key_id", name=op.f("uq_synqx_signing_key_key_id")),
    )


def _user(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["user_id"], ["synqx_user.user_id"], name=op.f(f"fk_{table}_user_id"))


def _audit() -> None:
    op.create_table(
        "synqx_audit",
        sa.Column("number", _ID, autoincrement=False, nullable=False),
        sa.Column("recorded_at", _MOMENT, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("actor_id", sa.String(36)),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("target_kind", sa.String(64)),
        sa.Column("target", sa.String(512)),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("revision", _ID),
        sa.Column("detail", sa.Text()),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("entry_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_synqx_audit")),
        sa.CheckConstraint("number > 0", name=op.f("ck_synqx_audit_number")),
    )
    op.create_index("ix_synqx_audit_recorded_at", "synqx_audit", ["recorded_at"])
    op.create_index("ix_synqx_audit_actor", "synqx_audit", ["actor"])
    op.create_table(
        "synqx_audit_head",
        sa.Column("singleton", sa.Integer(), nullable=False),
        sa.Column("number", _ID, nullable=False),
        sa.Column("entry_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_synqx_audit_head")),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_synqx_audit_head_singleton")),
    )
    op.execute("insert into synqx_audit_head (singleton, number, entry_hash) values (1, 0, '')")
    if op.get_bind().dialect.name == "sqlite":
        for act, table in (("update", "synqx_audit"), ("delete", "synqx_audit"), ("delete", "synqx_audit_head")):
            op.execute(
                f"create trigger {table}_no_{act} before {act} on {table} "
                "begin select raise(abort, 'the audit trail is append-only'); end"
            )
        # `insert or replace` removes a row without the trigger above, unless PRAGMA recursive_triggers is on.
        op.execute(
            "create trigger synqx_audit_no_replace before insert on synqx_audit "
            "when exists (select 1 from synqx_audit where number = new.number) "
            "begin select raise(abort, 'the audit trail is append-only'); end"
        )
        return
    op.execute(
        "create function synqx_audit_is_append_only() returns trigger language plpgsql as "
        "$$ begin raise exception 'the audit trail is append-only' using errcode = '42501'; end $$"
    )
    for acts, table in (("update or delete or truncate", "synqx_audit"), ("delete or truncate", "synqx_audit_head")):
        op.execute(
            f"create trigger {table}_append_only before {acts} on {table} "
            "for each statement execute function synqx_audit_is_append_only()"
        )


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
