"""A connection with its secrets resolved, and what its engine can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from synqx_dagster.model.connection import OptionValue, PoolSettings, TlsMode
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster.model.types import TypeKind


@dataclass(frozen=True)
class TlsConfig:
    """`synqx_dagster.model.TlsSettings` with its secret resolved."""

    mode: TlsMode | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SshTunnelConfig:
    """`synqx_dagster.model.SshTunnel` with its secrets resolved: the text of the private key, not its file."""

    host: str
    username: str
    host_key: str
    port: int = 22
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ConnectionConfig:
    """A connection with its secrets resolved; exists only in the process that connects, and never prints them."""

    name: str
    db_type: str
    host: str | None = None
    port: int | None = None
    database: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    pool: PoolSettings = field(default_factory=PoolSettings)
    tls: TlsConfig | None = None
    ssh_tunnel: SshTunnelConfig | None = None
    #: Which hosts may be reached; None: what the environment says when the connection is made.
    host_policy: HostPolicy | None = None


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; constants of a connector class.

    Attributes:
        reads: May be a source.
        writes: May be a target.
        copy_binary: Speaks PostgreSQL's binary COPY on both ends; two such connections use the passthrough lane.
        transactional_ddl: CREATE, DROP and RENAME roll back with the transaction.
        concurrent_writers: More than one process may write at once (False: DuckDB, SQLite files).
        default_schema: Where an unqualified table lies; None where the database has no schemas.
        schema_is_database: A table's schema is a database of the server (MySQL); unqualified is the connection's own.
        folds_case: Names of tables that differ only in case are one table.
        max_identifier_bytes: Longer names are refused when planning; None where there is no limit.
        moment_kind: Type of the moments that SynqX keeps itself; ``timestamp`` where a ``timestamptz`` ends too soon.
        secures_network: Understands a connection's ``tls`` and ``ssh_tunnel``; elsewhere they are refused.
        snapshot_reads: All statements of a read session see the same rows; elsewhere each sees its own.
        limit_clause: A query may end with ``LIMIT n``.
        merges: Takes the load modes that match rows by a key (`WriteSession.publish_merge` and `publish_history`).
        has_objects: Tables may have views, indexes and defaults; elsewhere a table is its rows alone.
        shares_staging: Several write sessions may fill one staging table (`SharedWriteSession`); at the same time where
            there are `concurrent_writers`.
        pools_sessions: Keeps to the connection's ``pool``: no more sessions at a time than it allows.
        direct_kinds: Kinds of values of which the target stores every common one exactly, whatever its `holds` says of
            the others, and which it takes in their direct form too (see `carriers`). Common are dates of the years 1
            to 9999 and decimals in digits; a decimal's column has a precision of up to 38 and a scale within it.
        alters: Changes of a column that a table with rows may undergo; see `transfer.alter`.
    """

    reads: bool = True
    writes: bool = True
    copy_binary: bool = False
    transactional_ddl: bool = True
    concurrent_writers: bool = True
    default_schema: str | None = None
    schema_is_database: bool = False
    folds_case: bool = False
    max_identifier_bytes: int | None = None
    moment_kind: Literal["timestamp", "timestamptz"] = "timestamptz"
    secures_network: bool = False
    snapshot_reads: bool = True
    limit_clause: bool = True
    merges: bool = True
    has_objects: bool = True
    shares_staging: bool = False
    pools_sessions: bool = False
    direct_kinds: frozenset[TypeKind] = frozenset()
    alters: frozenset[Literal["add", "retype", "allow_null"]] = frozenset()
