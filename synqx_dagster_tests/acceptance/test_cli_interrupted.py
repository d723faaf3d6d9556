"""Ctrl-C in `synqx run`: exit code 130 wherever it comes, and what had committed by then is said to be whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synqx_dagster_tests.fix_cli import Outcome, Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.defs.dev_server import wait_for

#: Runs the command line, and sends itself a signal when Dagster is about to say that the first load was made: the load
#: is over then, and Dagster defers the signal until it begins the next one.
BETWEEN = """
from synqx_dagster.defs import assets

result_of = assets._Load.run
def run(self, context):
    result = result_of(self, context)
    # Within an op Dagster raises at once; its own handler is the one that defers.
    from dagster._utils import interrupts
    interrupts._received_interrupt["received"] = True
    return result
assets._Load.run = run
from synqx_dagster.cli.main import main
main()
"""


def interrupt(project: Project, place: str, *arguments: str) -> Outcome:
    """Run a command, and send it SIGINT while it stands still at a failpoint."""
    command = subprocess.Popen(
        [sys.executable, "-m", "synqx_dagster.cli.main", *arguments],
        cwd=project.directory,
        env=project.process_environment({"SYNQX_FAILPOINTS": f"{place}=stop"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with reaped(command) as process:
        status = wait_for(lambda: _stopped(process.pid), seconds=120, what="process that stands still")
        assert os.WIFSTOPPED(status), status
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=60)
    return Outcome(process.returncode, stdout, stderr)


def _stopped(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
    return status if found else None


@pytest.mark.parametrize(
    ("place", "committed", "not_committed", "said"),
    [
        ("after_commit", ["customers"], ["copy"], "after its commit: the load is whole"),
        pytest.param(
            "before_commit",
            [],
            ["customers", "copy"],
            "before its commit: the target is as it was",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_says_which_loads_had_committed(
    shop: Project,
    postgresql: PostgresqlDatabase,
    place: str,
    committed: list[str],
    not_committed: list[str],
    said: str,
) -> None:
    outcome = interrupt(shop, place, "run", "pipeline:everything", "--json")

    assert outcome.exit_code == 130, outcome.output
    assert outcome.document["interruption"] == {"committed": committed, "not_committed": not_committed}
    (failure,) = outcome.document["failures"]
    assert failure["name"] == "customers"
    assert said in failure["message"]
    there = postgresql.execute("select count(*) from pg_tables where tablename = 'customer'")
    assert there == [(len(committed),)]


@pytest.mark.slow
def test_people_are_told_the_same(shop: Project) -> None:
    outcome = interrupt(shop, "after_commit", "run", "mapping:customers")

    assert outcome.exit_code == 130, outcome.output
    assert "Interrupted: run" in outcome.stdout
    assert "committed and whole: customers" in outcome.stdout
    assert "not committed, as before: none" in outcome.stdout
    assert "Traceback" not in outcome.output


@pytest.mark.slow
def test_between_two_loads_it_is_the_same_to_the_user(shop: Project, tmp_path: Path) -> None:
    script = tmp_path / "between.py"
    script.write_text(BETWEEN)
    result = subprocess.run(
        [sys.executable, str(script), "run", "pipeline:everything"],
        cwd=shop.directory,
        env=shop.process_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert result.returncode == 130, result.stdout + result.stderr
    assert "committed and whole: customers" in result.stdout
    assert "not committed, as before: copy" in result.stdout
    assert "unexpectedly" not in result.stdout + result.stderr
