"""SynqX as its users start it: a project of YAML records in a home of its own, and `synqx run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.case import Outcome
from benchmarks.measure import RunFailedError, Usage, run_measured
from benchmarks.servers import SOURCE, TARGET, Endpoint


@dataclass(frozen=True)
class Project:
    """A SynqX home with applied records."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        home = self.directory / ".synqx"
        return {
            "SYNQX_HOME": str(home),
            "DAGSTER_HOME": str(home),
            "SYNQX_CATALOG_URL": f"sqlite:///{home / 'catalog.db'}",
            "SYNQX_KEY_FILE": str(home / "vault.key"),
        }

    def run(self, *names: str) -> Outcome:
        """Run mappings as one Dagster run; ``seconds`` is the sum of what the engine took for each.

        Raises:
            RunFailedError: The command failed.
        """
        log = self.directory / "run.log"
        usage = run_measured(
            _command("run", *names, "--json"), log=log, environment=self.environment, directory=self.directory
        )
        report = json.loads(usage.output)
        assets = report["assets"]
        if len(assets) != len(names):
            raise RunFailedError(f"{len(assets)} of {len(names)} mappings were loaded")
        lanes = ", ".join(sorted({asset["lane"] for asset in assets}))
        seconds = sum(asset["seconds"] for asset in assets)
        return Outcome(seconds, usage.seconds, usage.peak_memory_bytes, lanes)

    def measure(self, *arguments: str) -> Usage:
        """Run any command.

        Raises:
            RunFailedError: It failed.
        """
        log = self.directory / "command.log"
        return run_measured(_command(*arguments), log=log, environment=self.environment, directory=self.directory)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on."""
        with (self.directory / "started.log").open("wb") as log:
            environment = {**os.environ, **self.environment}
            return subprocess.Popen(_command(*arguments), stdout=log, stderr=log, env=environment, cwd=self.directory)


def create_project(directory: Path, records: Sequence[Mapping[str, Any]]) -> Project:
    """Make a home and apply records.

    Raises:
        RunFailedError: SynqX refuses them; the message is its own.
    """
    directory.mkdir(parents=True)
    project = Project(directory)
    file = directory / "records.yaml"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump_all(list(records), sort_keys=False), encoding="utf-8")
    for arguments in (("init", "--generate-key-file"), ("apply", str(file))):
        run_measured(
            _command(*arguments), log=directory / "apply.log", environment=project.environment, directory=directory
        )
    return project


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "synqx_dagster.cli.main", *arguments]


def server_connection(name: str, db_type: str, database: str, endpoint: Endpoint) -> dict[str, Any]:
    """A connection record to one of the servers."""
    return {
        "kind": "connection",
        "name": name,
        "db_type": db_type,
        "host": endpoint.host,
        "port": endpoint.port,
        "database": database,
        "username": endpoint.username,
        "password": endpoint.password,
    }


def postgresql_connections(endpoint: Endpoint) -> list[dict[str, Any]]:
    """The source and the target of most cases."""
    return [
        server_connection("source", "postgresql", SOURCE, endpoint),
        server_connection("target", "postgresql", TARGET, endpoint),
    ]


def mapping(name: str, source_table: str, target_table: str, **more: Any) -> dict[str, Any]:
    """A mapping record from ``source`` to ``target``."""
    return {
        "kind": "mapping",
        "name": name,
        "source_connection": "source",
        "source_table": source_table,
        "target_connection": "target",
        "target_table": target_table,
        **more,
    }


def preload() -> None:
    """Have the files of SynqX and Dagster in the page cache."""
    subprocess.run(_command("--help"), check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", "import synqx_dagster.defs.execution"], check=True)
