"""Measures what Dagster's part of a pipeline costs: ``python -m benchmarks.orchestration``, on a calm machine.

A row of SQLite goes through pipelines of many nodes into DuckDB, so that what takes time is the work around the rows:

- *check*: from a record of 500 nodes to its graph, with everything looked at that `synqx check` looks at.
- *one step of N nodes*: a chain that is fused, run by `synqx run`.
- *step overhead*: what each further step of a pipeline costs, where every node stores its row for the next one; and
  what remains of it without the work of the step itself (its DuckDB, its file), as Dagster's events tell.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

REPEATS = 3
CONNECTIONS = """
kind: connection
name: shop
db_type: sqlite
database: shop.db
---
kind: connection
name: dwh
db_type: duckdb
database: dwh.duckdb
"""


def node(name: str, kind: str, operator: str, config: dict[str, Any], *, stored: bool = False) -> dict[str, Any]:
    """A node as YAML has it; JSON is YAML."""
    made = {"node_id": name, "operator_type": kind, "operator_class": operator, "config": config}
    return {**made, "stored": True} if stored else made


def chain(name: str, length: int, *, stored: bool) -> dict[str, Any]:
    """A pipeline of so many nodes, one after the other."""
    nodes = [node("t0", "extract", "table", {"connection": "shop", "table": "t"}, stored=stored)]
    for number in range(1, length - 1):
        nodes.append(node(f"t{number}", "transform", "derive", {"columns": {"n": "n + 1"}}, stored=stored))
    nodes.append(node("end", "load", "table", {"connection": "dwh", "table": name}))
    names = [one["node_id"] for one in nodes]
    edges = [{"from_node_id": a, "to_node_id": b} for a, b in itertools.pairwise(names)]
    return {"kind": "pipeline", "name": name, "nodes": nodes, "edges": edges}


def ladder(name: str, rungs: int) -> dict[str, Any]:
    """A graph of `rungs` times three nodes and two more: each rung is split in two and joined again."""
    nodes = [node("t0", "extract", "table", {"connection": "shop", "table": "t"})]
    edges = []
    last = "t0"
    for number in range(rungs):
        left, right, both = f"l{number}", f"r{number}", f"u{number}"
        nodes.append(node(left, "transform", "filter", {"condition": "n >= 0"}))
        nodes.append(node(right, "transform", "filter", {"condition": "n < 0"}))
        nodes.append(node(both, "transform", "union", {}))
        edges += [(last, left), (last, right), (left, both), (right, both)]
        last = both
    nodes.append(node("end", "load", "table", {"connection": "dwh", "table": name}))
    edges.append((last, "end"))
    pairs = [{"from_node_id": a, "to_node_id": b} for a, b in edges]
    return {"kind": "pipeline", "name": name, "nodes": nodes, "edges": pairs}


def check_seconds(record: dict[str, Any]) -> float:
    """How long a record takes to become a graph."""
    from synqx_dagster.model import Pipeline
    from synqx_dagster.pipelines.building import check_graph

    values = {name: value for name, value in record.items() if name != "kind"}
    start = time.perf_counter()
    graph, problems = check_graph(Pipeline.model_validate(values), lambda name: None, frozenset({"sqlite", "duckdb"}))
    assert graph is not None, problems
    return time.perf_counter() - start


def run(home: Path, *arguments: str) -> dict[str, Any]:
    """What a command of `synqx` prints as JSON, and its wall time as ``wall``."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "synqx_dagster.cli.main", *arguments, "--json"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "wall": time.perf_counter() - start}


def run_seconds(home: Path, name: str) -> tuple[float, float]:
    """Of a pipeline's run: seconds from its first step to its end, and of them those within its nodes."""
    found = []
    for _ in range(REPEATS):
        detail = run(home, "runs", "show", run(home, "run", name)["run_id"])
        nodes = sum(one["seconds"] or 0 for step in detail["steps"] for one in step["nodes"])
        found.append((float(detail["seconds"]), nodes))
    return statistics.median(one for one, _ in found), statistics.median(one for _, one in found)


def main() -> None:
    """Print the figures."""
    records = [
        ladder("ladder", 166),
        chain("fused_300", 300, stored=False),
        *(chain(f"stored_{count}", count, stored=True) for count in (2, 52)),
    ]
    print(f"check of a graph of 500 nodes: {check_seconds(records[0]):.2f} s")
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        with closing(sqlite3.connect(home / "shop.db")) as database:
            database.execute("create table t (n integer not null)")
            database.execute("insert into t values (1)")
            database.commit()
        documents = [CONNECTIONS, *(json.dumps(record) for record in records)]
        (home / "synqx.yaml").write_text("\n---\n".join(documents))
        run(home, "init", "--generate-key-file")
        run(home, "apply", "synqx.yaml")
        for name, what in (("ladder", "500 nodes in 168 steps"), ("fused_300", "300 nodes in one step")):
            print(f"{what}: a run takes {run_seconds(home, name)[0]:.2f} s", flush=True)
        few, few_nodes = run_seconds(home, "stored_2")
        many, many_nodes = run_seconds(home, "stored_52")
        each, in_node = ((many - few) * 20, (many_nodes - few_nodes) * 20)
        print(f"a further step: {each:.0f} ms, of them {in_node:.0f} in its node")


if __name__ == "__main__":
    main()
