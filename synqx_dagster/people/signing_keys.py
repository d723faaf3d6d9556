"""The keys that sign access tokens: random, kept in the vault, one at a time.

Guarantee: no key leaves the vault while it is sealed, also not one that this process has opened before.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from synqx_dagster.audit.actor import SYSTEM
from synqx_dagster.audit.event import AuditEvent
from synqx_dagster.audit.trail import append
from synqx_dagster.catalog.people_tables import signing_key
from synqx_dagster.catalog.revisions import lock_catalog
from synqx_dagster.catalog.secrets import hold_vault_state, signing_key_address
from synqx_dagster.catalog.tables import vault_state
from synqx_dagster.errors import IntegrityError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: After so long a new key signs; the one before still verifies what it has signed.
ROTATION = timedelta(days=90)

_KEY_BYTES = 32

_MAX_OPENED = 8

#: How long a process believes what it has read of a key: less than a retired key still verifies.
_KEEP_SECONDS = 60


@dataclass(frozen=True)
class SigningKey:
    """One key, opened."""

    key_id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class _StoredKey:
    key_number: int
    key_id: str
    created_at: datetime
    retired_at: datetime | None
    envelope: bytes


class SigningKeys:
    """The signing keys of a catalog. Safe to share between threads and processes.

    Args:
        catalog: Whose keys; its vault holds them.
        verify_retired: So long a retired key still verifies: as long as a token lives.
    """

    def __init__(self, catalog: Catalog, *, verify_retired: timedelta) -> None:
        self._catalog = catalog
        self._verify_retired = verify_retired
        self._lock = threading.Lock()
        self._stored: dict[str, tuple[_StoredKey, float]] = {}
        self._opened_keys: dict[tuple[str, bytes, str | None], SigningKey] = {}

    def active(self) -> SigningKey:
        """The key that signs now; made where there is none, or where it is old.

        Raises:
            SealedError: The vault is sealed.
        """
        with self._catalog.read() as connection:
            newest = _read_newest(connection)
        if newest is None or newest.retired_at is not None or datetime.now(UTC) - newest.created_at > ROTATION:
            newest = self._make(newest)
        return self._opened(newest)

    def find(self, key_id: str) -> SigningKey | None:
        """The key of an id; None where there is none, or none that still counts.

        Raises:
            SealedError: There is one, and the vault is sealed.
        """
        stored = self._find_stored(key_id)
        if stored is None:
            return None
        if stored.retired_at is not None and datetime.now(UTC) - stored.retired_at > self._verify_retired:
            return None
        try:
            return self._opened(stored)
        except IntegrityError:
            # The vault's key was rotated long ago, and this process still has the envelope of before.
            with self._lock:
                self._stored.pop(key_id, None)
            fresh = self._find_stored(key_id)
            if fresh is None or fresh.envelope == stored.envelope:
                raise
            return self._opened(fresh)

    def retire(self) -> None:
        """Let the next token be signed by a new key."""
        with self._catalog.write() as connection:
            lock_catalog(connection)
            _retire(connection, datetime.now(UTC))
        with self._lock:
            self._stored.clear()

    def _opened(self, stored: _StoredKey) -> SigningKey:
        with self._catalog.read() as connection:
            state = connection.execute(sa.select(vault_state.c.state)).scalar()
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

    def _find_stored(self, key_id: str) -> _StoredKey | None:
        now = time.monotonic()
        with self._lock:
            known, read_at = self._stored.get(key_id, (None, 0.0))
        if known is not None and now - read_at < _KEEP_SECONDS:
            return known
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(signing_key).where(signing_key.c.key_id == key_id)).first()
        if row is None:
            return None
        found = _stored(row)
        with self._lock:
            self._stored[key_id] = found, now
        return found

    def _make(self, replaced: _StoredKey | None) -> _StoredKey:
        vault = self._catalog.unseal()
        now = datetime.now(UTC)
        with self._catalog.write() as connection:
            lock_catalog(connection)
            newest = _read_newest(connection)
            if newest is not None and (replaced is None or newest.key_number > replaced.key_number):
                return newest  # another process was first
            hold_vault_state(connection)
            _retire(connection, now)
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
            append(connection, SYSTEM.signs(event))
        return made


def _read_newest(connection: Connection) -> _StoredKey | None:
    row = connection.execute(sa.select(signing_key).order_by(signing_key.c.key_number.desc()).limit(1)).first()
    return None if row is None else _stored(row)


def _retire(connection: Connection, now: datetime) -> None:
    connection.execute(sa.update(signing_key).where(signing_key.c.retired_at.is_(None)).values(retired_at=now))


def _stored(row: Any) -> _StoredKey:
    return _StoredKey(int(row.key_number), row.key_id, row.created_at, row.retired_at, bytes(row.envelope))
