"""The tables of people and of the audit trail.

They hold no password and no token, but hashes of them; a signing key is an envelope of the vault.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from synqx_dagster.catalog.table_base import Id, UtcDateTime, metadata

#: A person, or a service with keys. Never deleted: the trail and the history name them.
user = Table(
    "synqx_user",
    metadata,
    Column("user_id", String(36), primary_key=True),
    Column("username", String(64), nullable=False),
    # As names are compared, so that nobody can be mistaken for somebody else by the case of a letter.
    Column("username_key", String(256), nullable=False),
    Column("email", String(254)),
    Column("email_key", String(512)),
    # Given by an admin, an import or a provider. An address that somebody registered for themselves may be another's.
    Column("email_confirmed", Boolean, nullable=False),
    # NULL: logs in by an OpenID provider alone.
    Column("password_hash", Text),
    Column("role", String(16), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("password_changed_at", UtcDateTime),
    Column("last_login_at", UtcDateTime),
    UniqueConstraint("username_key"),
    UniqueConstraint("email_key"),
    CheckConstraint("role in ('viewer', 'operator', 'editor', 'admin')", name="role"),
)

user_team = Table(
    "synqx_user_team",
    metadata,
    Column("user_id", String(36), ForeignKey("synqx_user.user_id"), primary_key=True),
    Column("team", String(128), primary_key=True),
)

#: Who a person is to an OpenID provider.
external_login = Table(
    "synqx_external_login",
    metadata,
    Column("issuer", String(512), primary_key=True),
    Column("subject", String(256), primary_key=True),
    Column("user_id", String(36), ForeignKey("synqx_user.user_id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
Index("ix_synqx_external_login_user_id", external_login.c.user_id)

#: One login by password over the API, and all tokens that came of it.
token_family = Table(
    "synqx_token_family",
    metadata,
    Column("family_id", String(36), primary_key=True),
    Column("user_id", String(36), ForeignKey("synqx_user.user_id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("address", String(64), nullable=False),
    Column("user_agent", String(256), nullable=False),
)
Index("ix_synqx_token_family_user_id", token_family.c.user_id)

#: Refresh tokens by their SHA-256. A used one stays, so that its second use is noticed.
refresh_token = Table(
    "synqx_refresh_token",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("family_id", String(36), ForeignKey("synqx_token_family.family_id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)
Index("ix_synqx_refresh_token_family_id", refresh_token.c.family_id)

#: Logins of browsers, by the SHA-256 of their cookie.
session = Table(
    "synqx_session",
    metadata,
    Column("session_id", String(36), primary_key=True),
    Column("token_hash", String(64), nullable=False),
    Column("user_id", String(36), ForeignKey("synqx_user.user_id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("address", String(64), nullable=False),
    Column("user_agent", String(256), nullable=False),
    UniqueConstraint("token_hash"),
)
Index("ix_synqx_session_user_id", session.c.user_id)

#: Keys of services, by their SHA-256; `prefix` is shown, so that an owner recognises a key.
api_key = Table(
    "synqx_api_key",
    metadata,
    Column("key_id", String(36), primary_key=True),
    Column("key_hash", String(64), nullable=False),
    Column("user_id", String(36), ForeignKey("synqx_user.user_id"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    UniqueConstraint("key_hash"),
)
Index("ix_synqx_api_key_user_id", api_key.c.user_id)

#: What signs access tokens, sealed by the vault at this table and number. Numbers are never given out twice.
signing_key = Table(
    "synqx_signing_key",
    metadata,
    Column("key_number", Id, primary_key=True, autoincrement=False),
    Column("key_id", String(36), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("retired_at", UtcDateTime),
    Column("envelope", LargeBinary, nullable=False),
    UniqueConstraint("key_id"),
)

#: The audit trail. Triggers refuse to change or to remove a row.
audit = Table(
    "synqx_audit",
    metadata,
    Column("number", Id, primary_key=True, autoincrement=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("action", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("actor_id", String(36)),
    Column("method", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("target_kind", String(64)),
    Column("target", String(512)),
    Column("fields", Text, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("run_id", String(64)),
    Column("revision", Id),
    Column("detail", Text),
    Column("previous_hash", String(64), nullable=False),
    Column("entry_hash", String(64), nullable=False),
    CheckConstraint("number > 0", name="number"),
)
Index("ix_synqx_audit_recorded_at", audit.c.recorded_at)
Index("ix_synqx_audit_actor", audit.c.actor)

#: One row: where the trail ends. Appends lock it, so that they come one after the other.
audit_head = Table(
    "synqx_audit_head",
    metadata,
    Column("singleton", Integer, primary_key=True),
    Column("number", Id, nullable=False),
    Column("entry_hash", String(64), nullable=False),
    CheckConstraint("singleton = 1", name="singleton"),
)
