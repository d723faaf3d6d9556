"""A replication as a Dagster job: one op that follows its source until there is nothing to do, or it is told to end.

Guarantee: a run commits its progress as it goes, so one that ends in any way loses nothing, and the next one goes on
where it had come. A replication that was paused while it ran finishes its batch and ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.access import CatalogAccess, needs_vault, require_unsealed
from synqx_dagster.defs.failures import translate_error
from synqx_dagster.defs.names import REVISION_TAG, op_name, resource_key, revision_tags
from synqx_dagster.defs.replication_assets import REPLICATION_TAG, describe_table, materializations
from synqx_dagster.defs.resources import ConnectionResource, build_resource
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import NotFoundError, RetryableError, SynqxError
from synqx_dagster.model import Replication, TableName, dagster_name
from synqx_dagster.replication.progress import FollowProgress, FollowReport, FollowRequest


class InterruptWatch(Protocol):
    """Who notices Ctrl-C in place of Dagster, which would break a batch off."""

    def listening(self) -> AbstractContextManager[None]:
        """Takes the signal within the block."""

    def is_interrupted(self) -> bool:
        """Whether it came."""


#: Hears of progress in the process that runs a job by itself (`synqx replications run`).
follow_listener: ContextVar[Callable[[FollowProgress], None] | None] = ContextVar("follow_listener", default=None)
#: Says in that process whether somebody pressed Ctrl-C.
follow_interrupt: ContextVar[InterruptWatch | None] = ContextVar("follow_interrupt", default=None)
#: Is given the report of a run that has ended by itself.
follow_reports: ContextVar[Callable[[FollowReport], object] | None] = ContextVar("follow_reports", default=None)

#: A run is tried again so often at once after a passing fault; later its sensor starts another one.
MAX_RETRIES = 5
#: How often a run asks whether its replication was paused.
PAUSE_CHECK_SECONDS = 3.0
#: Dagster keeps every event for ever: a long run tells of its tables soon, and then less and less often.
FIRST_REPORT_SECONDS = 60.0
LONGEST_REPORT_SECONDS = 900.0

_OP = "follow"
_SENSOR_TAG = "dagster/sensor_name"


def build_replication_job(
    translator: Translator,
    replication: Replication,
    get_catalog: Callable[[], CatalogAccess],
    executor: dg.ExecutorDefinition | None = None,
) -> dg.JobDefinition:
    """The job of a replication.

    Raises:
        NotFoundError: A connection is missing.
    """
    snapshot = translator.snapshot
    ends = dict.fromkeys((replication.source_connection, replication.target_connection))
    resources = {resource_key(name): build_resource(snapshot.get_connection(name), get_catalog) for name in ends}
    follower = _Follower(translator, replication, get_catalog)

    @dg.op(
        name=op_name((_OP, replication.name)),
        description=f"Follow {replication.source_connection} into {replication.target_connection}",
        required_resource_keys=set(resources),
        out=dg.Out(dg.Nothing),
    )
    def follow_op(context) -> None:  # type: ignore[no-untyped-def]  # Dagster would resolve the annotation
        follower.run(context)

    @dg.graph(name=dagster_name(replication.name), description=replication.description)
    def follow_graph() -> None:
        follow_op()

    return follow_graph.to_job(
        name=dagster_name(replication.name),
        resource_defs=resources,
        executor_def=executor or dg.in_process_executor,
        tags={**revision_tags(snapshot.revision), REPLICATION_TAG: replication.name},
        op_retry_policy=None,
    )


@dataclass(frozen=True)
class _Follower:
    """What the op of one replication does."""

    translator: Translator
    replication: Replication
    get_catalog: Callable[[], CatalogAccess]

    def run(self, context: dg.OpExecutionContext) -> None:
        """Follow.

        Raises:
            dagster.Failure: It failed for good.
            dagster.RetryRequested: It may succeed later.
        """
        try:
            self._follow(context)
        except SynqxError as exc:
            translated = translate_error(
                exc, mapping_name=self.replication.name, retry_number=context.retry_number, max_retries=MAX_RETRIES
            )
            if isinstance(exc, RetryableError) and isinstance(translated, dg.RetryRequested):
                context.log.warning(f"{exc}; attempt {context.retry_number + 2} of {MAX_RETRIES + 1} follows")
            # The cause is told in full by the description; its frames say nothing to who reads the log.
            raise translated from None

    def _follow(self, context: dg.OpExecutionContext) -> None:
        from synqx_dagster.replication.follow import follow

        snapshot, replication = self.translator.snapshot, self.replication
        tags = revision_tags(snapshot.revision)
        if tags and REVISION_TAG not in context.run.tags:
            context.instance.add_run_tags(context.run.run_id, tags)
        catalog = self.get_catalog()
        ends = (replication.source_connection, replication.target_connection)
        secrets_needed = any(needs_vault(snapshot.get_connection(name)) for name in ends)
        require_unsealed(catalog, secrets_needed=secrets_needed)
        teller = _Teller(context, self.translator, replication)
        listener = follow_listener.get()
        interrupted = follow_interrupt.get()
        request = FollowRequest(
            replication=replication,
            source=self._connector(context, replication.source_connection),
            target=self._connector(context, replication.target_connection),
            run_id=context.run.run_id,
            spill_directory=catalog.settings.home / "spill",
            is_paused=PauseWatch(catalog, replication, by_sensor=_SENSOR_TAG in context.run.tags),
            is_interrupted=_nobody if interrupted is None else interrupted.is_interrupted,
            on_progress=_ProgressLog(context, listener),
            on_tables=teller.tell,
            report_seconds=FIRST_REPORT_SECONDS,
            find_load=_find_loads(catalog, snapshot, replication),
        )
        with nullcontext() if interrupted is None else interrupted.listening():
            report = follow(request)
        teller.tell(report, last=True)
        if (take := follow_reports.get()) is not None:
            take(report)
        context.log.info(describe_report(replication.name, report))

    @staticmethod
    def _connector(context: dg.OpExecutionContext, name: str) -> Any:
        resource = getattr(context.resources, resource_key(name))
        if not isinstance(resource, ConnectionResource):
            raise TypeError(f"the resource {resource_key(name)} is not a connection")
        return resource.connector


def _nobody() -> bool:
    return False


def _find_loads(
    catalog: CatalogAccess, snapshot: CatalogSnapshot, replication: Replication
) -> Callable[[TableName], str | None]:
    """What else loads a table of the target now; the run's own snapshot may have nothing but the replication."""
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.defs.replication_ends import find_loads

    whole = catalog.latest_snapshot() if isinstance(catalog, Catalog) else snapshot
    return find_loads(whole, replication.target_connection)


class PauseWatch:
    """Whether a replication was paused, asked of the catalog every few seconds.

    A run that somebody starts by hand while the replication is paused goes on: it is what was asked for.
    """

    def __init__(self, catalog: CatalogAccess, replication: Replication, *, by_sensor: bool) -> None:
        self._catalog = catalog
        self._name = replication.name
        self._revision: int | None = None
        self._was_enabled = by_sensor
        self._paused = False
        self._next = 0.0

    def __call__(self) -> bool:
        """Whether it is paused now."""
        from synqx_dagster.catalog.store import Catalog

        now = time.monotonic()
        if now < self._next or not isinstance(self._catalog, Catalog):
            return self._paused
        self._next = now + PAUSE_CHECK_SECONDS
        latest = self._catalog.latest_revision()
        if latest == self._revision:
            return self._paused
        self._revision = latest
        try:
            enabled = self._catalog.snapshot_for(latest, replications=[self._name]).get_replication(self._name).enabled
        except NotFoundError:
            # It was removed: nobody means it to go on.
            self._paused = True
            return True
        self._paused = self._was_enabled and not enabled
        self._was_enabled = self._was_enabled or enabled
        return self._paused


class _Teller:
    """Tells Dagster what a run has done to its tables, less and less often."""

    def __init__(self, context: dg.OpExecutionContext, translator: Translator, replication: Replication) -> None:
        self._context = context
        self._translator = translator
        self._replication = replication
        self._interval = FIRST_REPORT_SECONDS
        self._next = time.monotonic() + self._interval
        self._told: dict[str, tuple[object, ...]] = {}

    def tell(self, report: FollowReport, *, last: bool = False) -> None:
        """Materialize the tables of which there is something new; figures are of the whole run."""
        now = time.monotonic()
        if not last and now < self._next:
            return
        self._interval = min(2 * self._interval, LONGEST_REPORT_SECONDS)
        self._next = now + self._interval
        news = []
        for table in report.tables:
            figures = (
                table.rows_copied,
                table.rows_inserted,
                table.rows_updated,
                table.rows_deleted,
                table.status,
                table.reason,
            )
            name = str(table.target)
            if (table.has_changed or table.reason) and self._told.get(name) != figures:
                self._told[name] = figures
                news.append(table)
                if table.reason:
                    self._context.log.warning(f"{table.target}: {describe_table(table)}")
        for event in materializations(self._translator, self._replication, report, news):
            self._context.log_event(event)
        for warning in report.warnings if last else ():
            self._context.log.warning(warning)


class _ProgressLog:
    """Passes progress to the run's log at a falling rate, and to this process's listener; from any thread."""

    def __init__(self, context: dg.OpExecutionContext, listener: Callable[[FollowProgress], None] | None) -> None:
        self._log = context.log
        self._listener = listener
        self._lock = threading.Lock()
        self._interval = 10.0
        self._last = time.monotonic()

    def __call__(self, progress: FollowProgress) -> None:
        if self._listener is not None:
            self._listener(progress)
        with self._lock:
            now = time.monotonic()
            if now - self._last < self._interval:
                return
            self._last = now
            self._interval = min(2 * self._interval, 300.0)
        self._log.info(describe_progress(progress))


def describe_progress(progress: FollowProgress) -> str:
    """How far a run is, in one line."""
    if progress.phase == "copy":
        total = f" of about {progress.total_rows:,}" if progress.total_rows else ""
        return f"copying {progress.table}: {progress.rows:,}{total} rows"
    return (
        f"{progress.phase}: {progress.changes:,} rows changed{describe_lag(progress.lag_seconds, progress.lag_bytes)}"
    )


def describe_lag(seconds: float | None, size: int | None) -> str:
    """How far a target is behind, as the end of a line."""
    from synqx_dagster.replication.guard import format_bytes

    parts = [] if seconds is None else [f"{seconds:,.1f} s"]
    if size is not None:
        parts.append(format_bytes(size))
    return f"; behind by {', '.join(parts)}" if parts else ""


_ENDINGS = {
    "idle": "nothing more to do",
    "max_run": "its time is over; the next run goes on",
    "paused": "it was paused",
    "interrupted": "it was interrupted",
}


def describe_report(name: str, report: FollowReport) -> str:
    """A run in one line."""
    copied = sum(1 for table in report.tables if table.rows_copied is not None)
    parts = [f"{_plural(copied, 'table')} copied"] if copied else []
    parts.append(f"{_plural(report.transactions, 'transaction')}, {_plural(report.changes, 'row')} changed")
    lag = describe_lag(report.lag_seconds, report.lag_bytes)
    return f"{name}: {', '.join(parts)} in {report.seconds:,.1f} s; {_ENDINGS[report.ending]}{lag}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def replications_by_job(snapshot: CatalogSnapshot) -> dict[str, Replication]:
    """Replications by the names of their jobs."""
    return {dagster_name(name): replication for name, replication in snapshot.replications.items()}
