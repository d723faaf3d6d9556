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

from synqx_dagster_tests import http_server
from synqx_dagster_tests.acceptance.test_cli_dev import find_free_port, processes_of
from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, make_provider
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_without_a_code_server_the_api_answers(project: Project) -> None:
    with serving(project, "--no-code-server") as server:
        assert server.get("/health").json()["status"] == "ok"
        assert psutil.Process(server.process.pid).children() == []
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0


def test_everything_works_on_a_catalog_in_postgresql(empty_project: Project, postgresql: PostgresqlDatabase) -> None:
    """Logins by password, token and provider, Dagster's web UI, a key that is retired, and the trail of it all."""
    project = empty_project
    password = "a password of ann"
    project.environment |= {"SYNQX_CATALOG_URL": postgresql.uri, "SYNQX_ADMIN_PASSWORD": password}
    made = project("init", "--generate-key-file", "--admin", "ann")
    assert made.exit_code == 0, made.output
    assert not (project.home / "catalog.db").exists()
    provider = Provider(claims={"email": "bob@example.org", "email_verified": True})
    with http_server.served(make_provider(provider)) as issuer:
        provider.issuer = issuer
        oidc = {
            "SYNQX_OIDC_ISSUER": issuer,
            "SYNQX_OIDC_CLIENT_ID": CLIENT_ID,
            "SYNQX_OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "SYNQX_OIDC_CREATE_ROLE": "viewer",
        }
        with (
            serving(project, "--no-code-server", "--verbose", **oidc) as server,
            httpx.Client(base_url=server.base, timeout=60, trust_env=False) as client,
        ):
            origin = {"Origin": server.base}
            entered = client.post("/login", data={"username": "ann", "password": password}, headers=origin)
            assert entered.status_code == 303, entered.text
            # httpx sends no secure cookie over HTTP; a browser does to its own machine.
            cookie = {"Cookie": entered.headers["set-cookie"].partition(";")[0]}
            query = {"query": 'mutation { terminateRun(runId: "none") { __typename } }'}
            answer = client.post("/graphql", json=query, headers={**origin, **cookie})
            line = f"POST /graphql 200 [request {answer.headers['x-request-id']}]"
            server.wait_for(lambda: line in server.log.read_text(), 10)
            assert answer.json()["data"]["terminateRun"]["__typename"] == "RunNotFoundError"
            assert "version" in client.post("/graphql", json={"query": "{ version }"}, headers=cookie | origin).text

            tokens = client.post("/api/v1/auth/login", json={"username": "ann", "password": password}).json()
            bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
            assert client.get("/graphql?query={version}", headers=bearer).status_code == 200
            (key,) = project("signing-keys", "list", "--json").document
            assert project("signing-keys", "retire", key["key_id"]).exit_code == 0
            # The server, another process, takes nothing any more that the key has signed.
            assert client.get("/api/v1/auth/me", headers=bearer).status_code == 401
            renewed = client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
            bearer = {"Authorization": f"Bearer {renewed['access_token']}"}
            assert client.get("/api/v1/auth/me", headers=bearer).json()["username"] == "ann"

            there = client.get("/api/v1/auth/oidc/login")
            back = httpx.get(there.headers["location"], trust_env=False).headers["location"]
            attempt = {"Cookie": there.headers["set-cookie"].partition(";")[0]}
            session = client.get(back, headers=attempt).headers["set-cookie"]
            cookies = {"Cookie": "; ".join(re.findall(r"__Host-synqx_session=[^;]+", session))}
            me = client.get("/api/v1/auth/me", headers=cookies).json()
            assert (me["username"], me["role"]) == ("bob@example.org", "viewer")
    trail = project("audit", "tail", "--json", "-n", "100").document
    acts = [(item["actor"], item["action"], item["method"]) for item in trail]
    assert ("ann", "user.login", "none") in acts
    assert ("ann", "run.cancel", "session") in acts
    assert "token.retire_signing_key" in [action for _, action, _ in acts]
    assert ("bob@example.org", "user.create", "none") in acts
    assert project("audit", "verify").exit_code == 0


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
