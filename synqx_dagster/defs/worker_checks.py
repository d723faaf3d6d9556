"""What a process that executes other machines' steps needs, looked for before it takes any.

Each thing is tried for real: the broker, the catalog and Dagster's storage are connected to, the vault is opened, a
file is written where rows cross steps. Guarantee: everything is checked, and nothing of it stays open.
"""

from __future__ import annotations

import importlib.util
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.registry import connector_class
from synqx_dagster.defs.access import needs_vault, require_unsealed
from synqx_dagster.defs.executors import find_unfit
from synqx_dagster.errors import ConfigurationError, FatalError, Problem, SealedError, SynqxError
from synqx_dagster.settings import without_password

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings


@dataclass(frozen=True)
class WorkerCheck:
    """One thing that a worker needs, and what is wrong with it; None where nothing is."""

    name: str
    problem: str | None = None
    hint: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """As JSON has it."""
        return {"name": self.name, "problem": self.problem, "hint": self.hint}


def check_worker(settings: Settings) -> list[WorkerCheck]:
    """Try everything that a step may need on this machine; of a catalog nothing, where the settings have none."""
    snapshots: list[CatalogSnapshot] = []
    checks = [
        # A worker is for every pipeline, also for one whose rows will cross steps tomorrow.
        *_refused("settings", find_unfit("celery", settings, rows_cross_steps=True)),
        _tried("broker", lambda: _reach_broker(settings)),
        _tried("Dagster's storage", lambda: _open_instance(settings)),
        _tried("exchange", lambda: _write_exchange(settings)),
    ]
    if settings.catalog_url:
        checks.append(_tried("catalog and vault", lambda: snapshots.append(_open_catalog(settings))))
    for snapshot in snapshots:
        checks += _refused("drivers", _missing_drivers(snapshot))
        checks += _refused("code", _missing_code(snapshot, settings))
    return checks


def _refused(name: str, problems: list[Problem]) -> list[WorkerCheck]:
    if not problems:
        return [WorkerCheck(name)]
    return [WorkerCheck(name, problem.message, problem.hint) for problem in problems]


def _tried(name: str, attempt: Callable[[], object]) -> WorkerCheck:
    try:
        attempt()
    except SynqxError as exc:
        return WorkerCheck(name, exc.message, exc.hint)
    return WorkerCheck(name)


def _reach_broker(settings: Settings) -> None:
    try:
        from synqx_dagster.defs.celery_app import app_options
        from synqx_dagster.defs.celery_executor import BROKER_ERRORS
    except ImportError as exc:
        raise FatalError(
            f"dagster-celery is not installed: {exc.name}", hint="pip install 'synqx-dagster[celery]'"
        ) from exc
    import celery

    options = app_options(settings)
    app: Any = celery.Celery("synqx", set_as_current=False, **options)
    for variable, url, reach in (
        ("SYNQX_CELERY_BROKER", options["broker"], lambda: _connect(app)),
        ("SYNQX_CELERY_BACKEND", options["backend"], lambda: app.backend.client.ping()),
    ):
        try:
            reach()
        except BROKER_ERRORS as exc:
            # Its words may hold the URL.
            raise ConfigurationError(
                f"{variable}: {without_password(url)} does not let this machine in: {_class_of(exc)}",
                hint="is Redis up, does a firewall let this machine through, and is the password right?",
            ) from exc
    app.close()


def _connect(app: Any) -> None:
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)


def _class_of(error: BaseException) -> str:
    return type(error.__cause__ or error).__name__


def _open_catalog(settings: Settings) -> CatalogSnapshot:
    from synqx_dagster.catalog.store import Catalog

    with Catalog.open(settings) as catalog:
        snapshot = catalog.snapshot()
        try:
            require_unsealed(
                catalog, secrets_needed=any(needs_vault(record) for record in snapshot.connections.values())
            )
        except SealedError as exc:
            raise SealedError(
                f"the vault does not open here: {exc.message}",
                hint="give this process SYNQX_KEY_FILE or SYNQX_MASTER_PASSWORD, or run `synqx unlock`",
            ) from exc
    return snapshot


def _open_instance(settings: Settings) -> None:
    from synqx_dagster.defs.storage import read_reference

    home = settings.dagster_home
    try:
        with dg.DagsterInstance.from_ref(read_reference(home)) as instance:
            instance.get_runs_count()
    except dg.DagsterError as exc:
        raise ConfigurationError(f"{home / 'dagster.yaml'} does not fit Dagster: {exc}") from exc
    except Exception as exc:  # the driver of whatever storage it is
        raise ConfigurationError(
            f"Dagster's storage by {home / 'dagster.yaml'} cannot be opened: {type(exc).__name__}",
            hint="a worker needs the dagster.yaml of the code server, and the variables that it names",
        ) from exc


def _write_exchange(settings: Settings) -> None:
    from synqx_dagster.pipelines.exchange import Exchange

    Exchange(settings.exchange).probe(f"probe-{uuid.uuid4().hex}")


def _missing_drivers(snapshot: CatalogSnapshot) -> list[Problem]:
    """Kinds of connections that cannot be opened here."""
    found = []
    for db_type in sorted({record.db_type for record in snapshot.connections.values()}):
        try:
            connector_class(db_type)
        except SynqxError as exc:
            found.append(Problem(exc.message, hint=exc.hint))
    return found


def _missing_code(snapshot: CatalogSnapshot, settings: Settings) -> list[Problem]:
    """Modules of functions in pipelines that are not here; none of them is executed."""
    modules: dict[str, list[str]] = {}
    for pipeline in snapshot.pipelines.values():
        for node in pipeline.nodes:
            function = node.config.get("function")
            if isinstance(function, str):
                modules.setdefault(function.partition(":")[0].partition(".")[0], []).append(pipeline.name)
    directory = str(settings.code_directory)
    found = []
    path = [directory, *sys.path]
    for module, pipelines in sorted(modules.items()):
        if module not in sys.modules and not _is_there(module, path):
            found.append(
                Problem(
                    f"the module {module} of the pipeline {pipelines[0]} is neither installed nor in {directory}",
                    hint="SYNQX_CODE_DIRECTORY says where such modules lie",
                )
            )
    return found


def _is_there(module: str, path: list[str]) -> bool:
    return PathFinder.find_spec(module, path) is not None or importlib.util.find_spec(module) is not None
