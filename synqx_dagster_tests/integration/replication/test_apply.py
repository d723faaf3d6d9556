"""Transactions applied to real targets: modes, pieces, skip rules, keys, truncation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import UNCHANGED
from synqx_dagster_tests.integration.replication.applying import (
    MadeTransaction,
    Target,
    delete,
    followed,
    insert,
    make_replication,
    make_target,
    relation,
    start,
    update,
)

ITEM = relation()


@pytest.fixture(params=["postgresql", "mysql", "duckdb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    kind = request.param
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    made = make_target(kind, place)
    yield made
    made.connector.close()


def test_a_batch_of_transactions_is_mirrored(target: Target) -> None:
    replication = make_replication()
    with Applier(replication, target.connector, followed(replication)) as applier:
        start(applier)
        for _ in range(2):  # the first may have to create the table where that commits
            try:
                report = applier.apply(
                    [
                        MadeTransaction(
                            100, [insert(ITEM, "1", "a", "x"), insert(ITEM, "2", "b", "y"), insert(ITEM, "3", None, "")]
                        ),
                        MadeTransaction(
                            200,
                            [
                                update(ITEM, "1", "a2", UNCHANGED),
                                delete(ITEM, "2"),
                                update(ITEM, "4", "moved", UNCHANGED, old=("3", None, None)),
                            ],
                        ),
                    ]
                )
                break
            except Exception as error:
                if type(error).__name__ != "TargetAlteredError":
                    raise
        assert report.position == 208
        assert report.changes == 6
        (counts,) = report.tables.values()
        assert (counts.inserted, counts.updated, counts.deleted) == (3, 2, 1)
        assert target.rows("SELECT * FROM item ORDER BY id") == [(1, "a2", "x"), (4, "moved", "")]

        # Again, of rows that lie in the target: nothing is known of their large values here.
        report = applier.apply(
            [
                MadeTransaction(200, [insert(ITEM, "9", "skipped", "")]),
                MadeTransaction(
                    300,
                    [
                        update(ITEM, "1", "a3", UNCHANGED),
                        update(ITEM, "5", "moved again", UNCHANGED, old=("4", None, None)),
                        insert(ITEM, "4", "new", "z"),
                    ],
                ),
            ]
        )
        assert (report.skipped, report.transactions) == (1, 1)
    assert target.rows("SELECT * FROM item ORDER BY id") == [(1, "a3", "x"), (4, "new", "z"), (5, "moved again", "")]
