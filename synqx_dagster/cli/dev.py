"""`synqx dev`: Dagster's code server, web UI and daemon on one command, and all of them stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from synqx_dagster.cli.options import SynqxCommand, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.processes import ManagedProcess, ProcessGroup
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import ConfigurationError, FatalError, SealedError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

#: As in workspace.yaml. Dagster remembers schedules and sensors by it, so it must not change.
LOCATION_NAME = "synqx"

#: Ten thousand assets load in some ten seconds.
_STARTUP_SECONDS = 180.0

#: Warnings that Dagster gives to every new home, and that ask nothing of anybody.
_HARMLESS = ("No cursor for event type",)

_STYLES = {"code": "magenta", "web": "cyan", "daemon": "green"}


@click.command(cls=SynqxCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the web UI listens at.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--verbose", "-v", is_flag=True, help="Show what Dagster's processes have to say, not only warnings.")
@pass_output
def dev(output: Output, host: str, port: int, verbose: bool) -> None:
    """Start Dagster's web UI, daemon and code server; Ctrl-C stops all.

    The web UI has no login: keep it on this machine. Schedules and sensors run while this command does.
    """
    catalog = open_catalog()
    _refuse_taken_port(host, port)
    from synqx_dagster.defs.instance import prepare_instance

    prepare_instance(catalog.settings)  # before the processes, which would race to create the storage
    _say_if_sealed(output, catalog)
    level = "info" if verbose else "warning"
    with (
        stop_on_signals(),
        tempfile.TemporaryDirectory(prefix="synqx-dev-") as directory,
        ProcessGroup(lambda name, line: _print_line(output, name, line, verbose=verbose)) as group,
    ):
        try:
            _serve(output, group, Path(directory), host, port, level)
        except KeyboardInterrupt:
            output.note("stopping ...")
    output.note("stopped")


def _serve(output: Output, group: ProcessGroup, directory: Path, host: str, port: int, level: str) -> None:
    code_socket = directory / "code.sock"
    workspace = directory / "workspace.yaml"
    # JSON is YAML.
    location = {"grpc_server": {"socket": str(code_socket), "location_name": LOCATION_NAME}}
    workspace.write_text(json.dumps({"load_from": [location]}))
    output.note("starting the code server ...")
    group.start(
        "code",
        [
            *_script("dagster"),
            *("code-server", "start", "-m", "synqx_dagster.definitions", "--socket", str(code_socket)),
            *("--location-name", LOCATION_NAME, "--log-level", level),
        ],
    )
    _wait_until(group, lambda: _listens(code_socket), "the code server")
    output.note("starting the web UI and the daemon ...")
    group.start(
        "web",
        [
            *_script("dagster-webserver"),
            *("-w", str(workspace), "-h", host, "-p", str(port), "--dagster-log-level", level),
        ],
    )
    group.start("daemon", [*_script("dagster-daemon"), "run", "-w", str(workspace), "--log-level", level])
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104
    _wait_until(group, lambda: _answers(f"{address}/server_info"), "the web UI")
    output.note(f"The web UI is at {address} - Ctrl-C stops everything.", style="bold green")
    while True:
        if (ended := group.watch(3600)) is not None:
            _fail(ended)


def _say_if_sealed(output: Output, catalog: Catalog) -> None:
    if not catalog.vault.is_initialised:
        return
    try:
        catalog.vault.unseal_from_settings(catalog.settings)
    except SealedError as exc:
        output.note(f"Note: {exc.message}: runs that need a secret fail until `synqx unlock`.", style="yellow")


def _script(name: str) -> list[str]:
    """A command of the environment that this Python belongs to, wherever PATH leads."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise FatalError(f"the command {name!r} is not installed", hint="pip install dagster dagster-webserver")
    return [path]


def _refuse_taken_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        raise ConfigurationError(
            f"{host}:{port} cannot be listened at: {exc.strerror or 'no such address'}",
            hint="another web UI may run already; choose another port with --port",
        ) from exc


def _wait_until(group: ProcessGroup, is_ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while not is_ready():
        if (ended := group.watch(0.2)) is not None:
            _fail(ended)
        if time.monotonic() > deadline:
            raise FatalError(f"{what} did not start within {_STARTUP_SECONDS:.0f} seconds", hint="try --verbose")


def _fail(ended: ManagedProcess) -> NoReturn:
    status = ended.process.returncode
    raise FatalError(
        f"Dagster's {ended.name} process ended by itself (status {status})", hint="its last words are above"
    )


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - an http address made above
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop what runs inside as Ctrl-C does; a second one does not wait."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_line(output: Output, name: str, line: str, *, verbose: bool) -> None:
    if not line or (not verbose and any(text in line for text in _HARMLESS)):
        return
    if not sys.stderr.isatty():
        output.note(f"{name:>6} | {printable(click.unstyle(line))}")
        return
    from rich.text import Text

    prefix = Text(f"{name:>6} | ", style=_STYLES.get(name, ""))
    output.error_console().print(prefix + Text.from_ansi(line))
