"""The demo as a user meets it: one command, twice, and the same project in a real browser until Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from synqx_dagster.demo.project import demo_environment
from synqx_dagster.demo.server import running_server
from synqx_dagster_tests.acceptance.test_cli_dev import follow_link
from synqx_dagster_tests.browsers import chromium, wait_for_words
from synqx_dagster_tests.processes import reaped

ROOT = Path(__file__).parents[2]
SHOP_ROWS = {
    "customers": 40_000,
    "addresses": 50_000,
    "products": 2_000,
    "orders": 100_000,
    "order_lines": 220_050,
    "payments": 95_006,
}
#: Rows in, rows out and rows quarantined of each mapping. Not every address is current.
EXPECTED = {
    "customers": (40_000, 39_976, 24),
    "addresses": (49_000, 49_000, 0),
    "products": (2_000, 1_988, 12),
    "orders": (100_000, 99_980, 20),
    "order_lines": (220_050, 220_050, 0),
    "payments": (95_006, 94_958, 48),
    "sales": (14_408, 14_408, 0),
}


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """An empty project directory with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="synqx-demo-", dir="/tmp"))
    try:
        yield path
    finally:
        synqx(path, "demo", "--stop")
        shutil.rmtree(path)


def environment() -> dict[str, str]:
    """This process's environment as a user would have it, with settings of theirs that the demo must not follow."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SYNQX_", "DAGSTER_", "PYTEST_"))},
        "PYTHONPATH": str(ROOT),
        "SYNQX_CATALOG_URL": "sqlite:////nowhere/catalog.db",
        "SYNQX_KEY_FILE": "/nowhere/key",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "synqx_dagster.cli.main", *arguments]


def synqx(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def first_run(directory: Path) -> dict[str, Any]:
    """What the first `synqx demo` in an empty directory prints."""
    result = synqx(directory, "demo", "--json")
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def figures(document: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {
        asset["name"]: (asset["rows_in"], asset["rows_out"], asset["rows_quarantined"])
        for asset in document["run"]["assets"]
    }


def test_the_demo_moves_every_row_through_dagster(first_run: dict[str, Any]) -> None:
    assert first_run["source_rows"] == SHOP_ROWS
    assert first_run["run"]["status"] == "SUCCESS"
    assert first_run["revision"] == first_run["run"]["revision"] == 1
    assert figures(first_run) == EXPECTED
    assert {asset["lane"] for asset in first_run["run"]["assets"]} == {"passthrough", "arrow"}


def test_the_demo_shows_results_and_bad_rows(first_run: dict[str, Any]) -> None:
    customers, quarantine, sales = first_run["samples"]
    cells = {row[0]: dict(zip(customers["columns"], row, strict=True)) for row in customers["rows"]}
    assert cells["8"]["first_name"] == "Álvaro"
    assert cells["8"]["last_name"] == "García López"
    assert cells["8"]["email"] == "customer.8@example.com"
    assert {row[0] for row in quarantine["rows"]} == {"customers", "orders", "payments", "products"}
    assert len(sales["rows"]) == 5


def test_what_arrived_is_what_the_source_has(directory: Path, first_run: dict[str, Any]) -> None:
    """The mirror is compared as the servers' own text; the figures in the lake with the source they come from."""
    assert first_run["run"]["status"] == "SUCCESS"
    home = directory / ".synqx" / "demo"
    checksum = "select md5(string_agg(t::text, '|' order by order_id, line_number)) from {} as t"
    with running_server(home) as server:
        with closing(server.connect("shop")) as shop, shop.cursor() as cursor:
            cursor.execute(checksum.format("order_lines"))
            source = cursor.fetchone()
            cursor.execute("""
                select count(distinct o.order_id), sum(l.quantity)
                from orders o join order_lines l using (order_id) join customers c using (customer_id)
                where lower(o.status) not in ('canceled', 'cancelled')
                    and coalesce(c.birth_date, '') not in ('1985-02-30', '31.12.1979', 'unknown')
            """)
            sold = cursor.fetchone()
        with closing(server.connect("warehouse")) as warehouse, warehouse.cursor() as cursor:
            cursor.execute(checksum.format("analytics.order_lines"))
            assert cursor.fetchone() == source
    with closing(duckdb.connect(str(home / "lake.duckdb"), read_only=True)) as lake:
        assert lake.execute("select sum(orders), sum(units) from sales_by_day").fetchone() == sold


@pytest.mark.slow
def test_the_demo_may_be_repeated(directory: Path, first_run: dict[str, Any]) -> None:
    result = synqx(directory, "demo", COLUMNS="160")
    assert result.returncode == 0, result.stderr
    assert "It is there already." in result.stderr
    assert "Revision 1 of" in result.stderr
    assert "nothing to change" in result.stderr
    for words in ("order_lines", "passthrough", "220,050", "_synqx_quarantine", "is not a date", "make dev"):
        assert words in result.stdout
    lines = result.stdout.splitlines()
    for sample in first_run["samples"]:
        # Each table under its title, its first row of names whole.
        headings = lines[lines.index(sample["title"]) + 1 :][:3]
        assert any(line.split() == sample["columns"] for line in headings), headings
    assert "Traceback" not in result.stdout + result.stderr
    runs = synqx(directory, "runs", "--json", **_demo_variables(directory))
    assert runs.stdout.count('"SUCCESS"') == 2, runs.stdout + runs.stderr
    assert postgres_processes(directory) == []


def _demo_variables(directory: Path) -> dict[str, str]:
    return demo_environment(directory / ".synqx" / "demo")


def test_no_secret_of_the_demo_is_readable(directory: Path, first_run: dict[str, Any]) -> None:
    assert first_run["run"]["status"] == "SUCCESS"
    home = directory / ".synqx" / "demo"
    passwords = [path.read_text(encoding="utf-8").strip().encode() for path in (home / "secrets").iterdir()]
    assert len(passwords) == 2
    export = synqx(directory, "export", **_demo_variables(directory))
    assert "sealed: true" in export.stdout
    # Where they may be: in the two files themselves, and in the project's own file, private like these.
    allowed = {home / "secrets", home / "project"}
    files = [path for path in home.rglob("*") if path.is_file() and not allowed & set(path.parents)]
    assert any(path.name == "catalog.db" for path in files)
    found = [path for path in files for password in passwords if password in path.read_bytes()]
    assert found == []
    assert not any(password in export.stdout.encode() for password in passwords)


# --- the web UI --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dev:
    """A running `synqx demo --dev`."""

    process: subprocess.Popen[str]
    address: str
    cookie: str


@pytest.fixture(scope="module")
def dev(directory: Path, first_run: dict[str, Any]) -> Iterator[Dev]:
    """`synqx demo --dev` after a run, in a process group of its own, as a terminal has it; the last test ends it."""
    assert first_run["run"]["status"] == "SUCCESS"
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = subprocess.Popen(
        command("demo", "--dev", "--port", str(port)),
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with reaped(started) as process:
        try:
            link = _wait_for_link(process)
            address = link.partition("/login")[0]
            yield Dev(process, address, follow_link(link))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)


def _wait_for_link(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    deadline = time.monotonic() + 180
    seen = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        os.set_blocking(process.stderr.fileno(), False)
        while time.monotonic() < deadline and process.poll() is None:
            if selector.select(1):
                seen += process.stderr.read() or ""
            if match := re.search(r"(http://\S+/login\?token=\S+)\s", seen):
                return match[1]
    raise AssertionError(f"the web UI did not start:\n{seen}")


def postgres_processes(directory: Path) -> list[int]:
    """Servers on a data directory below this one; a zombie that waits for its parent runs no more."""
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline", "status"]):
        info = process.info
        if info["name"] == "postgres" and info["status"] != psutil.STATUS_ZOMBIE:
            found += [info["pid"]] if str(directory) in " ".join(info["cmdline"] or ()) else []
    return found


@pytest.mark.slow
@pytest.mark.browser
def test_the_web_ui_shows_the_assets_in_a_browser(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    screenshots = Path(os.environ.get("SYNQX_TEST_SCREENSHOTS") or tmp_path)
    tables = [name for name in EXPECTED if name != "sales"]
    pages = {
        "assets": ("/assets", (*tables, "sales_by_day", "Materialized")),
        "asset": ("/assets/warehouse/analytics/customers", ("first_name", "39,976")),
        "jobs": ("/jobs", ("load_warehouse", "nightly")),
    }
    with chromium(tmp_path / "profile") as window:
        dev: Dev = request.getfixturevalue("dev")  # only now: a machine without a browser need not start it for this
        log_in(window, dev)
        for name, (path, words) in pages.items():
            window.get(dev.address + path)
            wait_for_words(window, words)
            assert window.save_screenshot(str(screenshots / f"demo-{name}.png"))


def log_in(window: Any, dev: Dev) -> None:
    """Give a browser the session of the link that was printed: it is good for one."""
    window.get(f"{dev.address}/login")
    name, _, value = dev.cookie.partition("=")
    window.add_cookie({"name": name, "value": value, "path": "/", "secure": True, "httpOnly": True})


def graphql(dev: Dev, query: str, **variables: Any) -> Any:
    request = urllib.request.Request(
        f"{dev.address}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json", "Cookie": dev.cookie, "Origin": dev.address},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer = json.load(reply)
    assert "errors" not in answer, answer
    return answer["data"]


LAUNCH = """
mutation ($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector}) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""


@pytest.mark.browser
def test_the_diamond_is_run_and_seen_in_the_web_ui(
    directory: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    screenshots = Path(os.environ.get("SYNQX_TEST_SCREENSHOTS") or tmp_path)
    steps = ("pipelines__customer_value__checked", "warehouse__analytics__customer_value", "lake__main__customer_value")
    with chromium(tmp_path / "profile") as window:
        dev: Dev = request.getfixturevalue("dev")
        log_in(window, dev)
        window.get(f"{dev.address}/jobs")
        wait_for_words(window, ("customer_value",))
        (repository,) = graphql(
            dev, "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
        )["repositoriesOrError"]["nodes"]
        selector = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "jobName": "customer_value",
        }
        run_id = graphql(dev, LAUNCH, selector=selector)["launchRun"]["run"]["runId"]
        window.get(f"{dev.address}/runs/{run_id}")
        wait_for_words(window, ("Success", *steps), 180)
        assert window.save_screenshot(str(screenshots / "demo-diamond-run.png"))
        window.get(f"{dev.address}/assets/warehouse/analytics/customer_value")
        wait_for_words(window, ("pipelines / customer_value / checked", "warehouse.analytics.customer_value"))
        assert window.save_screenshot(str(screenshots / "demo-diamond-asset.png"))
    shown = subprocess.run(
        command("runs", "show", run_id, "--json"),
        cwd=directory,
        env={**environment(), **_demo_variables(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    nodes = {node["node_id"]: node for step in json.loads(shown.stdout)["steps"] for node in step["nodes"]}
    orders, lines = EXPECTED["orders"][1], EXPECTED["order_lines"][1]
    assert (nodes["orders"]["rows_out"], nodes["order_lines"]["rows_out"]) == (orders, lines)
    assert nodes["lines_of_customers"]["rows_in"] == orders + lines
    checked = nodes["checked"]
    assert nodes["graded"]["rows_in"] == nodes["graded"]["rows_out"] == checked["rows_in"]
    assert checked["rows_in"] == checked["rows_out"] + checked["rows_quarantined"]
    assert nodes["customer_value_lake"]["rows_out"] == checked["rows_out"] > 10_000


def test_ctrl_c_stops_everything(directory: Path, dev: Dev) -> None:
    children = psutil.Process(dev.process.pid).children(recursive=True)
    assert len(children) >= 3
    assert len(postgres_processes(directory)) > 0
    # As a terminal does it: to the whole foreground group.
    os.killpg(dev.process.pid, signal.SIGINT)
    assert dev.process.wait(90) == 0
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert postgres_processes(directory) == []
