"""The chain of hashes, as a law: whatever is done to one entry, the first that is wrong is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.audit.chain import AuditEntry, first_hash, hash_entry, verify_chain
from synqx_dagster.audit.event import AuditEvent

CATALOG_ID = "5f0c2a52-0000-4000-8000-000000000000"

texts = st.text(max_size=20)
events = st.builds(
    AuditEvent,
    action=texts,
    outcome=st.sampled_from(["allowed", "denied", "failed"]),
    actor=texts,
    actor_id=st.none() | texts,
    method=texts,
    address=texts,
    target_kind=st.none() | texts,
    target=st.none() | texts,
    fields=st.lists(texts, max_size=3).map(tuple),
    request_id=texts,
    run_id=st.none() | texts,
    revision=st.none() | st.integers(0, 2**62),
    detail=st.none() | texts,
)
trails = st.lists(events, min_size=1, max_size=8)


def chain(found: list[AuditEvent]) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    previous, moment = first_hash(CATALOG_ID), datetime(2026, 11, 1, tzinfo=UTC)
    for number, event in enumerate(found, 1):
        entry = AuditEntry(number, moment + timedelta(seconds=number), event, previous, "")
        entry = replace(entry, entry_hash=hash_entry(entry))
        previous = entry.entry_hash
        entries.append(entry)
    return entries


def broken_at(entries: list[AuditEntry], expected: list[tuple[int, str]] | None = None) -> int | None:
    verdict = verify_chain(entries, catalog_id=CATALOG_ID, expected=expected or [])
    return verdict.broken and verdict.broken.number


@given(trails)
def test_what_was_written_fits(found: list[AuditEvent]) -> None:
    entries = chain(found)
    verdict = verify_chain(
        entries, catalog_id=CATALOG_ID, expected=[(item.number, item.entry_hash) for item in entries]
    )
    assert verdict.broken is None
    assert (verdict.entries, verdict.end_hash) == (len(entries), entries[-1].entry_hash)


@given(trails, events, st.data())
def test_an_entry_that_was_changed_is_found(found: list[AuditEvent], other: AuditEvent, data: st.DataObject) -> None:
    entries = chain(found)
    index = data.draw(st.integers(0, len(entries) - 1))
    name = data.draw(st.sampled_from(sorted(AuditEvent.__dataclass_fields__)))
    changed = replace(entries[index].event, **{name: getattr(other, name)})
    if changed == entries[index].event:
        return
    entries[index] = replace(entries[index], event=changed)
    assert broken_at(entries) == index + 1


@given(trails, st.data())
def test_an_entry_that_was_changed_and_hashed_again_is_found_behind_it(
    found: list[AuditEvent], data: st.DataObject
) -> None:
    entries = chain([*found, found[0]])
    index = data.draw(st.integers(0, len(entries) - 2))
    forged = replace(entries[index], event=replace(entries[index].event, actor="somebody else entirely"))
    end = (entries[index].number, entries[index].entry_hash)
    entries[index] = replace(forged, entry_hash=hash_entry(forged))
    assert broken_at(entries) == index + 2
    assert broken_at(entries, [end]) == index + 1


@given(trails, st.data())
def test_an_entry_that_was_removed_is_found(found: list[AuditEvent], data: st.DataObject) -> None:
    entries = chain([*found, found[0]])
    index = data.draw(st.integers(0, len(entries) - 2))
    assert broken_at([*entries[:index], *entries[index + 1 :]]) == index + 1


@given(trails, events, st.data())
def test_an_entry_that_was_put_in_is_found(found: list[AuditEvent], other: AuditEvent, data: st.DataObject) -> None:
    entries = chain(found)
    index = data.draw(st.integers(0, len(entries)))
    previous = entries[index - 1].entry_hash if index else first_hash(CATALOG_ID)
    forged = AuditEntry(index + 1, datetime(2026, 11, 1, tzinfo=UTC), other, previous, "")
    forged = replace(forged, entry_hash=hash_entry(forged))
    moved = [replace(item, number=item.number + 1) for item in entries[index:]]
    verdict = broken_at([*entries[:index], forged, *moved])
    # At the end of the chain it fits: the trail's own end, kept beside it, tells.
    assert verdict == (index + 2 if moved else None)
    end = [(item.number, item.entry_hash) for item in entries[-1:]]
    assert broken_at([*entries[:index], forged, *moved], end) in (index + 2, index + 1, None)


@given(trails, st.data())
def test_entries_that_changed_places_are_found(found: list[AuditEvent], data: st.DataObject) -> None:
    entries = chain([*found, found[0]])
    index = data.draw(st.integers(0, len(entries) - 2))
    first, second = entries[index : index + 2]
    swapped = [replace(second, number=first.number), replace(first, number=second.number)]
    assert broken_at([*entries[:index], *swapped, *entries[index + 2 :]]) == index + 1


@given(trails, st.data())
def test_a_trail_that_was_cut_off_is_found_by_an_end_that_was_noted(
    found: list[AuditEvent], data: st.DataObject
) -> None:
    entries = chain(found)
    kept = data.draw(st.integers(0, len(entries) - 1))
    end = (entries[-1].number, entries[-1].entry_hash)
    assert broken_at(entries[:kept]) is None
    assert broken_at(entries[:kept], [end]) == kept + 1


def test_the_trail_of_another_catalog_is_found() -> None:
    entries = chain([AuditEvent("user.login", "allowed", "ann")])
    verdict = verify_chain(entries, catalog_id="another")
    assert verdict.broken is not None
    assert verdict.broken.number == 1
    assert broken_at(entries, [(0, first_hash("another"))]) == 1


@pytest.mark.parametrize("zone", [timedelta(hours=5, minutes=30), timedelta(0)])
def test_the_hash_does_not_depend_on_the_zone_that_a_moment_is_told_in(zone: timedelta) -> None:
    from datetime import timezone

    moment = datetime(2026, 11, 1, 12, 0, 0, 1, tzinfo=UTC)
    entry = AuditEntry(1, moment, AuditEvent("a", "allowed", "b"), "0" * 64, "")
    assert hash_entry(replace(entry, recorded_at=moment.astimezone(timezone(zone)))) == hash_entry(entry)


def test_the_format_stays_what_it_is() -> None:
    """A trail of years must still verify: this hash was computed once, and by hand with sha256sum."""
    event = AuditEvent("user.login", "allowed", "ann", fields=("a", "ü"), revision=3)
    entry = AuditEntry(1, datetime(2026, 11, 29, 5, 0, 0, 7, tzinfo=UTC), event, "0" * 64, "")
    assert hash_entry(entry) == FROZEN


FROZEN = "7a5c8f05556da7f6ac1e947d6e465e0a7e919135961761717e66278b541dc50a"
