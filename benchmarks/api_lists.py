"""Pages of a large catalog over HTTP: how long one takes, alone and with 50 clients at once, and what one write costs.

The catalog is in PostgreSQL and has 10,000 connections; the server is a process of its own. Bar: the 99th percentile
of a page of 50 is below 50 ms for one client, and of 50 clients none sees an error.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from benchmarks.servers import TARGET, running_postgresql

PASSWORD = "one that is long enough"
PAGES: dict[str, dict[str, str | int]] = {
    "first page": {"limit": 50},
    "a page in the middle": {"limit": 50, "skip": 5000},
    "by time of change": {"limit": 50, "sort": "updated_at", "order": "desc"},
    "by type": {"limit": 50, "db_type": "postgresql"},
    "by name": {"limit": 50, "name": "99"},
}


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=400, help="for each kind of page")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as home, running_postgresql() as server:
        os.environ["SYNQX_HOME"] = os.environ["DAGSTER_HOME"] = home
        os.environ["SYNQX_CATALOG_URL"] = server.endpoint.url("postgresql", TARGET)
        os.environ["SYNQX_MASTER_PASSWORD"] = PASSWORD
        os.environ["SYNQX_API_RATE"] = "999999"
        seconds_to_fill = fill(options.connections)
        server.settle(TARGET)
        with served() as url:
            found = measure(url, requests=options.requests, clients=options.clients)
    found |= {"connections": options.connections, "seconds_to_fill": round(seconds_to_fill, 1), "load": os.getloadavg()}
    print(json.dumps(found, indent=2))


def fill(count: int) -> float:
    """Make the catalog with so many connections in one revision, and an account."""
    from pydantic import SecretStr

    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import Definitions
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.model import Connection
    from synqx_dagster.people.accounts import NewUser
    from synqx_dagster.people.roles import Role
    from synqx_dagster.people.service import People
    from synqx_dagster.settings import load_settings

    with Catalog.initialise(load_settings()) as catalog:
        catalog.vault.initialise(password=SecretStr(PASSWORD))
        People(catalog).accounts.create(NewUser("ann", Role.EDITOR, password=SecretStr(PASSWORD)))
        records = tuple(
            Connection(
                name=f"connection {number:05}",
                description="one of many",
                db_type="postgresql" if number % 3 else "mysql",
                host=f"db{number}.example.com",
                database="shop",
                username="etl",
            )
            for number in range(count)
        )
        begin = time.monotonic()
        apply_changes(catalog, plan_changes(catalog, Definitions(records)), author="ann", reason=None)
        return time.monotonic() - begin


def serve(port: int) -> None:
    """The API behind logins, in this process."""
    import uvicorn

    from synqx_dagster.api.app import create_app
    from synqx_dagster.api.context import ApiContext
    from synqx_dagster.api.identify import IdentityMiddleware
    from synqx_dagster.settings import load_settings

    context = ApiContext(load_settings())
    app = IdentityMiddleware(create_app(context), lambda: context.people)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


@contextmanager
def served() -> Iterator[str]:
    """A server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.api_lists", "--serve", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with suppress(httpx.TransportError):
                httpx.get(f"{url}/health")
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def measure(url: str, *, requests: int, clients: int) -> dict[str, Any]:
    """Times in milliseconds, by kind of page."""
    login = httpx.post(f"{url}/api/v1/auth/login", json={"username": "ann", "password": PASSWORD}, timeout=30)
    login.raise_for_status()
    headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
    base = f"{url}/api/v1"
    found: dict[str, Any] = {"one client": {}}
    with httpx.Client(base_url=base, headers=headers, timeout=60) as client:
        for name, parameters in PAGES.items():
            for _ in range(20):
                client.get("/connections", params=parameters)
            found["one client"][name] = figures([timed(client, parameters) for _ in range(requests)])
        found["one write"] = figures(writes(client, 30))

    def one_of_many(number: int) -> list[float]:
        with httpx.Client(base_url=base, headers=headers, timeout=60) as client:
            return [timed(client, PAGES["first page"]) for _ in range(max(requests // 10, 1))]

    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        times = [seconds for part in pool.map(one_of_many, range(clients)) for seconds in part]
    found[f"{clients} clients"] = {
        **figures(times),
        "pages_per_second": round(len(times) / (time.monotonic() - begin)),
    }
    return found


def timed(client: httpx.Client, parameters: dict[str, str | int]) -> float:
    """Seconds of one page; any other answer than a page is an error."""
    begin = time.perf_counter()
    answer = client.get("/connections", params=parameters)
    seconds = time.perf_counter() - begin
    answer.raise_for_status()
    return seconds


def writes(client: httpx.Client, count: int) -> list[float]:
    """Seconds of changes of one connection each."""
    times = []
    for number in range(count):
        body = {**client.get("/connections/17").json(), "description": f"change {number}"}
        begin = time.perf_counter()
        client.put("/connections/17", json=body).raise_for_status()
        times.append(time.perf_counter() - begin)
    return times


def figures(seconds: list[float]) -> dict[str, float]:
    """Median and high percentiles in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {name: round(cuts[index] * 1000, 1) for name, index in (("p50", 49), ("p95", 94), ("p99", 98))}


if __name__ == "__main__":
    main()
