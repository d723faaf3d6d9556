"""The sensor that follows the catalog: it catches a new revision whose writer could not ask for a reload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.instance import sync_pool_limits
from synqx_dagster.defs.reload import find_own_server, request_own_reload
from synqx_dagster.defs.switches import sync_switches
from synqx_dagster.errors import NotInitialisedError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

SENSOR_NAME = "synqx_follow_catalog"
INTERVAL_SECONDS = 5


def build_catalog_sensor(
    revision: int | None, problems: Sequence[str], get_catalog: Callable[[], Catalog]
) -> dg.SensorDefinition:
    """The sensor of a code server that loaded `revision` (None: there was no catalog).

    One evaluation is one indexed read, and one of what was started or stopped by hand. It starts no run and keeps no
    cursor: what it compares with is what this process has loaded.

    Args:
        problems: Records that could not be loaded; shown with each evaluation.
    """

    snapshot: CatalogSnapshot | None = None

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        nonlocal snapshot
        try:
            latest = get_catalog().latest_revision()
        except NotInitialisedError as exc:
            return dg.SkipReason(str(exc))
        if latest == revision:
            catalog = get_catalog()
            if snapshot is None:
                snapshot = catalog.snapshot(revision)
                sync_pool_limits(context.instance, snapshot)
            done = sync_switches(context.instance, catalog, snapshot, marker=SENSOR_NAME, location=location_of(context))
            if done:
                return dg.SkipReason("\n".join([*done, "the catalog follows with a new revision"]))
            return dg.SkipReason("\n".join([f"the catalog is at revision {latest}, as loaded", *problems]))
        moved = f"the catalog moved from revision {'none' if revision is None else revision} to {latest}"
        if find_own_server() is None:
            return dg.SkipReason(
                f"{moved}, but this code server cannot reload: start it with `dagster dev`"
                " or `dagster code-server start`"
            )
        request_own_reload()
        return dg.SkipReason(f"{moved}; a reload was asked for")

    return dg.SensorDefinition(
        name=SENSOR_NAME,
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Loads a new revision of the catalog without a restart; runs in flight keep theirs.",
    )


def location_of(context: dg.SensorEvaluationContext) -> str | None:
    """The code location that a sensor is evaluated in; None where Dagster does not say."""
    origin = context.code_location_origin
    return origin.location_name if origin is not None else None
