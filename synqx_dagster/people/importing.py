"""Users of another system, from lines of JSON: all of them become accounts, or none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from synqx_dagster.errors import ConfigurationError, InvalidInputError, Problem, SourceLocation
from synqx_dagster.people.accounts import NewUser, check_new_user, key_of
from synqx_dagster.people.passwords import check_imported_hash
from synqx_dagster.people.roles import Role

_KEYS = {"username", "email", "role", "teams", "password_hash", "disabled"}
_MAX_USERS = 100_000


@dataclass(frozen=True)
class ImportedUser:
    """A line that can become an account."""

    line: int
    new: NewUser


def read_users(lines: Iterable[str], *, file: str, default_role: Role = Role.VIEWER) -> list[ImportedUser]:
    """Read lines such as ``{"username": "ann", "email": "ann@example.org", "password_hash": "$2b$12$..."}``.

    Keys: username; and where they are known, email, role, teams (a list), disabled, and password_hash (of bcrypt or
    Argon2). Empty lines are passed over.

    Raises:
        InvalidInputError: Every line that cannot become an account, with its number. No hash is told.
    """
    found: list[ImportedUser] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            new = _read_line(line, default_role)
            check_new_user(new)
        except InvalidInputError as exc:
            problems += [
                _at(file, number, item.message, item.location.field if item.location else None) for item in exc.problems
            ]
            continue
        except ConfigurationError as exc:
            problems.append(_at(file, number, exc.message, None, exc.hint))
            continue
        for key in {key_of(new.username), key_of(new.email or new.username)}:
            if key in seen:
                problems.append(_at(file, number, f"the same name or e-mail address stands in line {seen[key]}", None))
            seen[key] = number
        found.append(ImportedUser(number, new))
        if len(found) > _MAX_USERS:
            raise ConfigurationError(f"{file} has more than {_MAX_USERS} users", hint="import it in parts")
    if problems:
        raise InvalidInputError(problems)
    return found


def _read_line(line: str, default_role: Role) -> NewUser:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigurationError("this is no JSON object") from None
    if not isinstance(document, dict):
        raise ConfigurationError("this is no JSON object")
    if unknown := sorted(set(document) - _KEYS):
        raise ConfigurationError(f"unknown key {unknown[0][:40]!r}", hint=f"known are {', '.join(sorted(_KEYS))}")
    role = _text(document, "role") or default_role.value
    if role not in {item.value for item in Role}:
        raise ConfigurationError(f"there is no role {role[:40]!r}", hint=f"write {', '.join(Role)}")
    teams = document.get("teams") or []
    if not isinstance(teams, list) or not all(isinstance(item, str) for item in teams):
        raise ConfigurationError("teams is no list of names")
    disabled = document.get("disabled", False)
    if not isinstance(disabled, bool):
        raise ConfigurationError("disabled is neither true nor false")
    stored = _text(document, "password_hash")
    if stored is not None:
        check_imported_hash(stored)
    return NewUser(
        username=_text(document, "username") or "",
        role=Role(role),
        email=_text(document, "email"),
        teams=frozenset(teams),
        password_hash=stored,
        disabled=disabled,
    )


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{key} is no text")
    return value or None


def _at(file: str, line: int, message: str, field: str | None, hint: str | None = None) -> Problem:
    return Problem(message, SourceLocation(file=file, line=line, field=field), hint)
