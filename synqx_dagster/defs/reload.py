"""Asking code servers to load a new revision, without a restart and without touching runs in flight.

`dagster code-server start` (which `dagster dev` starts by itself) is a proxy in front of a child that holds the
definitions; a reload swaps the child. The child is where this package runs, so it finds the proxy as its parent,
and leaves a note in SYNQX_HOME for writers of the catalog on the same machine. A writer elsewhere is caught by
the sensor. Only this module calls a code server.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

logger = logging.getLogger(__name__)

#: A reload takes about three seconds, and ten thousand assets take some thirty.
RELOAD_TIMEOUT_SECONDS = 120
#: How long a writer waits: a server that took the request finishes it without the writer.
REQUEST_SECONDS = 1

_DIRECTORY = "code_servers"


@dataclass(frozen=True)
class CodeServer:
    """A code server that can reload: process id of the proxy, and its port or socket."""

    pid: int
    host: str = "localhost"
    port: int | None = None
    socket: str | None = None


def find_own_server() -> CodeServer | None:
    """The proxy in front of this process; None when this process was not started by one."""
    pid = os.getppid()
    return parse_command_line(pid, _read_command_line(pid), os.environ)


def parse_command_line(pid: int, arguments: Sequence[str], environ: Mapping[str, str]) -> CodeServer | None:
    """Read the address off the command line of ``dagster code-server start``; None for any other command.

    Args:
        environ: Dagster takes the same settings from the environment, which a child inherits.
    """
    words = list(arguments)
    if not _is_code_server(words):
        return None
    socket = _option(words, "--socket", "-s") or environ.get("DAGSTER_CODE_SERVER_SOCKET")
    port = _option(words, "--port", "-p") or environ.get("DAGSTER_CODE_SERVER_PORT")
    host = _option(words, "--host", "-h") or environ.get("DAGSTER_CODE_SERVER_HOST") or "localhost"
    if host in ("0.0.0.0", "::"):  # noqa: S104  # listens everywhere, so here too
        host = "localhost"
    if port is not None and port.isdigit():
        return CodeServer(pid, host=host, port=int(port))
    return CodeServer(pid, socket=socket) if socket else None


def _is_code_server(words: Sequence[str]) -> bool:
    return any(list(words[i : i + 2]) == ["code-server", "start"] for i in range(len(words)))


def _option(words: Sequence[str], long: str, short: str) -> str | None:
    for number, word in enumerate(words):
        if word in (long, short) and number + 1 < len(words):
            return words[number + 1]
        if word.startswith(f"{long}="):
            return word.partition("=")[2]
    return None


def _read_command_line(pid: int) -> list[str]:
    proc = Path(f"/proc/{pid}/cmdline")
    try:
        if proc.exists():
            return [word for word in proc.read_bytes().decode(errors="surrogateescape").split("\0") if word]
        listed = subprocess.run(  # noqa: S603  # macOS has no /proc; every word is ours
            ["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split()


# --- notes for writers ----------------------------------------------------------------------------------------


def record_own_server(settings: Settings) -> CodeServer | None:
    """Leave a note of the proxy in front of this process; None, and no note, when there is none."""
    server = find_own_server()
    if server is None:
        return None
    directory = settings.home / _DIRECTORY
    note = directory / f"{server.pid}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps(asdict(server)))
        draft.replace(note)
    except OSError as exc:
        # A read-only home is allowed to a code server; the sensor follows the catalog all the same.
        logger.warning("%s cannot be written (%s): new revisions show a few seconds later", note, exc.strerror)
    return server


def find_servers(settings: Settings) -> list[CodeServer]:
    """Code servers on this machine that still run; notes of those that do not are removed."""
    servers = []
    for note in sorted((settings.home / _DIRECTORY).glob("*.json")):
        try:
            server = CodeServer(**json.loads(note.read_text()))
        except (OSError, ValueError, TypeError):
            note.unlink(missing_ok=True)
            continue
        # A process id is used again one day: only a process that is a code server is the one meant.
        if _is_code_server(_read_command_line(server.pid)):
            servers.append(server)
        else:
            note.unlink(missing_ok=True)
    return servers


# --- requests -------------------------------------------------------------------------------------------------


def request_reload(settings: Settings, *, wait_seconds: int = REQUEST_SECONDS) -> int:
    """Ask every code server of this home to load the latest revision; returns how many were asked.

    Does not wait for the reload itself, and does not fail: a server that is not reached follows by its sensor.
    """
    return sum(_reload(server, timeout_seconds=wait_seconds) for server in find_servers(settings))


_own_request: threading.Thread | None = None


def request_own_reload() -> None:
    """Ask the proxy in front of this process to replace it. Returns at once; one request is under way at a time."""
    global _own_request
    server = find_own_server()
    if server is None or (_own_request is not None and _own_request.is_alive()):
        return
    # The reload ends this process, so the evaluation that asks for it must be able to return before.
    _own_request = threading.Thread(
        target=_reload, args=(server,), kwargs={"timeout_seconds": RELOAD_TIMEOUT_SECONDS}, daemon=True
    )
    _own_request.start()


def _reload(server: CodeServer, *, timeout_seconds: int) -> bool:
    """Whether the server took the request; it goes on with it after the time-out."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    client = DagsterGrpcClient(host=server.host, port=server.port, socket=server.socket)
    try:
        client.ping("")
    except DagsterUserCodeUnreachableError as exc:
        logger.warning("the code server of process %d does not answer: %s", server.pid, exc)
        return False
    try:
        client.reload_code(timeout=timeout_seconds)
    except DagsterUserCodeUnreachableError:
        logger.debug("the code server of process %d is still loading", server.pid)
    return True
