"""The whole server in this process: real accounts, a real catalog, real definitions, uvicorn on a port of its own.

Runs are queued and nothing takes them from the queue, so that they stay as a test left them.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from pydantic import SecretStr

from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.audit.trail import AuditTrail
from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.cli.code_server import LOCATION_NAME, start_code_server
from synqx_dagster.cli.processes import ProcessGroup
from synqx_dagster.defs.instance import prepare_instance
from synqx_dagster.gateway.app import Gateway
from synqx_dagster.gateway.server import CodeLocation, Server, listen, load_target, open_gateway
from synqx_dagster.people.accounts import NewUser
from synqx_dagster.people.roles import Role
from synqx_dagster.people.service import People
from synqx_dagster.settings import Settings, load_settings
from synqx_dagster.vault import create_key_file
from synqx_dagster_tests.fix_catalog import make_catalog
from synqx_dagster_tests.fix_cli import SETTINGS

DEFINITIONS = """
kind: connection
name: files
db_type: sqlite
database: {directory}/files.db
---
kind: mapping
name: copy
source_connection: files
source_table: one
target_connection: files
target_table: two
---
kind: pipeline
name: copying
nodes: [{{node_id: copy, config: {{mapping: copy}}}}]
---
kind: schedule
name: nightly
mapping: copy
cron_expression: "0 2 * * *"
enabled: false
"""


def password_of(role: Role) -> str:
    return f"the long password of {role.value}"


@dataclass
class Caller:
    """Somebody who is logged in with a browser, or nobody: sends what their page would send."""

    base: str
    cookie: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> dict[str, str]:
        return {"Origin": self.base}

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **given: Any
    ) -> httpx.Response:
        sent = {**self.headers, **(headers or {})}
        if self.cookie is not None:
            sent["Cookie"] = f"{SESSION_COOKIE}={self.cookie}"
        with httpx.Client(base_url=self.base, timeout=60, trust_env=False) as client:
            return client.request(method, path, headers=sent, **given)

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.request("GET", path, **given)

    def page(self, path: str) -> httpx.Response:
        """What a browser gets that opens an address."""
        return self.get(path, headers={"Accept": "text/html,*/*"})

    def post(self, path: str, *, headers: Mapping[str, str] | None = None, **given: Any) -> httpx.Response:
        return self.request("POST", path, headers={**self.origin, **(headers or {})}, **given)

    def form(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> httpx.Response:
        """What a browser sends of a form, also of one without fields."""
        sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        return self.post(path, content=urlencode(fields), headers=sent)

    def graphql(self, query: str, **variables: Any) -> httpx.Response:
        return self.post("/graphql", json={"query": query, "variables": variables})

    def data(self, query: str, **variables: Any) -> Any:
        answer = self.graphql(query, **variables)
        document = answer.json()
        assert answer.status_code == 200, document
        assert "errors" not in document, document
        return document["data"]


@dataclass
class GatewayServer:
    """The server, its catalog, and its callers by role."""

    base: str
    settings: Settings
    gateway: Gateway
    instance: Any
    _callers: dict[Role, Caller] = field(default_factory=dict)

    @property
    def people(self) -> People:
        return self.gateway.context.people

    @property
    def trail(self) -> AuditTrail:
        return AuditTrail(self.gateway.context.catalog)

    def nobody(self, **headers: str) -> Caller:
        return Caller(self.base, headers=headers)

    def as_role(self, role: Role) -> Caller:
        """Somebody of this role, logged in once for all tests: a password's check is made to cost something."""
        if role not in self._callers:
            self._callers[role] = self.login(role)
        return self._callers[role]

    def forget(self, role: Role) -> None:
        """Log this role in anew when it is next asked for: a test has ended its logins."""
        self._callers.pop(role, None)

    def login(self, role: Role) -> Caller:
        """Somebody of this role, logged in by the form just now."""
        answer = Caller(self.base).form("/login", username=role.value, password=password_of(role))
        assert answer.status_code == 303, answer.text
        return Caller(self.base, cookie=cookie_of(answer))


def cookie_of(answer: httpx.Response) -> str:
    header = answer.headers["set-cookie"]
    assert header.startswith(f"{SESSION_COOKIE}="), header
    return str(header).partition("=")[2].partition(";")[0]


def make_project(directory: Path) -> Settings:
    """A catalog with definitions, a database, and somebody of each role; the password is that of `password_of`."""
    home = directory / "home"
    home.mkdir()
    # A key file, because that costs nothing to open.
    create_key_file(home / "vault.key")
    settings = load_settings({"SYNQX_HOME": str(home), "DAGSTER_HOME": str(home)}, directory)
    with closing(sqlite3.connect(directory / "files.db")) as database, database:
        database.execute("create table one (id integer primary key, name text)")
        database.executemany("insert into one values (?, ?)", [(number, f"name {number}") for number in range(3)])
    file = directory / "synqx.yaml"
    file.write_text(DEFINITIONS.format(directory=directory), encoding="utf-8")
    with make_catalog(settings) as catalog:
        catalog.vault.initialise(key_file=settings.key_file)
        apply_changes(catalog, plan_changes(catalog, read_documents([file])), author="tester", reason=None)
        people = People(catalog)
        for role in Role:
            people.accounts.create(
                NewUser(role.value, role, email=f"{role.value}@example.com", password=SecretStr(password_of(role)))
            )
    return settings


@contextmanager
def running(gateway: Gateway, *, trusted_proxies: tuple[str, ...] = ("127.0.0.1",)) -> Iterator[str]:
    """Serve on a free port, in a thread; gives the address."""
    listening = listen("127.0.0.1", 0)
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = Server(gateway, listening, trusted_proxies=trusted_proxies)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield base
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def code_server(settings: Settings, directory: Path) -> Iterator[CodeLocation]:
    """A code server of these settings, as `synqx serve` starts one."""
    said: list[str] = []
    with ProcessGroup(lambda name, line: said.append(line)) as group:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(SETTINGS)]:
                patch.delenv(name)
            patch.setenv("SYNQX_HOME", str(settings.home))
            patch.setenv("DAGSTER_HOME", str(settings.dagster_home))
            patch.setenv("PYTHONWARNINGS", "ignore")
            path = start_code_server(group, directory, level="warning")
        try:
            yield CodeLocation(path, LOCATION_NAME)
        finally:
            print("\n".join(said))


@pytest.fixture(scope="session")
def gateway_server() -> Iterator[GatewayServer]:
    """The server on a project of `make_project`. One for all tests: what one of them changes, it changes back."""
    # Short enough for a socket.
    with tempfile.TemporaryDirectory(prefix="synqx-gw-", dir="/tmp") as name:
        directory = Path(name)
        settings = make_project(directory)
        prepare_instance(settings)
        with (
            code_server(settings, directory) as location,
            open_gateway(settings, target=load_target(None, location)) as gateway,
            running(gateway) as base,
        ):
            yield GatewayServer(base, settings, gateway, gateway.instance)


def wait_until(is_so: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
