"""The vault's state: everything that is kept outside of memory, and nothing that opens without a credential.

Guarantee: a state is read back only from exactly the text that `VaultState.to_json` writes, and a holder of the root
key notices a change to any part that only such a holder may write.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, get_args

from synqx_dagster.errors import CatalogVersionError, ConfigurationError, IntegrityError, NotFoundError
from synqx_dagster.vault.kdf import SALT_BYTES, Argon2Parameters
from synqx_dagster.vault.keyslots import Keyslot, KeyslotKind, PasswordKdf
from synqx_dagster.vault.strict_json import (
    Fields,
    damaged,
    dump_bytes,
    dump_canonical,
    dump_optional_time,
    dump_time,
    load_object,
    read_boolean,
    read_bytes,
    read_hex,
    read_integer,
    read_list,
    read_optional,
    read_time,
)

FORMAT = 1
VAULT_ID_BYTES = 16
MAX_KEYSLOTS = 32
MAX_BACK_OFF_SECONDS = 300

_MAC_BYTES = 32
_MAC_LABEL = b"synqx vault state v1\x00"
#: Anybody who may write to the catalog may change these: a vault must be sealable, and a wrong password must be
#: counted, by a process that holds no key.
_UNPROTECTED = frozenset({"serial", "sealed_by_operator", "seal_epoch", "failures", "last_failure_at", "mac"})
#: So many wrong passwords are free, for people mistype.
_FREE_FAILURES = 2
_MAX_COUNTED_FAILURES = 1000


@dataclass(frozen=True)
class DataKey:
    """One generation of the data encryption key, wrapped under the root key.

    Attributes:
        generation: Counts from 1.
        created_at: Aware, UTC.
        retired_at: When a rotation had re-encrypted everything that was sealed under it; None before.
        wrapped: Envelope of the key.
    """

    generation: int
    created_at: datetime
    retired_at: datetime | None
    wrapped: bytes


@dataclass(frozen=True)
class VaultState:
    """One state of a vault; each change makes a new one.

    Attributes:
        vault_id: 16 random bytes; everything wrapped is bound to it.
        serial: Counts the states, so that no two have the same text.
        keyslots: At least one, in the order of their making.
        data_keys: At least one, ascending by generation.
        active_generation: What new secrets are sealed under.
        rotating: A rotation has begun and not ended.
        sealed_by_operator: No process may unseal until somebody unlocks.
        seal_epoch: Counts the operator's seals; a process or file unsealed in an earlier epoch is sealed.
        failures: Wrong passwords in a row.
        last_failure_at: Aware, UTC; None when ``failures`` is 0.
        mac: HMAC-SHA256 over all but serial, seal and failures, under a key derived from the root key.
    """

    vault_id: bytes
    serial: int
    keyslots: tuple[Keyslot, ...]
    data_keys: tuple[DataKey, ...]
    active_generation: int
    rotating: bool = False
    sealed_by_operator: bool = False
    seal_epoch: int = 0
    failures: int = 0
    last_failure_at: datetime | None = None
    mac: bytes = bytes(_MAC_BYTES)

    def find_data_key(self, generation: int) -> DataKey | None:
        """The data key of a generation, or None when it was never there or has been dropped."""
        return next((key for key in self.data_keys if key.generation == generation), None)

    def retry_after_seconds(self, now: datetime) -> float:
        """How long the next password must wait: nothing after two wrong ones, then 1, 2, 4, ... 300 s."""
        if self.last_failure_at is None or self.failures <= _FREE_FAILURES:
            return 0.0
        delay = min(MAX_BACK_OFF_SECONDS, 2 ** min(self.failures - _FREE_FAILURES - 1, 16))
        remaining = delay - (now - self.last_failure_at).total_seconds()
        # A clock that was wrong when the failure was written must not lock the vault until that date.
        return remaining if 0 < remaining <= MAX_BACK_OFF_SECONDS else 0.0

    def sealed(self) -> VaultState | None:
        """The state after an operator's seal, or None when one holds already."""
        if self.sealed_by_operator:
            return None
        return replace(self, sealed_by_operator=True, seal_epoch=self.seal_epoch + 1)

    def unlocked(self) -> VaultState | None:
        """The state without an operator's seal, or None when there is none."""
        return replace(self, sealed_by_operator=False) if self.sealed_by_operator else None

    def with_failure(self, now: datetime) -> VaultState:
        """The state after one more wrong password."""
        return replace(self, failures=min(self.failures + 1, _MAX_COUNTED_FAILURES), last_failure_at=now)

    def without_failures(self) -> VaultState | None:
        """The state after a right password, or None when no wrong one is counted."""
        return replace(self, failures=0, last_failure_at=None) if self.failures else None

    def with_keyslot(self, slot: Keyslot, *, instead_of: KeyslotKind | None = None) -> VaultState:
        """The state with one more keyslot, in place of those of a kind; not yet signed.

        Raises:
            ConfigurationError: No more keyslots fit.
        """
        kept = tuple(existing for existing in self.keyslots if existing.kind != instead_of)
        if len(kept) >= MAX_KEYSLOTS:
            raise ConfigurationError(f"The vault has {len(kept)} keyslots; no more fit", hint="remove one first")
        return replace(self, keyslots=(*kept, slot))

    def without_keyslot(self, slot_id: str) -> VaultState:
        """The state without a keyslot; not yet signed.

        Raises:
            NotFoundError: There is no such keyslot.
            ConfigurationError: It is the last one.
        """
        kept = tuple(slot for slot in self.keyslots if slot.id != slot_id)
        if len(kept) == len(self.keyslots):
            known = ", ".join(f"{slot.id} ({slot.kind})" for slot in self.keyslots)
            raise NotFoundError("There is no such keyslot", hint=f"there are: {known}")
        if not kept:
            raise ConfigurationError("The last keyslot cannot be removed", hint="add another one first")
        return replace(self, keyslots=kept)

    def compute_mac(self, root_key: bytes) -> bytes:
        """The MAC that belongs to this state."""
        protected = {name: value for name, value in self._to_document().items() if name not in _UNPROTECTED}
        mac_key = hmac.digest(root_key, _MAC_LABEL + self.vault_id, hashlib.sha256)
        return hmac.digest(mac_key, dump_canonical(protected).encode("ascii"), hashlib.sha256)

    def verify(self, root_key: bytes) -> None:
        """Check the MAC.

        Raises:
            IntegrityError: The state was changed by somebody without the root key.
        """
        if not hmac.compare_digest(self.mac, self.compute_mac(root_key)):
            raise IntegrityError(
                "The vault's state is not what was written",
                hint="somebody changed the catalog; restore it from a backup",
            )

    def to_json(self) -> str:
        """Canonical JSON text, ASCII; the same state always gives the same text."""
        return dump_canonical(self._to_document())

    @classmethod
    def from_json(cls, text: str) -> VaultState:
        """Read what `to_json` wrote, and only that.

        Raises:
            IntegrityError: The text is anything else, or a KDF parameter is above its cap.
            CatalogVersionError: A newer version of SynqX wrote it.
        """
        document = load_object(text)
        written_format = document.get("format")
        if type(written_format) is int and written_format > FORMAT:
            raise CatalogVersionError(
                f"The vault's state has format {written_format}; this SynqX reads format {FORMAT}",
                hint="install the version of SynqX that wrote it",
            )
        state = _read_state(document)
        # One state, one text: refuses duplicate keys, other spellings of a number or a date, and loose base64.
        if state.to_json() != text:
            raise damaged("it is not in its canonical form")
        return state

    def _to_document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "vault_id": self.vault_id.hex(),
            "serial": self.serial,
            "keyslots": [_keyslot_document(slot) for slot in self.keyslots],
            "data_keys": [
                {
                    "generation": key.generation,
                    "created_at": dump_time(key.created_at),
                    "retired_at": dump_optional_time(key.retired_at),
                    "wrapped": dump_bytes(key.wrapped),
                }
                for key in self.data_keys
            ],
            "active_generation": self.active_generation,
            "rotating": self.rotating,
            "sealed_by_operator": self.sealed_by_operator,
            "seal_epoch": self.seal_epoch,
            "failures": self.failures,
            "last_failure_at": dump_optional_time(self.last_failure_at),
            "mac": dump_bytes(self.mac),
        }


def _keyslot_document(slot: Keyslot) -> dict[str, Any]:
    kdf = slot.kdf and {
        "algorithm": "argon2id",
        "salt": dump_bytes(slot.kdf.salt),
        "iterations": slot.kdf.parameters.iterations,
        "lanes": slot.kdf.parameters.lanes,
        "memory_kib": slot.kdf.parameters.memory_kib,
    }
    return {
        "id": slot.id,
        "kind": slot.kind,
        "created_at": dump_time(slot.created_at),
        "kdf": kdf,
        "wrapped": dump_bytes(slot.wrapped),
    }


def _read_state(document: Mapping[str, Any]) -> VaultState:
    fields = Fields(document, "the state")
    fields.expect("format", FORMAT)
    state = VaultState(
        vault_id=fields.take("vault_id", read_hex),
        serial=fields.take("serial", read_integer),
        keyslots=tuple(_read_keyslot(item) for item in fields.take("keyslots", read_list)),
        data_keys=tuple(_read_data_key(item) for item in fields.take("data_keys", read_list)),
        active_generation=fields.take("active_generation", read_integer),
        rotating=fields.take("rotating", read_boolean),
        sealed_by_operator=fields.take("sealed_by_operator", read_boolean),
        seal_epoch=fields.take("seal_epoch", read_integer),
        failures=fields.take("failures", read_integer),
        last_failure_at=fields.take("last_failure_at", read_optional(read_time)),
        mac=fields.take("mac", read_bytes),
    )
    fields.finish()
    generations = [key.generation for key in state.data_keys]
    if len(state.vault_id) != VAULT_ID_BYTES or len(state.mac) != _MAC_BYTES:
        raise damaged("an identity or a MAC has the wrong length")
    if not 1 <= len(state.keyslots) <= MAX_KEYSLOTS:
        raise damaged(f"it has {len(state.keyslots)} keyslots")
    if len({slot.id for slot in state.keyslots}) != len(state.keyslots):
        raise damaged("two keyslots have one id")
    if generations != sorted(set(generations)) or state.active_generation not in generations:
        raise damaged("its data keys are not in order")
    return state


def _read_keyslot(item: Any) -> Keyslot:
    fields = Fields(item, "a keyslot")
    slot = Keyslot(
        id=fields.take("id", _slot_id),
        kind=fields.take("kind", _kind),
        created_at=fields.take("created_at", read_time),
        kdf=fields.take("kdf", read_optional(_read_kdf)),
        wrapped=fields.take("wrapped", read_bytes),
    )
    fields.finish()
    if (slot.kdf is None) != (slot.kind == "key_file"):
        raise damaged("a keyslot's kind and its KDF do not agree")
    return slot


def _read_kdf(item: Any) -> PasswordKdf:
    fields = Fields(item, "a KDF")
    fields.expect("algorithm", "argon2id")
    salt = fields.take("salt", read_bytes)
    iterations, lanes, memory_kib = (fields.take(name, read_integer) for name in ("iterations", "lanes", "memory_kib"))
    fields.finish()
    if len(salt) != SALT_BYTES:
        raise damaged("a salt has the wrong length")
    try:
        return PasswordKdf(salt, Argon2Parameters(iterations, lanes, memory_kib))
    except ValueError as exc:
        raise damaged(str(exc)) from exc


def _read_data_key(item: Any) -> DataKey:
    fields = Fields(item, "a data key")
    key = DataKey(
        generation=fields.take("generation", read_integer),
        created_at=fields.take("created_at", read_time),
        retired_at=fields.take("retired_at", read_optional(read_time)),
        wrapped=fields.take("wrapped", read_bytes),
    )
    fields.finish()
    if not 1 <= key.generation < 2**32:
        raise damaged("a generation is out of range")
    return key


def _slot_id(value: Any) -> str:
    if type(value) is not str or re.fullmatch("[0-9a-f]{8}", value) is None:
        raise ValueError
    return value


def _kind(value: Any) -> KeyslotKind:
    kinds: tuple[KeyslotKind, ...] = get_args(KeyslotKind)
    for kind in kinds:
        if value == kind:
            return kind
    raise ValueError
