"""TPC-H lineitem from PostgreSQL to PostgreSQL: the engine against ``psql | psql`` in binary COPY, in the same run.

Both ends are databases of one embedded server that writes its log as in production. The two ways take turns, medians
count, and what arrived is compared by the servers' own text.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from synqx_dagster.demo.project import demo_environment
from synqx_dagster.demo.server import PORT, DemoServer, running_server

#: Rows of lineitem at scale factor 1, about.
ROWS_PER_SCALE = 6_000_000
#: As in production: both ways write the log in full.
SERVER_SETTINGS = {"wal_level": "replica", "shared_buffers": "512MB", "max_wal_size": "8GB"}

TABLE = """
create table {table} (
    l_orderkey bigint not null, l_partkey bigint not null, l_suppkey bigint not null, l_linenumber integer not null,
    l_quantity numeric(15, 2) not null, l_extendedprice numeric(15, 2) not null, l_discount numeric(15, 2) not null,
    l_tax numeric(15, 2) not null, l_returnflag char(1) not null, l_linestatus char(1) not null,
    l_shipdate date not null, l_commitdate date not null, l_receiptdate date not null,
    l_shipinstruct char(25) not null, l_shipmode char(10) not null, l_comment varchar(44) not null
)
"""
PROJECT = """
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
---
kind: mapping
name: lineitem
source_connection: source
source_table: public.lineitem
target_connection: target
target_table: bench.lineitem
"""


@dataclass(frozen=True)
class Result:
    """Medians of one benchmark; ``ratio`` is the engine's seconds to psql's."""

    rows: int
    table_bytes: int
    runs: int
    psql_seconds: float
    engine_seconds: float
    ratio: float
    process_seconds: float
    lane: str
    peak_memory_bytes: int


def fill_source(server: DemoServer, rows: int, directory: Path) -> tuple[int, int]:
    """Make lineitem and load it; returns its rows and bytes."""
    generate = [str(Path(sys.executable).parent / "tpchgen-cli"), "csv", "-s", f"{rows / ROWS_PER_SCALE:.6f}"]
    subprocess.run([*generate, "--tables", "lineitem", "--output-dir", str(directory)], check=True)
    with closing(server.connect("shop")) as shop, shop, shop.cursor() as cursor:
        cursor.execute(TABLE.format(table="lineitem"))
        with (directory / "lineitem.csv").open("rb") as file:
            cursor.copy_expert("copy lineitem from stdin (format csv, header)", file)
        cursor.execute("grant select on lineitem to shop_reader")
        cursor.execute("select count(*), pg_table_size('lineitem') from lineitem")
        count, size = cursor.fetchone() or (0, 0)
    with closing(server.connect("shop")) as shop, shop.cursor() as cursor:
        shop.autocommit = True
        cursor.execute("vacuum (analyze) lineitem")
    with closing(server.connect("warehouse")) as warehouse, warehouse, warehouse.cursor() as cursor:
        cursor.execute("create schema psql")
        cursor.execute(TABLE.format(table="psql.lineitem"))
    return count, size


def settle(server: DemoServer, *statements: str) -> None:
    """Put the server into the same state before each measurement."""
    with closing(server.connect("warehouse")) as warehouse, warehouse.cursor() as cursor:
        warehouse.autocommit = True
        for statement in (*statements, "checkpoint"):
            cursor.execute(statement)


def run_psql(server: DemoServer) -> float:
    """Seconds of the pipe of two psql that everybody knows."""
    settle(server, "truncate psql.lineitem")
    psql = [str(server.bin_directory / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]
    psql += ["-h", str(server.socket_directory), "-p", str(PORT)]
    start = time.perf_counter()
    with subprocess.Popen(
        [*psql, "-d", "shop", "-c", "copy lineitem to stdout (format binary)"], stdout=subprocess.PIPE
    ) as reader:
        subprocess.run(
            [*psql, "-d", "warehouse", "-c", "copy psql.lineitem from stdin (format binary)"],
            stdin=reader.stdout,
            check=True,
        )
    if reader.returncode:
        raise SystemExit("psql could not read the source")
    return time.perf_counter() - start


@dataclass(frozen=True)
class EngineRun:
    """One `synqx run`: the engine's own seconds, the whole process's, and its largest resident size."""

    seconds: float
    process_seconds: float
    lane: str
    peak_memory_bytes: int


def synqx(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "synqx_dagster.cli.main", *arguments]


def run_engine(server: DemoServer) -> EngineRun:
    """The load as users start it."""
    settle(server)
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(synqx("run", "lineitem", "--json"), stdout=output, env=environment(server.home))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"synqx run ended with {process.returncode}")
        output.seek(0)
        (asset,) = json.load(output)["assets"]
    # Linux counts kilobytes, macOS bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return EngineRun(asset["seconds"], elapsed, asset["lane"], usage.ru_maxrss * unit)


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, **demo_environment(home)}


def apply_project(server: DemoServer) -> None:
    project = server.home / "lineitem.yaml"
    values = {"host": json.dumps(str(server.socket_directory)), "secrets": server.password_file("x").parent}
    project.write_text(PROJECT.format(**values), encoding="utf-8")
    for arguments in (("init", "--generate-key-file"), ("apply", str(project))):
        subprocess.run(synqx(*arguments), check=True, stdout=subprocess.DEVNULL, env=environment(server.home))


def compare_content(server: DemoServer) -> None:
    """The engine's table against the source, in the servers' own text.

    Raises:
        SystemExit: They differ.
    """
    checksum = "select count(*), sum(hashtextextended(t::text, 0)::numeric) from {} as t"
    found = []
    for database, table in (("shop", "lineitem"), ("warehouse", "bench.lineitem")):
        with closing(server.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(checksum.format(table))
            found.append(cursor.fetchone())
    if found[0] != found[1]:
        raise SystemExit(f"the target differs from the source: {found}")


def measure(rows: int, runs: int, directory: Path) -> Result:
    """Run the benchmark in an empty directory."""
    with running_server(directory / "home", SERVER_SETTINGS) as server:
        count, size = fill_source(server, rows, directory)
        apply_project(server)
        psql_seconds: list[float] = []
        engine_runs: list[EngineRun] = []
        for number in range(1, runs + 1):
            psql_seconds.append(run_psql(server))
            engine_runs.append(run_engine(server))
            print(
                f"run {number}: psql {psql_seconds[-1]:.2f} s, engine {engine_runs[-1].seconds:.2f} s", file=sys.stderr
            )
        compare_content(server)
    psql = statistics.median(psql_seconds)
    engine = statistics.median(run.seconds for run in engine_runs)
    return Result(
        rows=count,
        table_bytes=size,
        runs=runs,
        psql_seconds=round(psql, 3),
        engine_seconds=round(engine, 3),
        ratio=round(engine / psql, 3),
        process_seconds=round(statistics.median(run.process_seconds for run in engine_runs), 3),
        lane=engine_runs[-1].lane,
        peak_memory_bytes=max(run.peak_memory_bytes for run in engine_runs),
    )


def draw(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"lineitem, {result.rows:,} rows, {result.table_bytes / 1e6:,.0f} MB, medians of {result.runs}")
    for heading in ("way", "seconds", "rows/s", "ratio", "peak memory"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    table.add_row(
        "psql | psql, binary COPY", f"{result.psql_seconds:.2f}", f"{result.rows / result.psql_seconds:,.0f}", "1.00"
    )
    table.add_row(
        f"synqx, {result.lane}, engine",
        f"{result.engine_seconds:.2f}",
        f"{result.rows / result.engine_seconds:,.0f}",
        f"{result.ratio:.2f}",
        f"{result.peak_memory_bytes / 1e6:.0f} MB",
    )
    table.add_row(
        "synqx run, whole process",
        f"{result.process_seconds:.2f}",
        f"{result.rows / result.process_seconds:,.0f}",
        f"{result.process_seconds / result.psql_seconds:.2f}",
    )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lineitem", description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000, help="about how many (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each way (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="synqx-bench-", dir="/tmp"))
    try:
        result = measure(arguments.rows, arguments.runs, directory)
    finally:
        shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        draw(result)


if __name__ == "__main__":
    main()
