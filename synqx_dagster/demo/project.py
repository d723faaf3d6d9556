"""The example project in a demo home: its YAML files, its catalog and its vault, made or brought up to date."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import quote

from synqx_dagster.demo.server import DemoServer
from synqx_dagster.errors import ConfigurationError, InvalidInputError
from synqx_dagster.settings import load_settings

if TYPE_CHECKING:
    from synqx_dagster.catalog.documents import Definitions
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.model import Record

#: Where the demo lives, in the working directory.
DEMO_HOME = Path(".synqx/demo")
#: Who its revisions are by.
_AUTHOR = "demo"
#: What the demo runs.
MAIN_PIPELINE = "load_warehouse"


@dataclass(frozen=True)
class AppliedProject:
    """The example project as the catalog has it now. ``changes`` counts records of the new revision, 0 without one."""

    catalog: Catalog
    directory: Path
    revision: int
    changes: int


def demo_environment(home: Path) -> dict[str, str]:
    """Environment variables with which every command and every process of Dagster works on the demo alone.

    Everything is said in full: the environment wins over a ``.env``, and so the user's own catalog is out of reach. A
    master password that is set all the same is not tried, since the key file opens the vault first.
    """
    return {
        "SYNQX_HOME": str(home),
        "DAGSTER_HOME": str(home),
        "SYNQX_CATALOG_URL": f"sqlite:///{home / 'catalog.db'}",
        "SYNQX_KEY_FILE": str(home / "vault.key"),
        "SYNQX_EXECUTOR": "in_process",
    }


def enter_demo(home: Path) -> None:
    """Make this process and its children work on the demo's home."""
    os.environ.update(demo_environment(home))


def database_url(server: DemoServer) -> str:
    """The warehouse as a URL, from which a server makes a connection at its first start; holds its password."""
    role = "warehouse_writer"
    password = quote(server.password_file(role).read_text(encoding="utf-8").strip(), safe="")
    return f"postgresql://{role}:{password}@/warehouse?host={quote(str(server.socket_directory), safe='')}"


def project_files() -> dict[str, str]:
    """The shipped YAML files by name; ``connections.yaml`` still has its placeholders."""
    directory = files("synqx_dagster.demo") / "project"
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in sorted(directory.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


def write_project(server: DemoServer) -> Path:
    """Write the project's YAML files into the home; a file that says something else is written again.

    Returns:
        Their directory. Only this user may read it: a password is among them, in the clear.
    """
    directory = server.home / "project"
    directory.mkdir(mode=0o700, exist_ok=True)
    values = {
        "home": str(server.home),
        "secrets": str(server.password_file("x").parent),
        "socket_directory": str(server.socket_directory),
        "warehouse_password": server.password_file("warehouse_writer").read_text(encoding="utf-8").strip(),
    }
    # The placeholders stand in double quotes, where YAML reads what JSON writes.
    quoted = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}
    for name, text in project_files().items():
        path = directory / name
        if name == "connections.yaml":
            text = Template(text).substitute(quoted)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    return directory


def apply_project(server: DemoServer) -> AppliedProject:
    """Make the catalog, its vault and its key file unless they are there, and apply the project. Idempotent.

    What an older version of the project declared, and this one does not, is removed; what somebody else made stays.

    `enter_demo` must have been called.

    Raises:
        InvalidInputError: The project's files do not fit this version.
        SealedError: Somebody sealed the demo's vault.
    """
    from synqx_dagster.audit import recording
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.check import check_definitions
    from synqx_dagster.catalog.documents import Definitions, read_documents
    from synqx_dagster.catalog.store import Catalog

    settings = load_settings()
    if settings.home != server.home:
        raise ConfigurationError(f"SYNQX_HOME is {settings.home}, not the demo's {server.home}")
    directory = write_project(server)
    catalog = Catalog.initialise(settings)
    recording.install(catalog)
    if not catalog.vault.is_initialised:
        assert settings.key_file is not None, "enter_demo names one"
        catalog.vault.initialise(key_file=_ensure_key_file(settings.key_file))
    catalog.vault.unseal_from_settings(settings)
    definitions = read_documents([directory])
    if problems := check_definitions(definitions, known=None):
        raise InvalidInputError(problems)
    plan = plan_changes(catalog, Definitions((*definitions.records, *_iter_foreign(catalog, definitions))), prune=True)
    revision = plan.base_revision
    if not plan.is_empty:
        revision = apply_changes(catalog, plan, author=_AUTHOR, reason="The example project")
    return AppliedProject(catalog, directory, revision, len(plan.changes))


def _iter_foreign(catalog: Catalog, project: Definitions) -> Iterator[Record]:
    """Records of the catalog that are not of the project: those that a server or its users made."""
    authors = {item.number: item.author for item in catalog.history(limit=catalog.latest_revision())}
    declared = {(record.kind, record.name) for record in project.records}
    for record in catalog.snapshot().iter_records():
        latest = catalog.versions(record.kind, record.name)[-1]
        if (record.kind, record.name) not in declared and authors[latest.valid_from] != _AUTHOR:
            yield record


def _ensure_key_file(path: Path) -> Path:
    from synqx_dagster.vault import create_key_file

    if not path.exists():
        create_key_file(path)
    return path
