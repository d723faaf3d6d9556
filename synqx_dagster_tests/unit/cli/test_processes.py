"""Several processes as one: none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from synqx_dagster.cli.processes import ProcessGroup
from synqx_dagster_tests.processes import reaped

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def lines() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def group(lines: list[tuple[str, str]]) -> Iterator[ProcessGroup]:
    with ProcessGroup(lambda name, line: lines.append((name, line))) as made:
        yield made


def test_output_is_passed_on_by_line(group: ProcessGroup, lines: list[tuple[str, str]]) -> None:
    group.start("talker", [sys.executable, "-c", "print('one\\ntwo'); print('three', end='')"])
    ended = group.watch(20)

    assert ended is not None
    assert ended.name == "talker"
    assert lines == [("talker", "one"), ("talker", "two"), ("talker", "three")]


def test_the_first_to_end_is_reported_with_its_status(group: ProcessGroup) -> None:
    group.start("lasting", [sys.executable, "-c", SLEEPER])
    group.start("failing", [sys.executable, "-c", "raise SystemExit(7)"])
    ended = group.watch(20)

    assert ended is not None
    assert (ended.name, ended.process.returncode) == ("failing", 7)


@pytest.mark.parametrize("script", [SLEEPER, STUBBORN], ids=["polite", "deaf to the first signal"])
def test_close_ends_every_process(
    script: str, group: ProcessGroup, lines: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synqx_dagster.cli.processes._PATIENCE_SECONDS", 1.0)
    group.start("first", [sys.executable, "-c", script])
    group.start("second", [sys.executable, "-c", script])
    pids = [managed.process.pid for managed in group._processes]
    wait_for(lambda: group.watch(0.05) is None and len(lines) == 2)

    group.close()
    group.close()

    assert not any(lives(pid) for pid in pids)


def test_close_ends_what_a_process_has_started(group: ProcessGroup, lines: list[tuple[str, str]]) -> None:
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
    )
    group.start("parent", [sys.executable, "-c", script])
    assert group.watch(20) is not None
    child = int(lines[0][1])
    assert lives(child)

    group.close()

    wait_for(lambda: not lives(child))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's own")
def test_processes_end_when_their_parent_is_killed() -> None:
    script = (
        "import sys\n"
        "from synqx_dagster.cli.processes import ProcessGroup\n"
        "group = ProcessGroup(lambda name, line: print(group._processes[0].process.pid, flush=True))\n"
        f"group.start('sleeper', [sys.executable, '-c', {SLEEPER!r}])\n"
        "group.watch(60)\n"
    )
    with reaped(subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert lives(child)
        parent.send_signal(signal.SIGKILL)

    wait_for(lambda: not lives(child))


DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
TELL = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"


def test_processes_hear_ctrl_c_whatever_this_one_hears() -> None:
    script = (
        DEAF + "import sys\n"
        "from synqx_dagster.cli.processes import ProcessGroup\n"
        "with ProcessGroup(lambda name, line: print(line, flush=True)) as group:\n"
        f"    group.start('child', [sys.executable, '-c', {TELL!r}])\n"
        "    group.watch(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True, timeout=90)

    assert done.stdout == "False\n"
