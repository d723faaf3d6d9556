"""How fast a replication catches up, what it holds of memory, and how far it lags behind a source that is written to.

``python -m benchmarks.replication``, on a calm machine. Every run is `synqx replications run`, a process of its own:

- *catch-up*: inserts, updates and deletes, committed a thousand rows at a time, that wait in the slot.
- *one transaction*: as many rows in a single one.
- *pgbench*: TPC-B at half of the rate that the source holds without anybody following, in continuous mode. The lag is
  the target's: the age of the latest row of its history when it is there, sampled all the time.

Content is compared by digests that both servers compute.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RunFailedError
from benchmarks.servers import SOURCE, TARGET, Postgresql, running_postgresql
from benchmarks.synqx import Project, create_project, postgresql_connections

#: A run ends when nothing has come for so long; it is not counted.
IDLE_SECONDS = 1

TABLE = """
create table changed (
    id bigint primary key, code varchar(20) not null, amount numeric(12, 2), is_open boolean not null,
    day date, changed_at timestamptz not null default now(), note text
)
"""
ROW = (
    "i, 'code ' || i, i * 1.25, i % 2 = 0, date '2026-01-01' + (i % 365)::integer, now(),"
    " repeat('note ', (i % 10)::integer)"
)
#: As an application does it: many transactions, each of some rows.
CHANGES = """
create procedure make_changes(total bigint, each bigint) language plpgsql as $$
declare
  first bigint := 0;
begin
  while first < total / 4 loop
    update changed set amount = amount + 1, changed_at = now() where id > first * 2 and id <= (first + each) * 2;
    commit;
    insert into changed select {row} from generate_series(10000000 + first + 1, 10000000 + first + each) i;
    commit;
    delete from changed where id > 10000000 + first and id <= 10000000 + first + each and id % 2 = 0
      or id > total - first / 2 - each / 2 and id <= total - first / 2;
    commit;
    first := first + each;
  end loop;
end $$
"""


@dataclass(frozen=True)
class Run:
    """One `synqx replications run`: its own figures, and what the process took."""

    seconds: float
    changes: int
    process_seconds: float
    peak_memory_bytes: int

    def figures(self) -> dict[str, Any]:
        working = max(self.seconds - IDLE_SECONDS, 0.001)
        return {
            "changes": self.changes,
            "seconds": round(working, 1),
            "changes per second": round(self.changes / working),
            "peak memory MB": round(self.peak_memory_bytes / 1e6),
        }


def run_once(project: Project, name: str) -> Run:
    """One run to its end.

    Raises:
        RunFailedError: It failed.
    """
    usage = project.measure("replications", "run", name, "--json")
    report = json.loads(usage.output)
    return Run(float(report["seconds"]), int(report["changes"]), usage.seconds, usage.peak_memory_bytes)


def replication(name: str, tables: Sequence[str], **more: Any) -> Mapping[str, Any]:
    return {
        "kind": "replication",
        "name": name,
        "source_connection": "source",
        "target_connection": "target",
        "tables": list(tables),
        "idle_seconds": IDLE_SECONDS,
        **more,
    }


def digest(server: Postgresql, database: str, table: str) -> Any:
    """Rows and a digest of them, whatever their order."""
    query = f"select count(*), sum(('x' || substr(md5(r::text), 1, 15))::bit(60)::bigint::numeric) from {table} r"
    return server.execute(database, query)[0]


def require_equal(server: Postgresql, tables: Sequence[str]) -> None:
    for table in tables:
        ends = [digest(server, database, table) for database in (SOURCE, TARGET)]
        if ends[0] != ends[1]:
            raise RunFailedError(f"{table}: the source has {ends[0]}, the target {ends[1]}")


def measure_catch_up(server: Postgresql, directory: Path, changes: int) -> dict[str, Any]:
    """Changes that wait, and then one transaction of as many rows."""
    server.execute(SOURCE, TABLE, CHANGES.format(row=ROW))
    server.execute(SOURCE, f"insert into changed select {ROW} from generate_series(1, {changes}) i")
    project = create_project(
        directory, [*postgresql_connections(server.endpoint), replication("follow", ["public.changed"])]
    )
    copied = run_once(project, "follow")
    server.execute(SOURCE, f"call make_changes({changes}, 1000)")
    server.settle(SOURCE)
    caught_up = run_once(project, "follow")
    require_equal(server, ["changed"])
    server.execute(SOURCE, f"insert into changed select {ROW} from generate_series(20000001, {20_000_000 + changes}) i")
    at_once = run_once(project, "follow")
    require_equal(server, ["changed"])
    return {
        "first copy": {"rows": changes, "seconds": round(copied.seconds - IDLE_SECONDS, 1)},
        "catch-up": caught_up.figures(),
        "one transaction": at_once.figures(),
    }


def measure_lag(server: Postgresql, directory: Path, seconds: int) -> dict[str, Any]:
    """TPC-B at half of the machine's rate, followed in continuous mode."""
    bench = _pgbench(server)
    subprocess.run([*bench, "-i", "-q", "-s", "10", SOURCE], check=True, env=_environment(server), capture_output=True)
    server.execute(SOURCE, "alter table pgbench_history add column id bigserial primary key")
    server.execute(SOURCE, "checkpoint")
    tables = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"]
    record = replication("bank", [f"public.{table}" for table in tables], continuous=True, max_run_seconds=3600)
    project = create_project(directory, [*postgresql_connections(server.endpoint), record])
    free = _rate(subprocess.run(
        [*bench, "-c", "8", "-j", "2", "-T", str(seconds // 3), SOURCE],
        check=True, env=_environment(server), capture_output=True, text=True,
    ).stdout)  # fmt: skip
    follower = project.start("replications", "run", "bank", "--json")
    try:
        _wait_for_copy(server, tables)
        writing = subprocess.Popen(
            [*bench, "-c", "8", "-j", "2", "-T", str(seconds), "-R", str(round(free / 2)), SOURCE],
            env=_environment(server), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        lags = _sample_lag(server, writing)
        held = _rate(writing.communicate()[0])
        begin = time.monotonic()
        while digest(server, SOURCE, "pgbench_history") != digest(server, TARGET, "pgbench_history"):
            if time.monotonic() - begin > 120:
                raise RunFailedError("the target has not caught up in two minutes")
            time.sleep(0.2)
        caught_up_seconds = time.monotonic() - begin
    finally:
        follower.send_signal(signal.SIGINT)
        follower.wait(timeout=120)
    require_equal(server, tables)
    cuts = statistics.quantiles(lags, n=100, method="inclusive")
    return {
        "transactions per second, nobody follows": round(free),
        "transactions per second, asked for": round(free / 2),
        "transactions per second, held": round(held),
        "lag seconds": {"p50": round(cuts[49], 2), "p95": round(cuts[94], 2), "max": round(max(lags), 2)},
        "caught up after seconds": round(caught_up_seconds, 1),
    }


def _sample_lag(server: Postgresql, writing: subprocess.Popen[str]) -> list[float]:
    """How old the newest row of the target is, less how old the source's is, while the source is written to."""
    from contextlib import closing

    lags = []
    query = "select extract(epoch from clock_timestamp()), extract(epoch from mtime::timestamptz) from pgbench_history"
    query += " order by id desc limit 1"
    with closing(server.connect(SOURCE)) as source, closing(server.connect(TARGET)) as target:
        for connection in (source, target):
            connection.cursor().execute("set timezone = 'UTC'")
        started = time.monotonic()
        while writing.poll() is None:
            newest = []
            for connection in (target, source):
                with connection.cursor() as cursor:
                    cursor.execute(query)
                    newest.append(cursor.fetchone())
            # The first seconds are those of pgbench's own start.
            if None not in newest and time.monotonic() - started > 3:
                lags.append(max(0.0, float(newest[1][1]) - float(newest[0][1])))
            time.sleep(0.1)
    return lags


def _wait_for_copy(server: Postgresql, tables: Sequence[str]) -> None:
    deadline = time.monotonic() + 120
    query = "select count(*) from _synqx_replicated_tables where status = 'following'"
    while True:
        try:
            if server.execute(TARGET, query)[0][0] == len(tables):
                return
        except Exception:  # noqa: BLE001  # the table is not there yet
            time.sleep(0.1)
        if time.monotonic() > deadline:
            raise RunFailedError("the tables were not copied in two minutes")
        time.sleep(0.2)


def _pgbench(server: Postgresql) -> list[str]:
    """pgbench of the system: the wheel has none.

    Raises:
        SystemExit: It is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    if not found:
        raise SystemExit("no pgbench: run scripts/install-system-packages as root")
    end = server.endpoint
    return [str(found[-1]), "-h", end.host, "-p", str(end.port), "-U", end.username]


def _environment(server: Postgresql) -> dict[str, str]:
    return {**os.environ, **server.password_environment}


def _rate(output: str) -> float:
    found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if found is None:
        raise RunFailedError(f"pgbench says nothing of its rate: {output[-300:]}")
    return float(found[1])


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replication", description=__doc__)
    parser.add_argument("--changes", type=int, default=2_000_000, help="to catch up with (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="of pgbench (default: %(default)s)")
    parser.add_argument("--only", choices=["catch-up", "lag"], help="one of the two parts")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        if options.only != "lag":
            with running_postgresql(wal_level="logical") as server:
                found |= measure_catch_up(server, Path(home) / "catch-up", options.changes)
            print(json.dumps(found, indent=2), file=sys.stderr)
        if options.only != "catch-up":
            # A server of its own: on the first one, autovacuum is busy with millions of changed rows.
            with running_postgresql(wal_level="logical") as server:
                found["pgbench"] = measure_lag(server, Path(home) / "lag", options.seconds)
    found["load"] = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
