"""The vault over a real catalog: what is on disk, and processes that rotate at once or are killed at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.model import Connection, LiteralSecret
from synqx_dagster.settings import Settings
from synqx_dagster.vault import create_key_file
from synqx_dagster_tests.processes import reaped

CANARY = "canary-5f2b9a-{number}"
CONNECTIONS = 6

ROTATE = """
import os, signal, sys
from pathlib import Path
from synqx_dagster.catalog.secrets import CatalogVaultStorage
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.settings import load_settings

home, fatal_call, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
original = getattr(CatalogVaultStorage, fatal_call)

def counted(self, *args, **kwargs):
    global count
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    count -= 1
    return original(self, *args, **kwargs)

setattr(CatalogVaultStorage, fatal_call, counted)
catalog = Catalog.open(load_settings({"SYNQX_HOME": home, "SYNQX_KEY_FILE": home + "/vault.key"}, Path(home)))
print(catalog.unseal().rotate())
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog with sealed passwords in six connections, one of which has had two."""
    create_key_file(tmp_path / "vault.key")
    catalog = Catalog.initialise(
        Settings(
            home=tmp_path,
            catalog_url=f"sqlite:///{tmp_path / 'catalog.db'}",
            key_file=tmp_path / "vault.key",
            dagster_home=tmp_path,
        )
    )
    catalog.vault.initialise(key_file=tmp_path / "vault.key")
    apply(catalog, [make_connection(number, CANARY.format(number=number)) for number in range(CONNECTIONS)])
    apply(catalog, [make_connection(0, CANARY.format(number="new"))])
    return catalog


def make_connection(number: int, password: str) -> Connection:
    return Connection(
        name=f"shop_{number}",
        db_type="postgresql",
        host="localhost",
        database="shop",
        password=LiteralSecret(value=SecretStr(password)),
    )


def apply(catalog: Catalog, connections: list[Connection]) -> None:
    plan = plan_changes(catalog, Definitions(tuple(connections)))
    apply_changes(catalog, plan, author="tester", reason=None)


def start_rotation(catalog: Catalog, *, fatal_call: str = "load", count: int = -1) -> subprocess.Popen[str]:
    """Rotate in another process, which kills itself before a call; a negative count never comes to zero."""
    return subprocess.Popen(
        [sys.executable, "-c", ROTATE, str(catalog.settings.home), fatal_call, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def assert_all_open(catalog: Catalog) -> None:
    """Every password of every revision opens in a catalog that is opened anew."""
    catalog = Catalog.open(catalog.settings)
    for revision, first in ((1, "0"), (2, "new")):
        connections = catalog.snapshot(revision).connections
        for number in range(CONNECTIONS):
            expected = CANARY.format(number=first if number == 0 else number)
            assert catalog.resolve_secret(connections[f"shop_{number}"], "password") == expected


def test_no_byte_on_disk_shows_a_secret(catalog: Catalog) -> None:
    catalog.vault.rotate()
    files = [path for path in catalog.settings.home.rglob("*") if path.is_file()]
    assert any(path.name == "catalog.db" for path in files)
    for path in files:
        content = path.read_bytes()
        assert b"canary-5f2b9a" not in content
        assert "canary-5f2b9a".encode("utf-16-le") not in content
    assert_all_open(catalog)


def test_old_revisions_open_after_a_rotation(catalog: Catalog) -> None:
    assert catalog.vault.rotate() == CONNECTIONS + 1
    assert_all_open(catalog)


@pytest.mark.parametrize(
    ("call", "count", "begun", "left"),
    [
        ("save", 0, False, CONNECTIONS + 1),
        ("replace_envelope", 0, True, CONNECTIONS + 1),
        ("replace_envelope", 3, True, CONNECTIONS - 2),
        ("save", 1, True, 0),
    ],
)
def test_a_rotation_that_was_killed_goes_on(catalog: Catalog, call: str, count: int, begun: bool, left: int) -> None:
    with reaped(start_rotation(catalog, fatal_call=call, count=count)) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert_all_open(catalog)
    assert catalog.vault.status().rotation_in_progress == begun
    assert catalog.vault.rotate() == left
    status = catalog.vault.status()
    assert (status.active_generation, status.rotation_in_progress) == (2, False)
    assert_all_open(catalog)


def test_two_processes_rotate_at_once(catalog: Catalog) -> None:
    with reaped(start_rotation(catalog)) as one, reaped(start_rotation(catalog)) as other:
        processes = [one, other]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    status = catalog.vault.status()
    assert not status.rotation_in_progress
    # Together, if they met; one after the other, if they did not.
    rotations = (status.active_generation or 0) - 1
    assert rotations in (1, 2)
    assert sum(int(output) for output in outputs) == rotations * (CONNECTIONS + 1)
    assert_all_open(catalog)
