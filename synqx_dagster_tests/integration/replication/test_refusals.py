"""What a target does not take, and what else writes it: one table stops with the reason, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.errors import BadRowsError, PlanError
from synqx_dagster.model.table import TableName
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


def test_a_constraint_that_is_checked_at_the_commit_stops_the_table_that_it_is_of(pair: Pair) -> None:
    pair.follow()
    pair.target.execute("alter table lines add constraint one_each unique (amount) deferrable initially deferred")
    pair.source.execute(
        "begin; insert into lines values (500, 47), (501, 47); update orders set customer = 'x' where id < 50; commit"
    )
    (warning,) = pair.follow().warnings
    assert "public.lines has stopped: public.lines: a key occurs more than once (one_each)" in warning
    assert "checked at COMMIT" in warning
    pair.assert_equal("orders")
    assert pair.target.execute("select count(*) from lines") == [(100,)]


def test_a_constraint_of_a_table_that_is_not_followed_is_named(pair: Pair) -> None:
    pair.follow()
    pair.target.execute(
        "create table notes (id int constraint of_an_order references orders deferrable initially deferred);"
        " insert into notes values (47)"
    )
    pair.source.execute("delete from orders where id = 47; insert into lines values (500, 1)")
    for _ in range(2):
        with pytest.raises(BadRowsError, match=r"public\.notes: .* \(of_an_order\)") as caught:
            pair.follow()
        assert caught.value.context["constraint"] == "of_an_order"
    # Nobody has stopped, and nothing is lost.
    assert pair.status().state == "following"
    pair.target.execute("drop table notes")
    pair.follow()
    pair.assert_equal("orders")
    pair.assert_equal("lines")


def loads_lines(table: TableName) -> str | None:
    return "the mapping 'nightly'" if table.name == "lines" else None


def test_a_target_that_something_else_loads_refuses_a_replication_that_begins(pair: Pair) -> None:
    with pytest.raises(PlanError, match=r"public\.lines: the mapping 'nightly' loads its target lines, too"):
        pair.follow(find_load=loads_lines)
    assert (pair.slots(), pair.publications()) == ([], [])


def test_a_target_that_something_else_loads_later_stops_its_table_alone(pair: Pair) -> None:
    pair.follow()
    pair.source.execute("delete from orders where id < 10; delete from lines where id < 10")
    report = pair.follow(find_load=loads_lines)
    pair.assert_equal("orders")
    assert pair.target.execute("select count(*) from lines") == [(100,)]
    assert any("the mapping 'nightly' loads its target" in warning for warning in report.warnings)
    assert pair.status().state == "degraded"


def test_a_table_that_was_published_by_hand_is_told_of(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    postgresql.execute(SCHEMA)
    target = postgresql.create_database()
    with open_pair(postgresql, target, tmp_path / "spill", tables=["public.orders"]) as pair:
        pair.follow()
        published = False

        def publish() -> bool:
            # Before a run the publication is made to fit; while one goes on it can be changed.
            nonlocal published
            if not published and postgresql.execute("select 1 from pg_replication_slots where active"):
                postgresql.execute(f"alter publication {pair.replication.publication_name} add table lines")
                postgresql.execute("insert into lines values (500, 1)")
                published = True
            return False

        report = pair.follow(is_interrupted=publish)
        assert published
        (warning,) = report.warnings
        assert warning == "public.lines: the log has changes of it, and it is not followed: they are left out"


@pytest.mark.parametrize("snapshot", ["initial", "never"])
def test_a_target_table_that_somebody_dropped_is_not_made_of_its_next_changes(pair: Pair, snapshot: str) -> None:
    pair.change(snapshot=snapshot)
    pair.follow()
    pair.source.execute("update orders set customer = 'b'; update lines set amount = 2")
    pair.follow()
    pair.target.execute("drop table orders")
    pair.source.execute("update orders set customer = 'c' where id < 10; update lines set amount = 3")
    report = pair.follow()
    (warning,) = report.warnings
    assert "the target table orders is gone" in warning
    assert "--table public.orders" in warning
    assert pair.target.execute("select to_regclass('orders')") == [(None,)]
    assert pair.target.execute("select distinct amount from lines") == [(3,)]
    assert pair.status().state == "degraded"
