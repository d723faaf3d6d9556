"""Runs, steps and lines of logs as answers show them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from synqx_dagster.defs.run_detail import RunDetail, StepReport, find_trigger
from synqx_dagster.defs.run_logs import NumberedLine
from synqx_dagster.defs.runs import RunInfo
from synqx_dagster.defs.step_output import OutputPage, Stream

#: Dagster's own words.
RunStatus = Literal[
    "QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "SUCCESS", "FAILURE", "CANCELING", "CANCELED"
]


class TriggerView(BaseModel):
    """Who asked for a run."""

    model_config = ConfigDict(from_attributes=True)

    kind: str = Field(description="schedule, sensor, backfill, retry, automation, command or user")
    name: str | None = Field(description="The schedule, the sensor, the run that is tried again, or the user.")
    scheduled_for: str | None = None


class RunView(BaseModel):
    """A run. Times are UTC."""

    model_config = ConfigDict(from_attributes=True)

    run_id: str
    job_name: str
    status: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None = Field(description="Wall time; up to now while the run goes on.")
    revision: int | None = Field(description="The catalog's revision that the run is of.")
    assets: list[str] = Field(description="The assets that were asked for by key; empty for all of the job.")
    tags: dict[str, str]
    trigger: TriggerView

    @classmethod
    def of(cls, info: RunInfo) -> RunView:
        """A run as Dagster's storage has it."""
        values = {name: getattr(info, name) for name in cls.model_fields if name != "trigger"}
        return cls.model_validate({**values, "trigger": TriggerView.model_validate(find_trigger(info.tags))})


class RunDetailView(RunView):
    """A run, and how far it came."""

    error: str | None = Field(description="Why the run as a whole failed, where no step says more.")
    steps_total: int
    steps_done: int = Field(description="Steps that have succeeded.")

    @classmethod
    def of_detail(cls, detail: RunDetail) -> RunDetailView:
        """A run with what its steps say."""
        run = RunView.of(detail.info)
        trigger = TriggerView.model_validate(detail.trigger)
        done = sum(step.status == "SUCCESS" for step in detail.steps)
        return cls(
            **{**run.model_dump(), "trigger": trigger},
            error=detail.error,
            steps_total=len(detail.steps),
            steps_done=done,
        )


class AssetLoadView(BaseModel):
    """What a step says of one asset that it loaded."""

    model_config = ConfigDict(from_attributes=True)

    asset_key: str
    name: str | None = Field(description="The mapping, or the pipeline's node.")
    rows_in: int | None
    rows_out: int | None
    rows_quarantined: int | None
    checks: dict[str, bool]


class RunNodeView(BaseModel):
    """One node of a pipeline within a step."""

    model_config = ConfigDict(from_attributes=True)

    node_id: str
    operator: str
    rows_in: int | None = Field(description="Records in; null where nobody has counted.")
    rows_out: int | None
    rows_quarantined: int
    seconds: float
    fused_with: list[str] = Field(description="Nodes that one SELECT does together with it; they share the time.")
    error: str | None


class StepView(BaseModel):
    """One step of a run, with the nodes that ran in it."""

    model_config = ConfigDict(from_attributes=True)

    step_key: str
    status: str = Field(description="PENDING, RUNNING, RETRYING, SUCCESS, FAILURE, SKIPPED, INTERRUPTED or NOT_STARTED")
    attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    rows_in: int | None
    rows_out: int | None
    rows_quarantined: int | None
    assets: list[AssetLoadView]
    nodes: list[RunNodeView]
    error: str | None

    @classmethod
    def of(cls, step: StepReport) -> StepView:
        """A step as Dagster's storage has it."""
        return cls.model_validate(step)


class StepsView(BaseModel):
    """The steps of a run in the order of its plan."""

    run_id: str
    status: str
    steps: list[StepView]


class LogLineView(BaseModel):
    """One line of a run's log."""

    number: int = Field(description="Greater for later lines; send the last one as `after` to read on.")
    time: datetime
    level: str
    step: str | None
    message: str
    event: str | None = Field(description="Dagster's type of event; null for a message of the code.")

    @classmethod
    def of(cls, numbered: NumberedLine) -> LogLineView:
        """A line as Dagster's storage has it."""
        line = numbered.line
        return cls(
            number=numbered.number,
            time=line.time,
            level=line.level,
            step=line.step,
            message=line.message,
            event=line.event,
        )


class LogView(BaseModel):
    """A page of a log, oldest first."""

    run_id: str
    status: str
    lines: list[LogLineView]
    next_after: int | None = Field(description="Send it as `after` for the next page; null where there is none yet.")


class StepOutputView(BaseModel):
    """A piece of what the process of a step wrote to one of its streams."""

    model_config = ConfigDict(from_attributes=True)

    run_id: str
    status: str
    step_key: str
    stream: Stream
    captures: int = Field(description="How many processes of the step Dagster has captured; 0 for none.")
    capture: int | None = Field(description="Which of them this is, from 1.")
    step_keys: list[str] = Field(description="The steps that ran in this process: what they wrote stands together.")
    text: str = Field(description="Whole lines, as far as there are any; what looks like a credential is masked.")
    next_after: int | None = Field(description="Send it as `after` for the next page; null where there is none yet.")
    end: int = Field(description="The byte after the text: send it as `after` later, while `is_complete` is false.")
    is_complete: bool = Field(description="Nothing is written any more.")
    external_url: str | None = Field(description="Where the stream is kept, if that is not in Dagster's home.")

    @classmethod
    def of(cls, info: RunInfo, step: str, stream: Stream, page: OutputPage) -> StepOutputView:
        """A piece as Dagster has captured it."""
        return cls(
            run_id=info.run_id,
            status=info.status,
            step_key=step,
            stream=stream,
            captures=page.captures,
            capture=page.capture,
            step_keys=list(page.step_keys),
            text=page.text,
            next_after=page.end if page.has_more else None,
            end=page.end,
            is_complete=page.is_complete,
            external_url=page.external_url,
        )
