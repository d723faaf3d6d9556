"""What every test of the vault starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.vault import create_key_file
from synqx_dagster_tests.unit.vault.memory_storage import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    """Holds nothing."""
    return MemoryStorage()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A machine's key, in a file that only its owner may read."""
    create_key_file(tmp_path / "vault.key")
    return tmp_path / "vault.key"
