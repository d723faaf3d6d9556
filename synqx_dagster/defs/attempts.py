"""Which load an attempt belongs to, so that a load that committed just before a crash is not made twice.

A retry of a run that died is another attempt at the same load; running something again that had succeeded is a
new load. Dagster's event log tells the two apart: a load that was reported has a materialization.
"""

from __future__ import annotations

import dagster as dg

from synqx_dagster.defs.names import METADATA_PREFIX

LOAD_ID_METADATA = f"{METADATA_PREFIX}load_id"

_PARENT_RUN_TAG = "dagster/parent_run_id"
#: Automatic retries stay far below; by hand nobody gets there.
_MAX_ATTEMPTS = 100
#: How many of an asset's latest materializations are looked through for a load that was reported already.
_LATEST = 50


def find_load_id(instance: dg.DagsterInstance, run: dg.DagsterRun, asset_key: dg.AssetKey) -> str:
    """The load that `run` attempts for an asset: the oldest unreported one it descends from, else its own."""
    load_id = run.run_id
    parent_id = run.tags.get(_PARENT_RUN_TAG)
    if not parent_id:
        return load_id
    reported = _reported_loads(instance, asset_key)
    seen = {run.run_id}
    while parent_id and parent_id not in seen and len(seen) < _MAX_ATTEMPTS:
        seen.add(parent_id)
        parent = instance.get_run_by_id(parent_id)
        if parent is None or parent_id in reported or _has_materialized(instance, parent_id, asset_key):
            break
        load_id = parent_id
        parent_id = parent.tags.get(_PARENT_RUN_TAG)
    return load_id


def _reported_loads(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> set[str]:
    """Loads that some run reported, be it not the run that committed them."""
    loads = set()
    for record in instance.fetch_materializations(asset_key, limit=_LATEST).records:
        materialization = record.asset_materialization
        value = materialization.metadata.get(LOAD_ID_METADATA) if materialization else None
        if value is not None:
            loads.add(str(value.value))
    return loads


def _has_materialized(instance: dg.DagsterInstance, run_id: str, asset_key: dg.AssetKey) -> bool:
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return any(entry.dagster_event is not None and entry.dagster_event.asset_key == asset_key for entry in entries)
