"""A program that knows nothing but HTTP, against `synqx serve` on the demo's own databases."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from synqx_dagster.demo.generator import ensure_users
from synqx_dagster.demo.project import apply_project, database_url, demo_environment
from synqx_dagster.demo.server import running_server
from synqx_dagster_tests.fix_cli import PACKAGE_ROOT, SETTINGS
from synqx_dagster_tests.integration.api.test_pipelines import REQUEST
from synqx_dagster_tests.processes import reaped

PASSWORD = "a lamp, a river, a spoon"
ROWS = 1000


@dataclass
class Served:
    """A running `synqx serve`."""

    address: str
    environment: dict[str, str]
    directory: Path

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.address}/api/v1", headers=headers, timeout=180, trust_env=False)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The demo's server with a table of users, and `synqx serve` on its home, with one account made by a command."""
    # Short, because it will hold a Unix socket.
    directory = Path(tempfile.mkdtemp(prefix="synqx-http-", dir="/tmp"))
    home = directory / ".synqx" / "demo"
    home.mkdir(parents=True)
    try:
        with running_server(home) as server, pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(SETTINGS)]:
                patch.delenv(name)
            variables = demo_environment(home)
            for name, value in variables.items():
                patch.setenv(name, value)
            apply_project(server).catalog.close()
            ensure_users(server)
            environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), "DATABASE_URL": database_url(server)}
            made = subprocess.run(
                command("users", "add", "anna", "--role", "admin", "--password-file", "-"),
                cwd=directory,
                env=environment,
                input=PASSWORD,
                capture_output=True,
                text=True,
                check=False,
            )
            assert made.returncode == 0, made.stderr
            with closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            log = directory / "serve.log"
            with log.open("w") as stream:
                started = subprocess.Popen(
                    command("serve", "--port", str(port)), cwd=directory, env=environment, stdout=stream, stderr=stream
                )
            with reaped(started) as process:
                found = Served(f"http://127.0.0.1:{port}", environment, directory)
                deadline = time.monotonic() + 180
                while not answers(found.address):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                yield found
                process.terminate()
                assert process.wait(60) == 0, log.read_text()
                assert "Traceback" not in log.read_text()
    finally:
        subprocess.run(command("demo", "--stop"), cwd=directory, capture_output=True, check=False)
        shutil.rmtree(directory)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "synqx_dagster.cli.main", *arguments]


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def until(find: Callable[[], httpx.Response], status: int = 200, seconds: float = 120) -> httpx.Response:
    deadline = time.monotonic() + seconds
    while (answer := find()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    return answer


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    """Somebody who has logged in, as a program does."""
    with served.client() as nobody:
        assert nobody.get("/connections").status_code == 401
        wrong = nobody.post("/auth/login", json={"username": "anna", "password": "not the password"})
        assert wrong.status_code == 401, wrong.text
        answer = nobody.post("/auth/login", json={"username": "anna", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        assert tokens["token_type"].lower() == "bearer"
        refreshed = nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
        assert refreshed.status_code == 200, refreshed.text
    with served.client(refreshed.json()["access_token"]) as somebody:
        assert somebody.get("/auth/me").json()["username"] == "anna"
        yield somebody


def test_a_pipeline_is_made_run_and_read_by_http_alone(client: httpx.Client, served: Served) -> None:
    users = client.get("/assets/1").json()
    assert (users["name"], users["table"]) == ("app_users", "public.users")
    # Of DATABASE_URL, some time after the start.
    seeded = until(lambda: client.get("/assets/users")).json()
    assert (seeded["connection"], seeded["table"]) == ("Default Postgres", "public.users")
    made = client.post("/pipelines", json=REQUEST)
    assert made.status_code == 201, made.text
    pipeline = made.json()["id"]

    # The code server follows the new revision within seconds.
    def launch() -> httpx.Response:
        return client.post(f"/pipelines/{pipeline}/run", params={"wait": 120})

    answer = until(launch).json()
    assert set(answer) >= {"status", "message", "job_id"}
    run = client.get(f"/runs/{answer['job_id']}").json()
    text = client.get(f"/runs/{answer['job_id']}/logs").text
    assert (answer["status"], run["status"]) == ("success", "SUCCESS"), text
    steps = client.get(f"/runs/{answer['job_id']}/steps").json()["steps"]
    nodes = {node["node_id"]: node for step in steps for node in step["nodes"]}
    assert (nodes["extract_users"]["rows_out"], nodes["load_backup"]["rows_in"]) == (ROWS, ROWS)
    assert "node load_backup (load.table): 1,000 rows in, 1,000 out" in text
    (step,) = steps
    lines = client.get(f"/runs/{answer['job_id']}/steps/{step['step_key']}/logs").json()["lines"]
    assert {line["step"] for line in lines} == {step["step_key"]}
    output = client.get(f"/runs/{answer['job_id']}/steps/{step['step_key']}/output", params={"stream": "stderr"}).json()
    assert (output["captures"], output["is_complete"], output["step_keys"]) == (1, True, [step["step_key"]])
    assert "node load_backup (load.table): 1,000 rows in" in output["text"]
    assert client.get("/runs").json()["total"] == 1
    lineage = client.get("/lineage/app_users")
    assert lineage.status_code == 200, lineage.text
    for path in ("pause", "start"):
        assert client.post(f"/pipelines/{pipeline}/{path}").status_code == 200
    assert client.get(f"/pipelines/{pipeline}/versions").json()["total"] >= 1
    assert client.delete(f"/pipelines/{pipeline}").status_code == 204


COLUMNS = [{"name": "id", "data_type": "integer", "nullable": False}, {"name": "email", "data_type": "string"}]
#: In this order, because later ones refer to earlier ones: what is made, and what is changed.
RECORDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("connections", {"name": "files", "db_type": "sqlite", "database": "files.db"}, {"description": "changed"}),
    ("sources", {"name": "from", "db_type": "sqlite", "database": "from.db"}, {"description": "changed"}),
    ("destinations", {"name": "to", "db_type": "sqlite", "database": "to.db"}, {"description": "changed"}),
    ("schemas", {"name": "person", "columns": COLUMNS}, {"columns": [*COLUMNS, {"name": "x", "data_type": "date"}]}),
    ("assets", {"name": "people", "connection": "files", "table": "people"}, {"description": "changed"}),
    (
        "mappings",
        {"name": "m", "source_connection": "from", "source_table": "a", "target_connection": "to", "target_table": "b"},
        {"mode": "append"},
    ),
    ("schedules", {"name": "s", "mapping": "m", "cron_expression": "0 3 * * *"}, {"enabled": False}),
    (
        "sensors",
        {"name": "w", "type": "source_changed", "connection": "from", "table": "a", "column": "id", "mapping": "m"},
        {"interval_seconds": 120},
    ),
    ("agents", {"name": "a", "short_description": "copies people", "mappings": ["m"]}, {"status": "active"}),
]


@pytest.mark.slow
def test_records_of_every_kind_are_made_changed_and_removed(client: httpx.Client) -> None:
    made: list[tuple[str, Any]] = []
    for path, body, change in RECORDS:
        answer = client.post(f"/{path}", json=body)
        assert answer.status_code == 201, (path, answer.text)
        reference = answer.json()["id"]
        made.append((path, reference))
        read = client.get(f"/{path}/{reference}")
        assert (read.status_code, read.json()["name"]) == (200, body["name"])
        listed = client.get(f"/{path}", params={"limit": 200}).json()
        assert any(item["id"] == reference for item in listed["items"]), path
        changed = client.put(
            f"/{path}/{reference}", json={**body, **change}, headers={"If-Match": read.headers["ETag"]}
        )
        assert changed.status_code == 200, (path, changed.text)
        late = client.put(f"/{path}/{reference}", json=body, headers={"If-Match": read.headers["ETag"]})
        assert late.status_code == 412, (path, late.text)
    for path, reference in reversed(made):
        assert client.delete(f"/{path}/{reference}").status_code == 204, path
        assert client.get(f"/{path}/{reference}").status_code == 404
