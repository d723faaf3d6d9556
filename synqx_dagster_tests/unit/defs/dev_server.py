"""The real ``dagster dev``, started and stopped for a test, and asked through its GraphQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from synqx_dagster_tests.unit.defs.projects import REPOSITORY, Project

_T = TypeVar("_T")
START_SECONDS = 120


class DevServer:
    """A webserver that answers on a port of this machine."""

    def __init__(self, project: Project, port: int) -> None:
        self.project = project
        self.port = port

    def query(self, text: str, **variables: Any) -> Any:
        """Run a GraphQL query; fails when it has errors."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": text, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = json.load(reply)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def descriptions(self) -> dict[str, str | None]:
        """Assets that can be materialized, with what is said about them."""
        nodes = self.query("{ assetNodes { assetKey { path } description isMaterializable } }")["assetNodes"]
        return {"/".join(node["assetKey"]["path"]): node["description"] for node in nodes if node["isMaterializable"]}

    def staleness(self) -> dict[str, tuple[str, list[tuple[str, str]]]]:
        """Status of assets that can be materialized, with category and asset of each cause."""
        nodes = self.query(
            """{ assetNodes { assetKey { path } isMaterializable staleStatus
                              staleCauses { category reason key { path } dependency { path } } } }"""
        )["assetNodes"]
        return {
            "/".join(node["assetKey"]["path"]): (
                node["staleStatus"],
                [
                    (cause["category"], "/".join((cause["dependency"] or cause["key"])["path"]))
                    for cause in node["staleCauses"]
                ],
            )
            for node in nodes
            if node["isMaterializable"]
        }

    def launch(self, job_name: str, *assets: str) -> str:
        """Launch a run of a job, or of a selection of its assets, as the web UI does; returns its id."""
        data = self.query(
            """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={
                "selector": {
                    "repositoryLocationName": "synqx",
                    "repositoryName": "__repository__",
                    "jobName": job_name,
                    **({"assetSelection": [{"path": asset.split("/")} for asset in assets]} if assets else {}),
                },
                "mode": "default",
            },
        )["launchRun"]
        assert data["__typename"] == "LaunchRunSuccess", data
        return str(data["run"]["runId"])

    def status(self, run_id: str) -> str:
        """Dagster's status of a run."""
        data = self.query("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
        return str(data["runOrError"]["status"])


def wait_for(find: Callable[[], _T | None], *, seconds: float, what: str) -> _T:
    """The first thing that is found; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = find()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.2)


@contextmanager
def dagster_dev(project: Project, **environ: str) -> Iterator[DevServer]:
    """Run ``dagster dev -w workspace.yaml`` in a project until the block ends; it must stop by itself on Ctrl-C."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(REPOSITORY / "workspace.yaml", project.directory)
    output = project.directory / "dev.log"
    with output.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)],
            cwd=project.directory,
            env={**project.environment, **environ},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            server = DevServer(project, port)

            def is_ready() -> bool:
                assert process.poll() is None, output.read_text()
                try:
                    return bool(server.query("{ version }"))
                except (urllib.error.URLError, ConnectionError):
                    return False

            wait_for(is_ready, seconds=START_SECONDS, what="webserver")
            yield server
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)
