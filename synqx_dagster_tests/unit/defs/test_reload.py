"""Finding code servers and asking them to reload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.defs import reload
from synqx_dagster.defs.reload import CodeServer, find_servers, parse_command_line, record_own_server, request_reload
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster_tests.processes import reaped

START = ["python", "-m", "dagster", "code-server", "start"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"SYNQX_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ([*START, "--socket", "/tmp/a b"], {}, CodeServer(7, socket="/tmp/a b")),
        ([*START, "-p", "4000", "-h", "0.0.0.0"], {}, CodeServer(7, port=4000)),
        ([*START, "--port=4000", "--host=code"], {}, CodeServer(7, host="code", port=4000)),
        (START, {"DAGSTER_CODE_SERVER_PORT": "4000"}, CodeServer(7, port=4000)),
        (START, {}, None),
        (["python", "-m", "dagster", "api", "grpc", "--socket", "/tmp/x"], {}, None),
        ([], {}, None),
    ],
)
def test_the_address_is_read_off_the_command_line(arguments, environ, expected):
    assert parse_command_line(7, arguments, environ) == expected


def test_a_process_that_no_code_server_started_leaves_no_note(settings):
    assert record_own_server(settings) is None
    assert find_servers(settings) == []
    assert request_reload(settings) == 0


@pytest.fixture
def standing_server(tmp_path):
    """A process whose command line is that of a code server, and that answers nothing."""
    script = tmp_path / "sleep.py"
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    process = subprocess.Popen(
        [sys.executable, str(script), "code-server", "start", "--socket", str(tmp_path / "none.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=10)


def note(settings: Settings, server: CodeServer) -> Path:
    path = settings.home / "code_servers" / f"{server.pid}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"pid": server.pid, "host": "localhost", "port": None, "socket": server.socket}))
    return path


def test_notes_of_servers_that_are_gone_are_removed(settings, standing_server, tmp_path):
    alive = CodeServer(standing_server.pid, socket=str(tmp_path / "none.sock"))
    kept = note(settings, alive)
    taken_over = note(settings, CodeServer(os.getpid(), socket="/tmp/other"))
    broken = kept.with_name("1.json")
    broken.write_text("{")
    assert find_servers(settings) == [alive]
    assert kept.exists()
    assert not taken_over.exists()
    assert not broken.exists()


def test_a_server_that_does_not_answer_is_no_error(settings, standing_server, tmp_path, caplog):
    note(settings, CodeServer(standing_server.pid, socket=str(tmp_path / "none.sock")))
    assert request_reload(settings) == 0
    assert "does not answer" in caplog.text


#: A process whose command line is that of a code server, and that says whatever it is asked.
ANSWERING = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from dagster._grpc.__generated__ import dagster_api_pb2, dagster_api_pb2_grpc

class Answers(dagster_api_pb2_grpc.DagsterApiServicer):
    def Ping(self, request, context):
        return dagster_api_pb2.PingReply(echo=request.echo)

    def ReloadCode(self, request, context):
        print("asked to reload", flush=True)
        return dagster_api_pb2.ReloadCodeReply()

server = grpc.server(ThreadPoolExecutor(1))
dagster_api_pb2_grpc.add_DagsterApiServicer_to_server(Answers(), server)
server.add_insecure_port("unix:" + sys.argv[-1])
server.start()
print("ready", flush=True)
sys.stdin.read()
server.stop(None).wait()
"""


@pytest.fixture
def answering_server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script, socket = tmp_path / "answer.py", tmp_path / "s"
    script.write_text(ANSWERING)
    started = subprocess.Popen(
        [sys.executable, str(script), "code-server", "start", "--socket", str(socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with reaped(started) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_apply_asks_the_code_servers_to_reload_once_and_only_for_a_change(project, answering_server):
    note(
        load_settings({"SYNQX_HOME": str(project.home)}),
        CodeServer(answering_server.pid, socket=str(project.directory / "s")),
    )
    project.write("a.yaml", "kind: connection\nname: a\ndb_type: sqlite\ndatabase: a.db\n")
    assert project("check").exit_code == 0
    assert project("apply", "--dry-run").exit_code == 0
    for revision in (1, 1):
        outcome = project("apply", "--json")
        assert (outcome.exit_code, outcome.document["revision"]) == (0, revision), outcome.output

    output, _ = answering_server.communicate(timeout=60)
    assert output == "asked to reload\n"


def test_the_own_server_is_the_parent_process(settings, monkeypatch):
    monkeypatch.setattr(reload, "_read_command_line", lambda pid: [*START, "--port", "4000"])
    assert record_own_server(settings) == CodeServer(os.getppid(), port=4000)
    assert find_servers(settings) == [CodeServer(os.getppid(), port=4000)]
