"""Import of Fernet tokens."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from synqx_dagster.errors import ConfigurationError, IntegrityError
from synqx_dagster.vault import import_fernet

KEY = Fernet.generate_key()


def test_a_token_gives_its_text() -> None:
    assert import_fernet(Fernet(KEY).encrypt("pässword".encode()) + b"\n", KEY + b"\n") == "pässword"


def test_the_token_of_the_specification() -> None:
    """The generate.json vector of the Fernet specification (github.com/fernet/spec)."""
    token = b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="
    assert import_fernet(token, b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=") == "hello"


def test_a_changed_token_or_another_key_is_refused() -> None:
    token = Fernet(KEY).encrypt(b"password")
    with pytest.raises(IntegrityError):
        import_fernet(token[:-4] + b"AAA=", KEY)
    with pytest.raises(IntegrityError):
        import_fernet(token, Fernet.generate_key())
    with pytest.raises(IntegrityError):
        import_fernet(b"not a token \xff", KEY)


@pytest.mark.parametrize("key", [b"", b"short", b"!" * 44, b"\xff" * 44])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(ConfigurationError):
        import_fernet(Fernet(KEY).encrypt(b"password"), key)


def test_a_token_that_holds_no_text_is_refused() -> None:
    with pytest.raises(IntegrityError, match="UTF-8"):
        import_fernet(Fernet(KEY).encrypt(b"\xff\xfe"), KEY)
