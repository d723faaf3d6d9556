"""What one load's quarantine does to that of the loads before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.connectors.sqlite import SqliteConnector
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.quarantine import BadRow, BadRowSpool, Breach, Quarantine, key_of

Row = dict[str, int | None]


def quarantined(
    path: Path, loads: list[list[Row]], by: Literal["source_key", "source_row"]
) -> tuple[list[int], list[Row]]:
    """How many rows of each load were known, and what is left in the end."""
    connector = SqliteConnector(ConnectionConfig("target", "sqlite", database=str(path / "target.db")))
    known = []
    with connector.write() as session:
        quarantine = Quarantine(connector, session, TableName("t"))
        quarantine.ensure_table()
        for number, rows in enumerate(loads):
            with BadRowSpool() as spool:
                for row in rows:
                    text = json.dumps(row)
                    spool.add(BadRow(text, (Breach("x", "is odd"),), key_of(text, ["id"])))
                session.begin()
                quarantine.write(spool, mapping="m", run_id="r", load_id=f"load-{number}")
                known.append(quarantine.replace_earlier(mapping="m", load_id=f"load-{number}", by=by))
                session.commit()
        left = [json.loads(str(row["source_row"])) for row in quarantine.fetch_rows(limit=100)]
    connector.close()
    return known, sorted(left, key=str)


@pytest.mark.parametrize("by", ["source_key", "source_row"])
def test_rows_whose_key_is_null_are_not_one_row(tmp_path: Path, by: Literal["source_key", "source_row"]) -> None:
    loads: list[list[Row]] = [[{"id": None, "x": 1}, {"id": None, "x": 2}], [{"id": None, "x": 3}]]
    known, left = quarantined(tmp_path, loads, by)
    assert known == [0, 0]
    assert left == [{"id": None, "x": 1}, {"id": None, "x": 2}, {"id": None, "x": 3}]


def test_a_row_of_the_sources_key_is_replaced_whatever_it_holds(tmp_path: Path) -> None:
    known, left = quarantined(tmp_path, [[{"id": 1, "x": 1}, {"id": 2, "x": 1}], [{"id": 1, "x": 3}]], "source_key")
    assert (known, left) == ([0, 1], [{"id": 1, "x": 3}, {"id": 2, "x": 1}])


def test_rows_that_share_a_rules_key_are_not_one_row(tmp_path: Path) -> None:
    loads: list[list[Row]] = [[{"id": 1, "x": 1}, {"id": 1, "x": 3}], [{"id": 1, "x": 3}, {"id": 1, "x": 5}]]
    known, left = quarantined(tmp_path, loads, "source_row")
    assert (known, left) == ([0, 1], [{"id": 1, "x": 1}, {"id": 1, "x": 3}, {"id": 1, "x": 5}])
