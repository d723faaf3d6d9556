"""Secrets: stored unreadable, and opened only where and as they were written."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.errors import (
    IntegrityError,
)
from synqx_dagster.vault import SecretAddress
from synqx_dagster_tests.unit.vault.memory_storage import (
    CANARY,
    MemoryStorage,
    address,
    make_vault,
)


@given(text=st.text(max_size=100).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)))
@settings(max_examples=30)
def test_a_secret_comes_back_as_it_was(text: str) -> None:
    vault = make_vault()
    assert vault.open_secret(address(), vault.seal_secret(address(), text)) == text


def test_nothing_that_is_stored_shows_the_secret(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    storage.envelopes[address()] = vault.seal_secret(address(), CANARY)
    vault.rotate()
    assert storage.text is not None
    assert CANARY not in storage.text
    assert CANARY.encode() not in storage.envelopes[address()]


def test_a_secret_opens_at_its_own_address_only() -> None:
    vault = make_vault()
    envelope = vault.seal_secret(address(), CANARY)
    for other in (
        address(table="secrets"),
        address(2),
        address(field="passphrase"),
        address(version=2),
        SecretAddress("secretp", 1, "assword", 1),
    ):
        with pytest.raises(IntegrityError) as caught:
            vault.open_secret(other, envelope)
        assert caught.value.context["version"] == other.version
        assert CANARY not in str(caught.value)


def test_a_flipped_byte_in_any_position_is_refused() -> None:
    vault = make_vault()
    envelope = vault.seal_secret(address(), CANARY)
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= 0x01
        with pytest.raises(IntegrityError):
            vault.open_secret(address(), bytes(changed))


def test_a_secret_of_another_vault_is_refused() -> None:
    envelope = make_vault().seal_secret(address(), CANARY)
    with pytest.raises(IntegrityError):
        make_vault().open_secret(address(), envelope)


def test_an_older_value_in_place_of_a_newer_one_is_refused() -> None:
    vault = make_vault()
    old = vault.seal_secret(address(version=1), "old")
    with pytest.raises(IntegrityError):
        vault.open_secret(address(version=2), old)


def test_a_vault_does_not_pickle() -> None:
    vault = make_vault()
    for value in (vault, vault._keyring):
        with pytest.raises(TypeError):
            pickle.dumps(value)
