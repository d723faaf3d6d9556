"""Wrong addresses of a catalog are told clearly and without a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster.catalog.engine import parse_address
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import ConfigurationError, NotInitialisedError
from synqx_dagster.settings import Settings

CANARY = "hunter2"


def settings_of(url: str, home: Path = Path("/nowhere")) -> Settings:
    return Settings(home=home, catalog_url=url)


@pytest.mark.parametrize(
    "url",
    [
        CANARY,
        f"postgresql:user:{CANARY}@host/db",
        f"postgresql://user:{CANARY}@host:port/db",
        f"postgresql://user:{CANARY}@host:99999999999/db",
        f"mysql://user:{CANARY}@host/db",
        f"postgresql+nosuchdriver://user:{CANARY}@host/db",
        f"postgresql+asyncpg://user:{CANARY}@host/db",
        f"nosuchdb://user:{CANARY}@host/db",
        f"postgresql://user:{CANARY}@host",
        f"postgresql://user:{CANARY}@[::1/db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        f"sqlite:///x.db?key={CANARY}",
        f"sqlite://user:{CANARY}@host/x.db",
        f"postgresql://user:{CANARY}\n@host/db",
        "://",
        "postgresql://",
    ],
)
@pytest.mark.parametrize("act", [Catalog.open, Catalog.initialise])
def test_wrong_urls(url: str, act: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        act(settings_of(url, tmp_path))  # type: ignore[operator]
    assert "SYNQX_CATALOG_URL" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_postgresql_without_a_driver_is_psycopg2(scheme: str) -> None:
    address = parse_address(settings_of(f"{scheme}://user:{CANARY}@host:5433/db?sslmode=require&password={CANARY}"))
    assert address.url.drivername == "postgresql+psycopg2"
    assert address.display == "postgresql://user@host:5433/db"


@pytest.mark.parametrize("act", [Catalog.open, Catalog.initialise])
def test_nothing_listens(act: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        act(settings_of(f"postgresql://user:{CANARY}@127.0.0.1:1/db", tmp_path))  # type: ignore[operator]
    message = str(caught.value)
    assert "postgresql://user@127.0.0.1:1/db cannot be reached: nothing listens at this host and port" in message
    assert CANARY not in message
    assert caught.value.__cause__ is None


def test_the_default_may_lie_anywhere(tmp_path: Path) -> None:
    home = tmp_path / "a?b#c%20 ü"
    settings = settings_of(f"sqlite:///{home / 'catalog.db'}", home)
    with Catalog.initialise(settings) as catalog:
        assert catalog.latest_revision() == 0
    assert (home / "catalog.db").is_file()


def test_opening_creates_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(NotInitialisedError, match="no catalog at"):
        Catalog.open(settings_of(f"sqlite:///{home / 'catalog.db'}", home))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("act", [Catalog.open, Catalog.initialise])
def test_not_a_database(act: object, tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    file.write_bytes(b"name,age\n" * 1000)
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match="is not an SQLite database"):
        act(settings_of(f"sqlite:///{file}", tmp_path))  # type: ignore[operator]
    assert file.read_bytes() == before


@pytest.mark.parametrize("act", [Catalog.open, Catalog.initialise])
def test_a_directory(act: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        act(settings_of(f"sqlite:///{tmp_path}", tmp_path))  # type: ignore[operator]


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    with pytest.raises(ConfigurationError, match="cannot be made"):
        Catalog.initialise(settings_of(f"sqlite:///{home / 'catalog.db'}", home))


def test_an_empty_file_is_no_catalog_yet(tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    file.touch()
    settings = settings_of(f"sqlite:///{file}", tmp_path)
    with pytest.raises(NotInitialisedError):
        Catalog.open(settings)
    Catalog.initialise(settings).close()


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Catalog.initialise(settings_of(f"sqlite:///{home / 'catalog.db'}", home)) as catalog, catalog.write():
        modes = {path.name: path.stat().st_mode & 0o777 for path in [home, *home.iterdir()]}
    assert modes.pop("home") == 0o700
    assert set(modes.values()) == {0o600}
    assert "catalog.db-wal" in modes
