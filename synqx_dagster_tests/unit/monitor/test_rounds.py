"""Looks in threads: none holds up another, none is made twice at once."""

from __future__ import annotations

import threading
import time

from synqx_dagster.monitor.rounds import Rounds


def test_a_look_that_hangs_holds_up_no_other() -> None:
    rounds: Rounds[int] = Rounds("test", max_threads=4)
    gate = threading.Event()

    def hang() -> int:
        gate.wait(60)
        return 0

    rounds.begin({"hung": hang, **{str(number): lambda: 1 for number in range(50)}})
    done: dict[str, object] = {}
    deadline = time.monotonic() + 30
    while len(done) < 50 and time.monotonic() < deadline:
        done |= rounds.collect(0.2)
    assert len(done) == 50
    assert set(rounds.under_way()) == {"hung"}
    # It is not looked at a second time meanwhile, and what it gives is not lost.
    assert rounds.begin({"hung": hang}) == []
    gate.set()
    assert rounds.collect(30)["hung"].value == 0
    assert rounds.begin({"hung": lambda: 2}) == ["hung"]
    assert rounds.collect(30)["hung"].value == 2


def test_an_error_ends_one_look() -> None:
    rounds: Rounds[int] = Rounds("test")

    def fail() -> int:
        raise ValueError("no")

    rounds.begin({"bad": fail, "good": lambda: 1})
    found = rounds.collect(30)
    assert isinstance(found["bad"].error, ValueError)
    assert found["good"].value == 1
    assert rounds.collect(0) == {}


def test_many_looks_take_few_threads() -> None:
    rounds: Rounds[int] = Rounds("few", max_threads=3)
    running: list[int] = []
    most = []
    lock = threading.Lock()

    def look() -> int:
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.001)
        with lock:
            running.pop()
        return 1

    rounds.begin({str(number): look for number in range(60)})
    assert len(rounds.collect(30)) == 60
    assert max(most) <= 3
