"""`synqx dev`: one command starts Dagster's processes, one Ctrl-C ends them all."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.processes import reaped

DEFINITIONS = """\
kind: connection
name: files
db_type: sqlite
database: files.db
---
kind: mapping
name: copy
source_connection: files
source_table: one
target_connection: files
target_table: two
---
kind: schedule
name: nightly
mapping: copy
cron_expression: "0 2 * * *"
"""

ASSETS = "{ assetNodes { assetKey { path } isMaterializable } }"


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(directory: str) -> list[str]:
    """Command lines of processes that name a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if directory in command:
            found.append(command)
    return found


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the first answer is the one with the cookie."""

    def redirect_request(self, *arguments: object) -> None:
        return None


def follow_link(link: str) -> str:
    """Open the link that `synqx dev` prints; gives the session's cookie."""
    with pytest.raises(urllib.error.HTTPError) as answered:
        urllib.request.build_opener(Stay).open(link, timeout=30)
    with answered.value as answer:
        assert answer.code == 303
        return str(answer.headers["set-cookie"]).partition(";")[0]


def query(port: int, cookie: str, text: str) -> object:
    base = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(
        f"{base}/graphql",
        data=json.dumps({"query": text}).encode(),
        headers={"content-type": "application/json", "cookie": cookie, "origin": base},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["data"]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to look for processes left behind")
def test_dev_serves_the_catalog_and_leaves_nothing_behind(project: Project) -> None:
    # Short, because it will hold a Unix socket, and unlike any other, to tell the processes by.
    with tempfile.TemporaryDirectory(prefix="synqx-cli-", dir="/tmp") as temporary:
        check_dev(project, temporary)
        assert list(Path(temporary).iterdir()) == []


def check_dev(project: Project, temporary: str) -> None:
    project.write("a.yaml", DEFINITIONS)
    assert project("apply").exit_code == 0
    port = find_free_port()
    log = project.directory / "dev.log"
    with log.open("w") as stream:
        command = subprocess.Popen(
            [sys.executable, "-m", "synqx_dagster.cli.main", "dev", "--port", str(port)],
            cwd=project.directory,
            env=project.process_environment({"TMPDIR": temporary}),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    with reaped(command) as process:
        deadline = time.monotonic() + 120
        while (link := re.search(rf"http://127.0.0.1:{port}/login\?token=\S+", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        cookie = follow_link(link[0])
        nodes = query(port, cookie, ASSETS)["assetNodes"]  # type: ignore[index]
        assert [node["assetKey"]["path"] for node in nodes if node["isMaterializable"]] == [["files", "two"]]
        children = processes_of(temporary)
        assert {"code-server", "serve", "dagster-daemon"} <= {
            word.rpartition("/")[2] for command in children for word in command.split()
        }
        # What a process list shows lets nobody in, and a link works once.
        assert not any(link[0].rpartition("=")[2] in command for command in children)
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(link[0], timeout=30)
        refused.value.close()
        process.send_signal(signal.SIGINT)
        code = process.wait(90)

    text = log.read_text()
    assert code == 0, text
    assert text.endswith("stopping ...\nstopped\n")
    assert "Traceback" not in text
    assert processes_of(temporary) == []


def test_a_taken_port_is_refused_before_anything_starts(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = project("dev", "--port", str(taken.getsockname()[1]))

    assert outcome.exit_code == 2
    assert "--port" in outcome.stderr
