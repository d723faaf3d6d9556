"""One load by dlt, in the peers' own environment: a JSON document comes in, one with its seconds goes out.

Nothing of SynqX is imported. What is set here, and why, is in benchmarks/README.md.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def make_source(job: dict[str, Any]) -> Any:
    """The tables to read; ``tables`` of more than one are read in one go."""
    import dlt
    from dlt.sources.sql_database import sql_database

    backend_options: dict[str, Any] = {}
    if job["backend"] == "connectorx":
        # The stream of batches bounds memory, and lets files be written while rows still come.
        backend_options = {"backend_kwargs": {"return_type": "arrow_stream", "conn": job["connectorx_url"]}}
    source = sql_database(
        job["source_url"],
        schema=job.get("source_schema"),
        table_names=job["tables"],
        backend=job["backend"],
        chunk_size=job["chunk_rows"],
        reflection_level=job.get("reflection_level", "full_with_precision"),
        **backend_options,
    )
    for resource in source.resources.values():
        if "key" in job:
            cursor = dlt.sources.incremental(job["cursor"], range_start="open")
            resource.apply_hints(
                primary_key=job["key"],
                write_disposition={"disposition": "merge", "strategy": job["merge_strategy"]},
                incremental=cursor,
            )
    return source


def make_destination(job: dict[str, Any]) -> Any:
    """Where the rows go."""
    import dlt

    kind = job["destination"]
    if kind == "postgres":
        return dlt.destinations.postgres(job["target"])
    if kind == "duckdb":
        return dlt.destinations.duckdb(job["target"])
    return dlt.destinations.filesystem(job["target"])


def main() -> None:
    started = time.perf_counter()
    job = json.load(sys.stdin)
    import dlt

    for name, value in job.get("settings", {}).items():
        dlt.config[name] = value
    pipeline = dlt.pipeline(
        pipeline_name=job["pipeline"],
        pipelines_dir=job["directory"],
        destination=make_destination(job),
        dataset_name=job["dataset"],
    )
    source = make_source(job)
    imported = time.perf_counter()
    disposition = None if "key" in job else "replace"
    information = pipeline.run(source, write_disposition=disposition, loader_file_format=job["file_format"])
    information.raise_on_failed_jobs()
    ended = time.perf_counter()
    print(json.dumps({"seconds": ended - imported, "start_seconds": imported - started}))


if __name__ == "__main__":
    main()
