"""Measures what a catalog's size costs Dagster: loading all definitions, and starting a run of one mapping.

Run it on a calm machine: ``python -m benchmarks.definitions_load``. Each figure is the median of `REPEATS` fresh
processes. "import" is Dagster and SynqX, which every process pays, whatever the catalog; the rows of few mappings show
what else does not grow with it. "first" loads all definitions where no lineage is kept yet, "next" where it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5

CONNECTIONS = """
kind: connection
name: shop
db_type: postgresql
host: localhost
database: shop
username: etl
password: {env: SHOP_PASSWORD}
---
kind: connection
name: warehouse
db_type: postgresql
host: localhost
database: warehouse
username: etl
password: {env: WAREHOUSE_PASSWORD}
---
kind: schema
name: customer
columns:
  - {name: id, data_type: integer}
  - {name: first_name, data_type: string}
  - {name: last_name, data_type: string}
  - {name: address, data_type: string}
  - {name: email, data_type: string}
primary_key: [id]
"""

MAPPING = """---
kind: mapping
name: mapping_{number}
source_connection: shop
{source}
target_connection: warehouse
target_table: analytics.table_{number}
target_schema: customer
column_mappings:
  - {{type: direct, source_columns: [id], target_fields: [id]}}
  - {{type: split, source_columns: [full_name], target_fields: [first_name, last_name], config: {{delimiter: " "}}}}
  - {{type: join, source_columns: [street, city], target_fields: [address], config: {{separator: ", "}}}}
  - {{type: expression, expression: "lower(email)", target_fields: [email]}}
"""
#: What has to be parsed for its lineage, beside the expression that every mapping has.
QUERY = (
    "source_query: select c.id, c.full_name, a.street, a.city, c.email from customer_{number} c"
    " left join address a on a.customer_id = c.id where c.deleted_at is null"
)
SCHEDULE = """---
kind: schedule
name: schedule_{number}
mapping: mapping_{number}
cron_expression: "0 2 * * *"
"""

PIPELINE = """---
kind: pipeline
name: pipeline_{number}
nodes:
  - {{node_id: given, operator_type: extract, operator_class: table,
     config: {{connection: shop, table: event_{number}}}}}
  - {{node_id: big, operator_type: transform, operator_class: filter, config: {{condition: "amount > 10"}}}}
  - {{node_id: kept, operator_type: load, operator_class: table,
     config: {{connection: warehouse, table: analytics.event_{number}}}}}
edges:
  - {{from_node_id: given, to_node_id: big}}
  - {{from_node_id: big, to_node_id: kept}}
"""

PROBE = """
import json, sys, time
start = time.perf_counter()
import synqx_dagster.definitions
import dagster._utils.test.definitions  # Dagster's own loading imports it, and its storage with it
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions import reconstruct
from dagster._core.definitions.repository_definition import RepositoryLoadData
imported = time.perf_counter()
pointer = ModuleCodePointer("synqx_dagster.definitions", "defs")
if sys.argv[1] == "all":
    repository = reconstruct.initialize_repository_def_from_pointer(pointer)
    repository.load_all_definitions()
    repository.asset_graph
    count = len(repository.asset_graph.executable_asset_keys)
else:
    handed_over = RepositoryLoadData(reconstruction_metadata={"synqx/revision": "1"})
    repository = reconstruct.reconstruct_repository_def_from_pointer(pointer, handed_over)
    if sys.argv[1] == "job":
        job = repository.get_maybe_subset_job_def("schedule_1")
    else:
        from dagster import AssetKey
        key = AssetKey(["warehouse", "analytics", "table_1"])
        job = repository.get_maybe_subset_job_def("__ASSET_JOB", asset_selection={key})
    count = len(job.nodes)
print(json.dumps({"import": imported - start, "load": time.perf_counter() - imported, "count": count}))
"""


#: Which mappings read a query instead of a table: one in so many, or none.
KINDS = {"tables": None, "half queries": 2, "queries": 1}


def make_catalog(home: Path, mappings: int, schedules: int, kind: str, pipelines: int) -> None:
    """A catalog of so many mappings of one of `KINDS`, and pipelines of three nodes, at revision 1."""
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import read_documents
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.settings import load_settings

    parts = [CONNECTIONS]
    for number in range(mappings):
        every = KINDS[kind]
        source = QUERY if every and number % every == 0 else "source_table: customer_{number}"
        parts.append(MAPPING.format(number=number, source=source.format(number=number)))
    parts += [SCHEDULE.format(number=number) for number in range(schedules)]
    parts += [PIPELINE.format(number=number) for number in range(pipelines)]
    path = home / "synqx.yaml"
    path.write_text("".join(parts))
    with Catalog.initialise(load_settings({"SYNQX_HOME": str(home)}, home)) as catalog:
        apply_changes(catalog, plan_changes(catalog, read_documents([path])), author="benchmark", reason=None)


def measure(home: Path, what: str, repeats: int, *, keep_lineage: bool = True) -> dict[str, float]:
    """Median seconds of some fresh processes, without what the ones before them kept if so asked."""
    environ = {**os.environ, "SYNQX_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    results = []
    for _ in range(repeats):
        if not keep_lineage:
            shutil.rmtree(home / "cache", ignore_errors=True)
        command = [sys.executable, "-c", PROBE, what]
        done = subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def main() -> None:
    """Print seconds for small and large catalogs, and what the difference costs a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mappings", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--schedules", type=int, default=10)
    parser.add_argument("--pipelines", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["tables", "half queries"])
    options = parser.parse_args()
    titles = ("mappings", "that read", "import", "first", "next", "one job", "ad hoc")
    print("{:>9} {:>13} {:>8} {:>8} {:>8} {:>8} {:>8}   seconds".format(*titles))
    for mappings in options.mappings:
        for kind in options.kinds:
            with tempfile.TemporaryDirectory() as directory:
                home = Path(directory)
                make_catalog(home, mappings, min(options.schedules, mappings), kind, options.pipelines)
                first = measure(home, "all", options.repeats, keep_lineage=False)
                loads = [first, *(measure(home, what, options.repeats) for what in ("all", "job", "ad hoc"))]
            figures = " ".join(f"{seconds:>8.2f}" for seconds in (first["import"], *(load["load"] for load in loads)))
            print(f"{mappings:>9} {kind:>13} {figures}", flush=True)


if __name__ == "__main__":
    main()
