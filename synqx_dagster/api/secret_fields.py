"""What requests must not reach: secrets and files that are the server's own, and stored secrets that would move."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from synqx_dagster.catalog.snapshot import secrets_of
from synqx_dagster.catalog.yaml_tree import FieldPath
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import Connection, EnvSecret, FileSecret, Record, SealedSecret
from synqx_dagster.settings import Settings

#: Settings of this server are no passwords of databases: whoever writes records must not send them somewhere.
_OWN_VARIABLES = ("SYNQX_", "DAGSTER_")
#: Of these `database` is a name on a server; of all others it may be a path on this machine.
_SERVERS = ("postgresql", "mysql")


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
    """Refuse what leads to the server's own secrets and files; what the record had already, somebody else wrote.

    Who may write records may load rows into any file that a connection names. In the catalog's own there are accounts.

    Raises:
        InvalidInputError: A secret is a setting of SynqX or Dagster, or a file of its homes; or data is.
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
    if isinstance(record, Connection) and _place_of(record) != _place_of(before) and _holds_own_files(settings, record):
        problems.append(
            Problem(
                "the server keeps files of its own there",
                SourceLocation(field="database"),
                hint="take a directory for data alone; on the server itself `synqx apply` takes any",
            )
        )
    if problems:
        raise InvalidInputError(problems)


def _is_own_file(settings: Settings, text: str) -> bool:
    path = _resolved(text)
    if path is None:
        return False  # It cannot be read either.
    if path.parts[:2] in (("/", "proc"), ("/", "dev")):
        return True
    return any(path == place or place in path.parents for place in _own_places(settings))


def _place_of(record: Record | None) -> tuple[str, str | None] | None:
    return (record.db_type, record.database) if isinstance(record, Connection) else None


def _holds_own_files(settings: Settings, connection: Connection) -> bool:
    if connection.db_type in _SERVERS or connection.database is None:
        return False
    if _is_own_file(settings, connection.database):
        return True
    path = _resolved(connection.database)
    # A directory above is read and written with all that is below it.
    return path is not None and any(path in place.parents for place in _own_places(settings))


def _own_places(settings: Settings) -> list[Path]:
    places = [settings.home, settings.dagster_home]
    places += [settings.key_file] if settings.key_file is not None else []
    scheme, separator, file = settings.catalog_url.partition(":///")
    places += [Path(file)] if separator and scheme.partition("+")[0] == "sqlite" and file else []
    return [place.resolve() for place in places]


def _resolved(text: str) -> Path | None:
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        return None


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
