"""The vault: sealed until a credential opens one of its keyslots, and sealed again for everybody by an operator.

Guarantee: a secret opens only in an unsealed process, at the address it was sealed for, and only as it was written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr

from synqx_dagster.errors import ConfigurationError, IntegrityError, SealedError
from synqx_dagster.vault import kdf, keyslots, rotation, runtime
from synqx_dagster.vault.envelope import (
    Purpose,
    SecretAddress,
    decode_secret,
    encode_secret,
    generation_of,
    open_bytes,
    seal_bytes,
)
from synqx_dagster.vault.key_file import read_key_file
from synqx_dagster.vault.keyring import Keyring
from synqx_dagster.vault.keyslots import Keyslot
from synqx_dagster.vault.opening import Opener, UnsealSettings, refuse_operators_seal
from synqx_dagster.vault.state import VAULT_ID_BYTES, VaultState
from synqx_dagster.vault.status import KeyslotInfo, VaultStatus
from synqx_dagster.vault.storage import StoredSecret, VaultStorage, load_state, update_state

__all__ = ["KeyslotInfo", "SecretAddress", "StoredSecret", "Vault", "VaultState", "VaultStatus", "VaultStorage"]


class Vault:
    """One vault as one process sees it; sealed until unsealed, safe to share between threads.

    The stored state is read again for every act, so an operator's seal, a rotation or a new keyslot of another
    process counts at once.

    Args:
        storage: Keeps the state and the envelopes.
        runtime_directory: Where `unlock` leaves the root key; left out, a memory-backed directory of the system.
        policy: Cost of keyslots; left out, `kdf.DEFAULT_POLICY`.
        clock: Gives the time, aware, UTC.
    """

    def __init__(
        self,
        storage: VaultStorage,
        *,
        runtime_directory: Path | None = None,
        policy: kdf.KdfPolicy | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._storage = storage
        self._runtime_directory = runtime_directory
        self._policy = policy or kdf.DEFAULT_POLICY
        self._clock = clock or (lambda: datetime.now(UTC))
        self._keyring: Keyring | None = None
        self._lock = threading.Lock()
        # One at a time: each try takes the memory that its keyslot asks for.
        self._unseal_lock = threading.RLock()
        self._opener = Opener(storage, policy=self._policy, now=self._now)

    def __reduce__(self) -> NoReturn:
        # A pickled vault would carry its keys into another process, or into a file.
        raise TypeError("a vault does not leave its process; open the catalog there")

    # --- looking ---------------------------------------------------------------------------------------

    @property
    def is_initialised(self) -> bool:
        """Whether there is a vault."""
        return self._storage.load() is not None

    @property
    def is_unsealed(self) -> bool:
        """Whether this process can open secrets now.

        Raises:
            IntegrityError: Somebody changed the state.
        """
        state = self._storage.load()
        return state is not None and self._find_keyring(state) is not None

    def status(self) -> VaultStatus:
        """What may be shown of the vault; needs no key.

        Raises:
            IntegrityError: Somebody changed the state.
        """
        state = self._storage.load()
        unsealed = state is not None and self._find_keyring(state) is not None
        return VaultStatus.of(state, unsealed=unsealed, now=self._now())

    # --- making and opening --------------------------------------------------------------------------

    def initialise(self, *, password: SecretStr | None = None, key_file: Path | None = None) -> None:
        """Make the vault, with a keyslot for each credential given, and unseal it in this process.

        Raises:
            ConfigurationError: There is a vault already, no credential was given, or one of them is not usable.
            ConflictError: Another process made the vault at the same time.
        """
        if password is None and key_file is None:
            raise ConfigurationError("A vault needs a master password or a key file")
        if self.is_initialised:
            raise ConfigurationError("The vault is initialised already")
        now, vault_id, root_key = self._now(), os.urandom(VAULT_ID_BYTES), os.urandom(kdf.KEY_BYTES)
        keyring = Keyring(root_key, vault_id=vault_id, seal_epoch=0)
        slots: list[Keyslot] = []
        if key_file is not None:
            key = read_key_file(key_file)
            slots.append(keyslots.make_key_file_keyslot(key, root_key, vault_id=vault_id, created_at=now))
        if password is not None:
            slots.append(self._make_passphrase_slot("password", password, root_key, vault_id))
        state = VaultState(
            vault_id=vault_id,
            serial=1,
            keyslots=tuple(slots),
            data_keys=(keyring.make_data_key(1, created_at=now),),
            active_generation=1,
        )
        self._storage.save(keyring.sign(state), replacing=None)
        self._keep(keyring)

    def unseal(
        self,
        *,
        password: SecretStr | None = None,
        key_file: Path | None = None,
        recovery: SecretStr | None = None,
    ) -> None:
        """Open the vault in this process with the first credential that fits: key file, password, recovery.

        Raises:
            NotInitialisedError: There is no vault.
            SealedError: An operator sealed it; `unlock` lifts that.
            WrongPasswordError: No credential opens a keyslot. Passwords and recovery passphrases are counted.
            UnlockDelayedError: Too many were wrong; ``context["retry_after_seconds"]`` says how long to wait.
            ConfigurationError: No credential was given, or one of them is not usable.
            IntegrityError: Somebody changed the state.
        """
        with self._unseal_lock:
            state = load_state(self._storage)
            refuse_operators_seal(state)
            self._keep(self._opener.open(state, password=password, key_file=key_file, recovery=recovery))

    def unseal_from_settings(self, settings: UnsealSettings) -> None:
        """Open the vault in this process: by the key file, then the password, then what `unlock` left.

        Does nothing when the vault is unsealed here. A password that was wrong is not tried again by this process
        until it or the keyslots change, so that a service with a wrong password does not delay people.

        Raises:
            NotInitialisedError: There is no vault.
            SealedError: None of them opens it (then maybe `WrongPasswordError` or `UnlockDelayedError`), or an
                operator sealed it.
            ConfigurationError: The key file or the password is not usable.
            IntegrityError: Somebody changed the state.
        """
        with self._unseal_lock:
            state = load_state(self._storage)
            if self._find_keyring(state) is not None:
                return
            refuse_operators_seal(state)
            self._keep(self._opener.open_from_settings(state, settings, self._runtime_directories()))

    def unlock(
        self,
        *,
        password: SecretStr | None = None,
        key_file: Path | None = None,
        recovery: SecretStr | None = None,
        remember: bool = True,
        before_opening: Callable[[], object] | None = None,
    ) -> None:
        """An operator's act: unseal, lift an operator's seal, and let this user's other processes unseal too.

        Args:
            password: As for `unseal`.
            key_file: As for `unseal`.
            recovery: As for `unseal`.
            remember: Leave the root key in a memory-backed file that `unseal_from_settings` finds.
            before_opening: Called once the credential has proven right; what it raises leaves the vault as it was.

        Raises:
            ConfigurationError: As for `unseal`, or there is no safe place for the root key; nothing was changed.
            SynqxError: As for `unseal`.
        """
        with self._unseal_lock:
            state = load_state(self._storage)
            file = self._writable_runtime_file(state) if remember else None
            keyring = self._opener.open(state, password=password, key_file=key_file, recovery=recovery)
            if before_opening is not None:
                before_opening()
            state = update_state(self._storage, VaultState.unlocked)
            self._keep(Keyring(keyring.root_key, vault_id=state.vault_id, seal_epoch=state.seal_epoch))
            if file is not None:
                file.write(keyring.root_key, seal_epoch=state.seal_epoch)

    def seal(self) -> None:
        """An operator's act: no process opens a secret from now on, until somebody unlocks. Idempotent.

        Needs no key. Removes the root key that `unlock` left on this machine; on another one it is refused and
        removed when it is next read.

        Raises:
            NotInitialisedError: There is no vault.
            ConfigurationError: The vault is sealed, but a runtime directory is not safe to be entered.
        """
        state = update_state(self._storage, VaultState.sealed)
        self._forget()
        for directory in self._runtime_directories():
            runtime.RuntimeFile(directory, vault_id=state.vault_id).remove()

    # --- secrets -----------------------------------------------------------------------------------------

    def seal_secret(self, address: SecretAddress, text: str) -> bytes:
        """Encrypt a secret for one address; each call gives another envelope.

        Raises:
            SealedError: The vault is sealed.
            ConfigurationError: The text is not valid Unicode, or longer than 1 MiB.
        """
        plaintext = encode_secret(text)
        state, keyring = self._require()
        generation = state.active_generation
        key = keyring.data_key(state, generation)
        context = address.encode()
        return seal_bytes(key, plaintext, purpose=Purpose.SECRET, context=context, generation=generation)

    def open_secret(self, address: SecretAddress, envelope: bytes) -> str:
        """Decrypt a secret.

        Raises:
            SealedError: The vault is sealed.
            IntegrityError: The envelope was changed, or was not sealed for this address by this vault.
        """
        state, keyring = self._require()
        try:
            key = keyring.data_key(state, generation_of(envelope))
            plaintext = open_bytes(key, envelope, purpose=Purpose.SECRET, context=address.encode())
            return decode_secret(plaintext)
        except IntegrityError as exc:
            raise IntegrityError(
                f"The secret {address.field} (version {address.version}) of {address.table} row {address.row_id} "
                f"cannot be opened: {exc.message}",
                hint="give its value again, or restore the catalog from a backup",
                table=address.table,
                row_id=address.row_id,
                field=address.field,
                version=address.version,
            ) from exc

    # --- keyslots ------------------------------------------------------------------------------------------

    def change_password(self, password: SecretStr) -> None:
        """Set the master password: replaces the password keyslot, or adds one. No secret is re-encrypted.

        Raises:
            SealedError: The vault is sealed.
            ConfigurationError: The password is empty, too long or not valid Unicode.
        """
        state, keyring = self._require()
        slot = self._make_passphrase_slot("password", password, keyring.root_key, state.vault_id)
        self._change(lambda current, _: current.with_keyslot(slot, instead_of="password"))

    def add_recovery(self) -> str:
        """Add a keyslot for a new recovery passphrase of 160 bits.

        Returns:
            The passphrase, which is kept nowhere: show it once.

        Raises:
            SealedError: The vault is sealed.
        """
        state, keyring = self._require()
        passphrase = keyslots.generate_recovery_passphrase()
        slot = self._make_passphrase_slot("recovery", SecretStr(passphrase), keyring.root_key, state.vault_id)
        self._change(lambda current, _: current.with_keyslot(slot))
        return passphrase

    def add_key_file(self, path: Path) -> str:
        """Add a keyslot for a key file that `create_key_file` made. Idempotent.

        Returns:
            The keyslot's id.

        Raises:
            SealedError: The vault is sealed.
            ConfigurationError: The file is not a key file of this user alone.
        """
        key = read_key_file(path)
        state, keyring = self._require()
        for existing in state.keyslots:
            if keyslots.open_with_key(existing, key, vault_id=state.vault_id) is not None:
                return existing.id
        slot = keyslots.make_key_file_keyslot(key, keyring.root_key, vault_id=state.vault_id, created_at=self._now())
        self._change(lambda current, _: current.with_keyslot(slot))
        return slot.id

    def remove_keyslot(self, slot_id: str) -> None:
        """Remove a keyslot; its credential opens this vault no more.

        Raises:
            SealedError: The vault is sealed.
            NotFoundError: There is no such keyslot.
            ConfigurationError: It is the last one; nothing would open the vault.
        """
        self._change(lambda current, _: current.without_keyslot(slot_id))

    # --- rotation --------------------------------------------------------------------------------------------

    def rotate(self) -> int:
        """Make a new generation of the data key and re-encrypt every stored secret; resumes a rotation that stopped.

        Several processes may rotate at once: they share one rotation. Secrets that are written meanwhile are kept.
        The old generation opens stragglers for a day and is dropped by the first rotation after that.

        Returns:
            How many secrets this call re-encrypted.

        Raises:
            SealedError: The vault is sealed.
            IntegrityError: Some secrets cannot be opened. All others are re-encrypted, the old generation is kept
                and the rotation stays in progress.
            ConflictError: The stored secrets kept moving; call again.
        """
        return rotation.rotate(self._storage, require=self._require, change=self._change, now=self._now)

    # --- inside --------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)  # as the state keeps it

    def _keep(self, keyring: Keyring) -> None:
        with self._lock:
            self._keyring = keyring

    def _forget(self) -> None:
        with self._lock:
            self._keyring = None

    def _find_keyring(self, state: VaultState) -> Keyring | None:
        """The keyring, if it may be used with this state; one that may not is forgotten."""
        try:
            return self._admitted(state)
        except SealedError:
            return None

    def _admitted(self, state: VaultState) -> Keyring:
        with self._lock:
            keyring = self._keyring
        if keyring is None:
            refuse_operators_seal(state)
            raise SealedError
        try:
            keyring.admit(state)
        except SealedError:
            with self._lock:
                # Another thread may have unsealed since with a newer keyring; that one stays.
                if self._keyring is keyring:
                    self._keyring = None
            raise
        return keyring

    def _require(self) -> tuple[VaultState, Keyring]:
        state = load_state(self._storage)
        return state, self._admitted(state)

    def _change(self, change: Callable[[VaultState, Keyring], VaultState | None]) -> VaultState:
        def change_and_sign(state: VaultState) -> VaultState | None:
            keyring = self._admitted(state)
            changed = change(state, keyring)
            return None if changed is None else keyring.sign(changed)

        return update_state(self._storage, change_and_sign)

    def _make_passphrase_slot(
        self, kind: keyslots.PassphraseKind, passphrase: SecretStr, root_key: bytes, vault_id: bytes
    ) -> Keyslot:
        return keyslots.make_passphrase_keyslot(
            kind, passphrase, root_key, vault_id=vault_id, created_at=self._now(), policy=self._policy
        )

    def _runtime_directories(self) -> list[Path]:
        if self._runtime_directory is not None:
            return [self._runtime_directory]
        return runtime.default_runtime_directories()

    def _writable_runtime_file(self, state: VaultState) -> runtime.RuntimeFile:
        directories = self._runtime_directories()
        if not directories:
            raise ConfigurationError(
                "This system has no memory-backed directory to leave the vault's key in",
                hint="set SYNQX_KEY_FILE or SYNQX_MASTER_PASSWORD for the processes that need it",
            )
        file = runtime.RuntimeFile(directories[0], vault_id=state.vault_id)
        file.prepare()
        return file
