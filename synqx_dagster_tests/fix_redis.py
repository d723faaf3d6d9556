"""A real Redis for the tests, as a process of its own, with a password and nothing on disk.

Without the server's program the tests that need it are skipped with the way to get it; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster_tests.certificates import Authority
from synqx_dagster_tests.processes import reaped, start_watchdog

PROGRAM = "redis-server"
PASSWORD = "kanarienvogel-r3dis"
START_TIMEOUT_SECONDS = 30.0


@dataclass
class RedisServer:
    """A running server on ``127.0.0.1:port``."""

    port: int
    password: str = PASSWORD

    @property
    def url(self) -> str:
        """With the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def connect(self) -> Any:
        """A client."""
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password, decode_responses=True)

    def everything(self) -> str:
        """All that it holds, as one text."""
        found = []
        with closing(self.connect()) as client:
            for key in client.scan_iter():
                kind = client.type(key)
                if kind == "string":
                    found.append(client.get(key))
                elif kind == "list":
                    found += client.lrange(key, 0, -1)
                elif kind == "hash":
                    found += client.hgetall(key).values()
        return "\n".join(found)


def find_program() -> str:
    """The server's program; skips the test, or fails it in CI, where there is none."""
    found = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        message = f"{PROGRAM} is not installed: scripts/install-system-packages"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def started_redis(directory: Path, authority: Authority | None = None) -> Iterator[RedisServer]:
    """A server whose files lie in a directory; with an authority it speaks TLS alone, as ``localhost``."""
    program = find_program()
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    listen = [f"port {port}"]
    if authority is not None:
        files = authority.issue("redis", names=("localhost",))
        listen = ["port 0", f"tls-port {port}", f"tls-cert-file {files.certificate}", f"tls-key-file {files.key}"]
        listen += [f"tls-ca-cert-file {authority.file}", "tls-auth-clients no"]
    settings = [*listen, "bind 127.0.0.1", f"requirepass {PASSWORD}", 'save ""', "appendonly no"]
    # By a file, because everybody on the machine sees the arguments of a process.
    config, log = directory / "redis.conf", directory / "redis.log"
    config.write_text("\n".join([*settings, f"dir {directory}", f"logfile {log}", ""]))
    process = subprocess.Popen([program, str(config)], stdin=subprocess.DEVNULL, start_new_session=True)
    with reaped(process), reaped(start_watchdog(process, directory)) as watchdog:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield RedisServer(port)
        watchdog.communicate(timeout=30)


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    directory = Path(tempfile.mkdtemp(prefix="synqx-redis-", dir="/tmp"))
    try:
        with started_redis(directory) as server:
            yield server
    finally:
        # The watchdog removes it before the server has ended, which may write its log once more.
        shutil.rmtree(directory, ignore_errors=True)
