"""Random changes, cut into pieces and batches at random, against what the source holds afterwards."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synqx_dagster.model.table import TableName
from synqx_dagster.replication.adapt import TargetAlteredError
from synqx_dagster.replication.apply import Applier
from synqx_dagster.replication.changes import Change, Insert, Row
from synqx_dagster_tests.integration.replication.applying import (
    MadeTransaction,
    followed,
    make_replication,
    make_target,
    start,
)
from synqx_dagster_tests.unit.replication.rows import Source, sources


@pytest.mark.parametrize("mode", ["mirror", "soft_delete", "history"])
@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def test_random_changes_leave_the_target_as_the_source_is(
    kind: str, mode: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place: Any = tmp_path if kind == "duckdb" else request.getfixturevalue(kind)
    target = make_target(kind, place)

    @settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        made=sources(),
        piece_bytes=st.sampled_from([1, 1_500, 10**8]),
        cuts=st.lists(st.integers(0, 30), max_size=3),
    )
    def check(made: tuple[Source, dict[Row, Row]], piece_bytes: int, cuts: list[int]) -> None:
        source, before = made
        name = f"r{uuid.uuid4().hex[:8]}"
        replication = make_replication(name=name, mode=mode, target_naming={"table": f"{name}_{{table}}"})
        tables = followed(replication, "t")
        tables = [type(tables[0])(tables[0].source, tables[0].target, tables[0].definition, ("k1", "k2")[: source.key])]
        log: list[Change] = [*(Insert(source.relation, row) for row in before.values()), *source.log]
        with Applier(replication, target.connector, tables, piece_bytes=piece_bytes) as applier:
            start(applier)
            bounds = [0, *sorted(at % (len(log) + 1) for at in cuts), len(log)]
            for number, (first, last) in enumerate(itertools.pairwise(bounds)):
                for _ in range(2):
                    try:
                        applier.apply([MadeTransaction(100 * (number + 1), log[first:last])])
                        break
                    except TargetAlteredError:
                        continue
        rows = sorted(source.rows.values(), key=str)
        if not log:
            return
        table = target.connector.qualify(TableName(f"{name}_t"))
        quoted = ", ".join(target.connector.quote(one.name) for one in source.relation.columns)
        if mode == "history":
            assert target.rows(
                f"SELECT count(*), count(DISTINCT concat(change_lsn, '-', change_ordinal)) FROM {table}"
            )[0] == (len(log), len(log))
            return
        where = "" if mode == "mirror" else " WHERE is_deleted = FALSE"
        found = target.rows(f"SELECT {quoted} FROM {table}{where}")
        assert sorted(((str(row[0]), *row[1:]) for row in found), key=str) == rows

    try:
        check()
    finally:
        target.connector.close()
