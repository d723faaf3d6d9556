"""A project on real SQLite files and a real catalog, made in a directory of a test."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster_tests.fix_catalog import make_catalog

REPOSITORY = Path(__file__).parents[3]

CONNECTIONS = """
kind: connection
name: shop
db_type: sqlite
database: {directory}/shop.db
---
kind: connection
name: warehouse
db_type: sqlite
database: {directory}/warehouse.db
pool: {{timeout_seconds: 120}}
"""

CUSTOMERS = """
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: customer
description: {description}
---
kind: pipeline
name: load_customers
nodes: [{{node_id: customers, config: {{mapping: customers}}}}]
"""


@dataclass
class Project:
    """A directory with a catalog, a source ``shop.db`` and a target ``warehouse.db``."""

    directory: Path

    @property
    def home(self) -> Path:
        """SYNQX_HOME and DAGSTER_HOME."""
        return self.directory / "home"

    @property
    def settings(self) -> Settings:
        """The settings of this project, and nothing of the machine's."""
        return load_settings({"SYNQX_HOME": str(self.home), "DAGSTER_HOME": str(self.home)}, self.directory)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command in this project."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SYNQX_", "DAGSTER_"))}
        return {
            **inherited,
            "SYNQX_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "ignore",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def apply(self, text: str, **values: str) -> int:
        """Declare these documents, and the connections with them, as a new revision."""
        path = self.directory / "synqx.yaml"
        path.write_text(f"{CONNECTIONS}---{text}".format(directory=self.directory, **values))
        with make_catalog(self.settings) as catalog:
            plan = plan_changes(catalog, read_documents([path]))
            return apply_changes(catalog, plan, author="tester", reason=None)

    def fill(self, rows: int = 3, table: str = "customer") -> None:
        """Make a source table of this many rows."""
        with closing(sqlite3.connect(self.directory / "shop.db")) as database, database:
            database.execute(f"drop table if exists {table}")
            database.execute(f"create table {table} (id integer primary key, name text)")
            database.executemany(
                f"insert into {table} values (?, ?)", [(number, f"name {number}") for number in range(rows)]
            )

    def rows(self, table: str = "customer") -> list[tuple[object, ...]]:
        """What a target table holds, in the order of its first column."""
        with closing(sqlite3.connect(self.directory / "warehouse.db")) as database:
            return database.execute(f"select * from {table} order by 1").fetchall()

    def target(self) -> sqlite3.Connection:
        """A connection to the target."""
        return sqlite3.connect(self.directory / "warehouse.db")

    def run(self, *command: str, timeout_seconds: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this project."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, **environ},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def execute_job(self, name: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a job with Dagster's own command."""
        return self.run(
            *(sys.executable, "-m", "dagster", "job", "execute", "-m", "synqx_dagster.definitions", "-j", name),
            **environ,
        )

    def start_job(self, name: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start a job with Dagster's own command."""
        return subprocess.Popen(
            [sys.executable, "-m", "dagster", "job", "execute", "-m", "synqx_dagster.definitions", "-j", name],
            cwd=self.directory,
            env={**self.environment, **environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def locked_target(project: Project) -> Iterator[None]:
    """Hold the target's file, so that a load waits."""
    with closing(sqlite3.connect(project.directory / "warehouse.db", isolation_level=None)) as database:
        database.execute("pragma journal_mode = wal")  # readers of the file do not wait, as with a server
        database.execute("begin exclusive")
        yield


def describe(result: subprocess.CompletedProcess[str]) -> str:
    """A command's output, for the message of an assertion."""
    return f"exit {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
