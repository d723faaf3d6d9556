"""The vault: secrets encrypted at rest, opened only by a process that holds a key to one of its keyslots."""

from synqx_dagster.vault.envelope import SecretAddress
from synqx_dagster.vault.fernet import import_fernet
from synqx_dagster.vault.kdf import Argon2Parameters, KdfPolicy
from synqx_dagster.vault.key_file import create_key_file
from synqx_dagster.vault.state import VaultState
from synqx_dagster.vault.storage import StoredSecret, VaultStorage
from synqx_dagster.vault.unlock import KeyslotInfo, Vault, VaultStatus

__all__ = [
    "Argon2Parameters",
    "KdfPolicy",
    "KeyslotInfo",
    "SecretAddress",
    "StoredSecret",
    "Vault",
    "VaultState",
    "VaultStatus",
    "VaultStorage",
    "create_key_file",
    "import_fernet",
]
