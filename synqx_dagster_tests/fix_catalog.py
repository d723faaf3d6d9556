"""Catalogs for the tests: SQLite files, and databases of the embedded PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.settings import Settings
from synqx_dagster.vault import Argon2Parameters, KdfPolicy, kdf

MASTER_PASSWORD = SecretStr("correct horse battery staple")
CHEAP_POLICY = KdfPolicy(Argon2Parameters(iterations=1, lanes=1, memory_kib=8), memory_floor_kib=8)


@pytest.fixture
def cheap_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyslots that cost nothing, for tests that are not about them."""
    monkeypatch.setattr(kdf, "DEFAULT_POLICY", CHEAP_POLICY)


@pytest.fixture
def catalog_settings(tmp_path: Path) -> Settings:
    """Settings of an SQLite catalog that is not there yet."""
    home = tmp_path / "home"
    url = f"sqlite:///{home / 'catalog.db'}"
    return Settings(home=home, dagster_home=home, catalog_url=url, master_password=MASTER_PASSWORD)


@pytest.fixture
def catalog(catalog_settings: Settings, cheap_vault: None) -> Iterator[Catalog]:
    """An empty SQLite catalog with a vault that its settings unseal."""
    with Catalog.initialise(catalog_settings) as opened:
        opened.vault.initialise(password=MASTER_PASSWORD)
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def any_catalog_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a catalog that is not there yet, on each backend."""
    return settings_on(request, tmp_path)


def settings_on(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a catalog that is not there yet, on the backend that is the fixture's parameter."""
    home = tmp_path / "home"
    url = f"sqlite:///{home / 'catalog.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").uri
    return Settings(home=home, dagster_home=home, catalog_url=url, master_password=MASTER_PASSWORD)


@pytest.fixture
def any_catalog(any_catalog_settings: Settings, cheap_vault: None) -> Iterator[Catalog]:
    """An empty catalog with a vault that its settings unseal, on each backend."""
    with Catalog.initialise(any_catalog_settings) as opened:
        opened.vault.initialise(password=MASTER_PASSWORD)
        yield opened
