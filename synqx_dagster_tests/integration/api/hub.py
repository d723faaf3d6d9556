"""A server over a project whose mappings and pipelines have run: real files, a real catalog, Dagster's real storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from synqx_dagster.api.app import create_app
from synqx_dagster.api.context import ApiContext
from synqx_dagster.api.identify import IdentityMiddleware
from synqx_dagster.api.run_control import LaunchRequest
from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import read_documents
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.errors import ConflictError
from synqx_dagster.people import passwords
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Role
from synqx_dagster.settings import Settings
from synqx_dagster.vault import kdf
from synqx_dagster_tests.fix_catalog import CHEAP_POLICY, MASTER_PASSWORD, make_catalog
from synqx_dagster_tests.fix_people import CHEAP_PARAMETERS, Api, add_user
from synqx_dagster_tests.http_server import served

DOCUMENTS = """
kind: connection
name: shop
db_type: sqlite
database: {directory}/shop.db
---
kind: connection
name: warehouse
db_type: sqlite
database: {directory}/warehouse.db
---
kind: asset
name: all_customers
connection: warehouse
table: customer
---
kind: asset
name: source_customers
connection: shop
table: customer
---
kind: asset
name: named_customers
connection: warehouse
table: named
---
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: customer
column_mappings:
  - {{type: direct, source_columns: [id], target_fields: [id]}}
  - {{type: direct, source_columns: [name], target_fields: [full_name]}}
---
kind: mapping
name: mirrored
source_connection: warehouse
source_table: customer
target_connection: warehouse
target_table: mirror
---
kind: mapping
name: broken
source_connection: shop
source_table: not_there
target_connection: warehouse
target_table: broken
---
kind: pipeline
name: name things
nodes:
  - {{node_id: read, operator_type: extract, operator_class: table, source_asset: source_customers}}
  - node_id: keep
    operator_type: transform
    operator_class: sql
    config: {{query: "select id, name as label from read"}}
  - {{node_id: write, operator_type: load, operator_class: table, destination_asset: named_customers}}
edges:
  - {{from_node_id: read, to_node_id: keep}}
  - {{from_node_id: keep, to_node_id: write}}
---
kind: agent
name: Customer care
short_description: Keeps customers in the warehouse
business_domain: Customer care
owner: team:crm
status: active
mappings: [customers]
pipelines: [name things]
kpis:
  - {{name: reliable, target: 0.99, metric: success_rate}}
  - {{name: rows, metric: rows_loaded, window_days: 1}}
  - {{name: slow, target: 60, metric: p95_seconds}}
  - {{name: fresh, target: 3600, metric: freshness_seconds}}
  - {{name: mood, target: green, current: amber}}
"""


@dataclass
class RecordedControl:
    """Stands for the server's run control: keeps what it was asked for."""

    cancelled: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[tuple[str, str, bool]] = field(default_factory=list)
    refuses: bool = False

    def launch(self, request: LaunchRequest, identity: Identity) -> str:
        raise AssertionError(f"nobody asked for {request} of {identity}")

    def cancel(self, run_id: str, identity: Identity) -> None:
        if self.refuses:
            raise ConflictError(f"Run {run_id} has ended already")
        self.cancelled.append((run_id, identity.username))

    def reexecute(self, run_id: str, identity: Identity, *, from_failure: bool) -> str:
        self.repeated.append((run_id, identity.username, from_failure))
        return "11111111-2222-4333-8444-555555555555"


@dataclass
class Hub(Api):
    """The server, and the ids of the runs that were made: by the name of what was run."""

    runs: Mapping[str, str] = field(default_factory=dict)
    control: RecordedControl = field(default_factory=RecordedControl)


@contextmanager
def open_hub(directory: Path) -> Iterator[Hub]:
    """Make the project, run it, and serve it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdf, "DEFAULT_POLICY", CHEAP_POLICY)
        patch.setattr(passwords, "PARAMETERS", CHEAP_PARAMETERS)
        home = directory / "home"
        settings = Settings(
            home=home,
            dagster_home=home,
            exchange=str(home / "exchange"),
            catalog_url=f"sqlite:///{home / 'catalog.db'}",
            master_password=MASTER_PASSWORD,
        )
        with make_catalog(settings) as catalog:
            catalog.vault.initialise(password=MASTER_PASSWORD)
            runs = _run(catalog, directory)
        control = RecordedControl()
        context = ApiContext(settings, control)
        for role in Role:
            add_user(context.people, role.value, role)
        app = create_app(context)
        with served(IdentityMiddleware(app, lambda: context.people)) as url:
            hub = Hub(url, context, app, runs=runs, control=control)
            try:
                yield hub
            finally:
                for client in hub.clients:
                    client.close()
        context.close()


def _run(catalog: Catalog, directory: Path) -> dict[str, str]:
    with closing(sqlite3.connect(directory / "shop.db")) as database, database:
        database.execute("create table customer (id integer primary key, name text)")
        database.executemany("insert into customer values (?, ?)", [(number, f"name {number}") for number in range(7)])
    path = directory / "synqx.yaml"
    path.write_text(DOCUMENTS.format(directory=directory))
    apply_changes(catalog, plan_changes(catalog, read_documents([path])), author="tester", reason=None)
    names = ("customers", "broken", "name things", "mirrored")
    return {name: run_targets(catalog, [name]).run_id for name in names}
