"""Why a step or a run failed, as Dagster's storage has it."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from synqx_dagster.defs.names import METADATA_PREFIX

#: Class of the error of a step, or of a run between two of them, that a signal ended.
INTERRUPTED = "DagsterExecutionInterruptedError"
_INTERRUPTS = (INTERRUPTED, "KeyboardInterrupt")


@dataclass(frozen=True)
class FailureReport:
    """Why one load failed. ``error`` is the class of the error, or `INTERRUPTED`; None for one that is foreign."""

    name: str
    message: str
    error: str | None = None


def failure_report(event: dg.DagsterEvent) -> FailureReport:
    """What a STEP_FAILURE says; of an error that Dagster wrapped, the innermost cause."""
    step = event.step_key or ""
    failure = event.step_failure_data.user_failure_data
    if failure is None:
        error = event.step_failure_data.error
        if error is not None and error.cls_name in _INTERRUPTS:
            return FailureReport(step, "interrupted before it was done", INTERRUPTED)
        # Dagster wraps what an op raised; the innermost cause is what happened.
        while error is not None and error.cause is not None:
            error = error.cause
        return FailureReport(step, error.message.strip() if error is not None else "the step failed")
    name = failure.metadata.get(f"{METADATA_PREFIX}mapping")
    error_class = failure.metadata.get(f"{METADATA_PREFIX}error")
    return FailureReport(
        name=step if name is None else str(name.value),
        message=failure.description or failure.label,
        error=None if error_class is None else str(error_class.value),
    )


def run_failure_report(job_name: str, event: dg.DagsterEvent) -> FailureReport:
    """What a RUN_FAILURE says, for a run that failed outside its steps."""
    error = event.job_failure_data.error
    while error is not None and error.cls_name not in _INTERRUPTS:
        error = error.cause
    if error is not None:
        return FailureReport(job_name, "interrupted between its loads", INTERRUPTED)
    return FailureReport(job_name, event.message or "the run failed")
