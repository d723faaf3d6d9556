"""A source and a target for tests of whole runs, and content compared as the servers print it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synqx_dagster.catalog.validation import build_record
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.model import Replication
from synqx_dagster.replication.follow import follow
from synqx_dagster.replication.progress import FollowReport, FollowRequest
from synqx_dagster.replication.status import ReplicationStatus, find_work, read_status
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

_numbers = itertools.count(1)


@dataclass
class Pair:
    """Two databases, one of which follows the other."""

    source: PostgresqlDatabase
    target: Any
    source_connector: Any
    target_connector: Any
    spill: Path
    replication: Replication
    options: dict[str, Any] = field(default_factory=dict)

    def follow(self, **options: Any) -> FollowReport:
        """One run, to its end."""
        return follow(self.request(**options))

    def request(self, **options: Any) -> FollowRequest:
        """What a run is asked for."""
        return FollowRequest(
            replication=self.replication,
            source=self.source_connector,
            target=self.target_connector,
            run_id=f"run-{next(_numbers)}",
            spill_directory=self.spill,
            **{**self.options, **options},
        )

    def status(self) -> ReplicationStatus:
        return read_status(self.replication, self.source_connector, self.target_connector)

    def change(self, **values: Any) -> None:
        """Declare the replication otherwise."""
        plain = {**self.replication.model_dump(mode="json"), **values}
        record = build_record("replication", plain)
        assert isinstance(record, Replication)
        self.replication = record

    def wait_for_work(self) -> str:
        """Why a run is to start; the test's servers write their log a moment after a commit."""
        deadline = time.monotonic() + 30
        while (work := find_work(self.replication, self.source_connector, self.target_connector)).reason is None:
            assert time.monotonic() < deadline, "no run is to start"
            time.sleep(0.05)
        return work.reason

    def slots(self) -> list[str]:
        rows = self.source.execute(
            "select slot_name from pg_replication_slots where database = current_database() order by 1"
        )
        return [row[0] for row in rows]

    def publications(self) -> list[str]:
        return [row[0] for row in self.source.execute("select pubname from pg_publication order by 1")]

    def content(self, table: str, *, where: PostgresqlDatabase | None = None, columns: str = "*") -> list[str]:
        """Rows as text, as a server prints them."""
        database = where or self.target
        rows = database.execute(f"select r::text from (select {columns} from {table}) as r order by 1")
        return [row[0] for row in rows]

    def assert_equal(self, table: str, target: str | None = None) -> None:
        """The target has exactly the source's rows."""
        assert self.content(target or table) == self.content(table, where=self.source)


def make_replication(name: str, **values: Any) -> Replication:
    """A replication of all tables that ends as soon as nothing comes."""
    record = build_record(
        "replication",
        {
            "name": name,
            "source_connection": "origin",
            "target_connection": "warehouse",
            "tables": ["public.*"],
            "idle_seconds": 1,
            "batch_seconds": 0.2,
            "heartbeat_seconds": 1,
            **values,
        },
    )
    assert isinstance(record, Replication)
    return record


@contextmanager
def open_pair(
    source: PostgresqlDatabase,
    target: Any,
    spill: Path,
    name: str = "mirror",
    *,
    connector: Connector | None = None,
    **values: Any,
) -> Iterator[Pair]:
    """A replication between two databases; its objects at the source are dropped at the end.

    Args:
        connector: The target's, where that is no PostgreSQL.
    """
    record = make_replication(name, **{"slot": f"s_{source.name}", **values})
    into: Any = connector or PostgresqlConnector(target.config("warehouse"))
    origin = PostgresqlConnector(source.config("origin"))
    connectors = (origin, into)
    pair = Pair(source, target, origin, into, spill, record)
    try:
        yield pair
    finally:
        for connector in connectors:
            connector.close()
        source.server.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s and not active",
            (source.name,),
        )


def once(action: Callable[[], None], *, call: int = 1) -> Callable[[], bool]:
    """A callback that acts when it is called for the first time, or at a later `call`, and says no."""
    calls = itertools.count(1)

    def answer() -> bool:
        if next(calls) == call:
            action()
        return False

    return answer
