"""A vault's storage in memory, that can be stopped at any of its calls, and key derivation that costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import SecretStr

from synqx_dagster.errors import ConflictError
from synqx_dagster.vault import Argon2Parameters, KdfPolicy, SecretAddress, StoredSecret, Vault, VaultState

WEAK = KdfPolicy(Argon2Parameters(iterations=1, lanes=1, memory_kib=8), memory_floor_kib=8)
PASSWORD = SecretStr("correct horse battery staple")
WRONG = SecretStr("wrong")
CANARY = "canary-5f2b9a"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the product may catch it."""


class MemoryStorage:
    """Keeps the state as JSON text, as a database would; ``on_call`` runs before each call takes effect."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.envelopes: dict[SecretAddress, bytes] = {}
        self.on_call: Callable[[str], None] = lambda name: None
        self._lock = threading.Lock()

    def load(self) -> VaultState | None:
        self.on_call("load")
        return None if self.text is None else VaultState.from_json(self.text)

    def save(self, state: VaultState, *, replacing: VaultState | None) -> None:
        self.on_call("save")
        with self._lock:
            if self.text != (None if replacing is None else replacing.to_json()):
                raise ConflictError("Somebody else changed the vault in the meantime")
            self.text = state.to_json()

    def iter_secrets(self) -> Iterator[StoredSecret]:
        self.on_call("iter_secrets")
        with self._lock:
            stored = [StoredSecret(address, envelope) for address, envelope in self.envelopes.items()]
        return iter(stored)

    def replace_envelope(self, address: SecretAddress, *, old: bytes, new: bytes) -> bool:
        self.on_call("replace_envelope")
        with self._lock:
            if self.envelopes.get(address) != old:
                return False
            self.envelopes[address] = new
        return True

    @property
    def state(self) -> VaultState:
        assert self.text is not None
        return VaultState.from_json(self.text)


def address(row_id: int = 1, *, table: str = "secret", field: str = "password", version: int = 1) -> SecretAddress:
    return SecretAddress(table=table, row_id=row_id, field=field, version=version)


def make_vault(storage: MemoryStorage | None = None, *, runtime_directory: Path | None = None) -> Vault:
    """A vault with the password `PASSWORD`, unsealed."""
    vault = Vault(storage or MemoryStorage(), policy=WEAK, runtime_directory=runtime_directory)
    vault.initialise(password=PASSWORD)
    return vault


def unsealed_vault(storage: MemoryStorage) -> Vault:
    """Another process's view of a vault, unsealed by its password."""
    vault = Vault(storage, policy=WEAK)
    vault.unseal(password=PASSWORD)
    return vault
