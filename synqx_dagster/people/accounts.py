"""Accounts: who there is, in which role and teams; every change is in the audit trail with its cause.

Guarantee: names and addresses are unique whatever their case; there is an active admin as long as there was one.
Everything here that changes something locks the end of the trail first, so that changes come one after the other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import current_actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append, append_all, lock_end
from synqx_dagster.catalog.people_tables import session, token_family, user, user_team
from synqx_dagster.errors import ConflictError, InvalidInputError, NotFoundError, Problem, SourceLocation
from synqx_dagster.people import passwords
from synqx_dagster.people.identity import AuthMethod, Identity
from synqx_dagster.people.roles import ROLE_PERMISSIONS, Permission, Role

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_EMAIL = re.compile(
    r"[^\s@<>\"',;:()\[\]\\\x00-\x1f\x7f\ud800-\udfff]{1,64}@[^\s@<>\"',;:()\[\]\\\x00-\x1f\x7f\ud800-\udfff]{1,189}"
)
_TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
_MAX_TEAMS = 100
_MAX_KEY_CHARACTERS = 254

#: Names by which the history and the trail know what is nobody.
_RESERVED = frozenset({"system", "anonymous", "nobody", "demo", "local", "synqx", "dagster"})


#: What accounts are listed by.
UserSort = Literal["username", "created_at", "last_login_at"]


@dataclass(frozen=True)
class User:
    """An account. Holds no password and no hash of one."""

    user_id: UUID
    username: str
    email: str | None
    role: Role
    teams: frozenset[str]
    disabled: bool
    has_password: bool
    created_at: datetime
    password_changed_at: datetime | None
    last_login_at: datetime | None

    @property
    def etag(self) -> str:
        """Names what an admin changes of an account; a login alone makes no other version of it."""
        seen = (self.username, self.email, self.role.value, sorted(self.teams), self.disabled)
        return hashlib.sha256(repr(seen).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def identity(
        self, method: AuthMethod, *, credential_id: str | None = None, scopes: Iterable[Permission] | None = None
    ) -> Identity:
        """This person, logged in; with `scopes`, only as far as these go."""
        permissions = ROLE_PERMISSIONS[self.role]
        return Identity(
            user_id=self.user_id,
            username=self.username,
            role=self.role,
            permissions=permissions if scopes is None else permissions & frozenset(scopes),
            method=method,
            teams=self.teams,
            email=self.email,
            credential_id=credential_id,
        )


@dataclass(frozen=True)
class UserChange:
    """What shall become of an account; None leaves it as it is."""

    role: Role | None = None
    teams: frozenset[str] | None = None
    disabled: bool | None = None


@dataclass(frozen=True)
class NewUser:
    """An account that is to be made. Without a password or a hash nobody can log in by one.

    Attributes:
        email_confirmed: Somebody else than the user says that the address is theirs.
    """

    username: str
    role: Role
    email: str | None = None
    teams: frozenset[str] = frozenset()
    password: SecretStr | None = field(default=None, repr=False)
    password_hash: str | None = field(default=None, repr=False)
    disabled: bool = False
    email_confirmed: bool = True


# --- names ------------------------------------------------------------------------------------------------------


def key_of(text: str) -> str:
    """A user name or an e-mail address as it is compared."""
    return unicodedata.normalize("NFKC", text.strip()).casefold()


def check_new_user(new: NewUser) -> None:
    """Refuse what cannot be an account.

    Raises:
        InvalidInputError: Everything that is wrong with it.
    """
    problems = []
    if _USERNAME.fullmatch(new.username) is None:
        problems.append(
            _problem("username", "a user name has 1 to 64 ASCII letters, digits and . _ @ + -, a letter or digit first")
        )
    elif "@" in new.username and key_of(new.username) != key_of(new.email or ""):
        # Else somebody could take the address of somebody else for a name, and be taken for them.
        problems.append(_problem("username", "a user name with an @ must be the account's own e-mail address"))
    elif key_of(new.username) in _RESERVED:
        problems.append(_problem("username", f"the user name {new.username!r} is reserved"))
    # Some characters are compared as many: the key must have room for what becomes of them.
    if new.email is not None and (_EMAIL.fullmatch(new.email) is None or len(key_of(new.email)) > _MAX_KEY_CHARACTERS):
        problems.append(_problem("email", "this is no e-mail address"))
    problems += _team_problems(new.teams)
    if problems:
        raise InvalidInputError(problems)
    if new.password is not None:
        passwords.check_password(new.password, username=new.username, email=new.email)


def _team_problems(teams: Iterable[str]) -> list[Problem]:
    found = sorted(teams)
    problems = [
        _problem("teams", "a team's name has 1 to 128 ASCII letters, digits, blanks and . _ -")
        for team in found
        if _TEAM.fullmatch(team) is None
    ][:1]
    if len(found) > _MAX_TEAMS:
        problems.append(_problem("teams", f"nobody is in more than {_MAX_TEAMS} teams"))
    return problems


def _problem(field: str, message: str) -> Problem:
    return Problem(message, SourceLocation(field=field))


# --- reading ----------------------------------------------------------------------------------------------------


def read_users(connection: Connection, *conditions: sa.ColumnElement[bool]) -> list[User]:
    """The accounts that fit, by name."""
    rows = connection.execute(sa.select(user).where(*conditions).order_by(user.c.username_key)).all()
    return with_teams(connection, rows)


def find_user(connection: Connection, *conditions: sa.ColumnElement[bool]) -> User | None:
    """The one account that fits."""
    return next(iter(read_users(connection, *conditions)), None)


def with_teams(connection: Connection, rows: Sequence[Any]) -> list[User]:
    """Rows of the table of users as accounts, in their order."""
    teams: dict[str, set[str]] = {}
    if rows:
        ids = [row.user_id for row in rows]
        query = sa.select(user_team.c.user_id, user_team.c.team).where(user_team.c.user_id.in_(ids))
        for user_id, team in connection.execute(query):
            teams.setdefault(user_id, set()).add(team)
    return [_user_of(row, teams.get(row.user_id, ())) for row in rows]


def joined_user(rows: Sequence[Any]) -> User | None:
    """The one account of rows that are joined with its teams: what every request asks for, in one query."""
    return _user_of(rows[0], (row.team for row in rows if row.team is not None)) if rows else None


def _user_of(row: Any, teams: Iterable[str]) -> User:
    return User(
        user_id=UUID(row.user_id),
        username=row.username,
        email=row.email,
        role=Role(row.role),
        teams=frozenset(teams),
        disabled=bool(row.disabled),
        has_password=row.password_hash is not None,
        created_at=row.created_at,
        password_changed_at=row.password_changed_at,
        last_login_at=row.last_login_at,
    )


# --- writing, within a transaction --------------------------------------------------------------------------------


def insert_user(connection: Connection, new: NewUser, stored_hash: str | None) -> User:
    """Make an account. The caller holds the end of the trail, and has judged `new`.

    Raises:
        ConflictError: The name or the address is taken.
    """
    taken = sa.or_(user.c.username_key == key_of(new.username), user.c.email_key == key_of(new.username))
    if find_user(connection, taken) is not None:
        raise ConflictError(f"There is a user {new.username!r} already")
    if new.email is not None:
        taken = sa.or_(user.c.email_key == key_of(new.email), user.c.username_key == key_of(new.email))
        if find_user(connection, taken) is not None:
            raise ConflictError("There is a user with this e-mail address already")
    now = datetime.now(UTC)
    user_id = uuid.uuid4()
    connection.execute(
        sa.insert(user),
        {
            "user_id": str(user_id),
            "username": new.username,
            "username_key": key_of(new.username),
            "email": new.email,
            "email_key": None if new.email is None else key_of(new.email),
            "email_confirmed": new.email is not None and new.email_confirmed,
            "password_hash": stored_hash,
            "role": new.role.value,
            "disabled": new.disabled,
            "created_at": now,
            "password_changed_at": now if stored_hash is not None else None,
        },
    )
    _set_teams(connection, user_id, new.teams)
    made = find_user(connection, user.c.user_id == str(user_id))
    assert made is not None
    return made


def _set_teams(connection: Connection, user_id: UUID, teams: frozenset[str]) -> None:
    connection.execute(sa.delete(user_team).where(user_team.c.user_id == str(user_id)))
    if teams:
        connection.execute(sa.insert(user_team), [{"user_id": str(user_id), "team": team} for team in sorted(teams)])


def end_logins(connection: Connection, user_id: UUID) -> None:
    """End every session and every family of tokens of a user. Keys of services stay: they know no password."""
    now = datetime.now(UTC)
    for table in (session, token_family):
        connection.execute(
            sa.update(table).where(table.c.user_id == str(user_id), table.c.revoked_at.is_(None)).values(revoked_at=now)
        )


def is_last_admin(connection: Connection, user_id: UUID) -> bool:
    """Whether this is the only active admin. The caller holds the end of the trail, so that it stays so."""
    query = sa.select(user.c.user_id).where(user.c.role == Role.ADMIN.value, user.c.disabled.is_(False))
    return set(connection.execute(query).scalars()) == {str(user_id)}


# --- the accounts of a catalog ------------------------------------------------------------------------------------


class Accounts:
    """The accounts of one catalog; each call is a transaction of its own, entered into the trail."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def is_empty(self) -> bool:
        """Whether nobody has an account yet."""
        with self._catalog.read() as connection:
            return connection.execute(sa.select(user.c.user_id).limit(1)).first() is None

    def page(
        self,
        *,
        skip: int = 0,
        limit: int = 50,
        search: str | None = None,
        role: Role | None = None,
        sort: UserSort = "username",
        descending: bool = False,
    ) -> tuple[list[User], int]:
        """Accounts, and how many there are in all; `search` is a part of a name or of an address."""
        conditions: list[sa.ColumnElement[bool]] = []
        if search is not None:
            part = key_of(search)
            conditions.append(
                sa.or_(
                    user.c.username_key.contains(part, autoescape=True),
                    user.c.email_key.contains(part, autoescape=True),
                )
            )
        if role is not None:
            conditions.append(user.c.role == role.value)
        column = user.c.username_key if sort == "username" else user.c[sort]
        # Who has never logged in comes last, whatever a database makes of NULL.
        order = (column.is_(None), column.desc() if descending else column.asc(), user.c.username_key)
        query = sa.select(user).where(*conditions).order_by(*order).offset(skip).limit(limit)
        with self._catalog.read() as connection:
            found = with_teams(connection, connection.execute(query).all())
            total = connection.execute(sa.select(sa.func.count()).select_from(user).where(*conditions)).scalar_one()
        return found, int(total)

    def get(self, user_id: UUID) -> User:
        """The account of an id.

        Raises:
            NotFoundError: There is none.
        """
        with self._catalog.read() as connection:
            return _get(connection, user_id)

    def get_by_name(self, username: str) -> User:
        """The account of a user name.

        Raises:
            NotFoundError: There is none.
        """
        with self._catalog.read() as connection:
            found = find_user(connection, user.c.username_key == key_of(username))
        if found is None:
            raise NotFoundError(f"There is no user {username!r}", hint="`synqx users list` shows all")
        return found

    def create(self, new: NewUser, *, action: str = "user.create", only_first: bool = False) -> User:
        """Make an account.

        Args:
            new: What it shall be.
            action: What the trail calls it.
            only_first: Refuse where somebody has an account already.

        Raises:
            InvalidInputError: It cannot be one.
            ConflictError: The name or the address is taken, or somebody was first.
        """
        check_new_user(new)
        stored = new.password_hash if new.password is None else passwords.hash_password(new.password)
        with self._catalog.write() as connection:
            lock_end(connection)
            if only_first and connection.execute(sa.select(user.c.user_id).limit(1)).first() is not None:
                raise ConflictError("Somebody has an account already", hint="an admin can make more of them")
            made = insert_user(connection, new, stored)
            _record(connection, action, made, detail=_described(made))
        return made

    def import_all(self, users: Iterable[NewUser], *, skip_existing: bool = False) -> tuple[int, int]:
        """Make many accounts in one transaction; they were judged one by one.

        Args:
            users: With hashes, not with passwords.
            skip_existing: Pass over those whose name or address is taken.

        Returns:
            How many were made, and how many passed over.

        Raises:
            ConflictError: A name or an address is taken; nothing was changed.
        """
        made = skipped = 0
        events: list[AuditEvent] = []
        with self._catalog.write() as connection:
            lock_end(connection)
            for new in users:
                try:
                    imported = insert_user(connection, new, new.password_hash)
                except ConflictError:
                    if not skip_existing:
                        raise
                    skipped += 1
                    continue
                made += 1
                events.append(_event("user.import", imported, detail=_described(imported)))
            append_all(connection, [current_actor().signs(event) for event in events])
        return made, skipped

    def update(self, user_id: UUID, change: UserChange, *, check: Callable[[User], None] | None = None) -> User:
        """Change role, teams or whether an account is disabled; counts from its next request on.

        Who is disabled is logged out everywhere. An unchanged account is no act.

        Args:
            user_id: Whose.
            change: What is to change.
            check: Called with the account as it is, while nobody else changes it; raises where that is not expected.

        Raises:
            NotFoundError: There is no such account.
            InvalidInputError: A team's name is none.
            ConflictError: Nobody would be admin any more.
        """
        if change.teams is not None and (problems := _team_problems(change.teams)):
            raise InvalidInputError(problems)
        with self._catalog.write() as connection:
            lock_end(connection)
            before = _get(connection, user_id)
            if check is not None:
                check(before)
            after = replace(
                before,
                role=before.role if change.role is None else change.role,
                teams=before.teams if change.teams is None else change.teams,
                disabled=before.disabled if change.disabled is None else change.disabled,
            )
            if after == before:
                return before
            loses = after.disabled or after.role is not Role.ADMIN
            if loses and is_last_admin(connection, user_id):
                raise ConflictError(f"{before.username} is the last admin", hint="make somebody else an admin first")
            values = {"role": after.role.value, "disabled": after.disabled}
            connection.execute(sa.update(user).where(user.c.user_id == str(user_id)).values(**values))
            if after.teams != before.teams:
                _set_teams(connection, user_id, after.teams)
            if after.disabled and not before.disabled:
                end_logins(connection, user_id)
            _record_update(connection, before, after)
        return after

    def set_password(self, user_id: UUID, password: SecretStr, *, action: str = "user.set_password") -> None:
        """Give an account a password, and end all of its logins.

        Raises:
            NotFoundError: There is no such account.
            InvalidInputError: The password is not taken.
        """
        known = self.get(user_id)
        passwords.check_password(password, username=known.username, email=known.email)
        stored = passwords.hash_password(password)
        with self._catalog.write() as connection:
            lock_end(connection)
            known = _get(connection, user_id)
            connection.execute(
                sa.update(user)
                .where(user.c.user_id == str(user_id))
                .values(password_hash=stored, password_changed_at=datetime.now(UTC))
            )
            end_logins(connection, user_id)
            _record(connection, action, known, fields=("password",))


def _get(connection: Connection, user_id: UUID) -> User:
    found = find_user(connection, user.c.user_id == str(user_id))
    if found is None:
        raise NotFoundError(f"There is no user {user_id}")
    return found


def _described(made: User) -> str:
    return f"role {made.role.value}" + (f", teams {', '.join(sorted(made.teams))}" if made.teams else "")


def _event(action: str, target: User, *, fields: tuple[str, ...] = (), detail: str | None = None) -> AuditEvent:
    return AuditEvent(action, "allowed", "", target_kind="user", target=target.username, fields=fields, detail=detail)


def _record(
    connection: Connection, action: str, target: User, *, fields: tuple[str, ...] = (), detail: str | None = None
) -> None:
    append(connection, current_actor().signs(_event(action, target, fields=fields, detail=detail)))


def _record_update(connection: Connection, before: User, after: User) -> None:
    if before.role != after.role:
        _record(
            connection,
            "user.set_role",
            after,
            fields=("role",),
            detail=f"from {before.role.value} to {after.role.value}",
        )
    if before.teams != after.teams:
        detail = f"from {', '.join(sorted(before.teams)) or 'none'} to {', '.join(sorted(after.teams)) or 'none'}"
        _record(connection, "user.set_teams", after, fields=("teams",), detail=detail)
    if before.disabled != after.disabled:
        _record(connection, "user.disable" if after.disabled else "user.enable", after, fields=("disabled",))
