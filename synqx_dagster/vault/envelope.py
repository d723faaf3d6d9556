"""Envelopes: AES-256-GCM under a key of its own for each envelope, committed to that key and bound to its place.

Guarantee: an envelope opens only under the key, the purpose and the context it was sealed with, and only when every
byte of it is what was written. `docs/vault.md` gives the format byte by byte.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from synqx_dagster.errors import ConfigurationError, IntegrityError

_MAGIC = b"SXE"
_VERSION = 1
_PREFIX = struct.Struct(">3sBBI")  # magic, version, purpose, generation
_SALT_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_KEY_BYTES = 32
_COMMITMENT_BYTES = 32
_HEADER_BYTES = _PREFIX.size + _SALT_BYTES + _NONCE_BYTES
_OVERHEAD_BYTES = _HEADER_BYTES + _COMMITMENT_BYTES + _TAG_BYTES
_INFO = b"synqx vault envelope v1\x00"

#: The stored length of a secret says only how many blocks of this size it fills, not how long a password is.
_PADDING_BYTES = 64
_MAX_SECRET_BYTES = 1024 * 1024

_MAX_GENERATION = 2**32 - 1
_MAX_INTEGER = 2**63 - 1


class Purpose(IntEnum):
    """What an envelope holds; an envelope of one purpose never opens as another."""

    SECRET = 1
    DATA_KEY = 2
    ROOT_KEY = 3


@dataclass(frozen=True)
class SecretAddress:
    """Where a secret is stored; its envelope opens nowhere else.

    Attributes:
        table: Name of the table that holds the envelope.
        row_id: Identity of the row, never used twice within the table.
        field: The field of the record that the secret is the value of.
        version: Counts the values this field has had.
    """

    table: str
    row_id: int
    field: str
    version: int

    def __post_init__(self) -> None:
        for name, value in (("row_id", self.row_id), ("version", self.version)):
            if not 0 <= value <= _MAX_INTEGER:
                raise ValueError(f"{name} must be between 0 and 2**63 - 1, not {value}")

    def encode(self) -> bytes:
        """Canonical bytes: each part has its length in front, so no two addresses share an encoding."""
        return join_parts(
            self.table.encode("utf-8"),
            struct.pack(">Q", self.row_id),
            self.field.encode("utf-8"),
            struct.pack(">Q", self.version),
        )


def join_parts(*parts: bytes) -> bytes:
    """Join byte strings so that the parts can be told apart: an 8-byte big-endian length stands before each."""
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def seal_bytes(key: bytes, plaintext: bytes, *, purpose: Purpose, context: bytes, generation: int = 0) -> bytes:
    """Seal bytes under a fresh key that is derived from ``key``.

    Args:
        key: 32 uniformly random bytes.
        plaintext: What to hide; its length shows.
        purpose: What it is.
        context: Where it belongs; must be given again to open it, and is not stored.
        generation: Of ``key``; stands readable in the header, so that a reader knows which key to take.
    """
    if not 0 <= generation <= _MAX_GENERATION:
        raise ValueError(f"generation must be between 0 and 2**32 - 1, not {generation}")
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = os.urandom(_SALT_BYTES)
    nonce = os.urandom(_NONCE_BYTES)
    header = _PREFIX.pack(_MAGIC, _VERSION, purpose, generation) + salt + nonce
    associated_data = join_parts(header, context)
    record_key, commitment = _derive(key, salt, associated_data)
    return header + commitment + AESGCM(record_key).encrypt(nonce, plaintext, associated_data)


def open_bytes(key: bytes, envelope: bytes, *, purpose: Purpose, context: bytes) -> bytes:
    """Open what `seal_bytes` made.

    Raises:
        IntegrityError: The envelope, the key, the purpose or the context is not the one it was sealed with. Which
            of them differs does not show.
    """
    _parse_prefix(envelope, purpose)
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = envelope[:_HEADER_BYTES]
    salt = header[_PREFIX.size : _PREFIX.size + _SALT_BYTES]
    nonce = header[-_NONCE_BYTES:]
    commitment = envelope[_HEADER_BYTES : _HEADER_BYTES + _COMMITMENT_BYTES]
    associated_data = join_parts(header, context)
    record_key, expected = _derive(key, salt, associated_data)
    # AES-GCM alone does not bind a ciphertext to one key: somebody who knows two keys can make one that opens under
    # both. The commitment is compared before anything is decrypted.
    if not hmac.compare_digest(commitment, expected):
        raise IntegrityError("An envelope does not belong to this key and place, or was changed")
    try:
        return AESGCM(record_key).decrypt(nonce, envelope[_HEADER_BYTES + _COMMITMENT_BYTES :], associated_data)
    except InvalidTag as exc:
        raise IntegrityError("An envelope was changed") from exc


def generation_of(envelope: bytes, *, purpose: Purpose = Purpose.SECRET) -> int:
    """Generation of the key that an envelope says it was sealed under; proven only by opening it.

    Raises:
        IntegrityError: These bytes are no envelope of this purpose.
    """
    return _parse_prefix(envelope, purpose)


def encode_secret(text: str) -> bytes:
    """UTF-8, then 0x80 and zeros up to a whole number of 64-byte blocks (ISO/IEC 7816-4 padding).

    Raises:
        ConfigurationError: The text is not valid Unicode, or longer than 1 MiB.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        # The cause carries the secret itself, so it is cut off.
        raise ConfigurationError("A secret is not valid Unicode text: it holds a lone surrogate") from None
    if len(data) > _MAX_SECRET_BYTES:
        raise ConfigurationError(f"A secret is longer than {_MAX_SECRET_BYTES} bytes")
    return data + b"\x80" + bytes(-(len(data) + 1) % _PADDING_BYTES)


def decode_secret(padded: bytes) -> str:
    """Undo `encode_secret`.

    Raises:
        IntegrityError: The bytes are not such an encoding.
    """
    data = padded.rstrip(b"\x00")
    if not data.endswith(b"\x80"):
        raise IntegrityError("A stored secret has no padding")
    try:
        return data[:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise IntegrityError("A stored secret is not text") from None


def _parse_prefix(envelope: bytes, purpose: Purpose) -> int:
    if len(envelope) < _OVERHEAD_BYTES:
        raise IntegrityError(f"An envelope has {len(envelope)} bytes; at least {_OVERHEAD_BYTES} are required")
    magic, version, found_purpose, generation = _PREFIX.unpack_from(envelope)
    if magic != _MAGIC:
        raise IntegrityError("Stored bytes are no envelope of the vault")
    if version != _VERSION:
        raise IntegrityError(
            f"An envelope has format version {version}; this SynqX reads version {_VERSION}",
            hint="it was changed, or written by a newer version of SynqX",
        )
    if found_purpose != purpose:
        raise IntegrityError("An envelope holds something of another purpose")
    return int(generation)


def _derive(key: bytes, salt: bytes, associated_data: bytes) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    length = _KEY_BYTES + _COMMITMENT_BYTES
    derived = HKDF(algorithm=SHA256(), length=length, salt=salt, info=_INFO + associated_data).derive(key)
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]
