"""Transactions put together from the log: alike whether they came whole or in pieces, from memory or from disk."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import FatalError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import Change, Insert, Relation
from synqx_dagster.replication.transactions import AssembledTransaction, Assembler, MessageBuffer
from synqx_dagster_tests.unit.replication import pgoutput_encoder as encoder
from synqx_dagster_tests.unit.replication.relations import changes, encode, relations


@dataclass
class Script:
    """A transaction as the source ran it, and what must come of it."""

    xid: int
    messages: list[bytes] = field(default_factory=list)
    expected: list[Change] = field(default_factory=list)
    is_rolled_back: bool = False


@st.composite
def scripts(draw: st.DrawFn, xid: int) -> Script:
    """A transaction in pieces: changes of itself and of savepoints, tables that change, savepoints rolled back."""
    script = Script(xid)
    table = draw(relations(oid=draw(st.integers(1, 3))))
    script.messages.append(encoder.relation(table, xid))
    done: list[tuple[int, Change]] = []
    open_savepoints = [xid + 1, xid + 2, xid + 3]
    for _ in range(draw(st.integers(0, 8))):
        number = draw(st.sampled_from([xid, *open_savepoints]))
        match draw(st.sampled_from(["change", "change", "change", "describe", "roll back", "noise"])):
            case "change":
                change = draw(changes(table))
                script.messages.append(encode(change, number))
                done.append((number, change))
            case "describe":
                table = draw(relations(oid=table.oid))
                script.messages.append(encoder.relation(table, number))
            case "roll back" if number != xid:
                script.messages.append(encoder.stream_abort(xid, number))
                open_savepoints.remove(number)
                done = [(of, change) for of, change in done if of != number]
            case _:
                script.messages.append(draw(st.sampled_from([encoder.type_name(xid), encoder.logical_message(xid)])))
    script.expected = [change for _, change in done]
    script.is_rolled_back = draw(st.booleans())
    return script


def pieces(script: Script, sizes: Iterator[int]) -> list[list[bytes]]:
    """The messages in pieces of an open transaction; a rollback stands between pieces."""
    result: list[list[bytes]] = []
    piece: list[bytes] = []
    room = next(sizes)

    def close() -> None:
        nonlocal piece, room
        if piece:
            result.append([encoder.stream_start(script.xid, not result), *piece, encoder.STREAM_STOP])
        piece, room = [], next(sizes)

    for message in script.messages:
        if message[:1] == b"A":
            close()
            result.append([message])
            continue
        piece.append(message)
        room -= 1
        if room <= 0:
            close()
    close()
    return result


def feed_in_parts(assembler: Assembler, log: list[bytes], steps: list[tuple[int, bool]]) -> list[AssembledTransaction]:
    """Feed a log by so many messages at a time, and put the largest transaction on disk after some of the steps."""
    done = []
    for size, spills in steps:
        done += assembler.feed(log[:size])
        log = log[size:]
        if spills:
            assembler.spill_largest()
    return done


@given(st.data())
def test_pieces_give_what_was_not_rolled_back_in_order_of_commit(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    made = [data.draw(scripts(1000 * (number + 1))) for number in range(count)]
    sizes = iter(lambda: data.draw(st.integers(1, 4)), 0)
    queues = [pieces(script, sizes) for script in made]
    assembler = Assembler(encoder.name_types)
    lsn, expected = 100, []
    log: list[bytes] = []
    while queues:
        number = data.draw(st.integers(0, len(queues) - 1))
        if queues[number]:
            log += queues[number].pop(0)
            continue
        script = made[number]
        del queues[number], made[number]
        if not script.messages or not any(message[:1] != b"A" for message in script.messages):
            continue
        if script.is_rolled_back:
            log.append(encoder.stream_abort(script.xid, script.xid))
        else:
            lsn += 10
            log.append(encoder.stream_commit(script.xid, lsn, lsn + 5, 0))
            expected.append((lsn, lsn + 5, script.expected))
    # Drawn before there are files, which an example that ends early would leave open.
    steps = data.draw(st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=len(log), max_size=len(log)))
    done = feed_in_parts(assembler, log, steps)
    found = [(one.commit_lsn, one.end_lsn, one.change_count, list(one.iter_changes())) for one in done]
    assert found == [(at, end, len(changed), changed) for at, end, changed in expected]
    assert assembler.held_bytes == 0


TABLE = Relation(
    5,
    TableName("t", "public"),
    "default",
    (
        Column("id", DataType("bigint"), False, "bigint", "postgres", 1),
        Column("x", DataType("string"), True, "text", "postgres"),
    ),
    ("id",),
)
WIDER = Relation(
    5,
    TABLE.table,
    "default",
    (*TABLE.columns, Column("y", DataType("string"), True, "text", "postgres")),
    ("id",),
)


def whole(lsn: int, *messages: bytes) -> list[bytes]:
    return [encoder.begin(lsn, 0, lsn), *messages, encoder.commit(lsn, lsn + 5, 0)]


@given(st.data())
def test_whole_transactions_in_any_parts_and_on_disk(data: st.DataObject) -> None:
    changed = [data.draw(st.lists(changes(TABLE), max_size=4)) for _ in range(3)]
    log: list[bytes] = []
    for number, some in enumerate(changed):
        describes = [encoder.relation(TABLE)] if number == 0 else []
        log += whole(10 * (number + 1), *describes, *(encode(change) for change in some), encoder.origin())
    assembler = Assembler(encoder.name_types)
    # Drawn before there are files, which an example that ends early would leave open.
    steps = data.draw(st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=len(log), max_size=len(log)))
    done = feed_in_parts(assembler, log, steps)
    assert [list(one.iter_changes()) for one in done] == changed


def test_a_table_is_described_as_it_was_at_each_change() -> None:
    assembler = Assembler(encoder.name_types)
    narrow, wide = ("1", "a"), ("2", "b", "c")
    log = [
        *whole(10, encoder.relation(TABLE), encoder.insert(TABLE, narrow)),
        # Read before the next one, and taken after it.
        *whole(20, encoder.insert(TABLE, narrow), encoder.relation(WIDER), encoder.insert(WIDER, wide)),
        *whole(30, encoder.insert(WIDER, wide)),
    ]
    done = assembler.feed(log)
    assert list(done[1].iter_changes()) == [Insert(TABLE, narrow), Insert(WIDER, wide)]
    assert list(done[2].iter_changes()) == [Insert(WIDER, wide)]
    assert list(done[0].iter_changes()) == [Insert(TABLE, narrow)]


def test_what_a_streamed_transaction_was_told_of_tables_counts_after_its_commit_and_not_after_its_rollback() -> None:
    def streamed(xid: int) -> list[bytes]:
        return [
            encoder.stream_start(xid, True),
            encoder.relation(WIDER, xid),
            encoder.insert(WIDER, ("1", "a", "b"), xid),
            encoder.STREAM_STOP,
        ]

    assembler = Assembler(encoder.name_types)
    done = assembler.feed(
        [
            *whole(10, encoder.relation(TABLE)),
            *streamed(700),
            encoder.stream_abort(700, 700),
            *whole(20, encoder.insert(TABLE, ("1", "a"))),
            *streamed(800),
            *whole(30, encoder.insert(TABLE, ("2", "a"))),
            encoder.stream_commit(800, 40, 45, 0),
            *whole(50, encoder.insert(WIDER, ("3", "a", "b"))),
        ]
    )
    assert [one.commit_lsn for one in done] == [10, 20, 30, 40, 50]
    assert [change.new for one in done for change in one.iter_changes() if isinstance(change, Insert)] == [
        ("1", "a"),
        ("2", "a"),
        ("1", "a", "b"),
        ("3", "a", "b"),
    ]


def test_a_description_within_a_savepoint_that_was_rolled_back_still_counts() -> None:
    # The source does not send it again: to it the table is described for the whole transaction.
    assembler = Assembler(encoder.name_types)
    done = assembler.feed(
        [
            encoder.stream_start(700, True),
            encoder.relation(TABLE, 701),
            encoder.insert(TABLE, ("1", "gone"), 701),
            encoder.STREAM_STOP,
            encoder.stream_abort(700, 701),
            encoder.stream_start(700, False),
            encoder.insert(TABLE, ("2", "kept"), 700),
            encoder.STREAM_STOP,
            encoder.stream_commit(700, 10, 15, 0),
        ]
    )
    assert [list(one.iter_changes()) for one in done] == [[Insert(TABLE, ("2", "kept"))]]
    assert done[0].change_count == 1


@pytest.mark.parametrize(
    "log",
    [
        [encoder.insert(TABLE, ("1", "a"))],
        [encoder.relation(TABLE)],
        [encoder.commit(1, 2, 0)],
        [encoder.begin(1, 0, 1), encoder.begin(2, 0, 2)],
        [encoder.stream_start(1, True), encoder.begin(2, 0, 2)],
        [encoder.STREAM_STOP],
        [encoder.stream_commit(1, 2, 3, 0)],
        [b""],
        [b"z"],
    ],
)
def test_messages_out_of_place_are_refused(log: list[bytes]) -> None:
    with pytest.raises(FatalError):
        Assembler(encoder.name_types).feed(log)


def test_the_memory_that_is_held_is_known_and_freed(tmp_path: Path) -> None:
    assembler = Assembler(encoder.name_types, spill_directory=tmp_path)
    row = encoder.insert(TABLE, ("1", "x" * 10_000))
    assembler.feed([encoder.begin(1, 0, 1), encoder.relation(TABLE), *[row] * 100])
    assert 1_000_000 < assembler.held_bytes < 1_100_000
    assembler.spill_largest()
    assert assembler.held_bytes == 0
    (done,) = assembler.feed([row, encoder.commit(1, 2, 0)])
    assert done.held_bytes < 2000
    assert list(tmp_path.iterdir()) == []  # Nothing that a killed process would leave behind.
    assert sum(1 for _ in done.iter_changes()) == done.change_count == 101
    done.close()
    assert done.held_bytes == 0
    assert list(done.iter_changes()) == []


def test_the_memory_of_small_transactions_is_known_too() -> None:
    assembler = Assembler(encoder.name_types)
    assembler.feed(whole(10, encoder.relation(TABLE)))
    count = 2000
    tracemalloc.start()
    try:
        log = [whole(100 + 10 * number, encoder.insert(TABLE, (str(number), "x" * 50))) for number in range(count)]
        messages = tracemalloc.get_traced_memory()[0]
        done = [one for part in log for one in assembler.feed(part)]
        taken = tracemalloc.get_traced_memory()[0] - messages
    finally:
        tracemalloc.stop()
    told = sum(one.held_bytes for one in done)
    assert taken < told < 2 * taken + count * 200


def test_a_directory_that_is_not_there_is_told() -> None:
    buffer = MessageBuffer(Path("/nowhere/at/all"))
    buffer.extend([b"x"])
    with pytest.raises(RetryableError, match=r"cannot be put on disk: No such file") as caught:
        buffer.spill()
    assert "/nowhere/at/all" in (caught.value.hint or "")
