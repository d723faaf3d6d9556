"""A real OpenSSH server for the tests of tunnels, with keys of its own.

Without it, or the library that speaks to it, these tests are skipped with the way to get it; in CI they fail.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import SshTunnelConfig
from synqx_dagster_tests.processes import start_watchdog

#: sshd wants this directory when it runs as root; a package's service would make it.
_PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass
class SshServer:
    """A server on ``127.0.0.1:port`` that lets in the user of the tests with one key, which has a passphrase."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    watchdog: subprocess.Popen[bytes] | None = None
    passphrase: str = "open sesame"

    @property
    def host_key(self) -> str:
        return (self.directory / "host_ed25519.pub").read_text().strip()

    @property
    def private_key(self) -> str:
        return (self.directory / "user").read_text()

    def start(self, *options: str) -> None:
        """Start the server, with options in the form of its configuration (``PermitOpen=none``)."""
        configuration = self.directory / "sshd_config"
        configuration.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"HostKey {self.directory / 'host_ed25519'}\nHostKey {self.directory / 'host_ecdsa'}\n"
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nAllowTcpForwarding yes\n"
        )
        command = [_find_sshd(), "-D", "-e", "-f", str(configuration)]
        for option in options:
            command += ["-o", option]
        with (self.directory / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.watchdog = start_watchdog(self.process, self.directory / "nothing")
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "sshd.log").read_text()[-3000:]) from None
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server; sessions in progress go on in processes of their own."""
        if self.process is not None:
            self.process.terminate()
            if self.watchdog is not None:
                self.watchdog.communicate(timeout=10)
                self.watchdog = None
            self.process.wait(timeout=10)
            self.process = None

    def kill_sessions(self) -> None:
        """Kill the processes that serve sessions."""
        import psutil

        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()

    def tunnel(self, **changes: Any) -> SshTunnelConfig:
        """How a connection goes through this server."""
        given = {
            "host": "127.0.0.1",
            "port": self.port,
            "username": getpass.getuser(),
            "host_key": self.host_key,
            "private_key": self.private_key,
            "passphrase": self.passphrase,
        }
        return SshTunnelConfig(**{**given, **changes})


def _find_sshd() -> str:
    # It insists on being started by its absolute path.
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError("sshd")
    return found


@pytest.fixture(scope="session")
def ssh_files() -> Iterator[SshServer]:
    """A server that is not running yet, with its keys."""
    try:
        _find_sshd()
        import asyncssh  # noqa: F401  # the library under test
    except (FileNotFoundError, ImportError) as error:
        message = (
            f"{error}: no tunnel is tested; scripts/install-system-packages, and the extra `ssh`, have what it takes"
        )
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    directory = Path(tempfile.mkdtemp(prefix="synqx-ssh-", dir="/tmp"))
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        server = SshServer(directory, probe.getsockname()[1])
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    for kind in ("ed25519", "ecdsa"):
        _make_key(kind, directory / f"host_{kind}", "")
    _make_key("ed25519", directory / "user", server.passphrase)
    (directory / "authorized_keys").write_text((directory / "user.pub").read_text())
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _make_key(kind: str, path: Path, passphrase: str) -> None:
    # Few rounds: the derivation's strength is not under test.
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-a", "1", "-f", str(path)], check=True, capture_output=True
    )


@pytest.fixture
def ssh_server(ssh_files: SshServer) -> Iterator[SshServer]:
    """A running server."""
    ssh_files.start()
    try:
        yield ssh_files
    finally:
        if ssh_files.process is not None:
            ssh_files.kill_sessions()
        ssh_files.stop()
