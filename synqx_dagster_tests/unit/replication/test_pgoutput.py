"""The decoder: what was encoded comes out again, and what is no message is refused by name."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import FatalError
from synqx_dagster.replication import pgoutput
from synqx_dagster.replication.changes import Change, Relation
from synqx_dagster_tests.unit.replication import pgoutput_encoder as encoder
from synqx_dagster_tests.unit.replication.relations import changes, encode, relations

LSN = st.integers(0, 2**64 - 1)
XID = st.integers(1, 2**32 - 1)


def decode(payload: bytes, relation: Relation, start: int = 1, aborted: frozenset[bytes] = frozenset()) -> list[Change]:
    def describe(described: bytes, at: int) -> Relation:
        return pgoutput.read_relation(described, at, encoder.name_types)

    return list(pgoutput.iter_changes([payload], {relation.oid: relation}, describe, start=start, aborted=aborted))


@given(st.data(), st.none() | XID)
def test_changes_come_out_as_they_went_in(data: st.DataObject, xid: int | None) -> None:
    relation = data.draw(relations())
    change = data.draw(changes(relation))
    start = pgoutput.PLAIN_START if xid is None else pgoutput.STREAMED_START
    assert decode(encode(change, xid), relation, start) == [change]


@given(relations(), st.none() | XID)
def test_relations_come_out_as_they_went_in(relation: Relation, xid: int | None) -> None:
    start = pgoutput.PLAIN_START if xid is None else pgoutput.STREAMED_START
    assert pgoutput.read_relation(encoder.relation(relation, xid), start, encoder.name_types) == relation


@given(LSN, LSN, st.integers(-(2**55), 2**55), XID, XID)
def test_beginnings_and_ends_come_out_as_they_went_in(
    commit_lsn: int, end_lsn: int, microseconds: int, xid: int, subxid: int
) -> None:
    assert pgoutput.read_begin(encoder.begin(commit_lsn, microseconds, xid)) == (commit_lsn, xid)
    ending = pgoutput.read_commit(encoder.commit(commit_lsn, end_lsn, microseconds))
    assert (ending.commit_lsn, ending.end_lsn) == (commit_lsn, end_lsn)
    assert (ending.committed_at - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == microseconds
    assert pgoutput.read_stream_start(encoder.stream_start(xid, True)) == xid
    assert pgoutput.read_stream_commit(encoder.stream_commit(xid, commit_lsn, end_lsn, microseconds)) == (xid, ending)
    assert pgoutput.read_stream_abort(encoder.stream_abort(xid, subxid)) == (xid, subxid)


def test_a_commit_time_out_of_the_calendar_is_refused() -> None:
    with pytest.raises(FatalError, match="cannot be read"):
        pgoutput.read_commit(encoder.commit(1, 2, 2**62))


@given(st.data())
def test_a_change_that_was_cut_off_or_goes_on_is_refused(data: st.DataObject) -> None:
    relation = data.draw(relations())
    payload = encode(data.draw(changes(relation)))
    cut = data.draw(st.integers(1, len(payload) - 1))
    for wrong in (payload[:cut], payload + b"\0"):
        with pytest.raises(FatalError, match="cannot be read") as caught:
            decode(wrong, relation)
        assert caught.value.context["kind"] == chr(payload[0])


@given(relations(), st.data())
def test_a_relation_that_was_cut_off_is_refused(relation: Relation, data: st.DataObject) -> None:
    payload = encoder.relation(relation)
    cut = data.draw(st.integers(1, len(payload) - 1))
    with pytest.raises(FatalError, match="cannot be read"):
        pgoutput.read_relation(payload[:cut], 1, encoder.name_types)


READERS = [pgoutput.read_begin, pgoutput.read_commit, pgoutput.read_stream_start, pgoutput.read_stream_commit]


@given(st.data())
def test_noise_is_refused_and_nothing_else_is_raised(data: st.DataObject) -> None:
    relation = data.draw(relations(oid=1))
    kind = data.draw(st.sampled_from([b"I", b"U", b"D", b"T", b"R", b"x", b""]))
    table = data.draw(st.sampled_from([b"", b"\0\0\0\1", b"\0\0\0\1N", b"\0\0\0\1K\0\1"]))
    payload = kind + table + data.draw(st.binary(max_size=40))
    with contextlib.suppress(FatalError):
        decode(payload, relation)
    for read in [*READERS, pgoutput.read_stream_abort]:
        if len(payload) not in (5, 6, 9, 21, 26, 30):
            with pytest.raises(FatalError):
                read(payload)


def test_a_table_that_was_not_described_is_refused() -> None:
    relation = Relation(7, encoder_table(), "default", (), ())
    with pytest.raises(FatalError, match="cannot be read"):
        decode(encoder.insert(relation, ()), Relation(8, encoder_table(), "default", (), ()))


def encoder_table() -> pgoutput.TableName:
    return pgoutput.TableName("t", "public")


def test_a_message_never_tells_a_value() -> None:
    relation = Relation(7, encoder_table(), "default", (), ())
    payload = encoder.insert(relation, ("secret-value", "x"))
    with pytest.raises(FatalError) as caught:
        decode(payload, relation)
    assert "secret" not in str(caught.value) + repr(caught.value.context)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
