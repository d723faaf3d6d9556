"""The catalog's layout on both backends: made once, migrated by `initialise` alone, never touched when newer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from synqx_dagster.catalog import migrate, tables
from synqx_dagster.catalog.engine import make_engine, parse_address
from synqx_dagster.catalog.hub_tables import SEARCH_TEXT
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import CatalogVersionError, NotInitialisedError
from synqx_dagster.settings import Settings
from synqx_dagster_tests.integration.catalog.processes import run_at_once


def execute(settings: Settings, *statements: str) -> None:
    engine = make_engine(parse_address(settings))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_the_constant_is_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    assert scripts.get_heads() == [migrate.HEAD]


def test_migrations_make_the_tables_that_the_code_describes(any_catalog_settings: Settings) -> None:
    Catalog.initialise(any_catalog_settings).close()
    engine = make_engine(parse_address(any_catalog_settings))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": tables.VERSION_TABLE})
        differences = compare_metadata(context, tables.metadata)
        # The words of the search index are a table of each backend's own kind, which the code does not describe.
        unknown = [item for item in differences if "remove_table" not in str(item) and SEARCH_TEXT not in str(item)]
        assert unknown == []
        inspector = sa.inspect(connection)
        for table in tables.metadata.sorted_tables:
            checks = {item["name"] for item in inspector.get_check_constraints(table.name)}
            described = {item.name for item in table.constraints if isinstance(item, sa.CheckConstraint)}
            assert checks == described
            assert inspector.get_pk_constraint(table.name)["constrained_columns"] == [
                column.name for column in table.primary_key
            ]
    engine.dispose()


def test_initialise_again_changes_nothing(any_catalog_settings: Settings) -> None:
    with Catalog.initialise(any_catalog_settings) as first, Catalog.initialise(any_catalog_settings) as second:
        assert first.catalog_id == second.catalog_id
    with Catalog.open(any_catalog_settings) as opened:
        assert opened.catalog_id == first.catalog_id


def test_processes_that_initialise_at_once_make_one_catalog(any_catalog_settings: Settings) -> None:
    found = run_at_once(_initialise, any_catalog_settings, count=3)
    assert len(set(found)) == 1
    with Catalog.open(any_catalog_settings) as opened:
        assert opened.catalog_id == found[0]


def _initialise(settings: Settings, _number: int, meet: Callable[[], object]) -> str:
    meet()
    with Catalog.initialise(settings) as catalog:
        return catalog.catalog_id


def test_a_newer_catalog_is_not_touched(any_catalog_settings: Settings) -> None:
    Catalog.initialise(any_catalog_settings).close()
    execute(any_catalog_settings, f"update {tables.VERSION_TABLE} set version_num = '9999_future'")
    file = any_catalog_settings.home / "catalog.db"
    before = _digest(file)
    for act in (Catalog.open, Catalog.initialise):
        with pytest.raises(CatalogVersionError, match="newer version") as caught:
            act(any_catalog_settings)
        assert caught.value.exit_code == 2
    assert _digest(file) == before


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def test_an_older_catalog_is_migrated_by_initialise_alone(
    any_catalog_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a second migration that only this test has."""
    with Catalog.initialise(any_catalog_settings) as catalog:
        catalog_id = catalog.catalog_id
    _add_migration(tmp_path, monkeypatch)
    with pytest.raises(CatalogVersionError, match="older version") as caught:
        Catalog.open(any_catalog_settings)
    assert "synqx init" in str(caught.value)
    with Catalog.initialise(any_catalog_settings) as catalog:
        assert catalog.catalog_id == catalog_id
        with catalog.read() as connection:
            assert connection.exec_driver_sql("select count(*) from synqx_more").scalar() == 1


def test_a_migration_that_fails_leaves_the_older_catalog(
    any_catalog_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog.initialise(any_catalog_settings).close()
    with monkeypatch.context() as patch:
        _add_migration(tmp_path, patch, "    raise RuntimeError('power cut')\n")
        with pytest.raises(RuntimeError, match="power cut"):
            Catalog.initialise(any_catalog_settings)
    with Catalog.open(any_catalog_settings) as catalog, catalog.read() as connection:
        assert not sa.inspect(connection).has_table("synqx_more")


def _add_migration(directory: Path, monkeypatch: pytest.MonkeyPatch, ending: str = "") -> None:
    original = Path(migrate.__file__).parent / "migrations"
    copy = directory / "migrations"
    (copy / "versions").mkdir(parents=True)
    (copy / "env.py").write_text((original / "env.py").read_text())
    for script in (original / "versions").glob("m*.py"):
        (copy / "versions" / script.name).write_text(script.read_text())
    following = f"{int(migrate.HEAD) + 1:04}"
    (copy / "versions" / f"m{following}_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '{following}'\ndown_revision = '{migrate.HEAD}'\n"
        "def upgrade():\n"
        "    op.create_table('synqx_more', sa.Column('id', sa.Integer, primary_key=True))\n"
        "    op.execute('insert into synqx_more values (1)')\n" + ending
    )
    make_config = migrate._alembic_config

    def patched() -> object:
        config = make_config()
        config.set_main_option("script_location", str(copy))
        return config

    monkeypatch.setattr(migrate, "_alembic_config", patched)
    monkeypatch.setattr(migrate, "HEAD", following)


def test_a_database_of_somebody_else_is_no_catalog(any_catalog_settings: Settings) -> None:
    """Dagster keeps an `alembic_version` of its own, maybe in the same database."""
    any_catalog_settings.home.mkdir()
    execute(
        any_catalog_settings,
        "create table alembic_version (version_num varchar(32) not null)",
        "insert into alembic_version values ('29b539ebc72a')",
    )
    with pytest.raises(NotInitialisedError):
        Catalog.open(any_catalog_settings)
    with Catalog.initialise(any_catalog_settings) as catalog, catalog.read() as connection:
        assert connection.exec_driver_sql("select version_num from alembic_version").scalars().all() == ["29b539ebc72a"]
