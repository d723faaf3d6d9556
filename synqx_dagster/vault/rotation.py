"""Rotation of the data encryption key, in steps that each leave a vault that works.

Guarantee: a process that dies between any two steps, or a second one that rotates at the same time, loses no secret;
whoever calls next goes on where it stopped.

1. A new generation becomes the active one and the state says that a rotation is under way (one compare-and-swap).
2. Every envelope of another generation is opened and sealed again, one compare-and-swap each, until a whole pass
   finds none.
3. The rotation ends and the old generations are marked as retired. Retired ones are dropped by a later rotation,
   after a day: a writer that sealed just before step 1 may commit its envelope after step 2 has looked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from synqx_dagster.errors import ConflictError, IntegrityError
from synqx_dagster.vault.envelope import Purpose, SecretAddress, generation_of, open_bytes, seal_bytes
from synqx_dagster.vault.keyring import Keyring
from synqx_dagster.vault.state import VaultState
from synqx_dagster.vault.storage import VaultStorage

#: No transaction that seals a secret stays open for so long.
RETENTION = timedelta(days=1)


#: How often a pass may find only envelopes that somebody else is replacing at that moment.
_MAX_IDLE_PASSES = 20

Require = Callable[[], tuple[VaultState, Keyring]]
Change = Callable[[Callable[[VaultState, Keyring], VaultState | None]], VaultState]


@dataclass
class PassResult:
    """What one pass over all envelopes did."""

    replaced: int = 0
    moved: int = 0
    unreadable: int = 0
    first_unreadable: SecretAddress | None = None

    @property
    def found_none(self) -> bool:
        """No envelope was left to re-encrypt."""
        return self.replaced == self.moved == self.unreadable == 0


def rotate(storage: VaultStorage, *, require: Require, change: Change, now: Callable[[], datetime]) -> int:
    """Rotate, or go on with a rotation that stopped; see `Vault.rotate`.

    Args:
        storage: Where the envelopes are.
        require: Gives the newest state and the keyring that may be used with it.
        change: Changes the state by compare-and-swap and signs it.
        now: Gives the time.
    """
    state, _ = require()
    wanted = state.active_generation if state.rotating else state.active_generation + 1

    def begin_once(current: VaultState, keyring: Keyring) -> VaultState | None:
        return begin(current, keyring, now=now()) if current.active_generation < wanted else None

    def end_once(current: VaultState, _: Keyring) -> VaultState | None:
        ours = current.rotating and current.active_generation == wanted
        return end(current, now=now()) if ours else None

    change(begin_once)
    count = idle_passes = 0
    while True:
        state, keyring = require()
        if not state.rotating or state.active_generation != wanted:
            return count  # another process has ended this rotation
        result = reencrypt_stale(storage, state, keyring)
        count += result.replaced
        if result.found_none:
            change(end_once)
            return count
        idle_passes = 0 if result.replaced else idle_passes + 1
        if result.first_unreadable is not None and not result.replaced and not result.moved:
            raise _unreadable(result.unreadable, result.first_unreadable)
        if idle_passes > _MAX_IDLE_PASSES:
            raise ConflictError("The stored secrets keep changing", hint="rotate again")


def begin(state: VaultState, keyring: Keyring, *, now: datetime) -> VaultState:
    """The state with a new active generation; not yet signed."""
    generation = max(key.generation for key in state.data_keys) + 1
    data_key = keyring.make_data_key(generation, created_at=now)
    return replace(state, data_keys=(*state.data_keys, data_key), active_generation=generation, rotating=True)


def end(state: VaultState, *, now: datetime) -> VaultState:
    """The state after a pass that found none; not yet signed."""
    kept = []
    for key in state.data_keys:
        if key.generation == state.active_generation:
            kept.append(key)
        elif key.retired_at is None:
            kept.append(replace(key, retired_at=now))
        elif now - key.retired_at < RETENTION:
            kept.append(key)
    return replace(state, data_keys=tuple(kept), rotating=False)


def reencrypt_stale(storage: VaultStorage, state: VaultState, keyring: Keyring) -> PassResult:
    """Seal every envelope that is not of the active generation again; one that cannot be opened stays as it is."""
    result = PassResult()
    active = state.active_generation
    new_key = keyring.data_key(state, active)
    # Only what must change is held in memory, and no cursor stays open while rows are written.
    stale = [secret for secret in storage.iter_secrets() if not _is_of_generation(secret.envelope, active)]
    for secret in stale:
        context = secret.address.encode()
        try:
            old_key = keyring.data_key(state, generation_of(secret.envelope))
            plaintext = open_bytes(old_key, secret.envelope, purpose=Purpose.SECRET, context=context)
        except IntegrityError:
            result.unreadable += 1
            result.first_unreadable = result.first_unreadable or secret.address
            continue
        new = seal_bytes(new_key, plaintext, purpose=Purpose.SECRET, context=context, generation=active)
        if storage.replace_envelope(secret.address, old=secret.envelope, new=new):
            result.replaced += 1
        else:
            result.moved += 1
    return result


def _is_of_generation(envelope: bytes, generation: int) -> bool:
    try:
        return generation_of(envelope) == generation
    except IntegrityError:
        return False


def _unreadable(count: int, first: SecretAddress) -> IntegrityError:
    return IntegrityError(
        f"{count} secrets cannot be opened, so the rotation cannot end; the first is {first.field} "
        f"(version {first.version}) of {first.table} row {first.row_id}",
        hint="give their values again or restore them from a backup, then rotate again",
        unreadable=count,
    )
