"""Executors by their names, and what has to fit together before one of them sends steps to other machines.

Libraries of executors are imported when one is asked for: who runs everything in one process needs none of them.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dagster as dg

from synqx_dagster.errors import ConfigurationError, Problem
from synqx_dagster.model.host_policy import is_local

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

_EXECUTORS = {
    "in_process": "dagster:in_process_executor",
    "multiprocess": "dagster:multiprocess_executor",
    "celery": "synqx_dagster.defs.celery_executor:celery_executor",
    "k8s": "synqx_dagster.defs.k8s_executor:build_k8s_executor",
}
#: Those that hand steps to processes which somebody else started, or that another machine runs.
DISTRIBUTED = frozenset({"celery", "k8s"})

DOCUMENTATION = "docs/scale-out.md has the whole list"


def build_executor(name: str, settings: Settings) -> dg.ExecutorDefinition:
    """The executor of a setting: ``in_process``, ``multiprocess``, ``celery``, ``k8s``, or ``module:attribute``.

    Raises:
        ConfigurationError: There is no such executor, what it needs is not installed, or its configuration is wrong.
    """
    module_name, separator, attribute = _EXECUTORS.get(name, name).partition(":")
    try:
        executor = getattr(importlib.import_module(module_name), attribute) if separator else None
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(
            f"the executor {name!r} cannot be imported: {exc}",
            hint=f"pip install 'synqx-dagster[{name}]'" if name in DISTRIBUTED else None,
        ) from exc
    if name == "k8s" and executor is not None:
        executor = executor(settings)
    if not isinstance(executor, dg.ExecutorDefinition):
        raise ConfigurationError(
            f"{name!r} is not an executor", hint=f"write {', '.join(_EXECUTORS)}, or module:attribute"
        )
    return executor


def refuse_unfit(name: str, settings: Settings, *, rows_cross_steps: bool) -> None:
    """Refuse a run whose steps would not find each other, before it is launched.

    Args:
        name: The executor, as `build_executor` takes it.
        rows_cross_steps: Whether a step of the job reads rows that another one stored.

    Raises:
        ConfigurationError: Something does not fit; says what, and what to set.
    """
    for problem in find_unfit(name, settings, rows_cross_steps=rows_cross_steps):
        raise ConfigurationError(f"the executor {name} cannot be used: {problem.message}", hint=problem.hint)


def find_unfit(name: str, settings: Settings, *, rows_cross_steps: bool) -> list[Problem]:
    """All that keeps an executor from being used with these settings; nothing for one that stays on this machine."""
    if name not in DISTRIBUTED:
        return []
    if name == "celery" and settings.celery_broker is None:
        return [
            Problem("SYNQX_CELERY_BROKER is not set", hint="write the URL of a Redis: redis://:PASSWORD@HOST:6379/0")
        ]
    if name == "celery" and stays_on_this_machine(settings):
        return []
    found = []
    if settings.catalog_url.startswith("sqlite"):
        found.append(
            Problem(
                "the catalog is a SQLite file, which other machines do not see",
                hint=f"set SYNQX_CATALOG_URL to a PostgreSQL; {DOCUMENTATION}",
            )
        )
    if keeps_events_in_sqlite(settings.dagster_home):
        found.append(
            Problem(
                f"Dagster's storage is SQLite in {settings.dagster_home}, which other machines do not see",
                hint=f"take deploy/dagster.yaml, which names a PostgreSQL; {DOCUMENTATION}",
            )
        )
    if rows_cross_steps and settings.keeps_exchange_at_home:
        found.append(
            Problem(
                f"rows between steps are kept in {settings.exchange}, which other machines do not see",
                hint=f"set SYNQX_EXCHANGE to s3://BUCKET/PREFIX, or to a directory that is mounted everywhere; "
                f"{DOCUMENTATION}",
            )
        )
    return found


def stays_on_this_machine(settings: Settings) -> bool:
    """Whether all Celery workers are here: nobody else reaches a broker on the loopback address."""
    if settings.celery_broker is None:
        return False
    return is_local(urlsplit(settings.celery_broker.get_secret_value()).hostname or "")


@lru_cache(maxsize=8)
def keeps_events_in_sqlite(home: Path) -> bool:
    """Whether Dagster's storage is SQLite by the ``dagster.yaml`` of its home, as it is without one.

    Raises:
        ConfigurationError: The file does not fit Dagster.
    """
    from synqx_dagster.defs.storage import read_reference

    try:
        storage = read_reference(home).storage_data
    except dg.DagsterError as exc:
        raise ConfigurationError(f"{home / 'dagster.yaml'} does not fit Dagster: {exc}") from exc
    return storage is None or "sqlite" in storage.class_name.lower()
