"""Functions run in several processes at the same moment."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from synqx_dagster_tests.forked import fork_context

_T = TypeVar("_T")


def run_at_once(act: Callable[..., _T], *arguments: object, count: int = 2) -> list[_T]:
    """Call ``act(*arguments, number, meet)`` in ``count`` processes of their own; ``meet()`` waits for all of them.

    Returns:
        What they returned, by number. An error in one of them is raised here.
    """
    context = fork_context([act.__module__])
    barrier = context.Barrier(count)
    results = context.Queue()
    workers = [
        context.Process(target=_work, args=(act, arguments, number, barrier, results)) for number in range(count)
    ]
    for worker in workers:
        worker.start()
    found: dict[int, Any] = {}
    try:
        for _ in workers:
            number, value, error = results.get(timeout=60)
            if error is not None:
                raise AssertionError(f"process {number} failed: {error}")
            found[number] = value
    finally:
        for worker in workers:
            worker.join(timeout=10)
            worker.kill()
            worker.join()
            worker.close()
        results.close()
    return [found[number] for number in range(count)]


def _work(act: Callable[..., Any], arguments: tuple[object, ...], number: int, barrier: Any, results: Any) -> None:
    try:
        results.put((number, act(*arguments, number, functools.partial(barrier.wait, timeout=30)), None))
    except Exception as exc:  # noqa: BLE001 # It is raised again in the test's own process.
        barrier.abort()
        results.put((number, None, repr(exc)))
