"""Running a replication through Dagster in this process, for the command line."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synqx_dagster.defs.execution import logger_config
from synqx_dagster.defs.instance import end_dead_runs, open_instance, own_process_tag
from synqx_dagster.defs.names import REVISION_TAG
from synqx_dagster.defs.replication_assets import REPLICATION_TAG
from synqx_dagster.defs.replication_jobs import (
    InterruptWatch,
    build_replication_job,
    describe_report,
    follow_interrupt,
    follow_listener,
    follow_reports,
)
from synqx_dagster.defs.runs import RunReport, read_report
from synqx_dagster.defs.translator import Translator
from synqx_dagster.replication.progress import FollowProgress, FollowReport

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog


@dataclass(frozen=True)
class ReplicationRun:
    """A run that has ended, and what it did; None where it failed before it could say."""

    name: str
    run: RunReport
    report: FollowReport | None

    @property
    def lines(self) -> tuple[str, ...]:
        """What it did, for people."""
        if self.report is None:
            return ()
        return (describe_report(self.name, self.report), *self.report.warnings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = self.report
        return {
            **self.run.to_dict(),
            "replication": self.name,
            "ended": None if found is None else found.ending,
            "transactions": None if found is None else found.transactions,
            "changes": None if found is None else found.changes,
            "lag_seconds": None if found is None else found.lag_seconds,
            "lag_bytes": None if found is None else found.lag_bytes,
            "seconds": None if found is None else found.seconds,
            "warnings": [] if found is None else list(found.warnings),
            "tables": []
            if found is None
            else [
                {
                    "source": str(table.source),
                    "target": str(table.target),
                    "status": table.status,
                    "reason": table.reason,
                    "rows_copied": table.rows_copied,
                    "rows_inserted": table.rows_inserted,
                    "rows_updated": table.rows_updated,
                    "rows_deleted": table.rows_deleted,
                }
                for table in found.tables
            ],
        }


def run_replication(
    catalog: Catalog,
    name: str,
    *,
    progress: Callable[[FollowProgress], None] | None = None,
    interrupted: InterruptWatch | None = None,
) -> ReplicationRun:
    """Follow once as a Dagster run of the latest revision, here and now. A failure is in the report.

    Args:
        progress: Called about twice a second, from several threads.
        interrupted: Notices Ctrl-C; the run then finishes its batch and ends.

    Raises:
        NotFoundError: There is no such replication; the hint gives the nearest name.
        SealedError: A secret is needed, and the vault is sealed.
    """
    snapshot = catalog.snapshot_for(replications=[name])
    replication = snapshot.get_replication(name)
    job = build_replication_job(Translator(snapshot), replication, lambda: catalog)
    run_id = str(uuid.uuid4())
    reports: list[FollowReport] = []
    with open_instance(catalog.settings, executes=True) as instance:
        end_dead_runs(instance)
        with _set(follow_listener, progress), _set(follow_interrupt, interrupted), _set(follow_reports, reports.append):
            job.execute_in_process(
                instance=instance,
                raise_on_error=False,
                run_id=run_id,
                tags={
                    REVISION_TAG: str(snapshot.revision),
                    REPLICATION_TAG: name,
                    **own_process_tag(),
                },
                run_config=logger_config(catalog.settings),
            )
        return ReplicationRun(name, read_report(instance, run_id), reports[-1] if reports else None)


class _set:  # noqa: N801  # reads as the verb that it is
    """Sets a context variable for a block."""

    def __init__(self, variable: ContextVar[Any], value: Any) -> None:
        self._variable, self._value = variable, value

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        self._variable.reset(self._token)
