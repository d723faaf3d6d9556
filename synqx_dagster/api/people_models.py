"""What the routes of people and of the audit trail take and give. Nothing that is given holds a secret, but for the
tokens and keys that a route exists to give out, once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from synqx_dagster.audit.chain import AuditEntry
from synqx_dagster.people.accounts import User
from synqx_dagster.people.api_keys import ApiKeyInfo
from synqx_dagster.people.identity import AuthMethod
from synqx_dagster.people.roles import Permission, Role
from synqx_dagster.people.sessions import SessionInfo

Username = Annotated[str, Field(min_length=1, max_length=64, description="ASCII letters, digits and . _ @ + -")]
#: Longer than any that is taken: that is for the rules of passwords to say.
Password = Annotated[SecretStr, Field(min_length=1, max_length=1024)]
Email = Annotated[str, Field(min_length=3, max_length=254)]
Team = Annotated[str, Field(min_length=1, max_length=128)]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class RegisterInput(_Input):
    username: Username
    password: Password
    email: Email | None = None


class LoginInput(_Input):
    username: str = Field(min_length=1, max_length=254, description="User name or e-mail address.")
    password: Password


class RefreshInput(_Input):
    refresh_token: str = Field(min_length=1, max_length=256)


class PasswordChangeInput(_Input):
    current_password: Password
    new_password: Password


class PasswordInput(_Input):
    password: Password


class UserInput(_Input):
    username: Username
    role: Role
    email: Email | None = None
    teams: list[Team] = Field(default_factory=list, max_length=100)
    password: Password | None = Field(default=None, description="Without one, nobody can log in by a password.")


class UserChangeInput(_Input):
    """What is left out stays."""

    role: Role | None = None
    teams: list[Team] | None = Field(default=None, max_length=100)
    disabled: bool | None = None


class ApiKeyInput(_Input):
    name: str = Field(min_length=1, max_length=128)
    scopes: list[Permission] = Field(min_length=1, max_length=len(Permission))
    expires_at: AwareDatetime | None = Field(default=None, description="Left out: until it is revoked.")


class TokenOutput(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 # no password, but RFC 6749's word
    expires_in: int = Field(description="Seconds.")
    refresh_token: str
    refresh_expires_at: datetime


class UserOutput(BaseModel):
    id: UUID
    username: str
    email: str | None
    role: Role
    teams: list[str]
    disabled: bool
    has_password: bool
    created_at: datetime
    password_changed_at: datetime | None
    last_login_at: datetime | None
    etag: str = Field(description="The version of the account; send it in quotes as If-Match.")

    @classmethod
    def of(cls, user: User) -> UserOutput:
        """As the API shows it."""
        return cls(
            id=user.user_id,
            username=user.username,
            email=user.email,
            role=user.role,
            teams=sorted(user.teams),
            disabled=user.disabled,
            has_password=user.has_password,
            created_at=user.created_at,
            password_changed_at=user.password_changed_at,
            last_login_at=user.last_login_at,
            etag=user.etag,
        )


class MeOutput(UserOutput):
    permissions: list[Permission] = Field(description="What this login may; of a key, its scopes among them.")
    method: AuthMethod


class SessionOutput(BaseModel):
    id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str
    user_agent: str
    current: bool

    @classmethod
    def of(cls, info: SessionInfo, current: str | None) -> SessionOutput:
        """As the API shows it."""
        return cls(
            id=info.session_id,
            created_at=info.created_at,
            last_seen_at=info.last_seen_at,
            expires_at=info.expires_at,
            address=info.address,
            user_agent=info.user_agent,
            current=str(info.session_id) == current,
        )


class ApiKeyOutput(BaseModel):
    id: UUID
    name: str
    prefix: str = Field(description="How the key begins.")
    scopes: list[Permission]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, info: ApiKeyInfo) -> ApiKeyOutput:
        """As the API shows it."""
        return cls(
            id=info.key_id,
            name=info.name,
            prefix=info.prefix,
            scopes=sorted(info.scopes),
            created_at=info.created_at,
            expires_at=info.expires_at,
            last_used_at=info.last_used_at,
        )


class NewApiKeyOutput(ApiKeyOutput):
    key: str = Field(description="Shown this once.")


class AuditEntryOutput(BaseModel):
    number: int
    recorded_at: datetime
    action: str
    outcome: str
    actor: str
    actor_id: str | None
    method: str
    address: str
    target_kind: str | None
    target: str | None
    fields: list[str]
    request_id: str
    run_id: str | None
    revision: int | None
    detail: str | None
    previous_hash: str
    entry_hash: str

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryOutput:
        """As the API shows it."""
        return cls.model_validate(entry.to_dict())


class AuditVerdictOutput(BaseModel):
    intact: bool
    entries: int = Field(description="How many fit, from the first on.")
    end: str = Field(
        description="Number and hash of the last one that fits: keep it elsewhere, and give it as `expect`."
    )
    broken_at: int | None = Field(description="The first entry that is not what was written.")
    reason: str | None
