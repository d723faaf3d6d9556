"""Import of secrets that another program encrypted as Fernet tokens; the vault itself never writes Fernet."""

from __future__ import annotations

from synqx_dagster.errors import ConfigurationError, IntegrityError


def import_fernet(token: bytes, key: bytes) -> str:
    """Decrypt a Fernet token, so that its text can be sealed by the vault.

    The token's age is not checked. Fernet is AES-128-CBC with HMAC-SHA256 (Fernet specification, version 0x80),
    which is why it is read and not kept.

    Args:
        token: The token, as URL-safe base64.
        key: The Fernet key, as URL-safe base64 of 32 bytes.

    Raises:
        ConfigurationError: The key is not a Fernet key.
        IntegrityError: The token was not made with this key, was changed, or does not hold UTF-8 text.
    """
    from cryptography.fernet import Fernet, InvalidToken

    try:
        fernet = Fernet(key.strip())
    except ValueError:
        raise ConfigurationError(
            "The Fernet key is not URL-safe base64 of 32 bytes",
            hint="a key looks like the output of `Fernet.generate_key()`: 44 characters that end in =",
        ) from None
    try:
        return fernet.decrypt(token.strip()).decode("utf-8")
    except InvalidToken as exc:
        raise IntegrityError("The Fernet token was changed, or made with another key") from exc
    except UnicodeDecodeError:
        raise IntegrityError("The Fernet token does not hold UTF-8 text") from None
