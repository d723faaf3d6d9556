"""Running a pipeline, now or by its schedule."""

from __future__ import annotations

import threading
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from synqx_dagster.api.access import Caller, Requires
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.api.record_routes import Ref
from synqx_dagster.api.records import Writer
from synqx_dagster.api.routes.pipelines import find_own_schedule
from synqx_dagster.api.run_control import LaunchRequest, RunControl
from synqx_dagster.errors import NotFoundError
from synqx_dagster.model import Record, Schedule, dagster_name
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(prefix="/pipelines/{ref}", tags=["pipelines"])

Launcher = Annotated[Identity, Depends(Requires(Permission.RUNS_LAUNCH))]
Switcher = Annotated[Identity, Depends(Requires(Permission.SCHEDULES_SWITCH))]

#: A pipeline that has just been made is there for Dagster after the next reload of the code server.
_RELOAD_SECONDS = 30.0
_POLL_SECONDS = 0.25
_MOST_WAIT_SECONDS = 600
#: Each keeps a thread of the server; who comes when all are taken gets the run's id and no outcome.
_waiters = threading.BoundedSemaphore(16)

_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


class RunAnswer(BaseModel):
    """A run that was asked for."""

    status: str = Field(description="`queued`, or with `wait` what it was then: `success`, `failure`, `started`, ...")
    message: str
    job_id: str = Field(description="Id of the run; GET /api/v1/runs/{job_id} tells more.")


class SwitchAnswer(BaseModel):
    """Whether a pipeline runs by its schedule."""

    status: str = Field(description="`started` or `paused`.")
    message: str
    schedule: str
    schedule_enabled: bool
    revision: int = Field(description="The revision that made it so.")


@router.post(
    "/run",
    response_model=RunAnswer,
    responses=problems_of(404, 409),
    operation_id="run_pipeline",
    summary="Run a pipeline now",
)
def run(
    context: Context,
    identity: Launcher,
    ref: Ref,
    wait: Annotated[
        float, Query(ge=0, le=_MOST_WAIT_SECONDS, description="Seconds to wait for the end; 0: answer at once.")
    ] = 0.0,
    partition_key: Annotated[str | None, Query(max_length=256, description="Of a pipeline with partitions.")] = None,
) -> RunAnswer:
    name = context.records.get("pipeline", ref).record.name
    if context.runs is None:
        raise ApiError(503, "This server starts no runs", hint="`synqx serve` does")
    request = LaunchRequest(job_name=dagster_name(name), partition_key=partition_key)
    run_id = _launch(context.runs, request, identity)
    status = _wait(context, run_id, wait) if wait else "QUEUED"
    ended = "has ended" if status in _ENDED else "is on its way"
    return RunAnswer(status=status.lower(), message=f"The run of {name} {ended}: {status.lower()}", job_id=run_id)


def _launch(runs: RunControl, request: LaunchRequest, identity: Identity) -> str:
    deadline = time.monotonic() + _RELOAD_SECONDS
    while True:
        try:
            return runs.launch(request, identity)
        except NotFoundError:
            # The catalog has it.
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS * 2)


def _wait(context: ApiContext, run_id: str, seconds: float) -> str:
    """Dagster's status of a run when it has ended, or the time has."""
    from synqx_dagster.defs.runs import get_run

    deadline = time.monotonic() + seconds
    waits = _waiters.acquire(blocking=False)
    try:
        while True:
            status = get_run(context.instance, run_id).status
            if status in _ENDED or not waits or time.monotonic() >= deadline:
                return status
            time.sleep(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0.01)))
    finally:
        if waits:
            _waiters.release()


@router.post(
    "/start",
    response_model=SwitchAnswer,
    responses=problems_of(404, 409),
    operation_id="start_pipeline",
    summary="Let a pipeline run by its schedule",
)
def start(context: Context, identity: Switcher, client: Caller, ref: Ref) -> SwitchAnswer:
    return _switch(context, Writer(identity, client), ref, enabled=True)


@router.post(
    "/pause",
    response_model=SwitchAnswer,
    responses=problems_of(404, 409),
    operation_id="pause_pipeline",
    summary="Let a pipeline not run by its schedule",
)
def pause(context: Context, identity: Switcher, client: Caller, ref: Ref) -> SwitchAnswer:
    """Runs in flight go on."""
    return _switch(context, Writer(identity, client), ref, enabled=False)


def _switch(context: ApiContext, writer: Writer, ref: str, *, enabled: bool) -> SwitchAnswer:
    from synqx_dagster.defs.sensors import SENSOR_NAME
    from synqx_dagster.defs.switches import press

    name = context.records.get("pipeline", ref).record.name
    own = find_own_schedule(context.catalog.latest_snapshot(), name)
    if own is None:
        raise ApiError(
            409,
            f"The pipeline {name!r} has no schedule of its own",
            hint="PUT the pipeline with schedule_cron, or switch the schedules that run it",
        )

    def switch(record: Record) -> Record:
        assert isinstance(record, Schedule)
        # To start ends a pause until some time, too.
        values = {"enabled": True, "paused_until": None} if enabled else {"enabled": False}
        return record.model_copy(update=values)

    word = "started" if enabled else "paused"
    stored = context.records.change(
        context.records.get("schedule", own.name), switch, writer, reason=f"pipeline {name} {word}"
    )
    assert isinstance(stored.record, Schedule)
    press(context.instance, [stored.record], marker=SENSOR_NAME)
    return SwitchAnswer(
        status=word,
        message=f"The schedule {own.name} of {name} is {'enabled' if enabled else 'disabled'}",
        schedule=own.name,
        schedule_enabled=stored.record.enabled,
        revision=stored.revision,
    )
