"""Keyslots: added, replaced and removed without touching a secret, and never the last one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from synqx_dagster.errors import (
    ConfigurationError,
    ConflictError,
    NotFoundError,
    SealedError,
    WrongPasswordError,
)
from synqx_dagster.vault import Vault
from synqx_dagster_tests.unit.vault.memory_storage import (
    CANARY,
    PASSWORD,
    WEAK,
    WRONG,
    MemoryStorage,
    address,
    make_vault,
    unsealed_vault,
)


def test_changing_the_password_touches_no_envelope(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    recovery = SecretStr(vault.add_recovery())
    storage.envelopes[address()] = vault.seal_secret(address(), CANARY)
    before = dict(storage.envelopes)
    vault.change_password(SecretStr("new password"))
    assert storage.envelopes == before
    with pytest.raises(WrongPasswordError):
        Vault(storage, policy=WEAK).unseal(password=PASSWORD)
    for arguments in ({"password": SecretStr("new password")}, {"recovery": recovery}):
        other = Vault(storage, policy=WEAK)
        other.unseal(**arguments)
        assert other.open_secret(address(), storage.envelopes[address()]) == CANARY
    assert [slot.kind for slot in vault.status().keyslots] == ["recovery", "password"]


def test_an_unusable_new_password_changes_nothing(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    before = storage.text
    with pytest.raises(ConfigurationError):
        vault.change_password(SecretStr(""))
    assert storage.text == before


def test_a_vault_with_a_key_file_only_gets_a_password(storage: MemoryStorage, key_file: Path) -> None:
    vault = Vault(storage, policy=WEAK)
    vault.initialise(key_file=key_file)
    vault.change_password(PASSWORD)
    assert unsealed_vault(storage).is_unsealed


def test_a_key_file_is_added_once(storage: MemoryStorage, key_file: Path) -> None:
    vault = make_vault(storage)
    assert vault.add_key_file(key_file) == vault.add_key_file(key_file)
    assert len(vault.status().keyslots) == 2


def test_a_removed_keyslot_opens_no_more(storage: MemoryStorage, key_file: Path) -> None:
    vault = make_vault(storage)
    vault.remove_keyslot(vault.add_key_file(key_file))
    with pytest.raises(WrongPasswordError):
        Vault(storage, policy=WEAK).unseal(key_file=key_file)


def test_the_last_keyslot_stays(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    (only,) = vault.status().keyslots
    before = storage.text
    with pytest.raises(ConfigurationError, match="last keyslot"):
        vault.remove_keyslot(only.id)
    with pytest.raises(NotFoundError, match=only.id):
        vault.remove_keyslot("ffffffff")
    assert storage.text == before


def test_two_that_remove_the_last_two_keyslots_at_once_leave_one(storage: MemoryStorage, key_file: Path) -> None:
    vault = make_vault(storage)
    vault.add_key_file(key_file)
    other = unsealed_vault(storage)
    first, second = vault.status().keyslots

    def other_is_faster(call: str) -> None:
        if call == "save":
            storage.on_call = lambda _: None
            other.remove_keyslot(second.id)

    storage.on_call = other_is_faster
    with pytest.raises(ConfigurationError, match="last keyslot"):
        vault.remove_keyslot(first.id)
    assert [slot.id for slot in vault.status().keyslots] == [first.id]


def test_a_vault_holds_so_many_keyslots(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    for _ in range(31):
        vault.add_recovery()
    with pytest.raises(ConfigurationError, match="32 keyslots"):
        vault.add_recovery()
    vault.change_password(SecretStr("still possible"))


def test_keyslots_of_a_sealed_vault_cannot_be_changed(storage: MemoryStorage, key_file: Path) -> None:
    slot_id = make_vault(storage).status().keyslots[0].id
    vault = Vault(storage, policy=WEAK)
    for act in (
        vault.add_recovery,
        vault.rotate,
        lambda: vault.add_key_file(key_file),
        lambda: vault.remove_keyslot(slot_id),
        lambda: vault.change_password(WRONG),
    ):
        with pytest.raises(SealedError) as caught:
            act()
        assert caught.value.exit_code == 3


def test_a_storage_that_never_settles_is_an_error(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make_vault(storage)
    monkeypatch.setattr("synqx_dagster.vault.storage.time.sleep", lambda seconds: None)

    def refuse(call: str) -> None:
        if call == "save":
            raise ConflictError

    storage.on_call = refuse
    with pytest.raises(ConflictError, match="keeps changing"):
        vault.change_password(WRONG)
