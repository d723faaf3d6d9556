"""The figures of agents: what Dagster's storage says of the runs and loads of all that an agent links to.

=====================  ===============================================================================================
``success_rate``       Of the runs that ended in the window, by success or failure, the share that succeeded: 0 to 1.
``rows_loaded``        Rows that loads in the window wrote.
``p95_seconds``        Nineteen of twenty runs that succeeded in the window took no longer, from start to end.
``freshness_seconds``  How long ago the last load was, of the asset whose last load is the oldest.
=====================  ===============================================================================================

The runs of an agent are those of its pipelines' jobs, and all that were to load its mappings' targets or its datasets.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.defs.record_targets import RecordTargets, job_of_pipeline
from synqx_dagster.defs.run_table import RunOutcome, read_outcomes
from synqx_dagster.defs.runs import find_runs_of_asset
from synqx_dagster.model import Agent
from synqx_dagster.model.agent import AgentMetric

_PAGE_EVENTS = 1000
#: Loads of one asset that are added up; of more the latest.
_MAX_LOADS = 20_000
#: A run that ended in the window may have been asked for before it.
_LONGEST_RUN = timedelta(days=2)


@dataclass(frozen=True)
class AgentScope:
    """What an agent runs, as Dagster knows it.

    Attributes:
        jobs: The jobs of its pipelines.
        assets: What its mappings and datasets are.
        loaded: What its pipelines load beside them.
    """

    jobs: tuple[str, ...]
    assets: tuple[dg.AssetKey, ...]
    loaded: tuple[dg.AssetKey, ...]


def scope_of(agent: Agent, targets: RecordTargets) -> AgentScope:
    """What an agent of the targets' snapshot runs."""
    own = dict.fromkeys([*targets.loaded_by_mappings(agent.mappings), *targets.of_datasets(agent.assets)])
    loaded = dict.fromkeys(targets.loaded_by_pipelines(agent.pipelines))
    return AgentScope(
        tuple(job_of_pipeline(name) for name in agent.pipelines),
        tuple(own),
        tuple(key for key in loaded if key not in own),
    )


def measure_agent(
    instance: dg.DagsterInstance, snapshot: CatalogSnapshot, agent: Agent, *, now: datetime | None = None
) -> dict[str, float | None]:
    """The figures of an agent's KPIs that name a metric, by the KPI's name; None where nothing has happened yet.

    Raises:
        ConfigurationError: The runs are stored in no SQL database.
    """
    now = now or datetime.now(UTC)
    scope = scope_of(agent, RecordTargets(snapshot))
    return {
        kpi.name: measure(instance, scope, kpi.metric, now - timedelta(days=kpi.window_days), now)
        for kpi in agent.kpis
        if kpi.metric is not None
    }


def measure(
    instance: dg.DagsterInstance, scope: AgentScope, metric: AgentMetric, since: datetime, now: datetime
) -> float | None:
    """One figure.

    Args:
        since: Where the window begins; it ends now.
    """
    match metric:
        case "success_rate":
            return success_rate(_outcomes(instance, scope, since))
        case "p95_seconds":
            return p95_seconds(_outcomes(instance, scope, since))
        case "rows_loaded":
            loads = [_rows_loaded(instance, key, since) for key in (*scope.assets, *scope.loaded)]
            known = [rows for rows in loads if rows is not None]
            return float(sum(known)) if known else None
        case "freshness_seconds":
            return _freshness_seconds(instance, (*scope.assets, *scope.loaded), now)


def success_rate(outcomes: Sequence[RunOutcome]) -> float | None:
    """The share of runs that succeeded; those that somebody cancelled say nothing."""
    ended = [outcome.status for outcome in outcomes if outcome.status in ("SUCCESS", "FAILURE")]
    return ended.count("SUCCESS") / len(ended) if ended else None


def p95_seconds(outcomes: Sequence[RunOutcome]) -> float | None:
    """The 95th percentile of how long runs took that succeeded."""
    seconds = [
        outcome.end_time - outcome.start_time
        for outcome in outcomes
        if outcome.status == "SUCCESS" and outcome.start_time is not None
    ]
    if len(seconds) < 2:
        return seconds[0] if seconds else None
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


def _outcomes(instance: dg.DagsterInstance, scope: AgentScope, since: datetime) -> list[RunOutcome]:
    run_ids: dict[str, None] = {}
    for key in scope.assets:
        run_ids.update(dict.fromkeys(find_runs_of_asset(instance, key.path, since=since - _LONGEST_RUN)))
    return read_outcomes(instance, job_names=scope.jobs, run_ids=tuple(run_ids), ended_from=since.timestamp())


def _rows_loaded(instance: dg.DagsterInstance, key: dg.AssetKey, since: datetime) -> int | None:
    """Rows that loads of an asset wrote; None where there was none."""
    wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since.timestamp())
    # A load of several partitions says of each of them what it did as a whole.
    by_run: dict[str, int] = {}
    cursor: str | None = None
    while len(by_run) < _MAX_LOADS:
        page = instance.fetch_materializations(wanted, limit=_PAGE_EVENTS, cursor=cursor)
        for record in page.records:
            load = record.asset_materialization
            rows = None if load is None else load.metadata.get(f"{METADATA_PREFIX}rows_out")
            if rows is not None and isinstance(rows.value, int):
                by_run.setdefault(record.run_id, rows.value)
        if not page.has_more:
            break
        cursor = page.cursor
    return sum(by_run.values()) if by_run else None


def _freshness_seconds(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey], now: datetime) -> float | None:
    if not keys:
        return None
    last = [
        event.timestamp
        for record in instance.get_asset_records(list(keys))
        if (event := record.asset_entry.last_materialization_record) is not None
    ]
    return max(0.0, now.timestamp() - min(last)) if last else None
