"""Roles and permissions: one table that the API, the web UI and the documentation are checked against."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a person is to the platform; each role may do all that the one before may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    EDITOR = "editor"
    ADMIN = "admin"

    def is_at_least(self, other: Role) -> bool:
        """Whether this role may do all that the other one may."""
        return ROLE_PERMISSIONS[other] <= ROLE_PERMISSIONS[self]


class Permission(StrEnum):
    """One thing that a route, or a mutation of Dagster's, needs; keys of services have some of them as scopes."""

    #: The own account: see it, change its password, end its sessions, make keys.
    PROFILE = "profile"
    #: Records, their history, lineage and the agents; never secrets.
    CATALOG_READ = "catalog:read"
    #: Runs, their steps and logs, schedules' ticks, metrics.
    RUNS_READ = "runs:read"
    #: Cell values: previews, quarantined rows, the keys of rows that differ.
    DATA_READ = "data:read"
    #: Connect to a declared connection: test it, discover its tables.
    CONNECTIONS_TEST = "connections:test"
    #: Start, cancel and re-execute runs; backfills.
    RUNS_LAUNCH = "runs:launch"
    #: Start, stop and reset schedules and sensors.
    SCHEDULES_SWITCH = "schedules:switch"
    #: Create, change and remove records, also their secrets.
    CATALOG_WRITE = "catalog:write"
    #: Delete runs, wipe assets, reload code: what cannot be taken back, or concerns everybody.
    INSTANCE_MANAGE = "instance:manage"
    #: Accounts, roles and teams of others.
    PEOPLE_MANAGE = "people:manage"
    #: The audit trail.
    AUDIT_READ = "audit:read"
    #: Seal the vault.
    VAULT_MANAGE = "vault:manage"


_VIEWER = frozenset({Permission.PROFILE, Permission.CATALOG_READ, Permission.RUNS_READ})
_OPERATOR = _VIEWER | {Permission.DATA_READ, Permission.CONNECTIONS_TEST, Permission.RUNS_LAUNCH}
_EDITOR = _OPERATOR | {Permission.SCHEDULES_SWITCH, Permission.CATALOG_WRITE}

ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.EDITOR: _EDITOR,
    Role.ADMIN: frozenset(Permission),
}
