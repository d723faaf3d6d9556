"""The sensor that deletes old runs, as the settings say; without such a setting there is none."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from synqx_dagster.defs.retention import Retention, purge_runs
from synqx_dagster.settings import Settings

SENSOR_NAME = "synqx_purge_runs"
INTERVAL_SECONDS = 3600

#: An evaluation that takes a minute is given up by Dagster; what is left over goes with the next.
_LIMIT_SECONDS = 20.0


def build_purge_sensor(settings: Settings) -> dg.SensorDefinition | None:
    """The sensor of SYNQX_RUN_RETENTION_DAYS; None where that is not set. It starts no run."""
    if settings.run_retention_days is None:
        return None
    days = settings.run_retention_days
    retention = Retention(timedelta(days=days), settings.run_keep_last)

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        report = purge_runs(context.instance, retention, exchange=settings.exchange, limit_seconds=_LIMIT_SECONDS)
        parts = [f"deleted {len(report.deleted):,} runs that are older than {days} days"]
        parts += [f"kept {count:,}: {reason}" for reason, count in report.kept.most_common()]
        if report.unfinished:
            parts.append("more may go, with the next evaluation")
        return dg.SkipReason("; ".join(parts))

    return dg.SensorDefinition(
        name=SENSOR_NAME,
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Deletes runs older than {days} days that nobody needs any more.",
    )
