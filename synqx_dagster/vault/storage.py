"""What the vault needs of the place that keeps its state and its envelopes; the catalog implements it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from synqx_dagster.errors import ConflictError, NotInitialisedError
from synqx_dagster.vault.envelope import SecretAddress
from synqx_dagster.vault.state import VaultState

_MAX_ATTEMPTS = 30


@dataclass(frozen=True)
class StoredSecret:
    """One envelope as it stands in storage."""

    address: SecretAddress
    envelope: bytes


class VaultStorage(Protocol):
    """Keeps one vault's state and the envelopes of its secrets.

    Every method is its own transaction and sees what others have committed. Used from several threads and processes
    at once.
    """

    def load(self) -> VaultState | None:
        """The state, or None before `Vault.initialise`. Called for every secret that is opened: keep it cheap."""
        ...

    def save(self, state: VaultState, *, replacing: VaultState | None) -> None:
        """Replace the state, if it is still ``replacing`` (None: if there is none yet); durable on return.

        Every state has its own ``serial``, so comparing the JSON texts is an exact comparison.

        Raises:
            ConflictError: The stored state is another one; nothing was changed.
        """
        ...

    def iter_secrets(self) -> Iterator[StoredSecret]:
        """Every stored envelope, those of old revisions too, in any order."""
        ...

    def replace_envelope(self, address: SecretAddress, *, old: bytes, new: bytes) -> bool:
        """Replace one envelope, if it is still ``old``; durable on return.

        Returns:
            False: the stored envelope is another one, or gone; nothing was changed.
        """
        ...


def update_state(storage: VaultStorage, change: Callable[[VaultState], VaultState | None]) -> VaultState:
    """Change the state by compare-and-swap, again from the newest state whenever somebody else was faster.

    Args:
        storage: Where the state is.
        change: Gives the new state, or None when there is nothing to change; may be called several times.

    Returns:
        The state as it stands now.

    Raises:
        NotInitialisedError: There is no vault yet.
        ConflictError: Others kept changing the state.
    """
    for attempt in range(_MAX_ATTEMPTS):
        state = load_state(storage)
        changed = change(state)
        if changed is None:
            return state
        changed = replace(changed, serial=state.serial + 1)
        try:
            storage.save(changed, replacing=state)
        except ConflictError:
            # Spread out, so that processes that met once do not meet again.
            time.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, 5)))  # noqa: S311
            continue
        return changed
    raise ConflictError("The vault's state keeps changing", hint="try again")


def load_state(storage: VaultStorage) -> VaultState:
    """The newest state.

    Raises:
        NotInitialisedError: There is no vault yet.
    """
    state = storage.load()
    if state is None:
        raise NotInitialisedError("The vault is not initialised")
    return state
