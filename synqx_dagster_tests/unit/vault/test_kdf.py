"""Key derivation: one password is one password, and stored parameters are never trusted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, IntegrityError
from synqx_dagster.vault.kdf import DEFAULT_POLICY, Argon2Parameters, KdfPolicy, derive_key, encode_password
from synqx_dagster_tests.unit.vault.memory_storage import WEAK

SALT = bytes(range(16))


def test_defaults_are_those_of_the_rfc() -> None:
    assert KdfPolicy(Argon2Parameters(iterations=3, lanes=4, memory_kib=65536), 65536) == DEFAULT_POLICY


def test_a_key_of_the_default_cost() -> None:
    key = derive_key(b"password", SALT, DEFAULT_POLICY.parameters, policy=DEFAULT_POLICY)
    assert len(key) == 32
    # argon2-cffi 25.1 (the reference implementation in C) gives the same for these arguments.
    assert key.hex() == "bd4ace85c295fb38d844e16771a9e43925282ac982c8656be55a2ef6cf20fd58"


def test_composed_and_decomposed_characters_are_one_password() -> None:
    assert encode_password(SecretStr("caf\u00e9 \u1e69")) == encode_password(SecretStr("cafe\u0301 s\u0323\u0307"))


def test_compatibility_characters_stay_apart() -> None:
    assert encode_password(SecretStr("\u00b2")) != encode_password(SecretStr("2"))


@given(st.text(min_size=1, max_size=50).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)))
@settings(max_examples=50)
def test_any_unicode_text_is_a_password(text: str) -> None:
    assert derive_key(encode_password(SecretStr(text)), SALT, WEAK.parameters, policy=WEAK)


@pytest.mark.parametrize("text", ["tr\udc80uc", "\ud83d", "x" * 4097, ""])
def test_unusable_passwords_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="master password") as caught:
        encode_password(SecretStr(text))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not text or ascii(text)[1:-1] not in ascii(str(caught.value))


@pytest.mark.parametrize(
    ("iterations", "lanes", "memory_kib"),
    [(0, 1, 65536), (17, 1, 65536), (1, 0, 65536), (1, 17, 65536), (1, 1, 1024 * 1024 + 1), (1, 4, 31), (1, 1, -1)],
)
def test_parameters_are_capped(iterations: int, lanes: int, memory_kib: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        Argon2Parameters(iterations, lanes, memory_kib)


def test_parameters_below_the_floor_are_refused() -> None:
    weak = Argon2Parameters(iterations=3, lanes=4, memory_kib=65535)
    with pytest.raises(IntegrityError, match="65535 KiB"):
        derive_key(b"password", SALT, weak, policy=DEFAULT_POLICY)
