"""Opening a vault: which credential is tried on which keyslot, and what a wrong one costs."""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, SealedError, UnlockDelayedError, WrongPasswordError
from synqx_dagster.vault import kdf, keyslots
from synqx_dagster.vault.key_file import read_key_file
from synqx_dagster.vault.keyring import Keyring
from synqx_dagster.vault.keyslots import PassphraseKind
from synqx_dagster.vault.runtime import RuntimeFile
from synqx_dagster.vault.state import VaultState
from synqx_dagster.vault.storage import VaultStorage, update_state

_CALLED: dict[PassphraseKind, str] = {"password": "master password", "recovery": "recovery passphrase"}


class UnsealSettings(Protocol):
    """What the vault needs to know of a process's settings."""

    @property
    def master_password(self) -> SecretStr | None:
        """Opens the password keyslot."""

    @property
    def key_file(self) -> Path | None:
        """Opens a key file keyslot."""


class Opener:
    """Tries credentials; counts wrong passphrases in the stored state, so that all processes wait together.

    Not safe to share between threads. A key file is neither counted nor delayed: it cannot be guessed, and people
    who guess passwords must not stop the machine's own services.
    """

    def __init__(self, storage: VaultStorage, *, policy: kdf.KdfPolicy, now: Callable[[], datetime]) -> None:
        self._storage = storage
        self._policy = policy
        self._now = now
        self._digest_key = os.urandom(32)
        self._known_wrong: bytes | None = None

    def open_from_settings(self, state: VaultState, settings: UnsealSettings, directories: Sequence[Path]) -> Keyring:
        """By the key file, then the password, then a runtime file; raises as `Vault.unseal_from_settings`."""
        refusal: SealedError | None = None
        keyring: Keyring | None = None
        if settings.key_file is not None:
            keyring = self._open_with_key_file(state, settings.key_file)
            if keyring is None:
                refusal = WrongPasswordError("The key file of SYNQX_KEY_FILE opens no keyslot")
        if keyring is None and settings.master_password is not None:
            try:
                keyring = self._open_with_settings_password(state, settings.master_password)
            except (WrongPasswordError, UnlockDelayedError) as exc:
                refusal = exc
        keyring = keyring or self._open_with_runtime_file(state, directories)
        if keyring is None:
            raise refusal or SealedError
        return keyring

    def open(
        self, state: VaultState, *, password: SecretStr | None, key_file: Path | None, recovery: SecretStr | None
    ) -> Keyring:
        if password is None and key_file is None and recovery is None:
            raise ConfigurationError("Give a master password, a key file or a recovery passphrase")
        refusal: SealedError = WrongPasswordError("The key file opens no keyslot")
        if key_file is not None:
            keyring = self._open_with_key_file(state, key_file)
            if keyring is not None:
                return keyring
        passphrases: list[tuple[PassphraseKind, SecretStr | None]] = [("password", password), ("recovery", recovery)]
        for kind, passphrase in passphrases:
            if passphrase is None:
                continue
            try:
                return self._open_with_passphrase(state, kind, passphrase)
            except (WrongPasswordError, UnlockDelayedError) as exc:
                refusal = exc
        raise refusal

    def _open_with_key_file(self, state: VaultState, path: Path) -> Keyring | None:
        key = read_key_file(path)
        for slot in state.keyslots:
            root_key = keyslots.open_with_key(slot, key, vault_id=state.vault_id)
            if root_key is not None:
                return self._opened(state, root_key)
        return None

    def _open_with_passphrase(self, state: VaultState, kind: PassphraseKind, passphrase: SecretStr) -> Keyring:
        called = _CALLED[kind]
        slots = [slot for slot in state.keyslots if slot.kind == kind]
        if not slots:
            raise WrongPasswordError(f"The vault has no {called}")
        wait = state.retry_after_seconds(self._now())
        if wait:
            raise UnlockDelayedError(
                f"Too many wrong passwords; the next one is tried in {math.ceil(wait)} s",
                hint="a key file is not delayed",
                retry_after_seconds=wait,
            )
        for slot in slots:
            root_key = keyslots.open_with_passphrase(slot, passphrase, vault_id=state.vault_id, policy=self._policy)
            if root_key is not None:
                keyring = self._opened(state, root_key)
                update_state(self._storage, VaultState.without_failures)
                return keyring
        now = self._now()
        update_state(self._storage, lambda current: current.with_failure(now))
        raise WrongPasswordError(f"The {called} is wrong")

    def _open_with_settings_password(self, state: VaultState, password: SecretStr) -> Keyring:
        wrapped = b"".join(slot.wrapped for slot in state.keyslots if slot.kind == "password")
        digest = hmac.digest(self._digest_key, wrapped + kdf.encode_password(password), "sha256")
        if self._known_wrong is not None and hmac.compare_digest(digest, self._known_wrong):
            raise WrongPasswordError("The password of SYNQX_MASTER_PASSWORD is wrong")
        try:
            return self._open_with_passphrase(state, "password", password)
        except WrongPasswordError:
            self._known_wrong = digest
            raise

    def _open_with_runtime_file(self, state: VaultState, directories: Sequence[Path]) -> Keyring | None:
        for directory in directories:
            file = RuntimeFile(directory, vault_id=state.vault_id)
            try:
                root_key = file.read(seal_epoch=state.seal_epoch)
            except ConfigurationError as exc:
                # Anybody can put something in the way in a directory that all may write to; that must not turn
                # "sealed" into another kind of failure.
                raise SealedError(f"The vault is sealed, and {exc.message}", hint=exc.hint) from exc
            if root_key is not None:
                return self._opened(state, root_key)
        return None

    def _opened(self, state: VaultState, root_key: bytes) -> Keyring:
        state.verify(root_key)
        return Keyring(root_key, vault_id=state.vault_id, seal_epoch=state.seal_epoch)


def refuse_operators_seal(state: VaultState) -> None:
    """Raise SealedError when an operator has sealed the vault."""
    if state.sealed_by_operator:
        raise SealedError("An operator has sealed the vault", hint="run `synqx unlock`")
