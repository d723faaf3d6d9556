"""Sensors and alerts that are refused before they reach the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.model import Record
from synqx_dagster_tests.unit.catalog.checking import problems_of
from synqx_dagster_tests.unit.catalog.records import connection, definitions, mapping, pipeline, schedule

ENDS = (connection("shop"), connection("warehouse"), mapping("customers"))
SERVER = {"db_type": "postgresql", "host": "db.example", "database": "d", "username": "u"}
INBOX = {"db_type": "files", "database": "/srv/inbox"}


def sensor(name: str = "changed", **values: Any) -> Record:
    defaults = {"type": "source_changed", "connection": "shop", "table": "customers", "column": "id"}
    if "type" in values:
        defaults = {}
    if "pipeline" not in values:
        defaults["mapping"] = "customers"
    return build_record("sensor", {"name": name} | defaults | values)


def alert(**values: Any) -> Record:
    defaults = {"name": "on_call", "events": ["run_failure"], "slack": {"url": {"env": "HOOK"}}}
    return build_record("alert", defaults | values)


def test_sound_sensors_and_alerts() -> None:
    assert not problems_of(
        *ENDS,
        connection("server", **SERVER),
        connection("inbox", **INBOX),
        pipeline("load", "customers"),
        schedule("nightly", pipeline="load"),
        sensor(),
        sensor("counted", type="source_changed", connection="server", table="orders"),
        sensor("file", type="new_file", connection="inbox", directory="in", pattern="*.csv"),
        sensor("after", type="pipeline_succeeded", after_pipeline="load"),
        alert(pipelines=["load"], mappings=["customers"], schedules=["nightly"]),
    )


def test_references_lead_somewhere() -> None:
    found = "\n".join(
        problems_of(
            *ENDS,
            sensor("a", type="pipeline_succeeded", after_pipeline="lod", pipeline="x"),
            sensor("b", connection="nowhere"),
            alert(mappings=["customer"], schedules=["s"]),
        )
    )
    assert "there is no pipeline 'lod'" in found
    assert "there is no pipeline 'x'" in found
    assert "there is no connection 'nowhere'" in found
    assert "there is no mapping 'customer' (did you mean 'customers'?)" in found
    assert "there is no schedule 's'" in found


def test_a_connection_is_asked_only_what_it_can_tell() -> None:
    (no_files,) = problems_of(*ENDS, sensor("file", type="new_file", connection="shop"))
    assert "duckdb has no files to look for" in no_files
    (no_count,) = problems_of(*ENDS, sensor("c", type="source_changed", connection="shop", table="t"))
    assert "duckdb does not count changes" in no_count
    assert "give a column" in no_count


def test_names_that_meet_in_dagster() -> None:
    (with_schedule,) = problems_of(*ENDS, schedule("a b", mapping="customers"), sensor("a-b"))
    assert "the schedule 'a b' has this name in Dagster, too" in with_schedule
    (with_pipeline,) = problems_of(*ENDS, pipeline("load", "customers"), sensor("load"))
    assert "the pipeline 'load' makes a job of this name, too" in with_pipeline


@pytest.mark.parametrize("name", ["synqx_follow_catalog", "synqx_alerts", "synqx_purge_runs", "synqx_run"])
def test_names_that_synqx_itself_has_in_dagster(name: str) -> None:
    (reserved,) = problems_of(*ENDS, sensor(name))
    assert "reserved" in reserved


def test_a_sensor_may_have_the_name_of_the_pipeline_that_it_starts() -> None:
    assert not problems_of(
        *ENDS,
        pipeline("load", "customers"),
        sensor("load", type="source_changed", connection="shop", table="t", column="id", pipeline="load"),
    )


def test_pipelines_that_start_each_other_without_an_end() -> None:
    (cycle,) = problems_of(
        *ENDS,
        pipeline("p", "customers"),
        pipeline("q", "customers"),
        sensor("pq", type="pipeline_succeeded", after_pipeline="p", pipeline="q"),
        sensor("qp", type="pipeline_succeeded", after_pipeline="q", pipeline="p"),
    )
    assert "the pipelines start each other without an end: p -> q -> p" in cycle
    (itself,) = problems_of(
        *ENDS,
        pipeline("p", "customers"),
        sensor("pp", type="pipeline_succeeded", after_pipeline="p", pipeline="p"),
    )
    assert "p -> p" in itself


def test_a_file_of_authorities_is_found_from_everywhere() -> None:
    (problem,) = problems_of(*ENDS, alert(slack={"url": {"env": "HOOK"}, "ca_file": "ca.pem"}))
    assert "slack.ca_file: the file needs an absolute path" in problem


def test_a_cron_that_never_fires_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "schedules.yaml"
    file.write_text('kind: schedule\nname: never\nmapping: customers\ncron_expression: "0 0 31 2 *"\n')
    read = read_documents([file])
    declared = definitions(*ENDS).records
    both = type(read)((*read.records, *declared), read.documents)
    (problem,) = check_definitions(both, known=None)
    assert problem.location is not None
    assert (problem.location.file, problem.location.line) == (str(file), 4)
    assert "names a day that never comes" in problem.message
