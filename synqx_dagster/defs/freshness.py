"""The check ``freshness`` of an asset, and which assets have one.

A load passes the check at its end, for nothing is newer. Whether it still holds later is told without a run, by the
sensor of `synqx_dagster.defs.freshness_sensor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.model.mapping import Freshness
from synqx_dagster.monitor.freshness import AgeLook, describe_age
from synqx_dagster.pipelines.loading import step_name

FRESHNESS_CHECK = "freshness"
_MAXIMUM = f"{METADATA_PREFIX}maximum_age_seconds"


@dataclass(frozen=True)
class Watched:
    """An asset that declares how old its last load may be.

    Attributes:
        name: The mapping, or the pipeline and its node.
        mapping: The mapping that loads it; None for a load of a pipeline's own.
        pipeline: The pipeline whose own load it is.
    """

    key: dg.AssetKey
    maximum_age_seconds: float
    name: str
    mapping: str | None = None
    pipeline: str | None = None

    @property
    def connection(self) -> str:
        """The connection that the table lies at."""
        return self.key.path[0]


def freshness_policy(freshness: Freshness | None) -> dg.FreshnessPolicy | None:
    """What Dagster itself shows of it."""
    if freshness is None:
        return None
    return dg.FreshnessPolicy.time_window(timedelta(seconds=freshness.maximum_age_seconds))


def freshness_spec(mapping_name: str, freshness: Freshness, key: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of one asset."""
    return dg.AssetCheckSpec(
        FRESHNESS_CHECK,
        asset=key,
        description=f"The last load is at most {describe_age(freshness.maximum_age_seconds)} old.",
        metadata={f"{METADATA_PREFIX}mapping": mapping_name, _MAXIMUM: freshness.maximum_age_seconds},
    )


def loaded_now(spec: dg.AssetCheckSpec) -> dg.AssetCheckResult:
    """What a load says of the check at its end."""
    maximum = (spec.metadata or {})[_MAXIMUM]
    return dg.AssetCheckResult(
        check_name=spec.name,
        asset_key=spec.asset_key,
        passed=True,
        severity=dg.AssetCheckSeverity.ERROR,
        description="It was loaded just now.",
        metadata={f"{METADATA_PREFIX}age_seconds": 0.0, _MAXIMUM: maximum},
    )


def evaluation_of(watched: Watched, look: AgeLook, last: dg.EventLogRecord | None) -> dg.AssetCheckEvaluation:
    """What a look says of the check.

    Args:
        last: The last load's event, of which the look knows the time.
    """
    metadata: dict[str, Any] = {
        f"{METADATA_PREFIX}age_seconds": round(look.age_seconds, 1),
        _MAXIMUM: watched.maximum_age_seconds,
    }
    target = None
    if last is not None:
        metadata[f"{METADATA_PREFIX}last_load_at"] = dg.MetadataValue.timestamp(last.timestamp)
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp
        )
    return dg.AssetCheckEvaluation(
        asset_key=watched.key,
        check_name=FRESHNESS_CHECK,
        passed=look.is_fresh,
        severity=dg.AssetCheckSeverity.ERROR,
        description=look.describe(),
        metadata=metadata,
        target_materialization_data=target,
    )


def find_watched(specs: Iterable[dg.AssetSpec]) -> tuple[Watched, ...]:
    """The assets of mappings and pipelines that declare it."""
    return tuple(
        _watched(spec, spec.freshness_policy.fail_window.to_timedelta())
        for spec in specs
        if isinstance(spec.freshness_policy, TimeWindowFreshnessPolicy)
    )


def _watched(spec: dg.AssetSpec, window: timedelta) -> Watched:
    mapping = spec.metadata.get(f"{METADATA_PREFIX}mapping")
    if mapping is not None:
        return Watched(spec.key, window.total_seconds(), str(mapping), mapping=str(mapping))
    pipeline, node = spec.metadata[f"{METADATA_PREFIX}pipeline"], spec.metadata[f"{METADATA_PREFIX}step_nodes"][-1]
    return Watched(spec.key, window.total_seconds(), step_name(pipeline, node), pipeline=str(pipeline))
