"""The peers, Sling and dlt, in an environment of their own, set up as their documentation recommends for speed.

Exact settings and their sources: benchmarks/README.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Usage, run_measured

_SHOWN = ("sling-linux-amd64", "dlt", "connectorx", "adbc-driver-postgresql", "sqlalchemy", "duckdb", "duckdb-cli")
#: By which Sling hands rows to the DuckDB command; of that command's version. It is installed without what it depends
#: on, which is Python's DuckDB of the same version: dlt shall have the newest.
_EXTENSION = "duckdb-extension-httpfs==1.4.4"
#: dlt loads files of one table at the same time.
_FILES_PER_TABLE = 4


@dataclass(frozen=True)
class Peers:
    """The environment with both peers, and a directory for what they leave behind."""

    environment: Path
    work_directory: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def home(self) -> Path:
        """A home directory that has DuckDB's extension for HTTP, by which Sling hands rows to DuckDB."""
        return self.environment / "home"

    @property
    def sling(self) -> Path:
        (found,) = self.environment.glob("lib/python*/site-packages/sling_linux_amd64/bin/sling-linux-amd64")
        return found

    def versions(self) -> dict[str, str]:
        """What is installed."""
        listed = subprocess.run(
            [str(self.python), "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
        return {name: found[name] for name in _SHOWN if name in found}

    def run_sling(self, run: SlingRun, *, log: Path) -> Usage:
        """Run one replication in a process of its own."""
        replication = self.work_directory / f"{run.name}.yaml"
        document = {"source": "BENCH_SOURCE", "target": "BENCH_TARGET", "streams": run.streams}
        replication.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        environment = {
            "BENCH_SOURCE": run.source,
            "BENCH_TARGET": run.target,
            "DUCKDB_PATH": str(self.environment / "bin" / "duckdb"),
            # What it needs is linked into the command; it would ask the network for it all the same.
            "DUCKDB_USE_INSTALLED_EXTENSIONS": "true",
            "HOME": str(self.home),
            "SLING_DISABLE_TELEMETRY": "true",
            "SLING_HOME_DIR": str(self.work_directory / "sling"),
            "SLING_SHOW_PROGRESS": "false",
            **run.environment,
        }
        return run_measured([self.sling, "run", "-r", replication], log=log, environment=environment)

    def run_dlt(self, name: str, job: Mapping[str, Any], *, log: Path) -> tuple[Usage, float]:
        """Run one load in a process of its own; gives also the seconds of ``pipeline.run`` alone."""
        document = {"pipeline": name, "directory": str(self.work_directory / "dlt" / name), **job}
        environment = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
        script = Path(__file__).with_name("dlt_load.py")
        usage = run_measured([self.python, script], log=log, environment=environment, text=json.dumps(document))
        return usage, float(json.loads(usage.output.strip().splitlines()[-1])["seconds"])

    def forget_dlt(self, name: str) -> None:
        """Remove a pipeline's working directory: its next load is its first."""
        shutil.rmtree(self.work_directory / "dlt" / name, ignore_errors=True)


@dataclass(frozen=True)
class SlingRun:
    """A replication: connection strings, streams, and settings of Sling beside them."""

    name: str
    source: str
    target: str
    streams: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


def dlt_job(backend: str, tables: Sequence[str], rows: int, **job: Any) -> dict[str, Any]:
    """What every load by dlt has in common: Arrow in, parquet files in parallel out."""
    return {
        "backend": backend,
        "tables": list(tables),
        "chunk_rows": 100_000,
        "file_format": "parquet",
        "settings": {"data_writer.file_max_items": max(1_000, rows // _FILES_PER_TABLE)},
        **job,
    }


def install_peers(environment: Path, work_directory: Path) -> Peers:
    """Make the environment, unless one with these requirements is there.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    peers = Peers(environment, work_directory)
    requirements = _read_requirements()
    stamp, wanted = environment / "installed.txt", "\n".join([*requirements, _EXTENSION]) + "\n"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing Sling and dlt into {environment}", file=sys.stderr)
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(peers.python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr)
        subprocess.run([*pip, "--no-deps", _EXTENSION], check=True, stdout=sys.stderr)
        _install_extension(peers)
        stamp.write_text(wanted)
    work_directory.mkdir(parents=True, exist_ok=True)
    return peers


def _read_requirements() -> list[str]:
    """The extra ``bench`` without SynqX itself."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    listed: list[str] = project["project"]["optional-dependencies"]["bench"]
    return [requirement for requirement in listed if not requirement.startswith("synqx-dagster")]


def _install_extension(peers: Peers) -> None:
    """Put DuckDB's extension where the DuckDB command of that version looks for it."""
    (packed,) = peers.environment.glob("lib/python*/site-packages/duckdb_extension_httpfs/**/*.duckdb_extension")
    # The package keeps it as extensions/VERSION/NAME; DuckDB wants the platform, too, which is that of Sling's wheel.
    directory = peers.home / ".duckdb" / "extensions" / packed.parent.name / "linux_amd64"
    directory.mkdir(parents=True)
    shutil.copy(packed, directory)
