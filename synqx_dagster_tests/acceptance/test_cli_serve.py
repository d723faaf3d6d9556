"""`synqx serve` as a service runs it: from before there is a catalog, to its end by a signal or its code server's."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from synqx_dagster_tests.acceptance.test_cli_dev import find_free_port, processes_of
from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.processes import reaped


@dataclass
class Serving:
    process: subprocess.Popen[bytes]
    base: str
    log: Path
    temporary: str

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.base + path, headers=headers, timeout=30, trust_env=False)

    def wait_for(self, is_so: Callable[[], object], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.3)


@contextmanager
def serving(project: Project, *options: str, **environment: str) -> Iterator[Serving]:
    port = find_free_port()
    log = project.directory / "serve.log"
    with tempfile.TemporaryDirectory(prefix="synqx-serve-test-", dir="/tmp") as temporary, log.open("w") as stream:
        started = subprocess.Popen(
            [sys.executable, "-m", "synqx_dagster.cli.main", "serve", "--port", str(port), *options],
            cwd=project.directory,
            env=project.process_environment({"TMPDIR": temporary, **environment}),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        with reaped(started) as process:
            served = Serving(process, f"http://127.0.0.1:{port}", log, temporary)
            served.wait_for(lambda: f"Serving at {served.base}" in log.read_text())
            yield served
        assert processes_of(temporary) == []


def test_a_fresh_server_is_set_up_over_http_by_who_has_its_token(empty_project: Project) -> None:
    with serving(empty_project, SYNQX_LOG_FORMAT="json") as server:
        assert server.get("/").json()["status"] == "not_initialised"
        token = re.search(r"setup token: (\S+)", server.log.read_text())
        assert token is not None
        body = {
            "setup_token": "not it",
            "master_password": "correct horse battery staple",
            "admin": {"username": "first", "password": "a password of the first"},
        }
        init = f"{server.base}/api/v1/system/init"
        assert httpx.post(init, json=body, timeout=60, trust_env=False).status_code == 403
        made = httpx.post(init, json={**body, "setup_token": token[1]}, timeout=60, trust_env=False)
        assert made.status_code == 201, made.text
        login = {"username": "first", "password": "a password of the first"}
        answer = httpx.post(f"{server.base}/api/v1/auth/login", json=login, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        connection = {"name": "files", "db_type": "sqlite", "database": "files.db"}
        created = httpx.post(
            f"{server.base}/api/v1/connections", json=connection, headers=headers, timeout=60, trust_env=False
        )
        assert created.status_code == 201, created.text
        # Its own code server, which has started without a catalog, follows.
        query = "{repositoriesOrError{... on RepositoryConnection{nodes{name allTopLevelResourceDetails{name}}}}}"
        server.wait_for(lambda: "conn_files" in server.get(f"/graphql?query={query}", **headers).text, 90)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["logger"] == "synqx_dagster.access"]
    assert {"/api/v1/system/init", "/api/v1/auth/login", "/graphql"} <= {line["path"] for line in requests}
    assert "query=" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    assert server.log.read_text().endswith("stopping ...\nstopped\n")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to find the code server")
def test_it_ends_when_its_code_server_does(project: Project) -> None:
    with serving(project) as server:
        assert "Nobody has an account yet" in server.log.read_text()
        (code_server,) = [
            child
            for child in psutil.Process(server.process.pid).children()
            if "code-server" in " ".join(child.cmdline())
        ]
        code_server.kill()
        assert server.process.wait(60) == 1
    assert "ended by itself" in server.log.read_text()


def test_without_a_code_server_the_api_answers(project: Project) -> None:
    with serving(project, "--no-code-server") as server:
        assert server.get("/health").json()["status"] == "ok"
        assert psutil.Process(server.process.pid).children() == []
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0


def test_what_cannot_be_served_is_told_before_anything_starts(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = project("serve", "--port", str(taken.getsockname()[1]))
    assert outcome.exit_code == 2
    assert "--port" in outcome.stderr
    outcome = project("serve", "--port", str(find_free_port()), "--workspace", "nothing.yaml")
    assert outcome.exit_code == 2
    assert "nothing.yaml" in outcome.stderr
