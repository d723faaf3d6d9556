"""All benchmark cases: measures SynqX and its peers on the same tables in the same run, and writes the page.

A case that fails does not end the run. Results are kept case by case, so that several runs can fill one page.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.case import Case, measure_case, say
from benchmarks.copies import MYSQL_PG, PG_PG, QUARANTINE, TRANSFORM
from benchmarks.files import PG_DUCKDB, PG_PARQUET
from benchmarks.lab import Lab, open_lab
from benchmarks.machine import describe_machine, product_versions
from benchmarks.merges import MERGE
from benchmarks.page import draw_page
from benchmarks.peers import install_peers
from benchmarks.pipelines import PIPELINE
from benchmarks.processes import MEMORY, TABLES_100
from benchmarks.servers import MARIADB_SETTINGS, POSTGRESQL_SETTINGS
from benchmarks.synqx import preload

CASES = {
    case.name: case
    for case in (PG_PG, TRANSFORM, QUARANTINE, MYSQL_PG, PG_DUCKDB, PG_PARQUET, MERGE, TABLES_100, PIPELINE, MEMORY)
}
_PEERS = ("sling", "dlt")
_ROOT = Path(__file__).parent.parent
_PRIVATE = _ROOT / ".benchmarks"


def run_case(case: Case, lab: Lab, runs: int, *, with_peers: bool = True) -> dict[str, Any]:
    """Measure one case; what it needs is said beside its figures."""
    started = datetime.now(UTC)
    load = os.getloadavg()[0]
    with case.start(lab) as bench:
        if not with_peers:
            bench = replace(bench, contestants=[one for one in bench.contestants if one.family not in _PEERS])
        result = measure_case(case, bench, runs)
    versions = {**product_versions(), "postgresql": _server_version(lab.postgresql.execute("postgres", _VERSION))}
    if "mariadb" in vars(lab):
        versions["mariadb"] = _server_version(lab.mariadb.execute(_VERSION))
    return {
        **result,
        "scale": lab.scale,
        "started": started.isoformat(timespec="seconds"),
        "load_average_before": round(load, 2),
        "machine": describe_machine(lab.directory),
        "versions": versions,
        "peers": lab.peers.versions(),
        "settings": {"postgresql": POSTGRESQL_SETTINGS, "mariadb": MARIADB_SETTINGS},
    }


_VERSION = "select version()"


def _server_version(rows: Any) -> str:
    text = str(rows[0][0])
    return text.split()[1] if text.startswith("PostgreSQL") else text


def read_results(path: Path) -> dict[str, Any]:
    """The results of earlier runs by case."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="may be repeated; left out: all")
    parser.add_argument("--scale", type=float, default=1.0, help="1 is 3 million rows (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="rounds, of which medians count (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="results by case, added to (default: one file for each scale)")
    parser.add_argument("--page", type=Path, help="where the page goes (default: docs/benchmarks.md at scale 1)")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results, measure nothing")
    parser.add_argument("--no-peers", action="store_true", help="SynqX and psql alone; writes no page")
    parser.add_argument("--keep", action="store_true", help="keep the tools' logs")
    arguments = parser.parse_args()
    # A trial must not end up among the figures that count.
    counts = arguments.scale == 1 and not arguments.no_peers
    trial = "alone" if arguments.no_peers else f"{arguments.scale:g}"
    arguments.results = arguments.results or (
        Path(__file__).with_name("results.json") if counts else _PRIVATE / f"results-{trial}.json"
    )
    arguments.page = arguments.page or (
        _ROOT / "docs" / "benchmarks.md" if counts else _PRIVATE / f"benchmarks-{trial}.md"
    )
    return arguments


def main() -> None:
    arguments = _parse()
    # So that the servers end with a run that somebody ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed: list[str] = []
    if not arguments.page_only:
        failed = _measure(arguments)
    if arguments.no_peers:
        raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
    results = read_results(arguments.results)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(draw_page(list(CASES.values()), results), encoding="utf-8")
    say(f"results: {arguments.results}\npage: {arguments.page}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _measure(arguments: argparse.Namespace) -> list[str]:
    """Measure the cases that are asked for; gives those that failed as a whole or in part."""
    directory = Path(tempfile.mkdtemp(prefix="synqx-bench-", dir=os.environ.get("SYNQX_BENCH_DIRECTORY")))
    failed = []
    try:
        peers = install_peers(_PRIVATE / "venv", directory / "peers")
        preload()
        with open_lab(arguments.scale, directory, peers) as lab:
            for name in dict.fromkeys(arguments.case or CASES):
                start = time.monotonic()
                say(f"== {name}: {CASES[name].title}")
                try:
                    result = run_case(CASES[name], lab, arguments.runs, with_peers=not arguments.no_peers)
                # The others are measured all the same.
                except Exception:  # noqa: BLE001
                    say(f"== {name} FAILED\n{traceback.format_exc()}")
                    failed.append(name)
                    continue
                if any(record["failures"] for record in result["contestants"].values()):
                    failed.append(name)
                write_results(arguments.results, {**read_results(arguments.results), name: result})
                say(f"== {name}: done in {time.monotonic() - start:.0f} s")
    finally:
        if arguments.keep and (directory / "logs").exists():
            shutil.copytree(directory / "logs", _PRIVATE / "logs", dirs_exist_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
    return failed


if __name__ == "__main__":
    main()
