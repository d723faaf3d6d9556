"""The stored state: read strictly, and bound to the root key."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from synqx_dagster.errors import CatalogVersionError, IntegrityError, SynqxError, WrongPasswordError
from synqx_dagster.vault import Vault, VaultState
from synqx_dagster_tests.unit.vault.memory_storage import (
    PASSWORD,
    WEAK,
    MemoryStorage,
    address,
    make_vault,
    unsealed_vault,
)

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def storage() -> MemoryStorage:
    """Holds a vault of two generations, with a password and a recovery passphrase."""
    storage = MemoryStorage()
    vault = make_vault(storage)
    vault.add_recovery()
    vault.rotate()
    return storage


def test_a_state_comes_back_as_it_was(storage: MemoryStorage) -> None:
    assert storage.state.to_json() == storage.text
    failed = storage.state.with_failure(NOW).sealed()
    assert failed is not None
    assert VaultState.from_json(failed.to_json()) == failed


def test_the_state_holds_no_key(storage: MemoryStorage) -> None:
    vault = unsealed_vault(storage)
    assert vault._keyring is not None
    root_key = vault._keyring.root_key
    assert storage.text is not None
    for form in (root_key.hex(), base64.b64encode(root_key).decode(), PASSWORD.get_secret_value()):
        assert form not in storage.text
    assert root_key.hex() not in repr(vault) + repr(vault._keyring) + repr(storage.state)


def test_every_changed_character_is_refused_or_harmless(storage: MemoryStorage) -> None:
    """What nobody needs a key to write may change; nothing else opens afterwards as if nothing had happened."""
    original, text = storage.state, storage.text
    assert text is not None
    for position, character in enumerate(text):
        storage.text = text[:position] + ("0" if character != "0" else "1") + text[position + 1 :]
        try:
            unsealed_vault(storage)
            changed = storage.state
        except SynqxError as exc:
            assert isinstance(exc, IntegrityError | CatalogVersionError | WrongPasswordError)  # noqa: PT017
            continue
        assert replace(changed, serial=original.serial, seal_epoch=original.seal_epoch) == original


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{",
        "{}",
        "NaN",
        "[" * 100_000,
        '{"format":1}',
        '{"format":' + "9" * 5000 + "}",
        '{"format":true}',
        "\ud800",
        "x" * 5_000_000,
    ],
)
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        VaultState.from_json(text)


def dump(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("surprise",), 1),
        (("format",), "1"),
        (("format",), 0),
        (("serial",), -1),
        (("serial",), 1.0),
        (("serial",), True),
        (("serial",), 2**53),
        (("rotating",), 0),
        (("vault_id",), "00"),
        (("vault_id",), 7),
        (("mac",), "AAAA"),
        (("mac",), None),
        (("keyslots",), []),
        (("keyslots",), {}),
        (("keyslots", 0), None),
        (("keyslots", 0, "id"), "../../etc"),
        (("keyslots", 0, "kind"), "back door"),
        (("keyslots", 0, "kind"), "key_file"),
        (("keyslots", 0, "kdf"), None),
        (("keyslots", 0, "kdf", "algorithm"), "md5"),
        (("keyslots", 0, "kdf", "memory_kib"), 1024 * 1024 + 1),
        (("keyslots", 0, "kdf", "memory_kib"), 0),
        (("keyslots", 0, "kdf", "iterations"), 10**9),
        (("keyslots", 0, "kdf", "lanes"), 10**6),
        (("keyslots", 0, "kdf", "salt"), "AAAA"),
        (("keyslots", 0, "created_at"), "yesterday"),
        (("keyslots", 0, "created_at"), "2026-11-01T12:00:00"),
        (("keyslots", 0, "created_at"), "2026-11-01T12:00:00.000+01:00"),
        (("keyslots", 0, "wrapped"), "not base64!"),
        (("data_keys",), []),
        (("data_keys", 0, "generation"), 0),
        (("data_keys", 0, "generation"), 2),
        (("data_keys", 0, "generation"), 2**32),
        (("active_generation",), 3),
        (("failures",), None),
    ],
)
def test_a_wrong_field_is_refused(storage: MemoryStorage, path: tuple[str | int, ...], value: object) -> None:
    assert storage.text is not None
    document: Any = json.loads(storage.text)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(IntegrityError, match="damaged"):
        VaultState.from_json(dump(document))


def test_a_missing_field_is_refused(storage: MemoryStorage) -> None:
    assert storage.text is not None
    document = json.loads(storage.text)
    for name in document:
        with pytest.raises(IntegrityError, match="damaged"):
            VaultState.from_json(dump({key: value for key, value in document.items() if key != name}))


def test_only_the_canonical_text_is_read(storage: MemoryStorage) -> None:
    text = storage.text
    assert text is not None
    document = json.loads(text)
    for other in (
        json.dumps(document, sort_keys=True),
        text + " ",
        text.replace('"rotating":', '"rotating":true,"rotating":'),
        text.replace(".000+00:00", "+00:00").replace("+00:00", "Z"),
        text.replace(document["vault_id"], document["vault_id"].upper() + " "),
    ):
        assert other != text
        with pytest.raises(IntegrityError, match="damaged"):
            VaultState.from_json(other)


def test_a_newer_format_is_named(storage: MemoryStorage) -> None:
    assert storage.text is not None
    with pytest.raises(CatalogVersionError, match="format 2"):
        VaultState.from_json(storage.text.replace('"format":1', '"format":2'))


def test_too_many_keyslots_are_refused(storage: MemoryStorage) -> None:
    slot = storage.state.keyslots[0]
    many = replace(storage.state, keyslots=tuple(replace(slot, id=f"{n:08x}") for n in range(33)))
    with pytest.raises(IntegrityError, match="33 keyslots"):
        VaultState.from_json(many.to_json())


def test_two_keyslots_of_one_id_are_refused(storage: MemoryStorage) -> None:
    slot = storage.state.keyslots[0]
    with pytest.raises(IntegrityError, match="one id"):
        VaultState.from_json(replace(storage.state, keyslots=(slot, slot)).to_json())


def test_swapped_keyslots_do_not_open(storage: MemoryStorage) -> None:
    """The wrapped keys of two slots change places; ids, kinds and salts stay."""
    first, second = storage.state.keyslots
    swapped = (replace(first, wrapped=second.wrapped), replace(second, wrapped=first.wrapped))
    storage.text = replace(storage.state, keyslots=swapped).to_json()
    with pytest.raises(WrongPasswordError):
        unsealed_vault(storage)


def test_a_keyslot_of_another_vault_does_not_open(storage: MemoryStorage) -> None:
    other = MemoryStorage()
    make_vault(other)
    storage.text = replace(storage.state, keyslots=other.state.keyslots).to_json()
    with pytest.raises(WrongPasswordError):
        unsealed_vault(storage)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda state: replace(state, active_generation=1),
        lambda state: replace(state, rotating=True),
        lambda state: replace(state, keyslots=state.keyslots[::-1]),
        lambda state: replace(state, keyslots=state.keyslots[:1]),
        lambda state: replace(state, data_keys=state.data_keys[1:]),
        lambda state: replace(state, mac=bytes(32)),
        lambda state: replace(
            state,
            data_keys=(
                replace(state.data_keys[0], wrapped=state.data_keys[1].wrapped),
                replace(state.data_keys[1], wrapped=state.data_keys[0].wrapped),
            ),
        ),
        lambda state: replace(state, data_keys=(replace(state.data_keys[0], retired_at=None), state.data_keys[1])),
    ],
)
def test_a_change_that_needs_the_root_key_is_noticed(storage: MemoryStorage, tamper: Any) -> None:
    open_vault = unsealed_vault(storage)
    storage.text = tamper(storage.state).to_json()
    with pytest.raises(IntegrityError, match="not what was written"):
        unsealed_vault(storage)
    for act in (
        lambda: open_vault.is_unsealed,
        open_vault.status,
        open_vault.rotate,
        lambda: open_vault.seal_secret(address(), "text"),
        lambda: open_vault.change_password(SecretStr("new")),
    ):
        with pytest.raises(IntegrityError, match="not what was written"):
            act()


def test_a_removed_keyslot_cannot_be_put_back(storage: MemoryStorage) -> None:
    """Somebody who knows an old password and may write to the catalog brings back the old slot."""
    vault = unsealed_vault(storage)
    old = next(slot for slot in storage.state.keyslots if slot.kind == "password")
    vault.change_password(SecretStr("new password"))
    storage.text = replace(storage.state, keyslots=(*storage.state.keyslots, old)).to_json()
    with pytest.raises(IntegrityError, match="not what was written"):
        Vault(storage, policy=WEAK).unseal(password=PASSWORD)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 4), (11, 256), (12, 300), (1000, 300)]
)
def test_the_back_off_doubles_up_to_five_minutes(storage: MemoryStorage, failures: int, seconds: int) -> None:
    state = replace(storage.state, failures=failures, last_failure_at=NOW if failures else None)
    assert state.retry_after_seconds(NOW) == seconds
    assert state.retry_after_seconds(NOW + timedelta(seconds=seconds)) == 0
    if seconds:
        assert state.retry_after_seconds(NOW + timedelta(seconds=seconds - 0.5)) == 0.5


@pytest.mark.parametrize(
    "moment", [datetime(9999, 12, 31, tzinfo=UTC), NOW + timedelta(days=1), datetime(1, 1, 1, tzinfo=UTC)]
)
def test_a_clock_that_was_wrong_does_not_lock_the_vault(storage: MemoryStorage, moment: datetime) -> None:
    state = replace(storage.state, failures=100, last_failure_at=moment)
    assert VaultState.from_json(state.to_json()).retry_after_seconds(NOW) == 0
