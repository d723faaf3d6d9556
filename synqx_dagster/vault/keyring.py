"""The keys of an unsealed vault, as one process holds them in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from synqx_dagster.errors import IntegrityError, SealedError
from synqx_dagster.vault.envelope import Purpose, join_parts, open_bytes, seal_bytes
from synqx_dagster.vault.kdf import KEY_BYTES
from synqx_dagster.vault.state import DataKey, VaultState


class Keyring:
    """The root key, and the data keys that it has unwrapped so far.

    A keyring belongs to one vault and one seal epoch: after an operator's seal it opens nothing any more, even when
    the vault has been unlocked again since. Safe to share between threads.
    """

    def __init__(self, root_key: bytes, *, vault_id: bytes, seal_epoch: int) -> None:
        self._root_key = root_key
        self._vault_id = vault_id
        self._seal_epoch = seal_epoch
        self._data_keys: dict[bytes, bytes] = {}

    def __reduce__(self) -> NoReturn:
        raise TypeError("the keys of a vault do not leave their process")

    @property
    def root_key(self) -> bytes:
        """32 bytes; only to be wrapped, or left in the runtime file."""
        return self._root_key

    def admit(self, state: VaultState) -> None:
        """Check that this keyring may be used with a state.

        Raises:
            SealedError: An operator sealed the vault, or it is another vault.
            IntegrityError: Somebody without the root key changed the state.
        """
        if state.sealed_by_operator:
            raise SealedError("An operator has sealed the vault", hint="run `synqx unlock`")
        if state.vault_id != self._vault_id or state.seal_epoch != self._seal_epoch:
            raise SealedError
        state.verify(self._root_key)

    def data_key(self, state: VaultState, generation: int) -> bytes:
        """The data key of a generation.

        Raises:
            IntegrityError: The vault does not have this generation, or its wrapping was changed.
        """
        stored = state.find_data_key(generation)
        if stored is None:
            raise IntegrityError(
                f"The vault has no data key of generation {generation}",
                hint="the secret and the vault come from different backups, or one of them was changed",
            )
        # By its wrapping, not by its number: a number could mean another key after a backup was restored.
        key = self._data_keys.get(stored.wrapped)
        if key is None:
            context = self._data_key_context(generation)
            key = open_bytes(self._root_key, stored.wrapped, purpose=Purpose.DATA_KEY, context=context)
            self._data_keys[stored.wrapped] = key
        return key

    def make_data_key(self, generation: int, *, created_at: datetime) -> DataKey:
        """A new random data key, wrapped."""
        wrapped = seal_bytes(
            self._root_key,
            os.urandom(KEY_BYTES),
            purpose=Purpose.DATA_KEY,
            context=self._data_key_context(generation),
        )
        return DataKey(generation, created_at, None, wrapped)

    def sign(self, state: VaultState) -> VaultState:
        """A state with the MAC that only a holder of the root key can make."""
        return replace(state, mac=state.compute_mac(self._root_key))

    def _data_key_context(self, generation: int) -> bytes:
        return join_parts(self._vault_id, generation.to_bytes(4, "big"))
