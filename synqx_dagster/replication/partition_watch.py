"""Looks at the partitions of followed tables, and keeps in the target what the log did not tell of them.

Guarantee: what was done to a single partition between two looks is known by name from the second one on, until the
table is copied anew. A partition that was made empty, and a TRUNCATE of the whole table, are no trouble.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from synqx_dagster.connectors.protocol import WriteSession
from synqx_dagster.errors import RetryableError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.account import Account
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.partitions import (
    PartitionSet,
    add_doubts,
    compare,
    describe,
    find_empty,
    read_partitions,
    reason_of,
)
from synqx_dagster.replication.slot import SourceConnector

logger = logging.getLogger(__name__)


class PartitionWatch:
    """The partitioned tables of one run.

    Args:
        tables: Those that are partitioned.
    """

    def __init__(
        self,
        replication: Replication,
        source: SourceConnector,
        tables: Sequence[TableName],
        applier: Applier,
        account: Account,
    ) -> None:
        self._replication = replication
        self._source = source
        self._tables = tables
        self._applier = applier
        self._account = account
        #: Where the log ended when all partitions of a table were found written anew: up to there it may tell of a
        #: TRUNCATE of the whole.
        self._unexplained: dict[TableName, int] = {}

    def look(self) -> None:
        """Compare the partitions with what is known of them.

        Raises:
            FencedError: A newer run has taken over.
        """
        states = self._applier.table_states
        following = [table for table in self._tables if states[table].status == "following"]
        if not following:
            return
        with self._source.write() as session:
            for table in following:
                try:
                    self._look_at(session, table)
                except RetryableError as error:
                    if error.context.get("sqlstate") != "55P03":
                        raise
                    # Somebody has locked a partition that was attached. What is known stays, and so the next look asks.
                    logger.info("%s: partitions of %s: %s", self._replication.name, table, error)

    def _look_at(self, session: WriteSession, table: TableName) -> None:
        now = read_partitions(session, table)
        text = self._applier.table_states[table].partitions
        if now is None:
            return
        if text is None:
            # An earlier version has copied it.
            self._applier.note_partitions(table, now.to_json(), None)
            return
        known = PartitionSet.from_json(text)
        difference = compare(known, now)
        if difference.all_rewritten and not known.was_truncated:
            end = self._unexplained.setdefault(table, now.lsn)
            if (self._applier.state.position or 0) < end:
                return
        self._unexplained.pop(table, None)
        if not difference.has_news:
            return
        empty = find_empty(session, difference.attached)
        doubts = describe(difference, empty, was_truncated=known.was_truncated)
        kept = add_doubts(now, known.doubts, doubts)
        self._applier.note_partitions(table, kept.to_json(), reason_of(kept.doubts))
        self.tell(table)

    def tell_all(self) -> None:
        """Say again what earlier runs have found."""
        for table in self._tables:
            self.tell(table)

    def tell(self, table: TableName) -> None:
        """Say of a table that it may differ from the source."""
        state = self._applier.table_states[table]
        if state.status == "following" and state.reason is not None:
            self._account.warn(
                f"partitions {table}",
                f"{table}: {state.reason}; `synqx replications resync {self._replication.name} --table {table}`"
                " copies it anew",
            )
