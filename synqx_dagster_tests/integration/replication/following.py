"""A source that is followed, and what is read of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.model.replication import Replication
from synqx_dagster.replication.changes import Change
from synqx_dagster.replication.publication import ensure_publication
from synqx_dagster.replication.slot import create_slot, drop_slot, find_slot
from synqx_dagster.replication.source import SourceReport, inspect_source
from synqx_dagster.replication.stream import ChangeStream, open_stream
from synqx_dagster.replication.transactions import AssembledTransaction
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

WAIT_SECONDS = 30.0


def make_replication(*tables: str | dict[str, Any], **fields: Any) -> Replication:
    """A replication of tables; its name, and so its slot's, is new each time: slots are the whole server's."""
    _numbers.append(len(_numbers))
    return Replication.model_validate(
        {
            "name": f"r{time.time_ns()}_{len(_numbers)}",
            "source_connection": "source",
            "target_connection": "target",
            "tables": [{"name": table} if isinstance(table, str) else table for table in tables or ("*",)],
            **fields,
        }
    )


_numbers: list[int] = []


@dataclass
class Followed:
    """A database with a publication and a slot."""

    database: PostgresqlDatabase
    connector: PostgresqlConnector
    replication: Replication
    position: int

    @contextmanager
    def stream(self, **options: Any) -> Iterator[ChangeStream]:
        """Its changes after what was stored; `store` stores."""
        name, publication = self.replication.slot_name, self.replication.publication_name
        with open_stream(self.connector, name, publication, after_lsn=self.position, **options) as stream:
            yield stream

    def store(self, stream: ChangeStream, transaction: AssembledTransaction) -> None:
        """Say that all up to a transaction is stored."""
        self.position = transaction.end_lsn
        stream.confirm(self.position)

    def changes(self, stream: ChangeStream) -> list[Change]:
        """The changes of the next transaction, which is stored."""
        transaction = take(stream)
        changes = list(transaction.iter_changes())
        assert len(changes) == transaction.change_count
        self.store(stream, transaction)
        return changes

    def slot(self) -> Any:
        """The slot as the server shows it."""
        with self.connector.write() as session:
            return find_slot(session, self.replication.slot_name)


def take(stream: ChangeStream) -> AssembledTransaction:
    """The next transaction, which is expected to come."""
    transaction = stream.next_transaction(WAIT_SECONDS)
    assert transaction is not None, "no transaction came"
    return transaction


def wait_until(holds: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"in {seconds:g} s it has not come about that {what}"
        time.sleep(0.02)


def inspect(connector: PostgresqlConnector, replication: Replication) -> SourceReport:
    """What is said of the source."""
    with connector.write() as session:
        return inspect_source(session, replication)


def publish(connector: PostgresqlConnector, replication: Replication) -> bool:
    """Make the publication what the replication wants."""
    with connector.write() as session:
        report = inspect_source(session, replication)
        assert report.problems == ()
        return ensure_publication(session, replication.publication_name, report.published, report.server.version)


@contextmanager
def follow(database: PostgresqlDatabase, *tables: str | dict[str, Any], **fields: Any) -> Iterator[Followed]:
    """Publish tables and make a slot; both go at the end."""
    connector = PostgresqlConnector(database.config("source"))
    replication = make_replication(*tables, **fields)
    try:
        publish(connector, replication)
        with create_slot(connector, replication.slot_name) as slot:
            slot.keep()
        yield Followed(database, connector, replication, slot.consistent_lsn)
    finally:
        with connector.write() as session:
            drop_slot(session, replication.slot_name, ends_consumer=True)
        connector.close()
