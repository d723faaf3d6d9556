"""Many small tables from PostgreSQL to PostgreSQL in one Dagster run: what a load costs beside its rows.

Counts whole processes as users start them: wall time, processor time, Dagster's events and the statements that both
databases are sent for each table. The first run creates the tables, later ones replace them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.lineitem import environment, synqx
from synqx_dagster.demo.server import DemoServer, running_server

PIPELINE = "many_tables"
#: As in production: the log is written in full, and the server waits for its disk.
SERVER_SETTINGS = {"wal_level": "replica", "shared_buffers": "256MB", "fsync": "on", "synchronous_commit": "on"}

CONNECTIONS = """
kind: connection
name: source
db_type: postgresql
host: {host}
database: shop
username: shop_reader
password: {{file: {secrets}/shop_reader}}
---
kind: connection
name: target
db_type: postgresql
host: {host}
database: warehouse
username: warehouse_writer
password: {{file: {secrets}/warehouse_writer}}
"""
MAPPING = """---
kind: mapping
name: {name}
source_connection: source
source_table: public.{name}
target_connection: target
target_table: bench.{name}
"""
TABLE = """
create table {name} (
    id integer primary key, code varchar(20) not null, amount numeric(12, 2), is_open boolean not null,
    day date, changed_at timestamptz not null default now(), note text
)
"""
ROWS = """
insert into {name}
select i, 'code ' || i, i * 1.25, i % 2 = 0, date '2026-01-01' + i % 365, now(), repeat('note ', i % 10)
from generate_series(1, {rows}) as i
"""


@dataclass(frozen=True)
class ProcessRun:
    """One ``synqx run`` as the operating system saw it."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Result:
    """Medians over the runs that replace tables which are there; counts are of one run, for each table."""

    tables: int
    rows_each: int
    runs: int
    first_seconds: float
    seconds: float
    cpu_seconds: float
    cpu_milliseconds_each: float
    events_each: float
    source_statements_each: float
    target_statements_each: float


def table_names(tables: int) -> list[str]:
    return [f"small_{number:03d}" for number in range(tables)]


def fill_source(server: DemoServer, tables: int, rows: int) -> None:
    with closing(server.connect("shop")) as shop, shop, shop.cursor() as cursor:
        for name in table_names(tables):
            cursor.execute(TABLE.format(name=name))
            cursor.execute(ROWS.format(name=name, rows=rows))
        cursor.execute("grant select on all tables in schema public to shop_reader")
    with closing(server.connect("shop")) as shop, shop.cursor() as cursor:
        shop.autocommit = True
        cursor.execute("vacuum (analyze)")


def apply_project(server: DemoServer, tables: int) -> None:
    values = {"host": json.dumps(str(server.socket_directory)), "secrets": server.password_file("x").parent}
    text = CONNECTIONS.format(**values) + "".join(MAPPING.format(name=name) for name in table_names(tables))
    nodes = [
        {"node_id": name, "operator_type": "load", "operator_class": "mapping", "config": {"mapping": name}}
        for name in table_names(tables)
    ]
    text += "---\n" + json.dumps({"kind": "pipeline", "name": PIPELINE, "nodes": nodes}) + "\n"
    project = server.home / "many_tables.yaml"
    project.write_text(text, encoding="utf-8")
    for arguments in (("init", "--generate-key-file"), ("apply", str(project))):
        subprocess.run(synqx(*arguments), check=True, stdout=subprocess.DEVNULL, env=environment(server.home))


def run_engine(server: DemoServer, tables: int, rows: int) -> ProcessRun:
    """The pipeline as users start it.

    Raises:
        SystemExit: It failed, or did not load all rows.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(synqx("run", PIPELINE, "--json"), stdout=output, env=environment(server.home))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.perf_counter() - start
        output.seek(0)
        loaded = [asset["rows_out"] for asset in json.load(output)["assets"]]
    if process.returncode or loaded != [rows] * tables:
        raise SystemExit(f"synqx run ended with {process.returncode} and {len(loaded)} of {tables} tables")
    return ProcessRun(elapsed, usage.ru_utime + usage.ru_stime)


def count_events(server: DemoServer) -> int:
    """Events of the latest run in Dagster's storage."""
    shards = (server.home / "history" / "runs").glob("*.db")
    latest = max((path for path in shards if path.stem != "index"), key=lambda path: path.stat().st_mtime)
    with closing(sqlite3.connect(latest)) as connection:
        return int(connection.execute("select count(*) from event_logs").fetchone()[0])


def count_statements(server: DemoServer, tables: int, rows: int, keep: Path | None) -> Counter[str]:
    """Statements that each database is sent in one run, by its name; logged by the server."""
    log = server.data_directory / "server.log"
    with closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("alter system set log_line_prefix = '%d '")
        cursor.execute("alter system set log_statement = 'all'")
        cursor.execute("select pg_reload_conf()")
        time.sleep(1)
        before = log.stat().st_size
        run_engine(server, tables, rows)
        cursor.execute("alter system reset log_statement")
        cursor.execute("select pg_reload_conf()")
    with log.open(encoding="utf-8") as file:
        file.seek(before)
        text = file.read()
    if keep is not None:
        keep.write_text(text, encoding="utf-8")
    return Counter(
        line.partition(" ")[0]
        for line in text.splitlines()
        if line.startswith(("shop LOG:  statement:", "warehouse LOG:  statement:"))
    )


def measure(arguments: argparse.Namespace, directory: Path) -> Result:
    """Run the benchmark in an empty directory."""
    tables, rows = arguments.tables, arguments.rows
    with running_server(directory / "home", SERVER_SETTINGS) as server:
        fill_source(server, tables, rows)
        apply_project(server, tables)
        first = run_engine(server, tables, rows)
        print(f"first run: {first.seconds:.2f} s, {first.cpu_seconds:.2f} s of processor time", file=sys.stderr)
        later: list[ProcessRun] = []
        for number in range(1, arguments.runs + 1):
            later.append(run_engine(server, tables, rows))
            print(
                f"run {number}: {later[-1].seconds:.2f} s, {later[-1].cpu_seconds:.2f} s of processor time",
                file=sys.stderr,
            )
        events = count_events(server)
        statements = count_statements(server, tables, rows, arguments.statements)
        if arguments.profile is not None:
            profiled = [sys.executable, "-m", "cProfile", "-o", str(arguments.profile)]
            profiled += ["-m", "synqx_dagster.cli.main", "run", PIPELINE, "--json"]
            subprocess.run(profiled, check=True, stdout=subprocess.DEVNULL, env=environment(server.home))
    cpu = statistics.median(run.cpu_seconds for run in later)
    return Result(
        tables=tables,
        rows_each=rows,
        runs=arguments.runs,
        first_seconds=round(first.seconds, 3),
        seconds=round(statistics.median(run.seconds for run in later), 3),
        cpu_seconds=round(cpu, 3),
        cpu_milliseconds_each=round(1000 * cpu / tables, 1),
        events_each=round(events / tables, 1),
        source_statements_each=round(statements["shop"] / tables, 1),
        target_statements_each=round(statements["warehouse"] / tables, 1),
    )


def draw(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result.tables} tables of {result.rows_each:,} rows, one run, medians of {result.runs}")
    table.add_column("of one `synqx run`")
    table.add_column("", justify="right")
    table.add_row("whole process, tables are created", f"{result.first_seconds:.2f} s")
    table.add_row("whole process, tables are replaced", f"{result.seconds:.2f} s")
    table.add_row("processor time of the process", f"{result.cpu_seconds:.2f} s")
    table.add_row("processor time for each table", f"{result.cpu_milliseconds_each:.1f} ms")
    table.add_row("Dagster events for each table", f"{result.events_each:.1f}")
    table.add_row("statements at the source for each table", f"{result.source_statements_each:.1f}")
    table.add_row("statements at the target for each table", f"{result.target_statements_each:.1f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_tables", description=__doc__)
    parser.add_argument("--tables", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000, help="of each table (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="over tables that are there (default: %(default)s)")
    parser.add_argument("--profile", type=Path, help="write one more run's cProfile data into this file")
    parser.add_argument("--statements", type=Path, help="write the servers' log of one run's statements into this file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="synqx-bench-", dir="/tmp"))
    try:
        result = measure(arguments, directory)
    finally:
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        draw(result)


if __name__ == "__main__":
    main()
