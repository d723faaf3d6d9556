"""What is done to single partitions, of which the log tells nothing: known by name, until the table is copied anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.replication import operations
from synqx_dagster.replication.status import find_work
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.integration.replication.replicating import Pair, once, open_pair

SCHEMA = """
create table o (id int not null default 0, y int not null default 2000, v text default 'x', primary key (id, y))
    partition by range (y);
create table o1 partition of o for values from (2001) to (2002);
create table o2 partition of o for values from (2002) to (2003);
create table o3 partition of o for values from (2003) to (2004);
create table "o ""4?" partition of o for values from (2004) to (2005);
insert into o select n, 2001 + n % 4, 'row ' || n from generate_series(1, 40) n;
"""


@pytest.fixture
def pair(source: PostgresqlDatabase, postgresql_server: PostgresqlServer, tmp_path: Path) -> Iterator[Pair]:
    source.execute(SCHEMA)
    target = postgresql_server.create_database()
    with open_pair(source, target, tmp_path / "spill", tables=["public.o"], evolution="widen") as found:
        yield found
    target.drop()


def reason(pair: Pair) -> str:
    [table] = pair.status().tables
    assert table.status == "following"
    return table.reason or ""


def test_single_partitions_that_come_go_or_are_emptied(pair: Pair) -> None:
    pair.follow()
    pair.source.execute(
        "create table o5 partition of o for values from (2005) to (2006);"
        " create table o6 (like o including all); alter table o attach partition o6 for values from (2006) to (2007);"
        " create table o7 (like o including all) partition by list (y);"
        " create table o7a partition of o7 for values in (2007);"
        " alter table o attach partition o7 for values from (2007) to (2008)"
    )
    pair.source.execute("insert into o values (50, 2005), (51, 2003)")
    # What is made or attached empty is nobody's trouble, and so are its rows once they are known.
    assert pair.follow().warnings == ()
    pair.source.execute("insert into o values (60, 2006), (61, 2007)")
    assert pair.follow().warnings == ()
    pair.assert_equal("o")
    assert (pair.status().state, reason(pair)) == ("following", "")

    # A load in one transaction, as it is often done: the rows lie there before it is a partition.
    pair.source.execute(
        "begin; create table o8 (like o including all); insert into o8 values (80, 2008);"
        " alter table o attach partition o8 for values from (2008) to (2009); commit"
    )
    pair.source.execute('drop table o1; truncate o2; alter table o detach partition "o ""4?"')
    pair.source.execute("vacuum full o5")
    assert pair.wait_for_work() == "partitions have changed: public.o"
    report = pair.follow()
    [warning] = report.warnings
    for text in (
        "public.o8: attached with rows",
        'public.o "4?, public.o1: detached or dropped',
        "public.o2, public.o5: truncated",
        "`synqx replications resync mirror --table public.o`",
    ):
        assert text in warning
    status = pair.status()
    assert (status.state, status.reason) == ("degraded", "rows may differ from the source's: public.o")
    assert not find_work(pair.replication, pair.source_connector, pair.target_connector).reason

    # It goes on, and is said until the table was copied anew.
    pair.source.execute("insert into o values (99, 2003); drop table o6")
    [again] = pair.follow().warnings
    assert "public.o8: attached with rows" in again
    assert "public.o6: detached or dropped" in again
    assert "99" in "".join(pair.content("o"))
    operations.resync(pair.replication, pair.source_connector, pair.target_connector, ["o"])
    assert pair.follow().warnings == ()
    pair.assert_equal("o")
    assert (pair.status().state, reason(pair)) == ("following", "")


def test_what_the_log_tells_of_the_whole_is_no_trouble(pair: Pair) -> None:
    pair.follow()
    pair.source.execute("truncate o; insert into o values (1, 2001)")
    assert pair.follow().warnings == ()
    pair.assert_equal("o")
    pair.source.execute("alter table o alter id type bigint; insert into o values (2, 2002)")
    assert pair.follow().warnings == ()
    pair.assert_equal("o")
    # Each by itself: all are empty, and the log says nothing of it.
    pair.source.execute('truncate o1; truncate o2; truncate o3; truncate "o ""4?"')
    [warning] = pair.follow().warnings
    assert "truncated" in warning
    assert pair.status().state == "degraded"


def test_partitions_are_looked_at_while_a_run_goes_on(pair: Pair) -> None:
    pair.follow()
    # It is asked before it prepares, and then while it streams, which it does for a second.
    report = pair.follow(is_interrupted=once(lambda: pair.source.execute("drop table o1"), call=3))
    assert report.ending == "idle"
    assert "public.o1: detached or dropped" in report.warnings[0]
    [figures] = report.tables
    assert "public.o1: detached or dropped" in (figures.reason or "")


def test_a_partition_that_goes_while_its_table_is_copied(pair: Pair) -> None:
    """The snapshot does not hold it: neither the catalog nor an emptied file goes back in time for a copy."""
    report = pair.follow(is_interrupted=once(lambda: pair.source.execute("truncate o2"), call=3))
    assert "public.o2: truncated" in report.warnings[0]
