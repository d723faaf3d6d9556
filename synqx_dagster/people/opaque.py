"""Opaque tokens: random texts that mean nothing, of which only the SHA-256 is kept.

A plain hash is enough: there is nothing to guess in 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import zlib

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_CHARACTERS = 43  # 256 bits in base 62
_CHECK_CHARACTERS = 6  # 32 bits

#: How a key of a service begins; with its checksum, scanners of repositories tell a leaked one from a random word.
API_KEY_PREFIX = "synqx_"
REFRESH_PREFIX = "synqxr_"
SESSION_PREFIX = "synqxs_"


def new_token(prefix: str) -> str:
    """A new token: the prefix, 43 random characters, and six of a CRC-32 over both."""
    body = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARACTERS))
    return body + _checksum(body)


def is_token(text: str, prefix: str) -> bool:
    """Whether a text can be a token at all; without a look into the database."""
    length = len(prefix) + _SECRET_CHARACTERS + _CHECK_CHARACTERS
    if len(text) != length or not text.startswith(prefix) or not text.isascii():
        return False
    return text[-_CHECK_CHARACTERS:] == _checksum(text[:-_CHECK_CHARACTERS])


def digest(token: str) -> str:
    """What is stored of a token, in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def csrf_token_of(session_token: str) -> str:
    """What a page of a session must send with each change; says nothing of the session's token."""
    key = session_token.encode("utf-8", "surrogatepass")
    return hmac.digest(key, b"synqx csrf v1", hashlib.sha256).hex()


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode("ascii"))
    digits = []
    for _ in range(_CHECK_CHARACTERS):
        number, rest = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))
