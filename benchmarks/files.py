"""Cases that write files: a table of PostgreSQL into a DuckDB database, and into Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.case import Bar, Bench, Case, Contestant, Outcome
from benchmarks.copies import postgresql_source
from benchmarks.lab import Digest, Lab, compare, duckdb_digest
from benchmarks.peers import SlingRun, dlt_job
from benchmarks.servers import SOURCE
from benchmarks.synqx import create_project, mapping, server_connection


def _contestants(
    lab: Lab,
    case: str,
    synqx_target: Callable[[Path], dict[str, Any]],
    sling_target: Callable[[Path], tuple[str, dict[str, Any]]],
    dlt_target: Callable[[Path], dict[str, Any]],
    find: Callable[[str, Path], tuple[Path | None, str]],
) -> list[Contestant]:
    """SynqX, Sling and dlt, each into a directory of its own that is emptied before each load.

    Args:
        find: Where a contestant left lineitem in its directory: a DuckDB file or None, and a relation.
    """
    expected: Digest = lab.digest(SOURCE, "lineitem")
    end = lab.postgresql.endpoint
    home = lab.directory / case

    def emptied(name: str) -> Callable[[], None]:
        def prepare() -> None:
            lab.fresh_directory(case, name)
            lab.peers.forget_dlt(f"{case}_{name}")
            lab.postgresql.execute("postgres", "checkpoint")

        return prepare

    def checked(family: str, name: str) -> Callable[[], None]:
        return lambda: compare(expected, duckdb_digest(*find(family, home / name)))

    records = [
        server_connection("source", "postgresql", SOURCE, end),
        {"kind": "connection", "name": "target", **synqx_target(home / "synqx")},
        mapping("lineitem", "public.lineitem", "main.lineitem" if case == "pg_duckdb" else "lineitem"),
    ]
    lab.fresh_directory(case, "synqx")
    project = create_project(home / "project", records)
    target, stream = sling_target(home / "sling")
    sling = SlingRun(
        case, end.url("postgres", SOURCE, "sslmode=disable"), target,
        {"public.lineitem": {"mode": "full-refresh", **stream}},
    )  # fmt: skip

    def run_sling() -> Outcome:
        usage = lab.peers.run_sling(sling, log=lab.log(f"{case} sling"))
        return Outcome(usage.seconds, usage.seconds, usage.peak_memory_bytes)

    def dlt(backend: str) -> Contestant:
        job = dlt_job(
            backend, ["lineitem"], expected[0], dataset="bench",
            **dlt_target(home / backend), **postgresql_source(lab),
        )  # fmt: skip

        def run() -> Outcome:
            usage, seconds = lab.peers.run_dlt(f"{case}_{backend}", job, log=lab.log(f"{case} dlt {backend}"))
            return Outcome(seconds, usage.seconds, usage.peak_memory_bytes)

        return Contestant(f"dlt, {backend}", "dlt", run, checked("dlt", backend), emptied(backend))

    return [
        Contestant("synqx", "synqx", lambda: project.run("lineitem"), checked("synqx", "synqx"), emptied("synqx")),
        Contestant("sling", "sling", run_sling, checked("sling", "sling"), emptied("sling")),
        dlt("pyarrow"),
        dlt("connectorx"),
    ]


@contextmanager
def start_duckdb(lab: Lab) -> Iterator[Bench]:
    """Into a table of a new DuckDB file."""
    rows, size = lab.need_lineitem()
    # dlt calls its schema "bench"; a catalog of that name would be ambiguous.
    name = "lake.duckdb"
    contestants = _contestants(
        lab,
        "pg_duckdb",
        lambda home: {"db_type": "duckdb", "database": str(home / name)},
        lambda home: (f"duckdb://{home / name}", {"object": "main.lineitem"}),
        lambda home: {"destination": "duckdb", "target": str(home / name)},
        lambda family, home: (home / name, "lake.bench.lineitem" if family == "dlt" else "main.lineitem"),
    )
    yield Bench(rows, size, contestants)


@contextmanager
def start_parquet(lab: Lab) -> Iterator[Bench]:
    """Into Parquet files, compressed by Snappy, which is the default of all three."""
    rows, size = lab.need_lineitem()
    contestants = _contestants(
        lab,
        "pg_parquet",
        lambda home: {"db_type": "files", "database": str(home), "options": {"format": "parquet"}},
        lambda home: (
            f"file://{home}",
            {
                "object": f"file://{home}/lineitem.parquet",
                # Left alone, Sling cuts the rows into files of 50 MB, all of one name: only the last one stays.
                "target_options": {
                    "format": "parquet",
                    "compression": "snappy",
                    "file_max_bytes": 0,
                    "file_max_rows": 0,
                },
            },
        ),
        lambda home: {"destination": "filesystem", "target": f"file://{home}"},
        lambda family, home: (
            None,
            f"read_parquet('{home}/{'bench/lineitem/*' if family == 'dlt' else '*'}.parquet')",
        ),
    )
    yield Bench(rows, size, contestants)


_BARS = (
    Bar("synqx", "at least 3 x faster than Sling", "sling", at_least=3),
    Bar("synqx", "at least 3 x faster than dlt", "dlt", at_least=3),
)
PG_DUCKDB = Case("pg_duckdb", "PostgreSQL to DuckDB, replace", start_duckdb, _BARS)
PG_PARQUET = Case("pg_parquet", "PostgreSQL to Parquet, replace", start_parquet, _BARS)
