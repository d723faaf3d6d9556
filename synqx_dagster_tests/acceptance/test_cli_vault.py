"""The vault by the command line: what opens it, what a seal stops, and that no secret comes out."""

from __future__ import annotations

import json

import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_shop import MASTER_PASSWORD, PASSWORD, edit


@pytest.fixture
def locked(shop: Project) -> Project:
    """A project whose vault this user can open only by a password, which is not set."""
    password = shop.write("password.txt", MASTER_PASSWORD + "\n")
    assert shop("vault", "change-password", "--new-password-file", str(password)).exit_code == 0
    (slot,) = [s["id"] for s in shop("vault", "status", "--json").document["keyslots"] if s["kind"] == "key_file"]
    assert shop("vault", "remove-keyslot", slot).exit_code == 0
    (shop.home / "vault.key").unlink()
    return shop


def test_a_sealed_vault_exits_3(locked: Project) -> None:
    for arguments in (
        ["run", "everything"],
        ["connections", "test", "warehouse"],
        ["plan", "customers"],
        ["vault", "rotate"],
        ["unlock"],
    ):
        outcome = locked(*arguments)
        assert outcome.exit_code == 3, (arguments, outcome.output)
        assert "SYNQX_MASTER_PASSWORD" in outcome.stderr
    assert locked("runs", "--json").document == []
    assert locked("status", "--json").document["vault"]["unsealed"] is False


def test_the_master_password_opens_and_a_wrong_one_exits_3(locked: Project) -> None:
    locked.environment = {"SYNQX_MASTER_PASSWORD": "wrong-canary"}
    wrong = locked("run", "everything")
    assert wrong.exit_code == 3
    assert "canary" not in wrong.output

    locked.environment = {"SYNQX_MASTER_PASSWORD": MASTER_PASSWORD}
    assert locked("connections", "test", "warehouse").exit_code == 0


def test_seal_and_unlock(shop: Project) -> None:
    assert shop("seal").exit_code == 0
    outcome = shop("run", "everything")
    assert outcome.exit_code == 3
    assert "synqx unlock" in outcome.stderr
    assert "sealed by an operator" in shop("status").stdout

    assert shop("unlock").exit_code == 0
    assert shop("connections", "test", "warehouse").exit_code == 0
    assert shop("seal").exit_code == 0  # leaves no key behind on the machine


def test_recovery_opens_once_it_is_added(shop: Project) -> None:
    passphrase = shop("vault", "add-recovery").stdout.strip()
    path = shop.write("recovery.txt", passphrase)
    shop("seal")

    assert shop("unlock", "--recovery", "--password-file", str(path)).exit_code == 0
    assert shop("seal").exit_code == 0


def test_rotation_keeps_the_secrets(shop: Project) -> None:
    outcome = shop("vault", "rotate", "--json")

    assert outcome.document == {"reencrypted": 1, "active_generation": 2}
    assert shop("connections", "test", "warehouse").exit_code == 0


def test_another_key_file(shop: Project) -> None:
    path = shop.directory / "second.key"
    assert shop("vault", "create-key-file", str(path)).exit_code == 0
    assert shop("vault", "create-key-file", str(path)).exit_code == 2
    added = shop("vault", "add-key-file", str(path), "--json").document
    assert added["keyslot"] in [s["id"] for s in shop("vault", "status", "--json").document["keyslots"]]


def test_importing_a_fernet_token(shop: Project) -> None:
    from cryptography.fernet import Fernet

    key = Fernet.generate_key()
    shop.write("key.txt", key.decode() + "\n")
    shop.write("token.txt", Fernet(key).encrypt(b"another-canary").decode() + "\n")
    arguments = ["vault", "import-fernet", "warehouse", "--token-file", "token.txt", "--key-file", "key.txt"]

    outcome = shop(*arguments, "--json")

    assert outcome.exit_code == 0, outcome.output
    assert outcome.document == {"connection": "warehouse", "revision": 2, "changed": True}
    assert "canary" not in outcome.output
    assert shop(*arguments, "--json").document["changed"] is False


def test_no_command_prints_a_secret(shop: Project) -> None:
    shop.environment = {"SYNQX_MASTER_PASSWORD": MASTER_PASSWORD}
    edit(shop, "port: ", "port: 1 # ")
    assert shop("apply").exit_code == 0
    commands = [
        ["status"],
        ["history"],
        ["diff"],
        ["export"],
        ["connections", "list"],
        ["connections", "test", "--all"],
        ["connections", "discover", "warehouse"],
        ["preview", "copy"],
        ["plan", "customers"],
        ["run", "everything"],
        ["logs", "--level", "DEBUG"],
        ["runs", "show"],
        ["metrics"],
        ["vault", "status"],
    ]
    for command in commands:
        for option in ("--debug", "--json"):
            outcome = shop(*command, option)
            assert "canary" not in outcome.output, (command, option)
    for path in shop.home.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_lines_of_json_hold_no_secret(shop: Project) -> None:
    edit(shop, "port: ", "port: 1 # ")
    assert shop("apply").exit_code == 0

    outcome = shop.process("run", "everything", "--debug", extra={"SYNQX_LOG_FORMAT": "json"})

    assert outcome.exit_code == 1
    lines = [json.loads(line) for line in outcome.stdout.splitlines() if line.startswith("{")]
    failed = [line["error"] for line in lines if line.get("event") == "STEP_FAILURE"]
    assert failed
    assert {error["type"] for error in failed} == {"ConnectionFailedError"}
    assert "canary" not in outcome.output
