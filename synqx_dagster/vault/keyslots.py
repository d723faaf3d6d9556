"""Keyslots: each wraps the same root key under another credential, so that any one of them opens the vault."""

from __future__ import annotations

import base64
import os
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, IntegrityError
from synqx_dagster.vault.envelope import Purpose, join_parts, open_bytes, seal_bytes
from synqx_dagster.vault.kdf import SALT_BYTES, Argon2Parameters, KdfPolicy, derive_key, encode_password

KeyslotKind = Literal["password", "key_file", "recovery"]
PassphraseKind = Literal["password", "recovery"]

_RECOVERY_BYTES = 20
_RECOVERY_GROUP = 4
# Base32 without the letters that handwriting confuses (Crockford): what people write instead is read as what was meant.
_STANDARD_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_RECOVERY_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_RECOVERY = str.maketrans(_STANDARD_ALPHABET, _RECOVERY_ALPHABET)
_LOOKALIKES = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


@dataclass(frozen=True)
class PasswordKdf:
    """How a keyslot's key comes from a password or a recovery passphrase."""

    salt: bytes
    parameters: Argon2Parameters


@dataclass(frozen=True)
class Keyslot:
    """The root key, wrapped under one credential.

    Attributes:
        id: Random; names the slot to people.
        kind: Of the credential.
        created_at: Aware, UTC.
        kdf: None for a key file, which holds a key already.
        wrapped: Envelope of the root key; opens only in this vault, this slot, with this kind and these parameters.
    """

    id: str
    kind: KeyslotKind
    created_at: datetime
    kdf: PasswordKdf | None
    wrapped: bytes


def make_passphrase_keyslot(
    kind: PassphraseKind,
    passphrase: SecretStr,
    root_key: bytes,
    *,
    vault_id: bytes,
    created_at: datetime,
    policy: KdfPolicy,
) -> Keyslot:
    """Wrap the root key under a password or a recovery passphrase.

    Raises:
        ConfigurationError: The password is empty, too long or not valid Unicode.
    """
    kdf = PasswordKdf(salt=os.urandom(SALT_BYTES), parameters=policy.parameters)
    key = derive_key(_encode(kind, passphrase), kdf.salt, kdf.parameters, policy=policy)
    return _wrap(Keyslot(_new_id(), kind, created_at, kdf, b""), key, root_key, vault_id=vault_id)


def make_key_file_keyslot(key: bytes, root_key: bytes, *, vault_id: bytes, created_at: datetime) -> Keyslot:
    """Wrap the root key under the key of a key file."""
    return _wrap(Keyslot(_new_id(), "key_file", created_at, None, b""), key, root_key, vault_id=vault_id)


def open_with_passphrase(slot: Keyslot, passphrase: SecretStr, *, vault_id: bytes, policy: KdfPolicy) -> bytes | None:
    """The root key, or None when this passphrase does not open this slot (or the slot was changed).

    Raises:
        ConfigurationError: The passphrase is empty, too long or not valid Unicode.
        IntegrityError: The slot's parameters are weaker than the policy allows.
    """
    if slot.kdf is None or slot.kind == "key_file":
        return None
    key = derive_key(_encode(slot.kind, passphrase), slot.kdf.salt, slot.kdf.parameters, policy=policy)
    return _unwrap(slot, key, vault_id=vault_id)


def open_with_key(slot: Keyslot, key: bytes, *, vault_id: bytes) -> bytes | None:
    """The root key, or None when this key file does not open this slot (or the slot was changed)."""
    return _unwrap(slot, key, vault_id=vault_id) if slot.kind == "key_file" else None


def generate_recovery_passphrase() -> str:
    """A new passphrase of 160 random bits, in eight groups of four characters that are easy to read out."""
    text = base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode("ascii").translate(_TO_RECOVERY)
    return "-".join(text[start : start + _RECOVERY_GROUP] for start in range(0, len(text), _RECOVERY_GROUP))


def _encode(kind: PassphraseKind, passphrase: SecretStr) -> bytes:
    if kind == "password":
        return encode_password(passphrase)
    typed = passphrase.get_secret_value().strip().upper().translate(_LOOKALIKES)
    if not typed:
        raise ConfigurationError("The recovery passphrase is empty")
    return encode_password(SecretStr(typed), what="recovery passphrase")


def _new_id() -> str:
    return secrets.token_hex(4)


def _wrap(slot: Keyslot, key: bytes, root_key: bytes, *, vault_id: bytes) -> Keyslot:
    context = _context(slot, vault_id)
    return replace(slot, wrapped=seal_bytes(key, root_key, purpose=Purpose.ROOT_KEY, context=context))


def _unwrap(slot: Keyslot, key: bytes, *, vault_id: bytes) -> bytes | None:
    try:
        return open_bytes(key, slot.wrapped, purpose=Purpose.ROOT_KEY, context=_context(slot, vault_id))
    except IntegrityError:
        # A wrong password and a changed slot look the same from here, and so does an envelope cut short.
        return None


def _context(slot: Keyslot, vault_id: bytes) -> bytes:
    kdf = b""
    if slot.kdf is not None:
        cost = slot.kdf.parameters
        kdf = f"argon2id t={cost.iterations} p={cost.lanes} m={cost.memory_kib}".encode("ascii")
        kdf = join_parts(kdf, slot.kdf.salt)
    return join_parts(vault_id, slot.id.encode("ascii"), slot.kind.encode("ascii"), kdf)
