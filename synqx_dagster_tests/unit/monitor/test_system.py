"""What this machine uses, against what the operating system says of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from synqx_dagster.monitor.system import HOST, SystemMeter, find_role


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("/v/bin/python -m dagster api grpc --lazy-load-user-code", "code server"),
        ("/v/bin/python -W ignore -m dagster code-server start", "code server"),
        ("/v/bin/python3.12 -m dagster api execute_run {}", "run"),
        ("python -m dagster api execute_step {}", "step"),
        ("/v/bin/python /v/bin/dagster-daemon run", "daemon"),
        ("python -m dagster._daemon run", "daemon"),
        ("/v/bin/dagster-webserver -p 3000", "web UI"),
        ("python -m synqx_dagster.cli.main serve --port 1", "serve"),
        ("/v/bin/python /v/bin/synqx run customers", "run"),
        ("/v/bin/python /v/bin/synqx wal shop --watch", "other"),
        ("python -m celery --app synqx_dagster.defs.celery_worker worker", "step"),
        ("vim synqx_dagster/definitions.py", None),
        ("python /home/dagster/other.py", None),
        ("/opt/dagster-tools/postgres -D x", None),
        ("python", None),
        ("", None),
    ],
)
def test_processes_are_known_by_their_commands(command: str, role: str | None) -> None:
    assert find_role(command.split()) == role


def test_code_on_the_command_line_is_nobodys() -> None:
    assert find_role(["python", "-c", "import dagster"]) is None


def test_the_machine_is_measured(tmp_path: Path) -> None:
    meter = SystemMeter(tmp_path)
    first = meter.look().samples[0]
    assert first.subject == HOST
    assert (first.cpu_seconds, first.elapsed_seconds) == (None, None)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        pass
    host = meter.look().samples[0]
    assert host.cpu_seconds is not None
    assert host.elapsed_seconds is not None
    assert host.cpu_count == psutil.cpu_count()
    assert 0.1 < host.elapsed_seconds < 60
    assert 0 < host.cpu_seconds <= host.elapsed_seconds * host.cpu_count * 1.1
    assert host.memory_total_bytes == psutil.virtual_memory().total
    assert host.disk_total_bytes is not None
    assert host.open_files is not None
    assert host.processes is not None
    assert host.processes > 1


def test_a_disk_that_is_gone_takes_one_figure(tmp_path: Path) -> None:
    host = SystemMeter(tmp_path / "gone").look().samples[0]
    assert (host.disk_used_bytes, host.disk_total_bytes) == (None, None)
    assert host.memory_bytes is not None


def test_our_processes_are_added_up(tmp_path: Path) -> None:
    # A process that is known as a daemon, and spends a known time.
    program = tmp_path / "dagster-daemon"
    program.write_text(
        "import time, sys\n"
        "sys.stdin.readline()\n"
        "end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    meter = SystemMeter(tmp_path)
    before = {sample.subject: sample for sample in meter.look().samples}.get("daemon")
    with subprocess.Popen(
        [sys.executable, str(program), "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter.look()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        daemon = {sample.subject: sample for sample in meter.look().samples}["daemon"]
        assert daemon.processes == (before.processes or 0 if before else 0) + 1
        assert daemon.cpu_seconds is not None
        assert daemon.cpu_seconds >= 0.4
        assert daemon.memory_bytes is not None
        assert daemon.memory_bytes > 1_000_000
        assert daemon.open_files is not None
        process.stdin.write("end\n")
        process.stdin.flush()
