"""The example project without a server: its files are whole, and it keeps to its own home."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import Definitions, read_documents
from synqx_dagster.demo.project import MAIN_PIPELINE, apply_project, demo_environment, project_files, write_project
from synqx_dagster.demo.server import ROLES, DemoServer
from synqx_dagster.model import Connection, LiteralSecret, Mapping, Pipeline
from synqx_dagster.settings import load_settings


@pytest.fixture
def server(tmp_path: Path) -> DemoServer:
    """A demo home whose path needs care in YAML; nothing runs in it."""
    home = tmp_path / 'a "demo" \\ of: #1 ünïcode'
    server = DemoServer(home, Path("/nowhere"), None)
    for role in ROLES.values():
        path = server.password_file(role)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"password-of-{role}\n", encoding="utf-8")
    return server


def test_the_project_has_no_problems(server: DemoServer) -> None:
    assert check_definitions(read_documents([write_project(server)]), known=None) == []


def test_placeholders_survive_any_path(server: DemoServer) -> None:
    records = {(record.kind, record.name): record for record in read_documents([write_project(server)]).records}
    shop, lake, warehouse = (records["connection", name] for name in ("shop", "lake", "warehouse"))
    assert isinstance(shop, Connection)
    assert isinstance(lake, Connection)
    assert isinstance(warehouse, Connection)
    assert shop.host == str(server.socket_directory)
    assert shop.model_dump(mode="json")["password"] == {"file": str(server.password_file("shop_reader"))}
    assert lake.database == str(server.home / "lake.duckdb")
    assert isinstance(warehouse.password, LiteralSecret)
    assert warehouse.password.value.get_secret_value() == "password-of-warehouse_writer"


def test_the_files_are_private_and_written_once(server: DemoServer) -> None:
    directory = write_project(server)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert set(before) == set(project_files())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    write_project(server)
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_a_changed_file_is_written_again(server: DemoServer) -> None:
    path = write_project(server) / "mappings.yaml"
    original = path.read_text(encoding="utf-8")
    path.write_text("kind: nonsense\n", encoding="utf-8")
    write_project(server)
    assert path.read_text(encoding="utf-8") == original


def test_the_project_shows_what_the_product_does(server: DemoServer) -> None:
    records = read_documents([write_project(server)]).records
    mappings = [record for record in records if isinstance(record, Mapping)]
    kinds = {item.type for mapping in mappings for item in mapping.column_mappings or ()}
    assert kinds == {"direct", "split", "join", "expression", "hash", "constant"}
    assert {mapping.on_bad_row for mapping in mappings} == {"fail", "quarantine"}
    assert any(mapping.column_mappings is None and mapping.target_schema is None for mapping in mappings)
    assert {mapping.target_connection for mapping in mappings} == {"warehouse", "lake"}
    pipelines = {record.name: record for record in records if isinstance(record, Pipeline)}
    assert set(pipelines) == {MAIN_PIPELINE, "customer_value"}
    assert set(pipelines[MAIN_PIPELINE].mapping_names) == {mapping.name for mapping in mappings}
    assert not pipelines["customer_value"].mapping_names


def test_the_demo_never_uses_the_users_own_catalog(tmp_path: Path) -> None:
    own = {
        "SYNQX_HOME": "/own",
        "DAGSTER_HOME": "/own",
        "SYNQX_CATALOG_URL": "sqlite:////own/catalog.db",
        "SYNQX_MASTER_PASSWORD": "own",
        "SYNQX_KEY_FILE": "/own/key",
        "SYNQX_EXECUTOR": "multiprocess",
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in own.items()), encoding="utf-8")
    home = tmp_path / "demo"
    settings = load_settings({**own, **demo_environment(home)}, tmp_path)
    assert settings.home == settings.dagster_home == home
    assert settings.catalog_url == f"sqlite:///{home / 'catalog.db'}"
    assert settings.key_file == settings.generated_key_file == home / "vault.key"
    assert settings.executor == "in_process"


def test_what_others_made_in_the_demo_stays(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in demo_environment(server.home).items():
        monkeypatch.setenv(name, value)
    with apply_project(server).catalog as catalog:
        for author in ("anna", "demo"):
            record = Connection(name=f"of {author}", db_type="sqlite", database="x.db")
            apply_changes(catalog, plan_changes(catalog, Definitions((record,))), author=author, reason=None)
    again = apply_project(server)
    with again.catalog as catalog:
        assert set(catalog.snapshot().connections) - {"shop", "lake", "warehouse"} == {"of anna"}
    assert again.changes == 1
    unchanged = apply_project(server)
    unchanged.catalog.close()
    assert (unchanged.changes, unchanged.revision) == (0, again.revision)
