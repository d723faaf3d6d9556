"""Rotation: killed anywhere it is finished later, and nothing that is written meanwhile is lost."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from synqx_dagster.errors import ConflictError, IntegrityError
from synqx_dagster.vault import Vault
from synqx_dagster.vault.envelope import generation_of
from synqx_dagster.vault.rotation import RETENTION
from synqx_dagster_tests.unit.vault.memory_storage import (
    PASSWORD,
    WEAK,
    Killed,
    MemoryStorage,
    address,
    make_vault,
    unsealed_vault,
)

ROWS = 4


@pytest.fixture
def storage() -> MemoryStorage:
    """Holds a vault and `ROWS` secrets, the text of each telling its row."""
    storage = MemoryStorage()
    vault = make_vault(storage)
    for row_id in range(ROWS):
        write(storage, vault, row_id)
    return storage


def write(storage: MemoryStorage, vault: Vault, row_id: int) -> None:
    storage.envelopes[address(row_id)] = vault.seal_secret(address(row_id), f"secret {row_id}")


def assert_all_open(storage: MemoryStorage) -> None:
    vault = unsealed_vault(storage)
    for stored, envelope in storage.envelopes.items():
        assert vault.open_secret(stored, envelope) == f"secret {stored.row_id}"


def generations(storage: MemoryStorage) -> set[int]:
    return {generation_of(envelope) for envelope in storage.envelopes.values()}


def test_every_secret_gets_the_new_generation(storage: MemoryStorage) -> None:
    before = dict(storage.envelopes)
    vault = unsealed_vault(storage)
    assert vault.rotate() == ROWS
    status = vault.status()
    assert (status.active_generation, status.rotation_in_progress) == (2, False)
    assert generations(storage) == {2}
    assert not set(before.values()) & set(storage.envelopes.values())
    assert_all_open(storage)
    assert vault.rotate() == ROWS
    assert generations(storage) == {3}


def test_a_rotation_of_nothing(storage: MemoryStorage) -> None:
    storage.envelopes.clear()
    assert unsealed_vault(storage).rotate() == 0
    assert storage.state.active_generation == 2


def test_an_unsealed_process_follows_a_rotation(storage: MemoryStorage) -> None:
    service = unsealed_vault(storage)
    unsealed_vault(storage).rotate()
    assert service.open_secret(address(0), storage.envelopes[address(0)]) == "secret 0"
    assert generation_of(service.seal_secret(address(9), "text")) == 2


def test_an_envelope_of_a_kept_generation_opens(storage: MemoryStorage) -> None:
    """It was read, or sealed and not yet committed, when the rotation passed."""
    straggler = storage.envelopes[address(0)]
    vault = unsealed_vault(storage)
    vault.rotate()
    assert vault.open_secret(address(0), straggler) == "secret 0"


def test_an_old_generation_is_dropped_by_a_rotation_after_the_retention(storage: MemoryStorage) -> None:
    now = datetime.now(UTC)
    vault = Vault(storage, policy=WEAK, clock=lambda: now)
    vault.unseal(password=PASSWORD)
    straggler = storage.envelopes[address(0)]
    vault.rotate()
    now += RETENTION - timedelta(seconds=1)
    vault.rotate()
    assert vault.status().generations == (1, 2, 3)
    storage.envelopes[address(0)] = straggler
    now += timedelta(seconds=1)
    vault.rotate()
    assert vault.status().generations == (2, 3, 4)
    assert_all_open(storage)
    with pytest.raises(IntegrityError, match="no data key of generation 1"):
        vault.open_secret(address(0), straggler)


def count_calls(storage: MemoryStorage) -> int:
    calls: list[str] = []
    copy = MemoryStorage()
    copy.text, copy.envelopes = storage.text, dict(storage.envelopes)
    vault = unsealed_vault(copy)
    copy.on_call = calls.append
    vault.rotate()
    return len(calls)


def test_killed_at_any_step_it_is_finished_by_the_next_call(storage: MemoryStorage) -> None:
    steps = count_calls(storage)
    assert steps > 2 * ROWS
    text, envelopes = storage.text, dict(storage.envelopes)
    for step in range(steps):
        storage.text, storage.envelopes = text, dict(envelopes)
        vault = unsealed_vault(storage)
        left = step

        def kill(call: str) -> None:
            nonlocal left
            if left == 0:
                raise Killed(call)
            left -= 1

        storage.on_call = kill
        with pytest.raises(Killed):
            vault.rotate()
        storage.on_call = lambda call: None
        assert_all_open(storage)
        begun = storage.state.rotating
        successor = unsealed_vault(storage)
        write(storage, successor, 99)  # a secret that is written between the kill and the resumption
        successor.rotate()
        assert storage.state.active_generation == 2
        assert not storage.state.rotating
        assert generations(storage) == {2}
        assert_all_open(storage)
        assert begun or left == 0


def test_a_resumed_rotation_does_only_what_was_left(storage: MemoryStorage) -> None:
    vault = unsealed_vault(storage)
    replaced = 0

    def kill(call: str) -> None:
        nonlocal replaced
        if call == "replace_envelope":
            if replaced == 3:
                raise Killed
            replaced += 1

    storage.on_call = kill
    with pytest.raises(Killed):
        vault.rotate()
    storage.on_call = lambda call: None
    assert unsealed_vault(storage).status().rotation_in_progress
    assert unsealed_vault(storage).rotate() == ROWS - 3


def test_a_secret_written_under_the_old_generation_meanwhile_is_found(storage: MemoryStorage) -> None:
    """A writer seals before the rotation begins and commits after its first pass has looked."""
    vault = unsealed_vault(storage)
    late = vault.seal_secret(address(50), "secret 50")
    scans = 0

    def commit_late(call: str) -> None:
        nonlocal scans
        if call == "replace_envelope" and address(50) not in storage.envelopes:
            storage.envelopes[address(50)] = late
        scans += call == "iter_secrets"

    storage.on_call = commit_late
    assert vault.rotate() == ROWS + 1
    assert scans == 3  # four, then the late one, then none
    assert generations(storage) == {2}
    assert_all_open(storage)


def test_a_secret_committed_after_the_end_is_not_lost(storage: MemoryStorage) -> None:
    vault = unsealed_vault(storage)
    late = vault.seal_secret(address(50), "secret 50")
    vault.rotate()
    storage.envelopes[address(50)] = late
    assert_all_open(storage)
    vault.rotate()
    assert generations(storage) == {3}
    assert_all_open(storage)


def test_a_secret_replaced_under_the_rotation_keeps_its_new_value(storage: MemoryStorage) -> None:
    vault = unsealed_vault(storage)
    newer: bytes | None = None

    def replace_once(call: str) -> None:
        nonlocal newer
        if call == "replace_envelope" and newer is None:
            newer = vault.seal_secret(address(0), "secret 0")
            storage.envelopes[address(0)] = newer

    storage.on_call = replace_once
    assert vault.rotate() == ROWS - 1
    assert storage.envelopes[address(0)] == newer
    assert_all_open(storage)


def test_a_secret_that_cannot_be_opened_stops_the_end_and_harms_no_other(storage: MemoryStorage) -> None:
    damaged = bytearray(storage.envelopes[address(1)])
    damaged[-1] ^= 1
    storage.envelopes[address(1)] = bytes(damaged)
    storage.envelopes[address(2)] = b"no envelope"
    vault = unsealed_vault(storage)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"2 secrets cannot be opened.*row 1") as caught:
            vault.rotate()
        assert caught.value.context == {"unreadable": 2}
    assert vault.status().rotation_in_progress
    assert vault.status().generations == (1, 2)
    assert storage.envelopes[address(1)] == bytes(damaged)
    for row_id in (1, 2):
        write(storage, vault, row_id)
    assert vault.rotate() == 0
    assert not vault.status().rotation_in_progress
    assert_all_open(storage)


def test_secrets_that_never_hold_still_are_an_error(storage: MemoryStorage) -> None:
    vault = unsealed_vault(storage)
    stale = dict(storage.envelopes)
    storage.replace_envelope = lambda address, *, old, new: False  # type: ignore[method-assign]  # a rival wins
    with pytest.raises(ConflictError, match="rotate again"):
        vault.rotate()
    assert storage.envelopes == stale
    assert storage.state.rotating


def test_processes_that_rotate_at_once_share_one_rotation(storage: MemoryStorage) -> None:
    vaults = [unsealed_vault(storage) for _ in range(3)]
    started = threading.Barrier(len(vaults))
    first = threading.local()

    def meet(call: str) -> None:
        if call == "save" and not getattr(first, "met", False):
            first.met = True
            started.wait(timeout=10)

    counts: list[int] = []
    threads = [threading.Thread(target=lambda vault=vault: counts.append(vault.rotate())) for vault in vaults]
    storage.on_call = meet
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    storage.on_call = lambda call: None
    assert sum(counts) == ROWS
    assert storage.state.active_generation == 2
    assert not storage.state.rotating
    assert generations(storage) == {2}
    assert_all_open(storage)


def test_a_rotation_that_another_process_ends_and_follows_with_a_second(storage: MemoryStorage) -> None:
    vault, other = unsealed_vault(storage), unsealed_vault(storage)

    def overtake(call: str) -> None:
        if call == "replace_envelope":
            storage.on_call = lambda call: None
            other.rotate()
            other.rotate()

    storage.on_call = overtake
    assert vault.rotate() == 0
    assert storage.state.active_generation == 3
    assert generations(storage) == {3}
    assert_all_open(storage)


def test_a_password_changed_under_a_rotation_stays_changed(storage: MemoryStorage) -> None:
    vault, other = unsealed_vault(storage), unsealed_vault(storage)
    slot = other.status().keyslots[0].id

    def change(call: str) -> None:
        if call == "replace_envelope":
            storage.on_call = lambda call: None
            other.change_password(PASSWORD)

    storage.on_call = change
    assert vault.rotate() == ROWS
    assert [info.id for info in vault.status().keyslots] != [slot]
    assert_all_open(storage)
