"""Keys from passwords: Argon2id with parameters that are stored, and therefore capped before they are used."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, IntegrityError

KEY_BYTES = 32
SALT_BYTES = 16

# A stored parameter is whatever somebody wrote into the catalog: without these caps one edited number makes each
# process that unseals take all memory, or run for hours.
MAX_MEMORY_KIB = 1024 * 1024
MAX_ITERATIONS = 16
MAX_LANES = 16

#: RFC 9106, section 4: 64 MiB is the second recommended option, for machines with little memory to spare.
MEMORY_FLOOR_KIB = 64 * 1024

_MAX_PASSWORD_CHARACTERS = 4096


@dataclass(frozen=True)
class Argon2Parameters:
    """The cost of one guess.

    Attributes:
        iterations: Passes over the memory.
        lanes: Degree of parallelism.
        memory_kib: Memory of one guess, in KiB; at least 8 for each lane (RFC 9106).

    Raises:
        ValueError: A parameter is outside of the caps.
    """

    iterations: int = 3
    lanes: int = 4
    memory_kib: int = MEMORY_FLOOR_KIB

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("iterations", self.iterations, 1, MAX_ITERATIONS),
            ("lanes", self.lanes, 1, MAX_LANES),
            ("memory_kib", self.memory_kib, 8 * self.lanes, MAX_MEMORY_KIB),
        ):
            if not low <= value <= high:
                raise ValueError(f"Argon2id {name} must be between {low} and {high}, not {value}")


@dataclass(frozen=True)
class KdfPolicy:
    """What new keyslots cost, and how cheap a stored keyslot may be.

    Attributes:
        parameters: Of new keyslots.
        memory_floor_kib: Stored parameters below it are refused. Only tests lower it.
    """

    parameters: Argon2Parameters = Argon2Parameters()
    memory_floor_kib: int = MEMORY_FLOOR_KIB


#: Read when a `Vault` is made without a policy of its own.
DEFAULT_POLICY = KdfPolicy()


def encode_password(password: SecretStr, *, what: str = "master password") -> bytes:
    """The bytes of a password: NFC, then UTF-8, so that one password typed on two keyboards is one password.

    Args:
        password: Any Unicode text that is not empty.
        what: How an error calls it.

    Raises:
        ConfigurationError: It is empty, longer than 4096 characters, or not valid Unicode.
    """
    text = password.get_secret_value()
    if not text:
        raise ConfigurationError(f"The {what} is empty")
    if len(text) > _MAX_PASSWORD_CHARACTERS:
        raise ConfigurationError(f"The {what} is longer than {_MAX_PASSWORD_CHARACTERS} characters")
    try:
        return unicodedata.normalize("NFC", text).encode("utf-8")
    except UnicodeEncodeError:
        # The cause carries the password itself, so it is cut off.
        raise ConfigurationError(
            f"The {what} is not valid Unicode text: it holds a lone surrogate",
            hint="bytes that are not UTF-8 in an environment variable arrive like this",
        ) from None


def derive_key(password: bytes, salt: bytes, parameters: Argon2Parameters, *, policy: KdfPolicy) -> bytes:
    """Derive a 32-byte key with Argon2id; takes about 0.15 s and 64 MiB by default.

    Raises:
        IntegrityError: The parameters are weaker than the policy allows.
    """
    if parameters.memory_kib < policy.memory_floor_kib:
        raise IntegrityError(
            f"A keyslot asks for {parameters.memory_kib} KiB of Argon2id memory; "
            f"at least {policy.memory_floor_kib} KiB is required",
            hint="the vault's state was changed; restore the catalog from a backup",
        )
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=parameters.iterations,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    ).derive(password)
