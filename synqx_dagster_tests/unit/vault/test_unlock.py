"""The vault as a whole: made once, opened by any credential, sealed for everybody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from synqx_dagster.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotInitialisedError,
    SealedError,
    WrongPasswordError,
)
from synqx_dagster.settings import Settings
from synqx_dagster.vault import Vault, VaultStatus, runtime
from synqx_dagster_tests.unit.vault.memory_storage import (
    CANARY,
    PASSWORD,
    WEAK,
    WRONG,
    MemoryStorage,
    address,
    make_vault,
    unsealed_vault,
)


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


def make_settings(*, password: SecretStr | None = None, key_file: Path | None = None) -> Settings:
    return Settings(home=Path("."), catalog_url="sqlite://", master_password=password, key_file=key_file)


# --- initialise -----------------------------------------------------------------------------------


def test_there_is_no_vault_before_it_is_made(storage: MemoryStorage) -> None:
    vault = Vault(storage, policy=WEAK)
    assert not vault.is_initialised
    assert not vault.is_unsealed
    assert vault.status() == VaultStatus(initialised=False)
    for act in (
        lambda: vault.unseal(password=PASSWORD),
        lambda: vault.unlock(password=PASSWORD),
        lambda: vault.unseal_from_settings(make_settings(password=PASSWORD)),
        vault.seal,
        vault.rotate,
        lambda: vault.seal_secret(address(), CANARY),
    ):
        with pytest.raises(NotInitialisedError):
            act()


def test_a_new_vault_is_unsealed(storage: MemoryStorage, key_file: Path) -> None:
    vault = Vault(storage, policy=WEAK)
    vault.initialise(password=PASSWORD, key_file=key_file)
    status = vault.status()
    assert status.unsealed
    assert [slot.kind for slot in status.keyslots] == ["key_file", "password"]
    assert (status.active_generation, status.generations) == (1, (1,))
    assert json.loads(json.dumps(status.to_dict()))["keyslots"][0]["kind"] == "key_file"


def test_a_vault_needs_a_credential_and_a_usable_one(storage: MemoryStorage, tmp_path: Path) -> None:
    vault = Vault(storage, policy=WEAK)
    for arguments in ({}, {"password": SecretStr("")}, {"key_file": tmp_path / "absent"}):
        with pytest.raises(ConfigurationError):
            vault.initialise(**arguments)
    assert not vault.is_initialised


def test_a_vault_is_made_once(storage: MemoryStorage) -> None:
    make_vault(storage)
    with pytest.raises(ConfigurationError, match="already"):
        make_vault(storage)


def test_of_two_that_make_it_at_once_one_wins(storage: MemoryStorage) -> None:
    def other_is_faster(call: str) -> None:
        if call == "save":
            storage.on_call = lambda _: None
            make_vault(storage)

    storage.on_call = other_is_faster
    with pytest.raises(ConflictError):
        make_vault(storage)
    assert unsealed_vault(storage).is_unsealed


# --- unseal ---------------------------------------------------------------------------------------


def test_every_kind_of_credential_opens(storage: MemoryStorage, key_file: Path) -> None:
    vault = make_vault(storage)
    recovery = vault.add_recovery()
    vault.add_key_file(key_file)
    envelope = vault.seal_secret(address(), CANARY)
    for arguments in ({"password": PASSWORD}, {"recovery": SecretStr(recovery)}, {"key_file": key_file}):
        other = Vault(storage, policy=WEAK)
        with pytest.raises(SealedError):
            other.open_secret(address(), envelope)
        other.unseal(**arguments)
        assert other.open_secret(address(), envelope) == CANARY


def test_the_first_credential_that_fits_opens(storage: MemoryStorage, key_file: Path) -> None:
    vault = make_vault(storage)
    recovery = SecretStr(vault.add_recovery())
    other = Vault(storage, policy=WEAK)
    other.unseal(password=PASSWORD, key_file=key_file)
    other.unseal(password=WRONG, recovery=recovery)
    with pytest.raises(WrongPasswordError, match="key file"):
        other.unseal(key_file=key_file)
    with pytest.raises(ConfigurationError):
        other.unseal()


def test_credentials_of_one_kind_do_not_open_as_another(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    recovery = vault.add_recovery()
    other = Vault(storage, policy=WEAK)
    with pytest.raises(WrongPasswordError):
        other.unseal(password=SecretStr(recovery))
    with pytest.raises(WrongPasswordError):
        other.unseal(recovery=PASSWORD)


def test_a_recovery_passphrase_may_be_written_sloppily(storage: MemoryStorage) -> None:
    recovery = make_vault(storage).add_recovery()
    assert len(recovery.replace("-", "")) == 32
    sloppy = recovery.replace("-", " ").replace("0", "o").replace("1", "l").lower()
    Vault(storage, policy=WEAK).unseal(recovery=SecretStr(f" {sloppy}\n"))
    for empty in ("", " - "):
        with pytest.raises(ConfigurationError, match="empty"):
            Vault(storage, policy=WEAK).unseal(recovery=SecretStr(empty))


def test_a_kind_the_vault_lacks_is_named_and_not_counted(storage: MemoryStorage, key_file: Path) -> None:
    Vault(storage, policy=WEAK).initialise(key_file=key_file)
    with pytest.raises(WrongPasswordError, match="no master password"):
        Vault(storage, policy=WEAK).unseal(password=PASSWORD)
    assert storage.state.failures == 0


def test_composed_and_decomposed_passwords_open(storage: MemoryStorage) -> None:
    Vault(storage, policy=WEAK).initialise(password=SecretStr("café \U0001f511"))
    Vault(storage, policy=WEAK).unseal(password=SecretStr("cafe\u0301 \U0001f511"))


def test_a_lone_surrogate_is_refused_and_not_counted(storage: MemoryStorage) -> None:
    make_vault(storage)
    with pytest.raises(ConfigurationError, match="surrogate"):
        Vault(storage, policy=WEAK).unseal(password=SecretStr("tr\udc80"))
    assert storage.state.failures == 0


def test_parameters_below_the_floor_are_refused(storage: MemoryStorage) -> None:
    make_vault(storage)
    with pytest.raises(IntegrityError, match="8 KiB"):
        Vault(storage).unseal(password=PASSWORD)


def test_another_vault_in_the_same_place_is_sealed(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    storage.text = None
    make_vault(storage)
    assert not vault.is_unsealed


# --- settings -------------------------------------------------------------------------------------


def test_the_key_file_of_the_settings_comes_first(storage: MemoryStorage, key_file: Path) -> None:
    make_vault(storage).add_key_file(key_file)
    vault = Vault(storage, policy=WEAK)
    vault.unseal_from_settings(make_settings(key_file=key_file, password=WRONG))
    assert vault.is_unsealed
    assert storage.state.failures == 0


def test_the_password_of_the_settings_opens_when_the_key_file_does_not(storage: MemoryStorage, key_file: Path) -> None:
    make_vault(storage)
    vault = Vault(storage, policy=WEAK)
    vault.unseal_from_settings(make_settings(key_file=key_file, password=PASSWORD))
    assert vault.is_unsealed


def test_a_key_file_that_others_can_read_is_wrong_input(storage: MemoryStorage, key_file: Path) -> None:
    make_vault(storage)
    key_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0644"):
        Vault(storage, policy=WEAK).unseal_from_settings(make_settings(key_file=key_file, password=PASSWORD))


def test_without_a_credential_the_vault_stays_sealed(storage: MemoryStorage, run_directory: Path) -> None:
    make_vault(storage)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    with pytest.raises(SealedError, match="SYNQX_MASTER_PASSWORD"):
        vault.unseal_from_settings(make_settings())
    assert not vault.is_unsealed


def test_a_wrong_password_in_the_settings_counts_once(storage: MemoryStorage, run_directory: Path) -> None:
    """A service that tries every half minute must not keep people out."""
    make_vault(storage)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    for _ in range(10):
        with pytest.raises(WrongPasswordError):
            vault.unseal_from_settings(make_settings(password=WRONG))
    assert storage.state.failures == 1
    unsealed_vault(storage).change_password(WRONG)
    vault.unseal_from_settings(make_settings(password=WRONG))


def test_an_unsealed_vault_is_not_opened_again(storage: MemoryStorage) -> None:
    vault = make_vault(storage)
    vault.unseal_from_settings(make_settings())
    assert vault.is_unsealed


# --- unlock and seal ------------------------------------------------------------------------------


def test_unlock_lets_other_processes_in_until_seal(storage: MemoryStorage, run_directory: Path) -> None:
    operator = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    make_vault(storage)
    operator.unlock(password=PASSWORD)
    service = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    service.unseal_from_settings(make_settings())
    envelope = service.seal_secret(address(), CANARY)

    Vault(storage, policy=WEAK, runtime_directory=run_directory).seal()
    assert list(run_directory.iterdir()) == []
    for vault in (operator, service):
        assert not vault.is_unsealed
        with pytest.raises(SealedError, match="operator"):
            vault.open_secret(address(), envelope)
    with pytest.raises(SealedError, match="operator"):
        service.unseal_from_settings(make_settings(password=PASSWORD))
    with pytest.raises(SealedError, match="operator"):
        service.unseal(password=PASSWORD)
    assert operator.status().sealed_by_operator

    operator.unlock(password=PASSWORD)
    assert not service.is_unsealed
    service.unseal_from_settings(make_settings())
    assert service.open_secret(address(), envelope) == CANARY


def test_seal_is_idempotent_and_needs_no_key(storage: MemoryStorage, run_directory: Path) -> None:
    make_vault(storage)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    vault.seal()
    before = storage.text
    vault.seal()
    assert storage.text == before


def test_a_wrong_password_does_not_lift_the_seal(storage: MemoryStorage, run_directory: Path) -> None:
    make_vault(storage)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    vault.seal()
    with pytest.raises(WrongPasswordError):
        vault.unlock(password=WRONG)
    assert vault.status().sealed_by_operator
    assert list(run_directory.iterdir()) == []


def test_what_another_machine_left_is_worthless_after_a_seal(storage: MemoryStorage, tmp_path: Path) -> None:
    make_vault(storage)
    here = Vault(storage, policy=WEAK, runtime_directory=tmp_path / "here")
    there = Vault(storage, policy=WEAK, runtime_directory=tmp_path / "there")
    there.unlock(password=PASSWORD)
    here.seal()
    here.unlock(password=PASSWORD)
    with pytest.raises(SealedError):
        Vault(storage, policy=WEAK, runtime_directory=tmp_path / "there").unseal_from_settings(make_settings())
    assert list((tmp_path / "there").iterdir()) == []


def test_unlock_changes_nothing_when_the_key_cannot_be_left(storage: MemoryStorage, run_directory: Path) -> None:
    make_vault(storage)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    vault.seal()
    run_directory.mkdir()
    run_directory.chmod(0o755)
    with pytest.raises(ConfigurationError, match="mode 0755"):
        vault.unlock(password=PASSWORD)
    assert vault.status().sealed_by_operator
    vault.unlock(password=PASSWORD, remember=False)
    assert vault.is_unsealed
    assert list(run_directory.iterdir()) == []


def test_a_runtime_directory_that_is_not_safe_means_sealed(storage: MemoryStorage, run_directory: Path) -> None:
    make_vault(storage)
    run_directory.mkdir()
    run_directory.chmod(0o777)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    with pytest.raises(SealedError, match="mode 0777"):
        vault.unseal_from_settings(make_settings())


def test_a_forged_runtime_file_does_not_open(storage: MemoryStorage, run_directory: Path) -> None:
    make_vault(storage)
    runtime.RuntimeFile(run_directory, vault_id=storage.state.vault_id).write(bytes(32), seal_epoch=0)
    vault = Vault(storage, policy=WEAK, runtime_directory=run_directory)
    with pytest.raises(IntegrityError):
        vault.unseal_from_settings(make_settings())
    assert not vault.is_unsealed


def test_a_system_without_memory_backed_directories(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "default_runtime_directories", list)
    make_vault(storage)
    vault = Vault(storage, policy=WEAK)
    with pytest.raises(ConfigurationError, match="SYNQX_KEY_FILE"):
        vault.unlock(password=PASSWORD)
    with pytest.raises(SealedError):
        vault.unseal_from_settings(make_settings())
    vault.seal()
    vault.unlock(password=PASSWORD, remember=False)
    assert vault.is_unsealed


def test_the_vault_imports_without_cryptography() -> None:
    program = "import sys, synqx_dagster.vault; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
