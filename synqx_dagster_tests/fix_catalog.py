"""Catalogs for the tests: SQLite files, and databases of the embedded PostgreSQL."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.engine import parse_address
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.settings import Settings
from synqx_dagster.vault import Argon2Parameters, KdfPolicy, kdf

MASTER_PASSWORD = SecretStr("correct horse battery staple")
CHEAP_POLICY = KdfPolicy(Argon2Parameters(iterations=1, lanes=1, memory_kib=8), memory_floor_kib=8)


def make_catalog(settings: Settings) -> Catalog:
    """`Catalog.initialise`, but an SQLite catalog that is new begins with a copy of tables that were made once.

    Making them takes ten times as long, and a thousand tests need some.
    """
    path = parse_address(settings).path
    if path is not None and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_empty_tables())
    return Catalog.initialise(settings)


@cache
def _empty_tables() -> bytes:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "catalog.db"
        with (
            Catalog.initialise(Settings(home=Path(home), catalog_url=f"sqlite:///{path}")) as made,
            made.write() as connection,
        ):
            # Every catalog has an identity of its own.
            connection.execute(sa.delete(tables.catalog))
        return path.read_bytes()


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
    with make_catalog(catalog_settings) as opened:
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
    with make_catalog(any_catalog_settings) as opened:
        opened.vault.initialise(password=MASTER_PASSWORD)
        yield opened
