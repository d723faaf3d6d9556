"""What the wheel holds: every file that the code reads at run time, and entry points that exist."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_data_file_is_packaged() -> None:
    package = ROOT / "synqx_dagster"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["synqx_dagster"]
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert {"shop.sql", "mappings.yaml", "dagster.yaml", "script.py.mako", "py.typed"} <= {path.name for path in data}
    assert data - packaged == set()


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "synqx_dagster").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    "target",
    [
        *PYPROJECT["project"]["scripts"].values(),
        *PYPROJECT["project"]["entry-points"]["synqx_dagster.connectors"].values(),
        *PYPROJECT["project"]["entry-points"]["dagster_dg_cli.registry_modules"].values(),
    ],
)
def test_entry_points_lead_to_modules(target: str) -> None:
    assert importlib.util.find_spec(target.partition(":")[0]) is not None


def test_make_lets_the_processes_of_the_tests_share_bytecode(tmp_path: Path) -> None:
    file = tmp_path / "Makefile"
    file.write_text(f'include {ROOT}/Makefile\nshow:\n\t@echo "<$$PYTHONDONTWRITEBYTECODE>"\n')
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run(["make", "-s", "-f", str(file), "show"], env=environment, capture_output=True, text=True)
    assert shown.stdout == "<>\n", shown.stderr


def test_development_installs_everything() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert extras["dev"] == ["synqx-dagster[test,check]"]
    assert "synqx-dagster[embedded,mysql]" in extras["test"]
