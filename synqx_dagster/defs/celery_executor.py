"""The executor ``celery``: dagster-celery's loop over steps that outlive the death of their workers.

Redis gives a message of a dead worker to another one only after hours, because it cannot tell death from a long step.
So the run itself asks the workers, every few seconds, which of its steps they know. A step that nobody knows for a
minute, while other workers answer, is submitted again; one whose process was killed is so at once. Should the first
worker live on all the same, out of reach, its load meets the fence in the target like every attempt that was overtaken.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
from celery import states
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value, serialize_value
from dagster_celery.config import TASK_EXECUTE_PLAN_NAME
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_shared.error import SerializableErrorInfo
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from synqx_dagster.defs.celery_app import app_options
from synqx_dagster.errors import RetryableError
from synqx_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 10.0
#: How long workers may take to answer. The loop over the steps waits meanwhile.
_ANSWER_SECONDS = 1.0
#: A worker that is busy with reconnecting to its broker may be silent for half of it.
LOST_AFTER_SECONDS = 60.0
#: A step that takes its workers down with it, by the memory it takes, must not take all of them.
MOST_LOSSES = 3
#: So long the broker may be away before its runs give up.
PATIENCE_SECONDS = 300.0

#: What comes of a Redis that is away.
BROKER_ERRORS = (OperationalError, RedisError, OSError)


@dg.executor(
    name="celery",
    # Broker and backend are settings of the process: a run config is stored, and whoever may write one must not
    # choose where steps are sent to.
    config_schema={"retries": get_retries_config()},  # type: ignore[no-untyped-call]
    requirements=dg.multiple_process_executor_requirements(),
)
def celery_executor(context: dg.InitExecutorContext) -> dg.Executor:
    """Steps go to workers that `synqx worker` started, through the Redis of ``SYNQX_CELERY_BROKER``."""
    retries = RetryMode.from_config(context.executor_config["retries"])  # type: ignore[arg-type]
    return CeleryExecutor(app_options(load_settings()), retries or RetryMode.ENABLED)


class CeleryExecutor(dg.Executor):
    """What dagster-celery's loop wants of an executor."""

    def __init__(self, options: dict[str, Any], retries: RetryMode) -> None:
        self._options = options
        self._retries = retries

    @property
    def retries(self) -> RetryMode:
        """Whether a step that asks for another attempt gets one."""
        return self._retries

    def app_args(self) -> dict[str, Any]:
        """For the application that the loop makes."""
        return self._options

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Execute the steps; gives their events.

        Raises:
            RetryableError: The broker stays away.
        """
        watches: list[WorkerWatch] = []

        def submit(
            app: Any, context: PlanOrchestrationContext, step: Any, queue: str, priority: int, known_state: Any
        ) -> SubmittedStep:
            if not watches:
                watches.append(WorkerWatch(app, lambda text: _report(context, text)))
            return SubmittedStep(
                watches[0],
                lambda: _submit(app, context, step, queue, priority, known_state),
                queue=queue,
                report=lambda text: _report(context, text, step.key),
                fail=lambda text: _fail(context, step, text),
            )

        events: Iterator[DagsterEvent] = core_celery_execution_loop(
            plan_context, execution_plan, step_execution_fn=submit
        )
        return events


class WorkerWatch:
    """Asks the workers which steps of a run they know.

    Args:
        app: Celery's application.
        report: Is told what concerns the whole run.
        clock: Gives seconds.
    """

    def __init__(self, app: Any, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._report = report
        self._clock = clock
        self._steps: dict[str, SubmittedStep] = {}
        self._missing_since: dict[str, float] = {}
        self._next_look = clock() + LOOK_EVERY_SECONDS
        self._alone_since: float | None = None
        self._away_since: float | None = None

    def add(self, task_id: str, step: SubmittedStep) -> None:
        """Watch a step under the id of its task."""
        self._steps[task_id] = step

    def remove(self, task_id: str) -> None:
        """Watch it no more."""
        self._steps.pop(task_id, None)
        self._missing_since.pop(task_id, None)

    def is_lost(self, task_id: str) -> bool:
        """Whether no worker has known a step for a minute, though there were workers; looks when it is time to.

        Raises:
            kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError: The broker does not answer.
        """
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_SECONDS
            self._look(now)
        since = self._missing_since.get(task_id)
        return since is not None and now - since >= LOST_AFTER_SECONDS

    def _look(self, now: float) -> None:
        answers = self.app.control.inspect(timeout=_ANSWER_SECONDS).query_task(list(self._steps)) or {}
        if not answers:
            # Nobody is there, or the broker hands no answers on: neither says anything of a single step.
            self._missing_since.clear()
            self._note_silence(now)
            return
        self._alone_since = None
        known = {task_id for found in answers.values() if isinstance(found, dict) for task_id in found}
        lengths: dict[str, int] = {}
        for task_id, step in self._steps.items():
            if task_id in known or (step.waits_for_worker() and self._length(step.queue, lengths)):
                self._missing_since.pop(task_id, None)
            else:
                self._missing_since.setdefault(task_id, now)

    def _note_silence(self, now: float) -> None:
        if self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= LOST_AFTER_SECONDS:
            self._alone_since = float("inf")  # said once
            self._report("no worker answers; steps wait until one does: start some with `synqx worker`")

    def _length(self, queue: str, lengths: dict[str, int]) -> int:
        """How many messages wait in a queue; asked for once in each look."""
        if queue not in lengths:
            with self.app.connection_for_read() as connection:
                try:
                    lengths[queue] = connection.default_channel.queue_declare(queue, passive=True).message_count
                except connection.channel_errors:
                    lengths[queue] = 0  # in Redis an empty queue is none
        return lengths[queue]

    def bear(self, error: Exception) -> None:
        """Bear with a broker that is away.

        Raises:
            RetryableError: It has been away for too long.
        """
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
            logger.warning("the broker of the Celery workers does not answer: %s", type(error).__name__)
        if now - self._away_since >= PATIENCE_SECONDS:
            raise RetryableError(
                f"the broker of the Celery workers has not answered for {PATIENCE_SECONDS:.0f} s: "
                f"{type(error).__name__}",
                hint="is the Redis of SYNQX_CELERY_BROKER up?",
            ) from None

    def settle(self) -> None:
        """The broker has answered."""
        self._away_since = None


class SubmittedStep:
    """A step on its way through the workers; to dagster-celery's loop, the result of a task."""

    def __init__(
        self,
        watch: WorkerWatch,
        submit: Callable[[], Any],
        *,
        queue: str,
        report: Callable[[str], None],
        fail: Callable[[str], list[str]],
    ) -> None:
        self.queue = queue
        self._watch = watch
        self._submit = submit
        self._report = report
        self._fail = fail
        self._losses = 0
        self._failure: str | None = None
        self._result = submit()
        watch.add(self._result.id, self)

    def waits_for_worker(self) -> bool:
        """Whether no worker has begun it."""
        return bool(self._result.state == states.PENDING)

    def ready(self) -> bool:
        """Whether there is something to `get`; a step that was lost is submitted again here.

        Raises:
            RetryableError: The broker stays away.
        """
        if self._failure is not None:
            return True
        try:
            is_ready = self._look()
        except BROKER_ERRORS as exc:
            self._watch.bear(exc)
            return False
        self._watch.settle()
        return is_ready

    def _look(self) -> bool:
        if self._is_done():
            return True
        if self._result.state == states.FAILURE:
            self._lose(f"the process of {self._place()} was killed while it executed this step")
        # The result is read again: the worker may have ended between the two questions.
        elif self._watch.is_lost(self._result.id) and not self._result.ready():
            self._lose(f"{self._place()} is gone")
        return self._failure is not None

    def _is_done(self) -> bool:
        if not self._result.ready():
            return False
        killed = self._result.state == states.FAILURE and type(self._result.result).__name__ == "WorkerLostError"
        return not killed

    def _place(self) -> str:
        info = self._result.info
        return f"the worker {info['hostname']}" if isinstance(info, dict) and "hostname" in info else "the worker"

    def _lose(self, what: str) -> None:
        if self._losses + 1 >= MOST_LOSSES:
            self._cancel(self._result)
            self._failure = f"{what}; it was the last of {MOST_LOSSES} attempts that ended so"
            return
        lost = self._result
        again = self._submit()
        self._losses += 1
        self._watch.add(again.id, self)
        self._result = again
        self._cancel(lost)
        self._report(f"{what}: this step is submitted again")

    def _cancel(self, result: Any) -> None:
        """Have no worker execute it any more: neither one that is out of reach, nor one that is given it later."""
        self._watch.remove(result.id)
        # The mark is what counts: workers forget what they were told when they are started again.
        result.backend.mark_as_revoked(result.id, "given up by its run")
        self._watch.app.control.revoke(result.id, terminate=True)

    def get(self) -> Collection[str]:
        """The events of the step, as the worker wrote them.

        Raises:
            celery.exceptions.TaskRevokedError: The run, or an operator, has revoked it.
        """
        if self._failure is not None:
            return self._fail(self._failure)
        self._watch.remove(self._result.id)
        try:
            events: Collection[str] = self._result.get()
        finally:
            with suppress(*BROKER_ERRORS):
                if self._result.state != states.REVOKED:
                    self._result.forget()
        return events

    def revoke(self) -> None:
        """End it, in the queue or in its worker: what it had not committed rolls back."""
        with suppress(*BROKER_ERRORS):
            self._cancel(self._result)


def _submit(app: Any, context: PlanOrchestrationContext, step: Any, queue: str, priority: int, known_state: Any) -> Any:
    """Send the message that dagster-celery's task takes; gives the result to wait for."""
    # dagster-celery's own way registers the task anew for each step, of which Celery warns.
    arguments = ExecuteStepArgs(
        job_origin=context.reconstructable_job.get_python_origin(),
        run_id=context.dagster_run.run_id,
        step_keys_to_execute=[step.key],
        instance_ref=context.instance.get_ref(),
        retry_mode=context.executor.retries.for_inner_plan(),
        known_state=known_state,
    )
    return app.send_task(
        TASK_EXECUTE_PLAN_NAME,
        kwargs={
            "execute_step_args_packed": pack_value(arguments),
            "executable_dict": context.reconstructable_job.to_dict(),
        },
        priority=priority,
        queue=queue,
        routing_key=f"{queue}.execute_plan",
    )


def _report(context: PlanOrchestrationContext, text: str, step_key: str | None = None) -> None:
    context.instance.report_engine_event(
        text, context.dagster_run, EngineEventData({}), CeleryExecutor, step_key=step_key
    )


def _fail(context: PlanOrchestrationContext, step: Any, text: str) -> list[str]:
    """The event of a step that failed because its workers did."""
    error = SerializableErrorInfo(text, [], "WorkerLostError")
    failure = StepFailureData(error=error, user_failure_data=None)  # type: ignore[no-untyped-call]
    return [serialize_value(DagsterEvent.step_failure_event(context.for_step(step), failure))]
