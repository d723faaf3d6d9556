"""Dagster's entry point: the catalog's revision as definitions, for ``-m synqx_dagster.definitions``."""

from __future__ import annotations

from typing import Any

from dagster import definitions

from synqx_dagster.defs.loader import load_repository


def _load() -> Any:
    return load_repository()


#: Loaded anew by each of Dagster's processes, which all come to the revision that a run started with.
defs = definitions(_load)
