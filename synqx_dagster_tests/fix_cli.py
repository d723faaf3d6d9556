"""The command line as a user has it: a project directory of its own, and `synqx` in this process or another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PACKAGE_ROOT = Path(__file__).parent.parent

#: How the names of settings begin; no test sees those of the machine.
SETTINGS = ("SYNQX_", "DAGSTER_")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


@dataclass
class Project:
    """A user's directory."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.directory / ".synqx"

    def write(self, name: str, text: str) -> Path:
        """Write a file into the directory."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def __call__(self, *arguments: str, text: str | None = None) -> Outcome:
        """Run `synqx` in this process."""
        from click.testing import CliRunner

        from synqx_dagster.cli.main import cli

        with pytest.MonkeyPatch.context() as patch, _kept_environment():
            patch.chdir(self.directory)
            for name in [name for name in os.environ if name.startswith(SETTINGS)]:
                del os.environ[name]
            os.environ.update(self.environment)
            result = CliRunner().invoke(cli, list(arguments), input=text)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def process_environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a process that a user starts here."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        return {**inherited, "PYTHONPATH": str(PACKAGE_ROOT), **self.environment, **(extra or {})}

    def process(self, *arguments: str, extra: Mapping[str, str] | None = None, text: str | None = None) -> Outcome:
        """Run `synqx` in a process of its own."""
        result = subprocess.run(
            [sys.executable, "-m", "synqx_dagster.cli.main", *arguments],
            cwd=self.directory,
            env=self.process_environment(extra),
            capture_output=True,
            text=True,
            input=text or "",
            timeout=120,
        )
        return Outcome(result.returncode, result.stdout, result.stderr)


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Undo what a command sets itself, too: its homes, and whatever stands in `.env`."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def _initialised_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("initialised"))
    outcome = project("init", "--generate-key-file")
    assert outcome.exit_code == 0, outcome.output
    return project.home


@pytest.fixture
def empty_project(tmp_path: Path) -> Project:
    """A directory with nothing in it."""
    return Project(tmp_path)


@pytest.fixture
def project(tmp_path: Path, _initialised_home: Path) -> Project:
    """A directory after `synqx init --generate-key-file`."""
    shutil.copytree(_initialised_home, tmp_path / ".synqx")
    return Project(tmp_path)
