"""Lines of JSON: what they say, and what they never say."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs import json_logs
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.defs.json_logs import JsonFormatter, mask_secrets
from synqx_dagster.errors import ConnectionFailedError
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster_tests.unit.defs.projects import CUSTOMERS, Project, describe

CANARY = "canary-3f9"


def line_of(message: str, *arguments: object, error: BaseException | None = None, **extra: Any) -> dict[str, Any]:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("synqx_dagster.x", logging.WARNING, "x.py", 1, message, arguments, exc_info)
    record.__dict__.update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


@given(st.text())
def test_any_text_is_one_line(text: str) -> None:
    assert set(line_of("%s", text)) == {"time", "level", "logger", "message"}


def test_a_record_has_its_time_level_logger_and_message() -> None:
    line = line_of("two\nlines of %s", "text")
    assert (line["level"], line["logger"], line["message"]) == ("WARNING", "synqx_dagster.x", "two\nlines of text")
    assert line["time"].endswith("+00:00")


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach postgresql://etl:{CANARY}@db/shop",
        f"cannot reach postgresql+psycopg2://etl:p@{CANARY}/x@db/shop",
        f"dsn: host=db user=etl password={CANARY} dbname=shop",
        f"connecting with password='a \\' {CANARY}' to db",
        f'{{"user": "etl", "password": "{CANARY}"}}',
        f"{{'secret_key': '{CANARY}', 'region': 'eu'}}",
        f"AWS_SECRET_ACCESS_KEY={CANARY}",
        f"Authorization token: {CANARY}",
        f"PWD={CANARY};UID=sa",
        f"https://host/?api_key={CANARY}&x=1",
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    assert CANARY not in mask_secrets(text)
    assert CANARY not in json.dumps(line_of("%s", text))


def test_the_value_of_a_telling_variable_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", CANARY)
    monkeypatch.setenv("SHOP_TOKEN", "of")
    monkeypatch.setenv("PWD", "no entry")
    assert mask_secrets(f"FATAL: no entry for {CANARY} of etl") == "FATAL: no entry for *** of etl"


@pytest.mark.parametrize(
    "text", ["password authentication failed for user etl", "https://db.example/page", "3 rows, 4 secrets", "a@b"]
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert mask_secrets(text) == text


def test_of_a_foreign_error_only_class_and_place_are_told() -> None:
    try:
        raise ValueError(f"invalid value {CANARY}")
    except ValueError as exc:
        line = line_of("it failed", error=exc)
    assert line["error"]["type"] == "ValueError"
    assert line["error"]["at"].startswith(__file__)
    assert CANARY not in json.dumps(line)

    own = line_of("it failed", error=ConnectionFailedError("the server is away", hint="start it"))
    assert own["error"]["message"] == "the server is away (start it)"


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def json_logging() -> Iterator[None]:
    """What a process changes of its logging, undone."""
    from dagster._core.execution import context_creation_job

    root, package = logging.getLogger(), logging.getLogger("synqx_dagster")
    before = (root.handlers[:], package.level, context_creation_job.default_system_loggers)
    yield
    root.handlers[:], level, context_creation_job.default_system_loggers = before
    package.setLevel(level)


@pytest.fixture
def project(tmp_path: Any) -> Project:
    project = Project(tmp_path)
    project.fill(3)
    project.apply(CUSTOMERS, description="all of them")
    return project


def settings_of(project: Project) -> Settings:
    environ = {"SYNQX_HOME": str(project.home), "DAGSTER_HOME": str(project.home), "SYNQX_LOG_FORMAT": "json"}
    return load_settings(environ, project.directory)


@pytest.mark.usefixtures("json_logging")
def test_every_event_of_a_run_is_a_line_that_names_what_it_is_of(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    with Catalog.open(settings_of(project)) as catalog, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        report = run_targets(catalog, ["load_customers"])

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["run"] for line in lines} == {report.run_id}
    assert {line["pipeline"] for line in lines} == {"load_customers"}
    assert {line["revision"] for line in lines} == {1}
    events = [line.get("event") for line in lines]
    assert events[-1] == "PIPELINE_SUCCESS"
    (loaded,) = [line for line in lines if line.get("event") == "ASSET_MATERIALIZATION"]
    assert (loaded["step"], loaded["mapping"]) == ("warehouse__customer", "customers")
    assert (loaded["asset"], loaded["rows_in"], loaded["rows_out"]) == ("warehouse/customer", 3, 3)
    said = [line for line in lines if "event" not in line]
    assert any("3 rows by the arrow lane" in line["message"] for line in said)


@pytest.mark.usefixtures("json_logging")
def test_why_a_step_failed_is_told_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.fill(3, "other")
    project.apply(CUSTOMERS.replace("source_table: customer", "source_table: vanished"), description="all of them")
    stream = io.StringIO()
    with Catalog.open(settings_of(project)) as catalog, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        run_targets(catalog, ["load_customers"])

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (failed,) = [line for line in lines if "error" in line]
    assert (failed["event"], failed["level"], failed["error"]["type"]) == (
        "STEP_FAILURE",
        "ERROR",
        "SourceChangedError",
    )
    assert "vanished" in failed["error"]["message"]


@pytest.mark.usefixtures("json_logging")
def test_records_beside_runs_are_lines_too_and_those_of_runs_no_second_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in range(2):
        json_logs.follow_settings(load_settings({"SYNQX_LOG_FORMAT": "json"}), process_stream="stderr")

    logging.getLogger("synqx_dagster.defs.loader").info("loaded")
    logging.getLogger("library").warning("password=%s", CANARY)
    logging.getLogger("library").info("chatter")
    logging.getLogger("synqx_dagster.x").info("of a run", extra={"dagster_meta": {"run_id": "r"}})

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [
        ("synqx_dagster.defs.loader", "loaded"),
        ("library", "password=***"),
    ]


def test_text_is_left_to_dagster() -> None:
    from dagster._core.execution import context_creation_job

    before = (context_creation_job.default_system_loggers, logging.getLogger().handlers[:])
    json_logs.follow_settings(load_settings({}))
    assert (context_creation_job.default_system_loggers, logging.getLogger().handlers) == before


def test_dagsters_own_command_writes_nothing_but_lines(project: Project) -> None:
    done = project.execute_job("load_customers", SYNQX_LOG_FORMAT="json", SHOP_PASSWORD=CANARY)

    assert done.returncode == 0, describe(done)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["mapping"] for line in lines if line.get("event") == "ASSET_MATERIALIZATION"] == ["customers"]
    assert "RUN_SUCCESS" not in done.stderr
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_command_with_json_keeps_its_one_document(project: Project) -> None:
    command = [sys.executable, "-m", "synqx_dagster.cli.main", "run", "load_customers", "--json"]
    done: subprocess.CompletedProcess[str] = project.run(*command, SYNQX_LOG_FORMAT="json")

    assert done.returncode == 0, describe(done)
    assert json.loads(done.stdout)["status"] == "SUCCESS"
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    assert json.loads(lines[-1])["event"] == "PIPELINE_SUCCESS"
