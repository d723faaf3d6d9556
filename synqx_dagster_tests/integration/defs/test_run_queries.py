"""Runs found, paged and measured in each storage that Dagster has: SQLite files, and PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.agent_figures import measure_agent
from synqx_dagster.defs.run_logs import LogReader, iter_logs, read_page
from synqx_dagster.defs.run_table import RunQuery, find_run_ids, read_outcomes
from synqx_dagster.defs.run_tail import RunTail
from synqx_dagster.defs.runs import find_runs, find_runs_of_asset
from synqx_dagster.errors import NotFoundError
from synqx_dagster_tests.unit.catalog.records import agent, connection, mapping

KEY = ("warehouse", "main", "customers")


@dg.asset(key=list(KEY))
def customers(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    if "fail" in context.run.tags:
        raise dg.Failure("it broke", allow_retries=False)
    return dg.MaterializeResult(metadata={"synqx/rows_out": 10, "synqx/mapping": "customers"})


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    config: dict[str, Any] = {"telemetry": {"enabled": False}}
    if request.param == "postgresql":
        # With the driver: SQLAlchemy 2.1 takes another one for plain postgresql.
        url = request.getfixturevalue("postgresql").uri.replace("postgresql:", "postgresql+psycopg2:", 1)
        config["storage"] = {"postgres": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def make_runs(instance: dg.DagsterInstance) -> dict[str, str]:
    """Three runs of two jobs, the last of which failed, and one that has not begun."""
    definitions = dg.Definitions(
        assets=[customers],
        jobs=[dg.define_asset_job("nightly", selection="*"), dg.define_asset_job("weekly", selection="*")],
    )
    made: dict[str, str] = {}
    for name, job, tags in (("first", "nightly", {}), ("second", "weekly", {}), ("failed", "nightly", {"fail": "yes"})):
        result = definitions.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, tags=tags)
        made[name] = result.run_id
    made["waiting"] = instance.create_run_for_job(definitions.resolve_job_def("nightly")).run_id
    return made


def test_runs_are_found_paged_and_measured(instance: dg.DagsterInstance) -> None:
    made = make_runs(instance)
    by_id = {run_id: name for name, run_id in made.items()}

    def names(query: RunQuery) -> list[str]:
        return [by_id[info.run_id] for info in find_runs(instance, query)[0]]

    assert names(RunQuery()) == ["waiting", "failed", "second", "first"]
    assert names(RunQuery(descending=False, skip=1, limit=2)) == ["second", "failed"]
    assert find_run_ids(instance, RunQuery(limit=1))[1] == 4
    # What has not begun stands last, in either order.
    assert names(RunQuery(sort="started_at")) == ["failed", "second", "first", "waiting"]
    assert names(RunQuery(sort="ended_at", descending=False)) == ["first", "second", "failed", "waiting"]
    assert names(RunQuery(statuses=("SUCCESS",), job_names=("nightly",))) == ["first"]
    assert names(RunQuery(run_ids=())) == []
    now = datetime.now(UTC)
    assert len(names(RunQuery(created_from=now - timedelta(minutes=10), created_to=now + timedelta(minutes=1)))) == 4
    assert names(RunQuery(created_from=now + timedelta(minutes=1))) == []

    found = find_runs_of_asset(instance, KEY)
    assert [by_id[run_id] for run_id in found] == ["waiting", "failed", "second", "first"]
    assert find_runs_of_asset(instance, KEY, since=now + timedelta(minutes=1)) == []
    assert find_runs_of_asset(instance, KEY, limit=1) == [made["waiting"]]
    assert find_runs_of_asset(instance, ("nothing",)) == []

    outcomes = read_outcomes(instance, job_names=["weekly"], run_ids=[made["failed"], made["waiting"]], ended_from=0)
    assert {by_id[outcome.run_id]: outcome.status for outcome in outcomes} == {"second": "SUCCESS", "failed": "FAILURE"}
    assert read_outcomes(instance, job_names=[], run_ids=[], ended_from=0) == []


def test_the_figures_of_an_agent(instance: dg.DagsterInstance) -> None:
    measures = ("success_rate", "rows_loaded", "p95_seconds", "freshness_seconds")
    kpis = [{"name": metric, "metric": metric, "window_days": 7} for metric in measures]
    watched = agent("watched", mappings=["customers"], kpis=kpis)
    records = [connection("shop"), connection("warehouse"), mapping("customers"), watched]
    snapshot = CatalogSnapshot.from_records(1, records)
    assert set(measure_agent(instance, snapshot, watched).values()) == {None}
    make_runs(instance)
    figures = measure_agent(instance, snapshot, watched)
    assert figures["success_rate"] == pytest.approx(2 / 3)
    assert figures["rows_loaded"] == 20
    assert figures["p95_seconds"] is not None
    assert figures["p95_seconds"] > 0
    later = measure_agent(instance, snapshot, watched, now=datetime.now(UTC) + timedelta(days=8))
    assert (later["success_rate"], later["rows_loaded"], later["p95_seconds"]) == (None, None, None)
    assert later["freshness_seconds"] == pytest.approx(8 * 86_400, abs=600)


def test_a_log_is_read_by_pages_and_followed_from_a_number(instance: dg.DagsterInstance) -> None:
    run_id = make_runs(instance)["failed"]
    whole = list(LogReader(instance, run_id).read_numbered())
    assert [item.line for item in whole] == list(iter_logs(instance, run_id))
    assert [item.number for item in whole] == sorted({item.number for item in whole})
    first = read_page(instance, run_id, limit=2)
    assert (list(first.lines), first.last) == (whole[:2], whole[1].number)
    assert list(read_page(instance, run_id, after=first.last, limit=1000).lines) == whole[2:]
    errors = read_page(instance, run_id, wanted=lambda line: line.level == "ERROR")
    assert errors.lines
    assert errors.last is None
    assert list(LogReader(instance, run_id, after=whole[-2].number).read_numbered()) == whole[-1:]

    tail = RunTail(instance, run_id, after=whole[0].number)
    pieces = [tail.read(limit=3)]
    while not pieces[-1].is_over:
        assert pieces[-1].has_more
        pieces.append(tail.read(limit=3))
    assert [item for piece in pieces for item in piece.lines] == whole[1:]
    instance.delete_run(run_id)
    with pytest.raises(NotFoundError):
        tail.read()
