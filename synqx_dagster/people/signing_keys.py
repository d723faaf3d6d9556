"""The keys that sign access tokens: random, kept in the vault, one at a time.

Guarantee: no key leaves the vault while it is sealed, also not one that this process has opened before; and a key that
was retired verifies nothing from that moment on, in any process.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import SYSTEM, Actor, current_actor
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append
from synqx_dagster.catalog.people_tables import signing_key
from synqx_dagster.catalog.revisions import lock_catalog
from synqx_dagster.catalog.secrets import hold_vault_state, signing_key_address
from synqx_dagster.catalog.tables import vault_state
from synqx_dagster.errors import NotFoundError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: After so long a new key signs; the one before still verifies what it has signed.
ROTATION = timedelta(days=90)

_KEY_BYTES = 32

_MAX_OPENED = 8

#: Of an id that people type.
_SHORTEST_ID = 4


@dataclass(frozen=True)
class SigningKey:
    """One key, opened."""

    key_id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class SigningKeyInfo:
    """What may be shown of a key.

    Attributes:
        key_id: The ``kid`` in the tokens that it has signed.
        created_at: Since when.
        replaced_at: When another one began to sign; None for the one that signs now.
        verifies_until: When the last of its tokens is over; None while it signs.
    """

    key_id: str
    created_at: datetime
    replaced_at: datetime | None
    verifies_until: datetime | None

    @property
    def state(self) -> Literal["signs", "verifies", "over"]:
        """What it is good for now."""
        if self.verifies_until is None:
            return "signs"
        return "verifies" if datetime.now(UTC) <= self.verifies_until else "over"


@dataclass(frozen=True)
class _StoredKey:
    key_number: int
    key_id: str
    created_at: datetime
    retired_at: datetime | None
    envelope: bytes


@dataclass(frozen=True)
class _Read:
    """A stored key, and the vault's state at the moment it was read."""

    key: _StoredKey
    vault_state: str | None


class SigningKeys:
    """The signing keys of a catalog. Safe to share between threads and processes.

    Args:
        catalog: Whose keys; its vault holds them.
        verify_replaced: So long a key that another one replaced still verifies: as long as a token lives.
    """

    def __init__(self, catalog: Catalog, *, verify_replaced: timedelta) -> None:
        self._catalog = catalog
        self._verify_replaced = verify_replaced
        self._lock = threading.Lock()
        self._opened_keys: dict[tuple[str, bytes, str | None], SigningKey] = {}

    def active(self) -> SigningKey:
        """The key that signs now; made where there is none, or where it is old.

        Raises:
            SealedError: The vault is sealed.
        """
        newest = self._find(_NEWEST)
        if newest is None or newest.key.retired_at is not None or _is_old(newest.key):
            self._make(None if newest is None else newest.key)
            newest = self._find(_NEWEST)
            assert newest is not None  # a key goes only where a newer one is there
        return self._opened(newest)

    def find(self, key_id: str) -> SigningKey | None:
        """The key of an id; None where there is none, or none that still counts.

        Raises:
            SealedError: There is one, and the vault is sealed.
        """
        found = self._find(signing_key.c.key_id == key_id)
        if found is None or self._info(found.key).state == "over":
            return None
        return self._opened(found)

    def list(self) -> Sequence[SigningKeyInfo]:
        """All that were not retired, the newest first; needs no open vault."""
        with self._catalog.read() as connection:
            rows = connection.execute(sa.select(signing_key).order_by(signing_key.c.key_number.desc())).all()
        return [self._info(_stored(row)) for row in rows]

    def rotate(self) -> SigningKeyInfo:
        """Have a new key sign from now on; the one before verifies what it has signed until that is over.

        Raises:
            SealedError: The vault is sealed.
        """
        newest = self._find(_NEWEST)
        return self._info(self._make(None if newest is None else newest.key, current_actor()))

    def retire(self, key_id: str) -> SigningKeyInfo:
        """Take a key away: no token that it has signed is taken from now on. Where it is the one that signs, a new
        one takes its place. Logins go on: a refresh token gets an access token of the new key.

        Args:
            key_id: Its id, or a beginning of it that no other key has.

        Raises:
            NotFoundError: There is no such key, or there are several.
            SealedError: It is the one that signs, and the vault is sealed, so that no other one can be made.
        """
        found = self._get(key_id)
        if found.retired_at is None:
            # First, also because numbers count up from the newest that there is.
            self._make(found, current_actor())
        with self._catalog.write() as connection:
            lock_catalog(connection)
            removed = connection.execute(sa.delete(signing_key).where(signing_key.c.key_id == found.key_id)).rowcount
            if not removed:
                raise _unknown(key_id)  # by somebody else, just now
            event = AuditEvent(
                "token.retire_signing_key", "allowed", "", target_kind="signing_key", target=found.key_id
            )
            append(connection, current_actor().signs(event))
        with self._lock:
            self._opened_keys.clear()
        return self._info(found)

    def _get(self, key_id: str) -> _StoredKey:
        with self._catalog.read() as connection:
            keys = [_stored(row) for row in connection.execute(sa.select(signing_key))]
        wanted = key_id.strip().lower()
        fitting = [key for key in keys if len(wanted) >= _SHORTEST_ID and key.key_id.startswith(wanted)]
        if len(fitting) != 1:
            raise _unknown(key_id)
        return fitting[0]

    def _info(self, key: _StoredKey) -> SigningKeyInfo:
        until = None if key.retired_at is None else key.retired_at + self._verify_replaced
        return SigningKeyInfo(key.key_id, key.created_at, key.retired_at, until)

    def _opened(self, found: _Read) -> SigningKey:
        stored, state = found.key, found.vault_state
        with self._lock:
            known = self._opened_keys.get((stored.key_id, stored.envelope, state))
        if known is not None:
            # The vault is to the letter as it was when this key was opened, so it is not sealed: whoever seals it, or
            # changes its keys, writes another state. To open it each time would take longer than all of the rest.
            return known
        address = signing_key_address(stored.key_number)
        text = self._catalog.unseal().open_secret(address, stored.envelope)
        key = SigningKey(stored.key_id, bytes.fromhex(text))
        with self._lock:
            if len(self._opened_keys) >= _MAX_OPENED:
                self._opened_keys.clear()
            self._opened_keys[stored.key_id, stored.envelope, state] = key
        return key

    def _find(self, which: sa.ColumnElement[bool]) -> _Read | None:
        # One query, and at every request: a key that was retired, and a vault that was sealed, count at once.
        state = sa.select(vault_state.c.state).scalar_subquery().label("vault_state")
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(signing_key, state).where(which)).first()
        return None if row is None else _Read(_stored(row), row.vault_state)

    def _make(self, replaced: _StoredKey | None, actor: Actor = SYSTEM) -> _StoredKey:
        vault = self._catalog.unseal()
        now = datetime.now(UTC)
        with self._catalog.write() as connection:
            lock_catalog(connection)
            newest = _read_newest(connection)
            if newest is not None and (replaced is None or newest.key_number > replaced.key_number):
                return newest  # another process was first
            hold_vault_state(connection)
            _mark_replaced(connection, now)
            number = 1 if newest is None else newest.key_number + 1
            text = secrets.token_bytes(_KEY_BYTES).hex()
            made = _StoredKey(
                number, str(uuid.uuid4()), now, None, vault.seal_secret(signing_key_address(number), text)
            )
            connection.execute(
                sa.insert(signing_key),
                {
                    "key_number": made.key_number,
                    "key_id": made.key_id,
                    "created_at": made.created_at,
                    "envelope": made.envelope,
                },
            )
            event = AuditEvent("token.new_signing_key", "allowed", "", target_kind="signing_key", target=made.key_id)
            append(connection, actor.signs(event))
        return made


_NEWEST = signing_key.c.key_number == sa.select(sa.func.max(signing_key.c.key_number)).scalar_subquery()


def _is_old(key: _StoredKey) -> bool:
    return datetime.now(UTC) - key.created_at > ROTATION


def _unknown(key_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no signing key {key_id!r}, or there are several whose id begins so",
        hint="`synqx signing-keys list` lists them",
    )


def _read_newest(connection: Connection) -> _StoredKey | None:
    row = connection.execute(sa.select(signing_key).order_by(signing_key.c.key_number.desc()).limit(1)).first()
    return None if row is None else _stored(row)


def _mark_replaced(connection: Connection, now: datetime) -> None:
    connection.execute(sa.update(signing_key).where(signing_key.c.retired_at.is_(None)).values(retired_at=now))


def _stored(row: Any) -> _StoredKey:
    return _StoredKey(int(row.key_number), row.key_id, row.created_at, row.retired_at, bytes(row.envelope))
