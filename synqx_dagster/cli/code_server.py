"""What `synqx dev` and `synqx serve` start of Dagster: the code server, which holds the definitions, and the daemon."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from synqx_dagster.cli.processes import ManagedProcess, ProcessGroup
from synqx_dagster.errors import FatalError

#: As in workspace.yaml. Dagster remembers schedules and sensors by it, so it must not change.
LOCATION_NAME = "synqx"

#: Warnings that Dagster gives to every new home, and that ask nothing of anybody.
HARMLESS = ("No cursor for event type",)

#: Ten thousand assets load in some ten seconds.
STARTUP_SECONDS = 180.0


def start_code_server(group: ProcessGroup, directory: Path, *, level: str) -> Path:
    """Start it, and wait until it listens; gives its socket.

    Raises:
        FatalError: It ended, or did not start in time.
    """
    path = directory / "code.sock"
    group.start(
        "code",
        [
            *script("dagster"),
            *("code-server", "start", "-m", "synqx_dagster.definitions", "--socket", str(path)),
            *("--location-name", LOCATION_NAME, "--log-level", level),
        ],
    )
    wait_until(group, lambda: _listens(path), "the code server")
    return path


def start_daemon(group: ProcessGroup, directory: Path, code_socket: Path, *, level: str) -> Path:
    """Start Dagster's daemon on a code server; gives the workspace file that names this one."""
    workspace = directory / "workspace.yaml"
    # JSON is YAML.
    location = {"grpc_server": {"socket": str(code_socket), "location_name": LOCATION_NAME}}
    workspace.write_text(json.dumps({"load_from": [location]}))
    group.start("daemon", [*script("dagster-daemon"), "run", "-w", str(workspace), "--log-level", level])
    return workspace


def script(name: str) -> list[str]:
    """A command of the environment that this Python belongs to, wherever PATH leads."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise FatalError(f"the command {name!r} is not installed", hint="pip install dagster dagster-webserver")
    return [path]


def wait_until(group: ProcessGroup, is_ready: Callable[[], bool], what: str) -> None:
    """Pass on what the group says until something is ready.

    Raises:
        FatalError: A process of the group ended, or it took too long.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while not is_ready():
        if (ended := group.watch(0.2)) is not None:
            fail(ended)
        if time.monotonic() > deadline:
            raise FatalError(f"{what} did not start within {STARTUP_SECONDS:.0f} seconds", hint="try --verbose")


def fail(ended: ManagedProcess) -> NoReturn:
    """Say that a process ended that should not.

    Raises:
        FatalError: Always.
    """
    status = ended.process.returncode
    raise FatalError(f"the process {ended.name!r} ended by itself (status {status})", hint="its last words are above")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
