"""What a target does not take, and what else writes it: one table stops with the reason, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.replication import operations
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.replicating import Pair, open_pair

SCHEMA = """
create table orders (id int primary key, customer text);
create table lines (id int primary key, amount int);
insert into orders select n, 'customer ' || n from generate_series(1, 100) n;
insert into lines select n, n from generate_series(1, 100) n;
"""


@pytest.fixture
def pair(postgresql: PostgresqlDatabase, tmp_path: Path) -> Iterator[Pair]:
    postgresql.execute(SCHEMA)
    with open_pair(postgresql, postgresql.create_database(), tmp_path / "spill") as found:
        yield found


def test_a_row_that_a_target_refuses_stops_its_table_alone(pair: Pair) -> None:
    pair.follow()
    pair.target.execute("alter table lines add constraint no_debts check (amount >= 0)")
    pair.source.execute(
        "begin; insert into lines values (500, -4711); update orders set customer = 'changed' where id < 50; commit"
    )
    report = pair.follow()
    pair.assert_equal("orders")
    # Of the transaction the table that has stopped has nothing.
    assert pair.target.execute("select count(*) from lines") == [(100,)]
    (warning,) = report.warnings
    assert "public.lines has stopped" in warning
    assert "no_debts" in warning
    assert "4711" not in warning
    status = pair.status()
    assert (status.state, status.reason) == ("degraded", "stopped: public.lines")
    reasons = {str(table.source): table.reason for table in status.tables}
    assert "no_debts" in (reasons["public.lines"] or "")
    assert reasons["public.orders"] is None

    # It stays so, and the others go on, until it is copied anew.
    pair.source.execute("delete from orders where id = 1; update lines set amount = 7 where id = 500")
    pair.follow()
    pair.assert_equal("orders")
    pair.target.execute("alter table lines drop constraint no_debts")
    operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["lines"])
    pair.follow()
    pair.assert_equal("lines")
    assert pair.status().state == "following"
