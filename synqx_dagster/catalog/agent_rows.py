"""What the catalog keeps of agents beside their records: ids, and who looked at them when.

Guarantee: an agent's id is the same for ever, also when the agent is removed and declared again. No view is lost,
however many write at once: a count goes up in one statement, and each view is a row of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.hub_tables import agent, agent_view
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.errors import NotFoundError


@dataclass(frozen=True)
class AgentRow:
    """An agent's identity beside its record."""

    name: str
    record_id: int
    agent_id: UUID
    view_count: int


def make_agent_id(catalog_id: str, record_id: int) -> UUID:
    """The id of an agent: of its catalog and its record, so that whoever makes it makes the same one."""
    return uuid.uuid5(UUID(catalog_id), f"agent/{record_id}")


def keep_agents(connection: Connection, record_ids: Iterable[int]) -> None:
    """Give agents their rows; those that have one keep it."""
    ids = sorted(set(record_ids))
    if not ids:
        return
    catalog_id = connection.execute(sa.select(tables.catalog.c.catalog_id)).scalar_one()
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(
        insert(agent).on_conflict_do_nothing(),
        [
            {"record_id": record_id, "agent_id": str(make_agent_id(catalog_id, record_id)), "view_count": 0}
            for record_id in ids
        ],
    )


def read_rows(catalog: Catalog) -> dict[str, AgentRow]:
    """The agents of the latest revision by name."""
    with catalog.read() as connection:
        return {row.name: row for row in _rows(connection)}


def find_row(catalog: Catalog, reference: str) -> AgentRow | None:
    """An agent of the latest revision, by its id or its name; None where there is none."""
    condition = tables.record.c.name == reference
    agent_id = parse_agent_id(reference)
    if agent_id is not None:
        condition = sa.or_(condition, agent.c.agent_id == str(agent_id))
    with catalog.read() as connection:
        found = list(_rows(connection, condition))
    # A name may look like another agent's id; the id is meant.
    return next((row for row in found if row.agent_id == agent_id), next(iter(found), None))


def parse_agent_id(text: str) -> UUID | None:
    """A UUID as it is written; None for anything else."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    # Python also reads it in braces, as a URN and without dashes.
    return found if str(found) == text.lower() else None


def _rows(connection: Connection, condition: sa.ColumnElement[bool] | None = None) -> Iterable[AgentRow]:
    record, version = tables.record, tables.record_version
    query = (
        sa.select(record.c.name, record.c.record_id, agent.c.agent_id, agent.c.view_count)
        .join_from(record, version, record.c.record_id == version.c.record_id)
        .join(agent, agent.c.record_id == record.c.record_id)
        .where(record.c.kind == "agent", version.c.valid_to.is_(None))
    )
    if condition is not None:
        query = query.where(condition)
    for row in connection.execute(query):
        yield AgentRow(row.name, int(row.record_id), UUID(row.agent_id), int(row.view_count))


# --- views --------------------------------------------------------------------------------------------------------


def add_view(catalog: Catalog, reference: str, *, user_id: UUID | None, session_id: str | None) -> AgentRow:
    """Count that somebody looked at an agent; gives the agent with the new count.

    Args:
        reference: The agent's id or name.
        session_id: Up to 128 characters.

    Raises:
        NotFoundError: There is no such agent.
    """
    row = find_row(catalog, reference)
    if row is None:
        raise agent_not_found(reference)
    with catalog.write() as connection:
        # The view first: what waits for the count's row then has nothing more to do.
        connection.execute(
            sa.insert(agent_view),
            {
                "record_id": row.record_id,
                "viewed_at": datetime.now(UTC),
                "user_id": None if user_id is None else str(user_id),
                "session_id": session_id,
            },
        )
        count = connection.execute(
            sa.update(agent)
            .where(agent.c.record_id == row.record_id)
            .values(view_count=agent.c.view_count + 1)
            .returning(agent.c.view_count)
        ).scalar_one()
    return AgentRow(row.name, row.record_id, row.agent_id, int(count))


def count_views(catalog: Catalog, within: timedelta, *, now: datetime | None = None) -> dict[str, tuple[int, int]]:
    """Views of each agent of the latest revision within a time, and by how many users; without those of no view."""
    since = (now or datetime.now(UTC)) - within
    record, version = tables.record, tables.record_version
    query = (
        sa.select(
            record.c.name,
            sa.func.count().label("views"),
            sa.func.count(sa.distinct(agent_view.c.user_id)).label("viewers"),
        )
        .join_from(agent_view, record, agent_view.c.record_id == record.c.record_id)
        .join(version, version.c.record_id == record.c.record_id)
        .where(agent_view.c.viewed_at >= since, version.c.valid_to.is_(None))
        .group_by(record.c.name)
    )
    with catalog.read() as connection:
        return {row.name: (int(row.views), int(row.viewers)) for row in connection.execute(query)}


def agent_not_found(reference: str) -> NotFoundError:
    """The error that says that there is no agent of an id or a name."""
    return NotFoundError(f"There is no agent {reference!r}", hint="GET /api/v1/agents lists them", kind="agent")
