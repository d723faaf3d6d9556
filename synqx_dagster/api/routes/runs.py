"""Runs: what Dagster's storage has of them, how they go on, and how they are ended and done again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import ApiContext, Context
from synqx_dagster.api.event_stream import MEDIA_TYPE, EventStream, StreamSlots
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.problems import ApiError, problems_of
from synqx_dagster.api.run_control import RunControl
from synqx_dagster.api.run_events import iter_events
from synqx_dagster.api.run_views import (
    LogLineView,
    LogView,
    RunDetailView,
    RunStatus,
    RunView,
    StepOutputView,
    StepsView,
    StepView,
)
from synqx_dagster.defs.record_targets import job_of_pipeline, key_of_mapping
from synqx_dagster.defs.run_detail import read_detail
from synqx_dagster.defs.run_logs import LogLine, check_step, read_page
from synqx_dagster.defs.run_table import RunQuery, RunSort
from synqx_dagster.defs.run_tail import RunTail
from synqx_dagster.defs.runs import RunInfo, find_runs, find_runs_of_asset, get_exact_run
from synqx_dagster.defs.step_output import Stream, read_output
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["runs"])

Reader = Annotated[Identity, Depends(Requires(Permission.RUNS_READ))]
Operator = Annotated[Identity, Depends(Requires(Permission.RUNS_LAUNCH))]

RunId = Annotated[
    str, Path(pattern="^[0-9a-fA-F-]{8,64}$", description="The whole id of the run.", examples=["0b5cbd2e-..."])
]
StepKey = Annotated[str, Path(max_length=512, description="The key of a step, as `GET /runs/{run_id}/steps` lists it.")]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
_LEVELS: tuple[Level, ...] = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LevelOf = Annotated[Level, Query(description="The least important lines to show.")]
#: Numbers of lines; PostgreSQL counts to 2^63.
_MAX_NUMBER = 10**18
#: Of a file; file systems count further, though not all of them to 2^63.
_MAX_BYTE = 2**40
After = Annotated[int | None, Query(ge=0, le=_MAX_NUMBER, description="Lines after this number alone.")]
LineLimit = Annotated[int, Query(ge=1, le=2000, description="How many lines at most.")]

#: One event of a stream, as clients that read them see it.
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["log", "status", "end"]},
        "data": {"type": "string", "description": "A JSON document on one line."},
        "id": {"type": "string", "description": "Of a line: its number."},
    },
    "required": ["event", "data"],
}

_slots = StreamSlots()


class ReexecuteRequest(BaseModel):
    """How a run is done again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    from_failure: bool = Field(default=True, description="From the failed steps on; false: the whole run.")


class RunAnswer(BaseModel):
    """What became of a request about a run."""

    run_id: str = Field(description="The run that goes on: the cancelled one, or the new one.")
    status: Literal["canceling", "queued"]
    message: str


@router.get("/runs", responses=problems_of(404), operation_id="list_runs", summary="List runs")
def list_runs(
    context: Context,
    identity: Reader,
    paging: PagingOf,
    status: Annotated[list[RunStatus] | None, Query(description="Only runs of these states.")] = None,
    job: Annotated[str | None, Query(max_length=256, description="Only runs of this job, by its name.")] = None,
    pipeline: Annotated[str | None, Query(max_length=128, description="Only runs of this pipeline's job.")] = None,
    mapping: Annotated[
        str | None, Query(max_length=128, description="Only runs that were to load this mapping's target.")
    ] = None,
    created_from: Annotated[AwareDatetime | None, Query(description="Asked for at this moment or later.")] = None,
    created_to: Annotated[AwareDatetime | None, Query(description="Asked for before this moment.")] = None,
    sort: RunSort = "created_at",
    order: Literal["asc", "desc"] = "desc",
) -> Page[RunView]:
    """Runs, the latest first, with the total of those that the filters let through."""
    jobs = {name for name in (job, None if pipeline is None else job_of_pipeline(pipeline)) if name is not None}
    instance = context.instance
    run_ids: tuple[str, ...] | None = None
    if mapping is not None:
        run_ids = tuple(find_runs_of_asset(instance, key_of_mapping(context.catalog, mapping)))
    if len(jobs) > 1:
        run_ids = ()  # No run is of two jobs.
    found, total = find_runs(
        instance,
        RunQuery(
            statuses=tuple(status or ()),
            job_names=tuple(jobs),
            run_ids=run_ids,
            created_from=_as_utc(created_from, "created_from"),
            created_to=_as_utc(created_to, "created_to"),
            sort=sort,
            descending=order == "desc",
            skip=paging.skip,
            limit=paging.limit,
        ),
    )
    return Page(items=[RunView.of(info) for info in found], total=total, skip=paging.skip, limit=paging.limit)


def _as_utc(moment: datetime | None, field: str) -> datetime | None:
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        raise ApiError(422, f"{field} is before the first or after the last moment that there is") from None


@router.get("/runs/{run_id}", responses=problems_of(404), operation_id="get_run", summary="Read a run")
def get_run(context: Context, identity: Reader, run_id: RunId) -> RunDetailView:
    """One run, who asked for it, and how many of its steps are done."""
    _find(context, run_id)
    return RunDetailView.of_detail(read_detail(context.instance, run_id))


@router.get(
    "/runs/{run_id}/steps", responses=problems_of(404), operation_id="list_run_steps", summary="List a run's steps"
)
def list_steps(context: Context, identity: Reader, run_id: RunId) -> StepsView:
    """What each step did: its state, records in and out, seconds, assets, and the nodes of a pipeline within it."""
    info = _find(context, run_id)
    detail = read_detail(context.instance, run_id)
    return StepsView(run_id=run_id, status=info.status, steps=[StepView.of(step) for step in detail.steps])


@router.get("/runs/{run_id}/logs", responses=problems_of(404), operation_id="read_run_log", summary="Read a run's log")
def read_log(
    context: Context,
    identity: Reader,
    run_id: RunId,
    level: LevelOf = "DEBUG",
    after: After = None,
    limit: LineLimit = 500,
) -> LogView:
    """The log of a run, oldest first, in pages; of all steps and of the run itself."""
    return _read_log(context, _find(context, run_id), level, None, after, limit)


@router.get(
    "/runs/{run_id}/steps/{key}/logs",
    responses=problems_of(404),
    operation_id="read_step_log",
    summary="Read a step's log",
)
def read_step_log(
    context: Context,
    identity: Reader,
    run_id: RunId,
    key: StepKey,
    level: LevelOf = "DEBUG",
    after: After = None,
    limit: LineLimit = 500,
) -> LogView:
    """The lines of one step, oldest first, in pages."""
    info = _find(context, run_id)
    check_step(context.instance, run_id, key)
    return _read_log(context, info, level, key, after, limit)


@router.get(
    "/runs/{run_id}/steps/{key}/output",
    responses=problems_of(404),
    operation_id="read_step_output",
    summary="Read what a step printed",
)
def read_step_output(
    context: Context,
    identity: Reader,
    run_id: RunId,
    key: StepKey,
    stream: Annotated[Stream, Query(description="The step's lines of the log stand in stderr, too.")] = "stdout",
    after: Annotated[int, Query(ge=0, le=_MAX_BYTE, description="The byte to begin at: `next_after` or `end`.")] = 0,
    limit: Annotated[int, Query(ge=1024, le=1024 * 1024, description="How many bytes at most.")] = 65536,
    capture: Annotated[int | None, Query(ge=1, le=10_000, description="Of a step that was tried again: which.")] = None,
) -> StepOutputView:
    """What a step's process wrote to its standard output or error, as Dagster captured it, in pages.

    A process is captured as a whole: `step_keys` names the steps that share it. `synqx run` captures nothing, because
    it shows everything on its terminal; `captures` is 0 then.
    """
    info = _find(context, run_id)
    check_step(context.instance, run_id, key)
    page = read_output(context.instance, info, key, stream, after=after, limit_bytes=limit, capture=capture)
    return StepOutputView.of(info, key, stream, page)


def _read_log(
    context: ApiContext, info: RunInfo, level: Level, step: str | None, after: int | None, limit: int
) -> LogView:
    shown = frozenset(_LEVELS[_LEVELS.index(level) :])

    def is_wanted(line: LogLine) -> bool:
        return line.level in shown and step in (None, line.step)

    page = read_page(context.instance, info.run_id, after=after, limit=limit, wanted=is_wanted)
    return LogView(
        run_id=info.run_id,
        status=info.status,
        lines=[LogLineView.of(numbered) for numbered in page.lines],
        next_after=page.last,
    )


@router.get(
    "/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `log` (a line, with its number as the event's id), `status` (the run, at the start "
            "and whenever its state changes) and `end`, after which there is nothing more.",
            "content": {MEDIA_TYPE: {"schema": _EVENT}},
        },
        **problems_of(404, 503),
    },
    operation_id="follow_run",
    summary="Follow a run",
)
def follow_run(
    context: Context,
    identity: Reader,
    run_id: RunId,
    level: LevelOf = "INFO",
    step: Annotated[str | None, Query(max_length=512, description="Lines of this step alone.")] = None,
    after: After = None,
    last_event_id: Annotated[
        str | None, Header(pattern="^[0-9]{1,18}$", description="Sent by browsers that come again.")
    ] = None,
) -> Any:
    """A run's log and state as server-sent events, from the beginning, until the run has ended.

    Comments tell that the stream is alive. A stream ends after ten minutes without `end`; browsers then come again by
    themselves, and go on after the last event that they had.
    """
    _find(context, run_id)
    if step is not None:
        check_step(context.instance, run_id, step)
    start = int(last_event_id) if last_event_id is not None else after
    tail = RunTail(context.instance, run_id, after=start)
    return EventStream(iter_events(tail, level=level, step=step), _slots.take(str(identity.user_id)))


@router.post(
    "/runs/{run_id}/cancel",
    status_code=202,
    responses=problems_of(404, 409, 503),
    operation_id="cancel_run",
    summary="Cancel a run",
)
def cancel_run(context: Context, identity: Operator, run_id: RunId) -> RunAnswer:
    """Ask a run to end. It is over when its status is CANCELED; what it has committed stays."""
    control = _control(context)
    _find(context, run_id)
    control.cancel(run_id, identity)
    return RunAnswer(run_id=run_id, status="canceling", message="The run was asked to end")


@router.post(
    "/runs/{run_id}/reexecute",
    status_code=202,
    responses=problems_of(404, 409, 503),
    operation_id="reexecute_run",
    summary="Do a run again",
)
def reexecute_run(
    context: Context, identity: Operator, run_id: RunId, request: ReexecuteRequest | None = None
) -> RunAnswer:
    """Queue a run that does an ended one again, from its failed steps on or whole."""
    control = _control(context)
    _find(context, run_id)
    from_failure = True if request is None else request.from_failure
    new_id = control.reexecute(run_id, identity, from_failure=from_failure)
    words = "from the failed steps on" if from_failure else "from the beginning"
    return RunAnswer(run_id=new_id, status="queued", message=f"Run {run_id} is done again {words}")


def _find(context: ApiContext, run_id: str) -> RunInfo:
    return get_exact_run(context.instance, run_id)


def _control(context: ApiContext) -> RunControl:
    if context.runs is None:
        raise ApiError(503, "This server starts and ends no runs", hint="`synqx serve` does")
    return context.runs
