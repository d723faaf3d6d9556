"""Connections: where data is, and how to reach it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synqx_dagster.model.base import Record, RecordKind, Value
from synqx_dagster.model.secret import Secret

ConnectionRole = Literal["source", "destination"]

#: Driver options are plain values; what each connector allows it checks by name.
OptionValue = str | int | float | bool


class PoolSettings(Value):
    """How many sessions one process may hold at this connection."""

    size: int = Field(default=5, ge=1, le=100)
    max_overflow: int = Field(default=5, ge=0, le=100)
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    recycle_seconds: int = Field(default=1800, ge=-1)

    @property
    def most_sessions(self) -> int:
        """How many sessions there may be at the same time."""
        return self.size + self.max_overflow


TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


class TlsSettings(Value):
    """How the server proves who it is, and the client itself.

    Attributes:
        mode: Left out: ``verify-full``, and ``prefer`` to this machine where no ``ca_file`` is given.
        ca_file: PEM file of the authorities to trust; left out, the system's.
        cert_file: The client's certificate, as a PEM file; with ``key_file``.
        key_password: Opens an encrypted ``key_file``.
    """

    mode: TlsMode | None = None
    ca_file: str | None = Field(default=None, min_length=1, max_length=4096)
    cert_file: str | None = Field(default=None, min_length=1, max_length=4096)
    key_file: str | None = Field(default=None, min_length=1, max_length=4096)
    key_password: Secret | None = None

    @model_validator(mode="after")
    def _check_pair(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client certificate needs both cert_file and key_file")
        if self.key_password is not None and self.key_file is None:
            raise ValueError("key_password opens a key_file, and there is none")
        return self


class SshTunnel(Value):
    """An SSH server through which a database is reached; its key is pinned, because nobody is there to be asked.

    Attributes:
        host_key: The server's public key as ``ssh-keyscan`` and ``*.pub`` files have it: ``ssh-ed25519 AAAA...``.
        private_key: The text of the user's private key (a reference to its file is usual), or
        password: the user's password. One of the two.
        passphrase: Opens an encrypted private key.
    """

    host: str = Field(min_length=1, max_length=255)
    port: int = Field(default=22, ge=1, le=65535)
    username: str = Field(min_length=1, max_length=255)
    host_key: str = Field(min_length=1, max_length=16384)
    private_key: Secret | None = None
    passphrase: Secret | None = None
    password: Secret | None = None

    @field_validator("host")
    @classmethod
    def _check_host(cls, text: str) -> str:
        return check_host(text)

    @field_validator("host_key")
    @classmethod
    def _check_host_key(cls, text: str) -> str:
        if "PRIVATE KEY" in text:
            raise ValueError("this is a private key; host_key is the server's public key")
        parts = text.split()
        if len(parts) < 2 or not parts[1].startswith("AAAA") or "\n" in text.strip():
            raise ValueError("write the server's public key as its type and its text: ssh-ed25519 AAAA...")
        return text

    @model_validator(mode="after")
    def _check_credentials(self) -> SshTunnel:
        if (self.private_key is None) == (self.password is None):
            raise ValueError("give either private_key or password")
        if self.passphrase is not None and self.private_key is None:
            raise ValueError("passphrase opens a private_key, and there is none")
        return self


def check_host(text: str) -> str:
    """Refuse what is not a host: a URL, or a name with a user and a password, which would be shown."""
    if "://" in text:
        raise ValueError("this looks like a URL: write host, port, database, username and password in their fields")
    if "@" in text or any(character.isspace() for character in text):
        raise ValueError("a host is a name, an address or a socket's directory, without user and password")
    return text


class WalThresholds(Value):
    """From when on a slot is told of: each alone is enough. ``wal_status`` ``unreserved`` and ``lost`` always are."""

    max_lag_bytes: int | None = Field(default=10 * 1024**3, ge=1)
    max_inactive_seconds: int | None = Field(default=None, ge=1)
    min_safe_bytes: int | None = Field(default=None, ge=0)


#: The first part of the asset keys of what is watched; no connection may have the name beside such a one.
MONITORING = "monitoring"


class MonitorSettings(Value):
    """What of a connection's server is watched.

    Attributes:
        wal: The write-ahead log of a PostgreSQL server, its slots and its archiver.
        health: Whether the connection can be used. False for a server that costs something whenever it is asked.
        interval_seconds: How often.
        timeout_seconds: How long one look may take.
        retention_days: How long figures are kept; they are thinned as they age.
    """

    wal: bool = False
    health: bool = True
    interval_seconds: int = Field(default=60, ge=5, le=86_400)
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    retention_days: int = Field(default=30, ge=1, le=3650)
    thresholds: WalThresholds = WalThresholds()


class Connection(Record):
    """A database, or a directory of files, that SynqX reads from or writes to."""

    kind: ClassVar[RecordKind] = "connection"

    db_type: str = Field(min_length=1, max_length=64)
    #: What the connection is for; None: to be read from and to be loaded into.
    role: ConnectionRole | None = None
    host: str | None = Field(default=None, min_length=1, max_length=255)
    port: int | None = Field(default=None, ge=1, le=65535)
    database: str | None = Field(default=None, min_length=1, max_length=4096)
    username: str | None = Field(default=None, min_length=1, max_length=255)
    password: Secret | None = None
    tls: TlsSettings | None = None
    ssh_tunnel: SshTunnel | None = None
    options: dict[Annotated[str, Field(min_length=1, max_length=64)], OptionValue] = Field(default_factory=dict)
    pool: PoolSettings = Field(default_factory=PoolSettings)
    #: How many loads may use this connection at once, in all runs together; a Dagster pool limit.
    max_concurrent_loads: int | None = Field(default=None, ge=1)

    monitor: MonitorSettings | None = None

    @field_validator("database")
    @classmethod
    def _check_not_url(cls, text: str | None) -> str | None:
        # A password in a URL would be shown wherever the database is: only the password's own field is sealed.
        if text is not None and "://" in text:
            raise ValueError("this looks like a URL: write host, port, database, username and password in their fields")
        return text

    @field_validator("host")
    @classmethod
    def _check_host(cls, text: str | None) -> str | None:
        return None if text is None else check_host(text)
