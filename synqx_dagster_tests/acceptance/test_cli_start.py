"""Starting the command line: what help costs, pipes that close, and Ctrl-C."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.processes import reaped

HEAVY = (
    "dagster",
    "sqlalchemy",
    "alembic",
    "sqlglot",
    "pydantic",
    "duckdb",
    "pyarrow",
    "psycopg2",
    "pymysql",
    "cryptography",
    "rich",
)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["vault", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(empty_project: Project, arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from synqx_dagster.cli.main import cli\n"
        "try:\n"
        f"    cli({arguments!r})\n"
        "except SystemExit as exc:\n"
        "    assert exc.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=empty_project.process_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr.strip() == "[]"


def test_help_takes_less_than_half_a_second(empty_project: Project) -> None:
    costs = []
    for _ in range(3):
        # Processor time: a busy machine must not fail a fast program.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert empty_project.process("--help").exit_code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.5


def test_help_writes_nothing(empty_project: Project) -> None:
    empty_project.process("--help")
    empty_project.process("status")

    assert list(empty_project.directory.iterdir()) == []


def test_a_pipe_that_closes_early_is_quiet(project: Project) -> None:
    command = f"{sys.executable} -m synqx_dagster.cli.main history --json | true"
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=project.directory,
        env=project.process_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""


def test_names_that_the_terminal_cannot_spell_do_not_fail(project: Project) -> None:
    project.write("a.yaml", "kind: connection\nname: Zürich 東京\ndb_type: sqlite\ndatabase: a.db\n")
    assert project("apply").exit_code == 0

    outcome = project.process("connections", "list", extra={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})

    assert outcome.exit_code == 0, outcome.output
    assert "rich" in outcome.stdout


def open_once_read(fifo: Path, reader: subprocess.Popen[str]) -> int:
    """A descriptor to write to a pipe, once a process has opened it to read."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # that nobody reads
                raise
        assert reader.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_interrupting_exits_130(project: Project, tmp_path: Path) -> None:
    fifo = tmp_path / "token"
    os.mkfifo(fifo)
    command = subprocess.Popen(
        [sys.executable, "-m", "synqx_dagster.cli.main", "check", str(fifo)],
        cwd=project.directory,
        env=project.process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with reaped(command) as process:
        descriptor = open_once_read(fifo, process)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        os.close(descriptor)

    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stdout == ""
