"""When a step counts as lost, and what is done about it, with workers that a test makes up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from redis.exceptions import ConnectionError as RedisConnectionError

from synqx_dagster.defs.celery_executor import (
    LOOK_EVERY_SECONDS,
    LOST_AFTER_SECONDS,
    MOST_LOSSES,
    PATIENCE_SECONDS,
    SubmittedStep,
    WorkerWatch,
)
from synqx_dagster.errors import RetryableError


class WorkerLostError(Exception):
    """What Celery says of a process that was killed; known by its name alone."""


@dataclass
class FakeResult:
    """The result of a task in a backend that may be away."""

    broker: FakeBroker
    id: str
    state: str = "PENDING"
    value: Any = None
    forgotten: bool = False

    @property
    def backend(self) -> FakeBroker:
        return self.broker

    @property
    def result(self) -> Any:
        return self.value

    info = result

    def ready(self) -> bool:
        if self.broker.is_away:
            raise RedisConnectionError("away")
        return self.state in ("SUCCESS", "FAILURE", "REVOKED")

    def get(self) -> Any:
        if self.state == "REVOKED":
            raise TaskRevokedError
        if self.state == "FAILURE":
            raise self.value
        return self.value

    def forget(self) -> None:
        self.forgotten = True

    def start(self, host: str) -> None:
        self.state, self.value = "STARTED", {"hostname": host, "pid": 1}


@dataclass
class FakeBroker:
    """Celery's application, its control and its backend as one."""

    known: dict[str, list[str]] = field(default_factory=dict)
    waiting: int = 0
    is_away: bool = False
    looks: int = 0
    results: list[FakeResult] = field(default_factory=list)
    revoked: list[tuple[str, bool]] = field(default_factory=list)
    channel_errors = (KeyError,)

    @property
    def control(self) -> FakeBroker:
        return self

    def submit(self) -> FakeResult:
        self.results.append(FakeResult(self, f"task-{len(self.results)}"))
        return self.results[-1]

    def inspect(self, timeout: float) -> FakeBroker:
        assert timeout > 0
        self.looks += 1
        return self

    def query_task(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        return {host: {item: ["active", {}] for item in held if item in ids} for host, held in self.known.items()}

    @contextmanager
    def connection_for_read(self) -> Iterator[FakeBroker]:
        yield self

    @property
    def default_channel(self) -> FakeBroker:
        return self

    def queue_declare(self, queue: str, passive: bool) -> Any:
        assert passive
        if not self.waiting:
            raise KeyError(queue)
        return SimpleNamespace(message_count=self.waiting)

    def mark_as_revoked(self, task_id: str, reason: str) -> None:
        assert reason
        (result,) = [result for result in self.results if result.id == task_id]
        result.state = "REVOKED"

    def revoke(self, task_id: str, terminate: bool) -> None:
        self.revoked.append((task_id, terminate))


@dataclass
class Scene:
    """A run of one step."""

    broker: FakeBroker = field(default_factory=FakeBroker)
    now: float = 0.0
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = WorkerWatch(self.broker, self.said.append, clock=lambda: self.now)

    def submit(self) -> SubmittedStep:
        return SubmittedStep(
            self.watch, self.broker.submit, queue="dagster", report=self.said.append, fail=lambda text: [text]
        )

    def pass_time(self, step: SubmittedStep, seconds: float) -> bool:
        """The loop's second after second; whether the step became ready."""
        for _ in range(int(seconds)):
            self.now += 1
            if step.ready():
                return True
        return False


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_step_that_a_worker_knows_takes_as_long_as_it_takes(scene: Scene) -> None:
    step = scene.submit()
    (result,) = scene.broker.results
    scene.broker.known = {"one@host": [result.id]}
    result.start("one@host")
    assert not scene.pass_time(step, 5_000)
    assert scene.broker.results == [result]
    result.state, result.value = "SUCCESS", ["event"]
    assert step.ready()
    assert step.get() == ["event"]
    assert result.forgotten
    assert scene.said == []


def test_workers_are_asked_now_and_then(scene: Scene) -> None:
    step = scene.submit()
    scene.broker.known = {"one@host": [scene.broker.results[0].id]}
    scene.pass_time(step, 100)
    assert scene.broker.looks == pytest.approx(100 / LOOK_EVERY_SECONDS, abs=1)


def test_a_step_that_nobody_knows_any_more_is_submitted_again_once(scene: Scene) -> None:
    step = scene.submit()
    (lost,) = scene.broker.results
    lost.start("dead@host")
    scene.broker.known = {"other@host": []}
    assert not scene.pass_time(step, LOST_AFTER_SECONDS - 1)
    assert len(scene.broker.results) == 1
    assert not scene.pass_time(step, LOOK_EVERY_SECONDS * 2)
    assert [result.id for result in scene.broker.results] == ["task-0", "task-1"]
    # Neither the dead worker nor one that is handed its message later executes it.
    assert lost.state == "REVOKED"
    assert scene.broker.revoked == [(lost.id, True)]
    assert scene.said == ["the worker dead@host is gone: this step is submitted again"]
    again = scene.broker.results[1]
    scene.broker.known = {"other@host": [again.id]}
    assert not scene.pass_time(step, 1_000)
    again.state, again.value = "SUCCESS", ["event"]
    assert step.ready()
    assert step.get() == ["event"]


def test_a_step_that_ends_while_nobody_knows_it_is_not_submitted_again(scene: Scene) -> None:
    step = scene.submit()
    (result,) = scene.broker.results
    result.start("orphan@host")
    scene.broker.known = {"other@host": []}
    scene.pass_time(step, LOST_AFTER_SECONDS - 1)
    result.state, result.value = "SUCCESS", ["late"]
    assert scene.pass_time(step, 1)
    assert step.get() == ["late"]
    assert len(scene.broker.results) == 1


def test_while_nobody_answers_nothing_is_lost_and_it_is_said_once(scene: Scene) -> None:
    step = scene.submit()
    scene.broker.results[0].start("one@host")
    assert not scene.pass_time(step, 1_000)
    assert len(scene.broker.results) == 1
    assert scene.said == ["no worker answers; steps wait until one does: start some with `synqx worker`"]
    # They come back, but without the step.
    scene.broker.known = {"one@host": []}
    scene.pass_time(step, LOST_AFTER_SECONDS + 2 * LOOK_EVERY_SECONDS)
    assert len(scene.broker.results) == 2


def test_a_step_waits_in_the_queue_as_long_as_others_are_before_it(scene: Scene) -> None:
    step = scene.submit()
    scene.broker.known, scene.broker.waiting = {"busy@host": []}, 3
    assert not scene.pass_time(step, 1_000)
    assert len(scene.broker.results) == 1
    # A worker took the message and died before it began: nobody has it.
    scene.broker.waiting = 0
    scene.pass_time(step, LOST_AFTER_SECONDS + 2 * LOOK_EVERY_SECONDS)
    assert len(scene.broker.results) == 2


def test_a_process_that_was_killed_is_replaced_at_once_and_not_for_ever(scene: Scene) -> None:
    step = scene.submit()
    for number in range(MOST_LOSSES):
        assert len(scene.broker.results) == number + 1
        result = scene.broker.results[-1]
        result.state, result.value = "FAILURE", WorkerLostError("signal 9 (SIGKILL)")
        assert step.ready() == (number + 1 == MOST_LOSSES)
    (failure,) = step.get()
    assert f"the last of {MOST_LOSSES} attempts" in failure
    assert len(scene.said) == MOST_LOSSES - 1


def test_what_the_task_raised_is_raised(scene: Scene) -> None:
    step = scene.submit()
    (result,) = scene.broker.results
    result.state, result.value = "FAILURE", ValueError("no such run")
    assert step.ready()
    with pytest.raises(ValueError, match="no such run"):
        step.get()


def test_a_step_of_a_run_that_is_terminated_ends_in_its_worker(scene: Scene) -> None:
    step = scene.submit()
    (result,) = scene.broker.results
    result.start("one@host")
    step.revoke()
    assert scene.broker.revoked == [(result.id, True)]
    assert step.ready()
    with pytest.raises(TaskRevokedError):
        step.get()
    assert not result.forgotten, "the mark keeps a second delivery from running"


def test_a_broker_that_is_away_is_borne_for_a_while(scene: Scene) -> None:
    step = scene.submit()
    scene.broker.is_away = True
    assert not scene.pass_time(step, PATIENCE_SECONDS - 1)
    scene.broker.is_away = False
    assert not step.ready()
    scene.broker.is_away = True
    assert not scene.pass_time(step, PATIENCE_SECONDS - 1)
    with pytest.raises(RetryableError, match="has not answered for 300 s"):
        scene.pass_time(step, 10)
