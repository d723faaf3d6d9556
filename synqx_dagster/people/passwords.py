"""Passwords: which are taken, how they are kept, and how hashes of other systems become ours.

Guarantee: what is stored is Argon2id under current parameters from the first login on; a wrong password takes as long
as an unknown user.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
import unicodedata
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, InvalidInputError, Problem, SourceLocation

_log = logging.getLogger(__name__)

MIN_CHARACTERS = 12
MAX_CHARACTERS = 256
_MIN_DISTINCT = 5

#: RFC 9106, the second recommended option: 3 passes over 64 MiB in 4 lanes.
PARAMETERS = RFC_9106_LOW_MEMORY

#: bcrypt reads no further, and since its release 5 refuses more; other systems cut what was longer.
_BCRYPT_BYTES = 72
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_MAX_BCRYPT_COST = 15
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,4}),p=([0-9]{1,3})\$[^$]{11,128}\$[^$]{11,128}"
)
_MAX_ARGON2_KIB = 1024 * 1024
_MAX_ARGON2_PASSES = 20
_MAX_ARGON2_LANES = 32

#: Each takes the memory that its parameters say, so only so many at a time.
_working = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))


def check_password(password: SecretStr, *, username: str, email: str | None = None, field: str = "password") -> None:
    """Refuse a password that is too short, too long, or follows from the account.

    Raises:
        InvalidInputError: It is refused, and why.
    """
    text = _normalised(password)
    reason = None
    if len(text) < MIN_CHARACTERS:
        reason = f"the password has fewer than {MIN_CHARACTERS} characters"
    elif len(text) > MAX_CHARACTERS:
        reason = f"the password has more than {MAX_CHARACTERS} characters"
    elif any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text):
        reason = "the password is not valid text"
    elif len(set(text.casefold())) < _MIN_DISTINCT:
        reason = f"the password has fewer than {_MIN_DISTINCT} different characters"
    elif _follows_from(text.casefold(), username, email):
        reason = "the password is made of the user name or the e-mail address"
    if reason is not None:
        problem = Problem(reason, SourceLocation(field=field), hint="take a few words that do not belong together")
        raise InvalidInputError([problem], message="The password is not taken")


def _follows_from(text: str, username: str, email: str | None) -> bool:
    names = {username.casefold(), (email or "").casefold(), (email or "").casefold().partition("@")[0]}
    # What is left without the name must be worth something by itself.
    return any(len(name) >= 3 and name in text and len(text.replace(name, "")) < 8 for name in names)


def hash_password(password: SecretStr) -> str:
    """Argon2id under the current parameters, with a salt of its own."""
    with _working:
        return _hasher().hash(_normalised(password))


def verify_password(password: SecretStr, stored: str | None) -> bool:
    """Whether this is the password of a stored hash; False for None, after the time that a hash takes."""
    text = _normalised(password)
    if len(text) > MAX_CHARACTERS or any("\ud800" <= character <= "\udfff" for character in text):
        # Nobody can have it. Something of a likely length is tried in its place, for the time that it takes.
        text, stored = "x", None
    with _working:
        # Made at the first login, whoever logs in, so that it takes no time of its own later.
        dummy = _dummy_hash(repr(PARAMETERS))
        if stored is None:
            _matches_argon2(dummy, text)
            return False
        if _BCRYPT.fullmatch(stored):
            return _matches_bcrypt(stored, text)
        return _matches_argon2(stored, text)


def needs_rehash(stored: str) -> bool:
    """Whether a hash is of another kind, or under other parameters, than new ones."""
    if _BCRYPT.fullmatch(stored):
        return True
    return _hasher().check_needs_rehash(stored)


def check_imported_hash(stored: str) -> None:
    """Refuse what is no hash of bcrypt or Argon2, or what would take a minute or all of the memory to verify.

    Raises:
        ConfigurationError: It is refused, and why.
    """
    if match := _BCRYPT.fullmatch(stored):
        if not 4 <= int(match[1]) <= _MAX_BCRYPT_COST:
            raise ConfigurationError(f"a bcrypt hash has cost {int(match[1])}; up to {_MAX_BCRYPT_COST} is taken")
        if importlib.util.find_spec("bcrypt") is None:
            raise ConfigurationError(
                "a hash is of bcrypt, which is not installed", hint="install synqx-dagster[bcrypt]"
            )
        return
    match = _ARGON2.fullmatch(stored)
    if match is None:
        raise ConfigurationError(
            "a password hash is neither of bcrypt ($2a$, $2b$, $2y$) nor of Argon2 ($argon2id$v=19$...)",
            hint="leave password_hash out, and let the user be given a new password",
        )
    memory, passes, lanes = (int(text) for text in match.groups())
    if memory > _MAX_ARGON2_KIB or passes > _MAX_ARGON2_PASSES or lanes > _MAX_ARGON2_LANES:
        raise ConfigurationError("an Argon2 hash asks for more memory or time than a login may take")


def _normalised(password: SecretStr) -> str:
    # One password, whatever a keyboard makes of its accents (RFC 8265, OpaqueString).
    return unicodedata.normalize("NFC", password.get_secret_value())


def _hasher() -> PasswordHasher:
    return PasswordHasher.from_parameters(PARAMETERS)


@lru_cache(maxsize=4)
def _dummy_hash(_parameters: str) -> str:
    return _hasher().hash(os.urandom(16).hex())


def _matches_argon2(stored: str, text: str) -> bool:
    try:
        return _hasher().verify(stored, text)
    except (VerificationError, InvalidHashError):
        return False


def _matches_bcrypt(stored: str, text: str) -> bool:
    data = text.encode("utf-8")[:_BCRYPT_BYTES]
    try:
        import bcrypt
    except ImportError:
        # Whoever asks must not learn from the answer whose hash it is; the operator does from the log.
        _log.error("A user has a password hash of bcrypt and cannot log in: install synqx-dagster[bcrypt]")
        return False
    # In C a NUL would end the password: "a" would open what "a\0b" closes.
    return b"\x00" not in data and bcrypt.checkpw(data, stored.encode("ascii"))
