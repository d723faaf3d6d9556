"""`synqx dev`: the server, Dagster's daemon and the code server on one command, and all of them stopped by Ctrl-C."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.code_server import HARMLESS, fail, start_code_server, start_daemon, wait_until
from synqx_dagster.cli.options import SynqxCommand, os_user, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.processes import ProcessGroup
from synqx_dagster.cli.serve import address_of
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.cli.signals import stop_on_signals
from synqx_dagster.errors import ConfigurationError, NotFoundError, SealedError
from synqx_dagster.model.web_address import is_loopback

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

_STYLES = {"code": "magenta", "web": "cyan", "daemon": "green"}


@click.command(cls=SynqxCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the web UI listens at.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--verbose", "-v", is_flag=True, help="Show what Dagster's processes have to say, not only warnings.")
@pass_output
def dev(output: Output, host: str, port: int, verbose: bool) -> None:
    """Start Dagster's web UI, daemon and code server; Ctrl-C stops all.

    The same as `synqx serve`, with what runs schedules, sensors and queued runs. On this machine it prints a link that
    logs you in once, as the user of your name; if nobody has an account yet, you get one as admin.
    """
    catalog = open_catalog()
    _refuse_taken_port(host, port)
    from synqx_dagster.defs.instance import prepare_instance

    prepare_instance(catalog.settings)  # before the processes, which would race to create the storage
    _say_if_sealed(output, catalog)
    username = find_local_user(catalog) if is_loopback(host) else None
    with (
        stop_on_signals(),
        tempfile.TemporaryDirectory(prefix="synqx-dev-") as directory,
        ProcessGroup(lambda name, line: _print_line(output, name, line, verbose=verbose)) as group,
    ):
        try:
            _serve(output, group, Path(directory), host, port, username, verbose=verbose)
        except KeyboardInterrupt:
            output.note("stopping ...")
    output.note("stopped")


def find_local_user(catalog: Catalog) -> str | None:
    """The account of whoever runs this command; made, as an admin, if nobody has one yet.

    Whoever can start this can write the catalog, and so give themselves any account. None where others have accounts
    and this one has not: then it is for these to say.
    """
    from synqx_dagster.people.accounts import NewUser
    from synqx_dagster.people.roles import Role
    from synqx_dagster.people.service import People

    accounts = People(catalog).accounts
    name = os_user()
    if accounts.is_empty():
        # Without a password: only links like this one let them in, until they get one by `synqx users password`.
        return accounts.create(NewUser(name, Role.ADMIN), action="user.create_local", only_first=True).username
    try:
        found = accounts.get_by_name(name)
    except NotFoundError:
        return None
    return None if found.disabled else found.username


def _serve(
    output: Output,
    group: ProcessGroup,
    directory: Path,
    host: str,
    port: int,
    username: str | None,
    *,
    verbose: bool,
) -> None:
    level = "info" if verbose else "warning"
    output.note("starting the code server ...")
    code_socket = start_code_server(group, directory, level=level)
    output.note("starting the web UI and the daemon ...")
    workspace = start_daemon(group, directory, code_socket, level=level)
    token_options: list[str] = []
    token = None
    if username is not None:
        token = secrets.token_urlsafe(32)
        # In a file of this user's own: a command line is seen by everybody.
        file = directory / "login-token"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(f"{username}\n{token}")
        token_options = ["--login-token-file", str(file)]
    group.start(
        "web",
        [
            *(sys.executable, "-m", "synqx_dagster.cli.main", "serve", "--host", host, "--port", str(port)),
            *("--workspace", str(workspace), "--quiet"),
            *token_options,
            *(("--verbose",) if verbose else ()),
        ],
    )
    address = address_of(host, port)
    wait_until(group, lambda: _answers(f"{address}/"), "the web UI")
    output.note(f"The web UI is at {address} - Ctrl-C stops everything.", style="bold green")
    if token is not None:
        output.note(f"Log in once, as {username}, within 15 minutes: {address}/login?token={token}")
    else:
        output.note("Log in with an account of yours; `synqx users add NAME --role admin` makes one.")
    while True:
        if (ended := group.watch(3600)) is not None:
            fail(ended)


def _say_if_sealed(output: Output, catalog: Catalog) -> None:
    if not catalog.vault.is_initialised:
        return
    try:
        catalog.vault.unseal_from_settings(catalog.settings)
    except SealedError as exc:
        output.note(f"Note: {exc.message}: runs that need a secret fail until `synqx unlock`.", style="yellow")


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


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - an http address made above
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _print_line(output: Output, name: str, line: str, *, verbose: bool) -> None:
    if not line or (not verbose and any(text in line for text in HARMLESS)):
        return
    if not sys.stderr.isatty():
        output.note(f"{name:>6} | {printable(click.unstyle(line))}")
        return
    from rich.text import Text

    prefix = Text(f"{name:>6} | ", style=_STYLES.get(name, ""))
    output.error_console().print(prefix + Text.from_ansi(line))
