"""Ids and views of agents: the ids stay, and no view is lost, however many write at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from synqx_dagster.catalog.agent_rows import add_view, count_views, find_row, make_agent_id, parse_agent_id, read_rows
from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.catalog.documents import Definitions
from synqx_dagster.catalog.hub_tables import agent_view
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import NotFoundError
from synqx_dagster.model import Record
from synqx_dagster.settings import Settings
from synqx_dagster_tests.integration.catalog.processes import run_at_once
from synqx_dagster_tests.unit.catalog import records

WRITERS = 50


def write(catalog: Catalog, *declared: Record, prune: bool = False) -> None:
    plan = plan_changes(catalog, Definitions(declared), prune=prune)
    apply_changes(catalog, plan, author="tester", reason=None)


def test_an_agent_keeps_its_id_and_its_views(any_catalog: Catalog) -> None:
    write(any_catalog, records.agent("one"), records.agent("two"))
    first = read_rows(any_catalog)
    assert first["one"].agent_id != first["two"].agent_id
    assert first["one"].agent_id == make_agent_id(any_catalog.catalog_id, first["one"].record_id)
    add_view(any_catalog, "one", user_id=None, session_id=None)

    write(any_catalog, records.agent("two"), prune=True)
    assert set(read_rows(any_catalog)) == {"two"}
    assert find_row(any_catalog, str(first["one"].agent_id)) is None
    write(any_catalog, records.agent("one", status="active"))

    again = read_rows(any_catalog)["one"]
    assert (again.agent_id, again.view_count) == (first["one"].agent_id, 1)


def test_an_agent_is_found_by_id_and_by_name(any_catalog: Catalog) -> None:
    write(any_catalog, records.agent("one"))
    row = read_rows(any_catalog)["one"]
    assert find_row(any_catalog, "one") == find_row(any_catalog, str(row.agent_id)) == row
    assert find_row(any_catalog, str(row.agent_id).upper()) == row
    for unknown in ("two", str(uuid4()), "", "'; --", f"{{{row.agent_id}}}"):
        assert find_row(any_catalog, unknown) is None
    # Somebody may name an agent as another one is identified.
    write(any_catalog, records.agent(str(row.agent_id)))
    assert find_row(any_catalog, str(row.agent_id)) == row


@pytest.mark.parametrize("text", ["", "x", "1" * 32, "urn:uuid:00000000-0000-0000-0000-000000000000", "\x00"])
def test_what_is_no_uuid_as_it_is_written(text: str) -> None:
    assert parse_agent_id(text) is None


def test_views_say_who_and_when(any_catalog: Catalog) -> None:
    write(any_catalog, records.agent("one"), records.agent("two"))
    ada, bob = uuid4(), uuid4()
    for user in (ada, ada, bob, None):
        add_view(any_catalog, "one", user_id=user, session_id="tab-1")
    assert count_views(any_catalog, timedelta(days=7)) == {"one": (4, 2)}
    later = datetime.now(UTC) + timedelta(days=8)
    assert count_views(any_catalog, timedelta(days=7), now=later) == {}
    with any_catalog.read() as connection:
        rows = connection.execute(sa.select(agent_view)).all()
    assert [row.user_id and UUID(row.user_id) for row in rows] == [ada, ada, bob, None]
    assert {row.session_id for row in rows} == {"tab-1"}
    assert all(abs(datetime.now(UTC) - row.viewed_at) < timedelta(minutes=5) for row in rows)


def test_a_view_of_nothing_is_refused_and_counts_nowhere(any_catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="no agent 'one'"):
        add_view(any_catalog, "one", user_id=None, session_id=None)
    with any_catalog.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(agent_view)).scalar() == 0


def test_fifty_writers_lose_no_view(any_catalog: Catalog) -> None:
    write(any_catalog, records.agent("one"))
    start = threading.Barrier(WRITERS)
    counts: list[int] = []

    def look() -> None:
        start.wait(timeout=60)
        counts.append(add_view(any_catalog, "one", user_id=uuid4(), session_id=None).view_count)

    threads = [threading.Thread(target=look) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(counts) == list(range(1, WRITERS + 1))
    assert read_rows(any_catalog)["one"].view_count == WRITERS
    assert count_views(any_catalog, timedelta(days=1)) == {"one": (WRITERS, WRITERS)}


def test_processes_lose_no_view_either(any_catalog: Catalog) -> None:
    write(any_catalog, records.agent("one"))
    counts = run_at_once(_look_often, any_catalog.settings, count=3)
    assert sorted(count for found in counts for count in found) == list(range(1, 31))


def _look_often(settings: Settings, _number: int, meet: Callable[[], object]) -> list[int]:
    with Catalog.open(settings) as catalog:
        meet()
        return [add_view(catalog, "one", user_id=None, session_id=None).view_count for _ in range(10)]
