"""`synqx serve`: the REST API and Dagster's web UI on one port, behind logins."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.code_server import HARMLESS, LOCATION_NAME, fail, start_code_server, start_daemon
from synqx_dagster.cli.options import PATH, SynqxCommand, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.processes import ManagedProcess, ProcessGroup
from synqx_dagster.cli.session import load_process_settings
from synqx_dagster.cli.signals import stop_on_signals
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model.web_address import is_loopback

if TYPE_CHECKING:
    from synqx_dagster.gateway.app import Gateway
    from synqx_dagster.gateway.server import Server
    from synqx_dagster.settings import Settings


@click.command(cls=SynqxCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option(
    "--workspace",
    "-w",
    type=PATH,
    help="A workspace.yaml that names the code servers; left out, one is started here, and the daemon.",
)
@click.option("--no-code-server", is_flag=True, help="Start none: the API answers, and the web UI has no definitions.")
@click.option("--no-daemon", is_flag=True, help="Start no daemon: runs wait in the queue until one comes.")
@click.option("--verbose", "-v", is_flag=True, help="Show what the code server says, and a line for each request.")
@click.option("--login-token-file", type=PATH, hidden=True, help="Of `synqx dev`, for its one-time link.")
@click.option("--quiet", is_flag=True, hidden=True, help="Of `synqx dev`, which says itself what is to be said.")
@pass_output
def serve(
    output: Output,
    host: str,
    port: int,
    workspace: Path | None,
    no_code_server: bool,
    no_daemon: bool,
    verbose: bool,
    login_token_file: Path | None,
    quiet: bool,
) -> None:
    """Serve the REST API and Dagster's web UI on one port, behind logins and roles.

    With --workspace, the code server and Dagster's daemon are services of their own. Without, both are started here:
    the daemon starts queued runs, and evaluates schedules and sensors. Where one runs already, say --no-daemon: an
    instance has one.
    """
    settings = load_process_settings()
    from synqx_dagster.gateway.server import CodeLocation, Server, listen, load_target, open_gateway

    listening = listen(host, port)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(listening))
        stack.enter_context(stop_on_signals())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="synqx-serve-")))
        group = stack.enter_context(ProcessGroup(lambda name, line: _pass_on(output, line, verbose=verbose)))
        try:
            from synqx_dagster.defs.instance import prepare_instance

            _set_up_logs(settings, verbose=verbose)
            prepare_instance(settings)  # before the code server, which would race to create the storage
            location = None
            if workspace is None and not no_code_server:
                output.note("starting the code server ...")
                path = start_code_server(group, directory, level="info" if verbose else "warning")
                location = CodeLocation(path, LOCATION_NAME)
                if not no_daemon:
                    start_daemon(group, directory, path, level="info" if verbose else "warning")
            gateway = stack.enter_context(open_gateway(settings, target=load_target(workspace, location)))
            if login_token_file is not None:
                _let_in(gateway, login_token_file)
            server = Server(gateway, listening, trusted_proxies=settings.server.trusted_proxies)
            if not quiet:
                _greet(output, gateway, host, port)
            with _watching(group, server) as find_ended:
                server.run()
            if (ended := find_ended()) is not None:
                fail(ended)
        except KeyboardInterrupt:
            if not quiet:
                output.note("stopping ...")
    if not quiet:
        output.note("stopped")


def address_of(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens there."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # everywhere, so here too
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _greet(output: Output, gateway: Gateway, host: str, port: int) -> None:
    address = address_of(host, port)
    state = gateway.state()
    if state.status == "not_initialised":
        output.note("There is no catalog yet. Make it with `synqx init --admin NAME`, or over the API with this token:")
        output.note(f"  setup token: {gateway.context.setup_token}")
    elif state.status == "unavailable":
        output.note(f"The catalog cannot be opened now ({state.reason}); until it can, nobody logs in.", style="yellow")
    else:
        if state.warning is not None:
            page = f"{address_of(host, port)}/unlock"
            output.note(f"Note: {state.warning} `synqx unlock` opens it, or {page} in a browser.", style="yellow")
        if gateway.context.people.accounts.is_empty():
            output.note("Nobody has an account yet: make one with `synqx users add NAME --role admin`.")
    if not is_loopback(host) and gateway.context.settings.server.public_url is None:
        output.note(
            "Note: browsers keep a login over HTTPS alone; put a proxy with TLS in front, and set SYNQX_PUBLIC_URL.",
            style="yellow",
        )
    output.note(f"Serving at {address} (API: {address}/docs) - Ctrl-C stops it.", style="bold green")


def _let_in(gateway: Gateway, file: Path) -> None:
    """Take over the link of the command that started this one; the file is gone afterwards."""
    try:
        username, _, token = file.read_text(encoding="utf-8").strip().partition("\n")
        file.unlink()
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
    gateway.links.issue(username, token)


@contextlib.contextmanager
def _watching(group: ProcessGroup, server: Server) -> Iterator[Callable[[], ManagedProcess | None]]:
    """Pass on what the group says while the server runs, and stop the server when a process of it ends.

    In a thread, because the server has the main one, where signals arrive; processes are started from that one, with
    which the kernel would end them, too.
    """
    ended: list[ManagedProcess] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if (found := group.watch(0.5)) is not None:
                ended.append(found)
                server.stop()
                return

    thread = threading.Thread(target=watch, name="synqx-processes", daemon=True)
    thread.start()
    try:
        yield lambda: ended[0] if ended else None
    finally:
        over.set()
        thread.join()


def _set_up_logs(settings: Settings, *, verbose: bool) -> None:
    """Warnings, and a line for each request where it is asked for: as text here, as JSON by `follow_settings`."""
    from synqx_dagster.api.identify import put_request_ids_into_logs

    put_request_ids_into_logs()
    as_json = settings.log_format == "json"
    if not as_json:
        logging.basicConfig(level=logging.WARNING)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_LineFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("synqx_dagster.access").setLevel(logging.INFO if verbose or as_json else logging.WARNING)


class _LineFormatter(logging.Formatter):
    """A line of text; of a request with its id, by which its answer, the trail and its runs are found."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """The first line, which a traceback may follow."""
        fields: Mapping[str, Any] = getattr(record, "synqx_fields", None) or {}
        request_id = fields.get("request_id") or getattr(record, "request_id", "")
        line = super().formatMessage(record)
        return f"{line} [request {request_id}]" if request_id else line


def _pass_on(output: Output, line: str, *, verbose: bool) -> None:
    if line and (verbose or not any(text in line for text in HARMLESS)):
        output.note(printable(click.unstyle(line)))
