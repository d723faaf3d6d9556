"""Secrets in requests: those that stay, those that are the server's own, and those that would go somewhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from synqx_dagster.catalog.snapshot import secrets_of
from synqx_dagster.catalog.yaml_tree import FieldPath
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import EnvSecret, FileSecret, Record, SealedSecret
from synqx_dagster.settings import Settings

#: Settings of this server are no passwords of databases: whoever writes records must not send them somewhere.
_OWN_VARIABLES = ("SYNQX_", "DAGSTER_")


def keep_secrets(before: Record, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the stored secrets where the request gives none.

    Secrets are never read back, so a client has none to send: leaving one out keeps it, null removes it. Where an
    object gives one of its secrets, the others of it are those that it gives.
    """
    kept = _copied(values)
    stored: dict[FieldPath, dict[str, Any]] = {}
    for path, secret in secrets_of(before).items():
        *parents, name = path.split(".")
        # A literal is never stored; of a sealed one only the catalog says the version.
        stored.setdefault(tuple(parents), {})[name] = (
            secret.model_dump() if isinstance(secret, EnvSecret | FileSecret) else {"sealed": True}
        )
    for place, secrets in stored.items():
        inner: Any = kept
        for key in place:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and not inner.keys() & _secret_names(before, place):
            inner.update(secrets)
    return kept


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in values.items()}


def _secret_names(record: Record, place: FieldPath) -> frozenset[str]:
    """The fields at a place of a record that may hold a secret."""
    part: Any = record
    for key in place:
        part = getattr(part, str(key))
    return frozenset(name for name, info in type(part).model_fields.items() if _takes_secret(info.annotation))


def _takes_secret(annotation: Any) -> bool:
    return annotation is EnvSecret or any(_takes_secret(part) for part in get_args(annotation))


def refuse_own_secrets(settings: Settings, before: Record | None, record: Record) -> None:
    """Refuse references that lead to the server's own secrets; what the record had already, somebody else wrote.

    Raises:
        InvalidInputError: A secret is a setting of SynqX or Dagster, or a file of its homes.
    """
    stored = secrets_of(before) if before is not None else {}
    problems = []
    for path, secret in secrets_of(record).items():
        if stored.get(path) == secret:
            continue
        if isinstance(secret, EnvSecret) and secret.env.upper().startswith(_OWN_VARIABLES):
            problems.append(Problem("this variable is a setting of the server", SourceLocation(field=f"{path}.env")))
        if isinstance(secret, FileSecret) and _is_own_file(settings, secret.file):
            problems.append(Problem("this file is the server's own", SourceLocation(field=f"{path}.file")))
    if problems:
        raise InvalidInputError(problems)


def _is_own_file(settings: Settings, text: str) -> bool:
    try:
        path = Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        return False  # It cannot be read either.
    own = [settings.home, settings.dagster_home, *([settings.key_file] if settings.key_file is not None else [])]
    if path.parts[:2] in (("/", "proc"), ("/", "dev")):
        return True
    return any(path == place.resolve() or place.resolve() in path.parents for place in own)


#: A stored secret of the first field goes only where it was given for: with another of these it must be given again.
_PLACES: dict[str, tuple[str, ...]] = {
    "password": ("db_type", "host", "port", "tls.mode", "ssh_tunnel.host", "ssh_tunnel.port", "ssh_tunnel.host_key"),
    "ssh_tunnel.private_key": ("ssh_tunnel.host", "ssh_tunnel.port", "ssh_tunnel.host_key"),
    "ssh_tunnel.passphrase": ("ssh_tunnel.host", "ssh_tunnel.port", "ssh_tunnel.host_key"),
    "ssh_tunnel.password": ("ssh_tunnel.host", "ssh_tunnel.port", "ssh_tunnel.host_key"),
    "email.password": ("email.host", "email.port", "email.tls"),
}


def refuse_moved_secrets(before: Record, record: Record) -> None:
    """Refuse to send a stored secret to another place: who may not read it must not have it sent to a server of theirs.

    Raises:
        InvalidInputError: The record leads somewhere else, and keeps a secret of the vault.
    """
    stored, problems = secrets_of(before), []
    for path, secret in secrets_of(record).items():
        if not isinstance(secret, SealedSecret) or not isinstance(stored.get(path), SealedSecret):
            continue
        moved = [place for place in _PLACES.get(path, ()) if _value_at(before, place) != _value_at(record, place)]
        if moved:
            problems.append(
                Problem(
                    f"must be given again, because {' and '.join(moved)} changed: a stored secret goes nowhere else",
                    SourceLocation(field=path),
                )
            )
    if problems:
        raise InvalidInputError(problems)


def _value_at(record: Record, path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = getattr(value, name, None)
    return value
