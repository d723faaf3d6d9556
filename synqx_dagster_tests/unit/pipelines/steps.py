"""Steps on small real databases: SQLite to read, DuckDB to load."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from synqx_dagster.connectors.duckdb import DuckdbConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.connectors.sqlite import SqliteConnector
from synqx_dagster.pipelines.exchange import Exchange
from synqx_dagster.pipelines.graph import Graph
from synqx_dagster.pipelines.report import NodeReport
from synqx_dagster.pipelines.run import StepRequest, StepResult, StoredInput, open_stored_step, run_load_step
from synqx_dagster.transfer.result import ReadWindow
from synqx_dagster_tests.unit.pipelines.graphs import graph, node

FUNCTIONS = "synqx_dagster_tests.unit.pipelines.functions"

NUMBERS = (
    "create table numbers (n integer primary key, word text, price decimal(10,2), day date, secret text)",
    "insert into numbers with recursive c(i) as (select 0 union all select i + 1 from c where i < 999)"
    " select i, 'w' || (i % 7), i || '.25', date('2024-01-01', '+' || (i % 30) || ' days'), 'canary-' || i from c",
)
READ = node("numbers", "extract")
LOAD = node("loaded", "load")


class Bench:
    """A directory with a source, a target and an exchange."""

    def __init__(self, directory: Path, *statements: str) -> None:
        self.directory = directory
        with closing(sqlite3.connect(directory / "source.db")) as source:
            for statement in statements:
                source.execute(statement)
            source.commit()
        self.connectors: dict[str, Connector] = {
            "source": SqliteConnector(ConnectionConfig("source", "sqlite", database=str(directory / "source.db"))),
            "target": DuckdbConnector(ConnectionConfig("target", "duckdb", database=str(directory / "target.duckdb"))),
        }
        self.exchange = Exchange(str(directory / "exchange"))
        self.reports: dict[str, NodeReport] = {}

    def run(
        self,
        graph: Graph,
        run_id: str = "run",
        *,
        memory_bytes: int = 256_000_000,
        window: ReadWindow = ReadWindow(),  # noqa: B008 - it is frozen
    ) -> dict[str, StepResult]:
        """Run all steps in order; what their nodes did is in `reports`, also of a step that failed."""
        stored: dict[str, StoredInput] = {}
        results = {}
        for step in graph.steps:
            request = StepRequest(
                graph=graph,
                step=step,
                connectors=self.connectors,
                schemas={},
                exchange=self.exchange,
                inputs={name: stored[name] for name in {*step.inputs, *step.carried}},
                run_id=run_id,
                load_id=run_id,
                memory_bytes=memory_bytes,
                window=window,
                spill=self.directory / "spill",
                on_reports=lambda found: self.reports.update({report.node_id: report for report in found}),
            )
            if step.is_load:
                results[step.name] = run_load_step(request)
            else:
                path = (graph.pipeline.name, run_id, step.name)
                with open_stored_step(request) as (stream, watermarks):
                    stored[step.name] = StoredInput(path, self.exchange.write(path, stream, watermarks))
        return results

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the target."""
        with closing(duckdb.connect(str(self.directory / "target.duckdb"), read_only=True)) as target:
            rows: list[tuple[Any, ...]] = target.execute(sql).fetchall()
        return rows


def through(*nodes: dict[str, Any], load: dict[str, Any] = LOAD) -> Any:
    """The graph of one chain."""
    chain = [READ, *nodes, load]
    return graph(chain, ">".join(item["node_id"] for item in chain))


def run_chain(bench: Bench, *nodes: dict[str, Any], order: str = "n", select: str = "*") -> list[tuple[Any, ...]]:
    """What one chain loads."""
    bench.run(through(*nodes))
    return bench.fetch(f"select {select} from loaded order by {order}")


def pandas(function: str, **config: Any) -> dict[str, Any]:
    """A node that calls one of `FUNCTIONS`."""
    return node("f", "transform.pandas", function=f"{FUNCTIONS}:{function}", **config)
