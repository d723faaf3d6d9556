"""A password that no other text holds, in every secret field there is, and then a look everywhere for it.

Through the whole product: applied, tested, run by the daemon (well and badly), and read back over every way out.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.acceptance.test_cli_dev import find_free_port
from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.processes import reaped

#: What every secret of this test begins with.
CANARY = "kanarienvogel7f3a"


def canary(name: str) -> str:
    return f"{CANARY}-{name}-Zx9"


DEFINITIONS = """\
kind: connection
name: good
db_type: postgresql
host: {host}
port: {port}
database: {database}
username: postgres
password: {good}
---
kind: connection
name: gone
db_type: postgresql
host: 127.0.0.1
port: {closed}
database: nothing
username: nobody
password: {gone}
tls: {{mode: verify-full, cert_file: client.pem, key_file: client.key, key_password: {key_password}}}
---
kind: connection
name: behind
db_type: postgresql
host: 127.0.0.1
port: 5432
database: nothing
username: nobody
password: {behind}
ssh_tunnel:
  host: 127.0.0.1
  port: {closed}
  username: nobody
  host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfQ0bXuMfPR5O3r0cR6oZK0C3V7HcAmuXjvN0S0Tq1k
  password: {ssh_password}
---
kind: connection
name: behind_key
db_type: postgresql
host: 127.0.0.1
port: 5432
database: nothing
username: nobody
password: {behind}
ssh_tunnel:
  host: 127.0.0.1
  port: {closed}
  username: nobody
  host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfQ0bXuMfPR5O3r0cR6oZK0C3V7HcAmuXjvN0S0Tq1k
  private_key: {private_key}
  passphrase: {passphrase}
---
kind: mapping
name: works
source_connection: good
source_table: public.one
target_connection: good
target_table: public.two
---
kind: mapping
name: breaks
source_connection: good
source_query: select id / 0 as id from public.one
target_connection: good
target_table: public.three
---
kind: mapping
name: unreachable
source_connection: gone
source_table: public.one
target_connection: good
target_table: public.four
---
kind: pipeline
name: working
nodes: [{{node_id: works, config: {{mapping: works}}}}]
---
kind: pipeline
name: breaking
nodes: [{{node_id: breaks, config: {{mapping: breaks}}}}]
---
kind: pipeline
name: lost
nodes: [{{node_id: unreachable, config: {{mapping: unreachable}}}}]
---
kind: alert
name: hook
events: [run_failure]
webhook: {{url: "http://127.0.0.1:{closed}/{hook}", signing_key: {signing_key}}}
---
kind: alert
name: chat
events: [run_failure]
slack: {{url: "http://127.0.0.1:{closed}/{chat}"}}
---
kind: alert
name: mail
events: [run_failure]
email:
  host: 127.0.0.1
  port: {closed}
  tls: none
  username: synqx
  password: {mail}
  sender: synqx@example.com
  recipients: [somebody@example.com]
"""
FIELDS = (
    *("good", "gone", "key_password", "behind", "ssh_password", "private_key", "passphrase"),
    *("hook", "signing_key", "chat", "mail"),
)


@dataclass
class Server:
    base: str
    project: Project
    log: Path
    token: str = ""

    def request(self, method: str, path: str, *, timeout: float = 120, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with httpx.Client(base_url=self.base, timeout=timeout, trust_env=False) as client:
            return client.request(method, path, headers=headers, **given)


@pytest.fixture
def server(empty_project: Project, postgresql: PostgresqlDatabase) -> Iterator[Server]:
    """`synqx dev` on definitions whose secrets are canaries, as are the passwords of the vault and of the admin."""
    postgresql.execute("create table one as select i as id, 'name ' || i as name from generate_series(1, 10) i")
    project = empty_project
    project.environment["SYNQX_MASTER_PASSWORD"] = canary("master")
    project.environment["SYNQX_ADMIN_PASSWORD"] = canary("admin")
    with closing_port() as closed:
        text = DEFINITIONS.format(
            host="127.0.0.1",
            port=postgresql.port,
            database=postgresql.name,
            closed=closed,
            **{name: canary(name) for name in FIELDS},
        )
        file = project.write("definitions.yaml", text)
        outcome = project("init", "--admin", "root-of-all")
        assert outcome.exit_code == 0, outcome.output
        outcome = project("apply", str(file))
        assert outcome.exit_code == 0, outcome.output
        # Where it may stand is taken out of the way, so that the look over the directory needs no exception.
        file.unlink()
        with running_dev(project) as started:
            yield started


def closing_port() -> Any:
    """A port of this machine where nobody listens while the block lasts."""
    import contextlib
    import socket

    @contextlib.contextmanager
    def bound() -> Iterator[int]:
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            yield int(taken.getsockname()[1])

    return bound()


def running_dev(project: Project) -> Any:
    import contextlib

    @contextlib.contextmanager
    def run() -> Iterator[Server]:
        port = find_free_port()
        log = project.directory / "dev.log"
        with tempfile.TemporaryDirectory(prefix="synqx-canary-", dir="/tmp") as temporary, log.open("w") as stream:
            started = subprocess.Popen(
                [sys.executable, "-m", "synqx_dagster.cli.main", "dev", "--verbose", "--port", str(port)],
                cwd=project.directory,
                env=project.process_environment({"TMPDIR": temporary}),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
            with reaped(started) as process:
                deadline = time.monotonic() + 240
                while "The web UI is at" not in log.read_text():
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.5)
                yield Server(f"http://127.0.0.1:{port}", project, log)
                process.send_signal(signal.SIGINT)
                process.wait(90)

    return run()


def needles() -> list[bytes]:
    """The canary as it is, and as it looks in base64, wherever it begins."""
    found = [CANARY.encode()]
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + CANARY.encode())
        # Without the characters that depend on what stands around it.
        found.append(encoded[4 if offset else 0 :].rstrip(b"=")[:-2])
    return found


def hits(where: str, content: bytes) -> list[str]:
    return [f"{where}: {needle!r}" for needle in needles() if needle in content]


QUERIES = {
    "runs": """{ runsOrError { ... on Runs { results { runId status runConfigYaml tags { key value }
      stats { __typename ... on PythonError { message stack } } assetSelection { path } } } } }""",
    "logs": """query ($run: ID!) { logsForRun(runId: $run) { __typename ... on EventConnection { events {
      __typename ... on MessageEvent { message stepKey eventType }
      ... on ExecutionStepFailureEvent { error { message stack className causes { message stack } } }
      ... on RunFailureEvent { error { message stack } } } } } }""",
    "workspace": """{ workspaceOrError { ... on Workspace { locationEntries { name displayMetadata { key value }
      locationOrLoadError { ... on PythonError { message stack } ... on RepositoryLocation { repositories {
        name allTopLevelResourceDetails { name description configuredValues { key value } configFields { name } } } } }
    } } } }""",
    "assets": """{ assetNodes { assetKey { path } description metadataEntries { label description
      ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } } tags { key value } owners {
      ... on UserAssetOwner { email } ... on TeamAssetOwner { team } }
      assetMaterializations(limit: 5) { metadataEntries { label ... on TextMetadataEntry { text }
        ... on JsonMetadataEntry { jsonString } } } } }""",
    "instance": """{ instance { info daemonHealth {
      allDaemonStatuses { daemonType lastHeartbeatErrors { message stack } } } } }""",
    "ticks": """{ sensorsOrError(
        repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "synqx"}) {
      ... on Sensors { results { name sensorState { ticks { status skipReason error { message stack } } } } } } }""",
}


@pytest.mark.slow
def test_no_secret_is_found_anywhere(server: Server) -> None:
    answer = server.request("POST", "/api/v1/auth/login", json={"username": "root-of-all", "password": canary("admin")})
    assert answer.status_code == 200, answer.text
    server.token = answer.json()["access_token"]
    found: list[str] = []
    run_ids = run_pipelines(server)
    found += look_at_the_api(server)
    found += look_at_dagster(server, run_ids)
    found += look_at_the_commands(server, run_ids)
    found += look_at_the_files(server)
    assert found == []
    # It was there to be found: the secrets open what they are for.
    settings = load_settings({**server.project.environment}, server.project.directory)
    with Catalog.open(settings) as catalog:
        secret = catalog.resolve_secret(catalog.snapshot().connections["good"], "password")
    assert secret == canary("good")
    assert hits("control", f"x{canary('a')}".encode())
    assert hits("control", base64.b64encode(canary("a").encode()))


def run_pipelines(server: Server) -> list[str]:
    """One that works, one whose query fails, one whose source cannot be reached."""
    ended = {}
    for name in ("working", "breaking", "lost"):
        answer = server.request("POST", f"/api/v1/pipelines/{name}/run", params={"wait": 120}, json={})
        assert answer.status_code < 300, answer.text
        ended[name] = answer.json()
    runs = {item["job_name"]: item for item in server.request("GET", "/api/v1/runs").json()["items"]}
    statuses = {name: runs[name]["status"] for name in ended}
    assert statuses == {"working": "SUCCESS", "breaking": "FAILURE", "lost": "FAILURE"}
    return [item["run_id"] for item in runs.values()]


def look_at_the_api(server: Server) -> list[str]:
    """Every route that only reads, with the ids that lists give; and those that try connections."""
    paths = server.request("GET", "/openapi.json").json()["paths"]
    lists = {path for path, item in paths.items() if "get" in item and "{" not in path}
    found: list[str] = []
    seen = 0
    for path in sorted(lists - {"/api/v1/auth/oidc/login", "/api/v1/auth/oidc/callback"}):
        answer = server.request("GET", path, params={"q": CANARY} if path.endswith("/search") else None)
        # What was asked for may be said back; no more than that.
        text = answer.content.replace(CANARY.encode(), b"", 1) if path.endswith("/search") else answer.content
        found += hits(path, text)
        seen += answer.status_code == 200
        document = answer.json() if "json" in answer.headers.get("content-type", "") else []
        items = document.get("items") if isinstance(document, dict) else document
        for item in items if isinstance(items, list) else []:
            key = item.get("id") or item.get("run_id") or item.get("name")
            for suffix in ("", "/plan", "/discover", "/versions", "/steps", "/logs", "/column-mappings"):
                if f"{path}/{{" in " ".join(paths) and key is not None:
                    more = server.request("GET", f"{path}/{key}{suffix}")
                    found += hits(f"{path}/{key}{suffix}", more.content)
    assert seen > 15
    for run in server.request("GET", "/api/v1/runs").json()["items"]:
        path = f"/api/v1/runs/{run['run_id']}/steps"
        for step in server.request("GET", path).json()["steps"]:
            for stream in ("stdout", "stderr"):
                answer = server.request("GET", f"{path}/{step['step_key']}/output", params={"stream": stream})
                assert answer.status_code == 200, answer.text
                found += hits(f"{stream} of {step['step_key']}", answer.content)
    for name in ("good", "gone", "behind", "behind_key"):
        answer = server.request("POST", f"/api/v1/connections/{name}/test")
        found += hits(f"test of {name}", answer.content)
    unsaved = {"db_type": "postgresql", "host": "127.0.0.1", "port": 1, "database": "x", "password": canary("unsaved")}
    for body in (
        {"name": "x", **unsaved},
        {"nonsense": canary("unsaved"), **unsaved},
        unsaved | {"port": canary("port")},
    ):
        found += hits("test of an unsaved one", server.request("POST", "/api/v1/connections/test", json=body).content)
        found += hits("create", server.request("POST", "/api/v1/connections", json=body).content)
    # The name that was given is in the trail, and no secret.
    wrong = {"username": "root-of-all", "password": canary("wrong")}
    found += hits("login", server.request("POST", "/api/v1/auth/login", json=wrong).content)
    return found


def look_at_dagster(server: Server, run_ids: list[str]) -> list[str]:
    found: list[str] = []
    for name, query in QUERIES.items():
        for run_id in run_ids if "$run" in query else [""]:
            answer = server.request("POST", "/graphql", json={"query": query, "variables": {"run": run_id}})
            assert answer.status_code == 200, (name, answer.text[:2000])
            assert "errors" not in answer.json(), (name, answer.text[:2000])
            found += hits(f"GraphQL {name}", answer.content)
    for run_id in run_ids:
        dump = server.request("GET", f"/download_debug/{run_id}")
        assert dump.status_code == 200
        found += hits("debug dump", gzip.decompress(dump.content))
    for path in ("/", "/account", "/login", "/metrics", "/server_info"):
        found += hits(path, server.request("GET", path).content)
    broken = server.request("POST", "/graphql", content=f'{{"query": "{canary("query")}'.encode())
    found += hits("a broken request", broken.content)
    return found


def look_at_the_commands(server: Server, run_ids: list[str]) -> list[str]:
    project, found = server.project, []
    for command in (
        ("export",),
        ("status",),
        ("history",),
        ("diff", "0", "1"),
        ("connections", "list"),
        ("connections", "test", "gone"),
        ("plan", "works"),
        ("plan", "unreachable", "--debug"),
        ("preview", "breaks", "--debug"),
        ("run", "unreachable", "--debug"),
        ("alerts", "test", "hook"),
        ("alerts", "test", "mail", "--debug"),
        ("audit", "tail"),
        ("audit", "export"),
        ("metrics",),
        *(("logs", run_id) for run_id in run_ids),
        *(("runs", "show", run_id, "--json") for run_id in run_ids),
    ):
        found += hits(f"synqx {' '.join(command)}", project(*command).output.encode())
    return found


def look_at_the_files(server: Server) -> list[str]:
    """Catalog, Dagster's storage, logs of steps, and what the processes have said."""
    found: list[str] = []
    looked = 0
    for path in server.project.directory.rglob("*"):
        if path.is_file():
            looked += 1
            found += hits(str(path), path.read_bytes())
    names = {path.name for path in server.project.directory.rglob("*")}
    assert {"catalog.db", "runs.db", "dev.log"} <= names
    assert looked > 10
    assert re.search(r"working|breaking", server.log.read_text() + json.dumps(sorted(names)))
    return found
