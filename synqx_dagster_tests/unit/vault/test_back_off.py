"""The back-off: wrong passwords are counted for all processes together."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from synqx_dagster.errors import (
    UnlockDelayedError,
    WrongPasswordError,
)
from synqx_dagster.vault import Vault
from synqx_dagster_tests.unit.vault.memory_storage import (
    PASSWORD,
    WEAK,
    WRONG,
    MemoryStorage,
    make_vault,
)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_wrong_passwords_delay_every_process(storage: MemoryStorage) -> None:
    clock = Clock()
    make_vault(storage)
    for _ in range(3):
        with pytest.raises(WrongPasswordError):
            Vault(storage, policy=WEAK, clock=clock).unseal(password=WRONG)
    vault = Vault(storage, policy=WEAK, clock=clock)
    with pytest.raises(UnlockDelayedError) as caught:
        vault.unseal(password=PASSWORD)
    assert caught.value.context["retry_after_seconds"] == 1.0
    assert caught.value.exit_code == 3
    assert vault.status().retry_after_seconds == 1.0
    clock.advance(1)
    vault.unseal(password=PASSWORD)
    assert (storage.state.failures, storage.state.last_failure_at) == (0, None)


def test_a_delayed_try_is_neither_made_nor_counted(storage: MemoryStorage) -> None:
    clock = Clock()
    make_vault(storage)
    vault = Vault(storage, policy=WEAK, clock=clock)
    for _ in range(3):
        with pytest.raises(WrongPasswordError):
            vault.unseal(password=WRONG)
    for _ in range(5):
        with pytest.raises(UnlockDelayedError):
            vault.unseal(password=WRONG)
    assert storage.state.failures == 3
    clock.advance(1)
    with pytest.raises(WrongPasswordError):
        vault.unseal(password=WRONG)
    assert vault.status().retry_after_seconds == 2.0


def test_a_wrong_recovery_passphrase_counts_too(storage: MemoryStorage) -> None:
    make_vault(storage).add_recovery()
    with pytest.raises(WrongPasswordError):
        Vault(storage, policy=WEAK).unseal(recovery=WRONG)
    assert storage.state.failures == 1


def test_a_key_file_is_not_delayed(storage: MemoryStorage, key_file: Path) -> None:
    make_vault(storage).add_key_file(key_file)
    storage.text = replace(storage.state, failures=50, last_failure_at=datetime.now(UTC)).to_json()
    with pytest.raises(UnlockDelayedError):
        Vault(storage, policy=WEAK).unseal(password=PASSWORD)
    Vault(storage, policy=WEAK).unseal(key_file=key_file)


def test_no_wrong_password_is_lost_when_many_come_at_once(storage: MemoryStorage) -> None:
    make_vault(storage)
    everybody = threading.Barrier(8)
    thread = threading.local()

    def wait_for_the_others(call: str) -> None:
        # Each reads a state without failures, so none of them is told to wait before its try.
        if call == "save" and not getattr(thread, "has_met", False):
            thread.has_met = True
            everybody.wait(timeout=10)

    def guess() -> None:
        with pytest.raises(WrongPasswordError):
            Vault(storage, policy=WEAK).unseal(password=WRONG)

    storage.on_call = wait_for_the_others
    threads = [threading.Thread(target=guess) for _ in range(8)]
    for guesser in threads:
        guesser.start()
    for guesser in threads:
        guesser.join()
    assert storage.state.failures == 8
