"""Dates on their way through a pipeline: as days from PostgreSQL to DuckDB, and as texts from there on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.unit.pipelines.graphs import graph, node
from synqx_dagster_tests.unit.pipelines.steps import Bench

DATES = [
    "infinity",
    "-infinity",
    "4713-01-01 BC",
    "0044-03-15 BC",
    "0001-01-01",
    "2024-02-29",
    "9999-12-31",
    "5874897-12-31",
]


def test_every_date_of_postgresql_arrives(tmp_path: Path, postgresql: PostgresqlDatabase) -> None:
    target = postgresql.create_database()
    values = ", ".join(f"({number}, date '{date}')" for number, date in enumerate(DATES))
    postgresql.execute(
        f"create table days (n integer primary key, day date); insert into days values {values}, (99, null)"
    )
    later = {**node("later", "transform.derive"), "config": {"columns": {"is_late": "day > date '2000-01-01'"}}}
    made = graph([node("days", "extract"), later, node("days_loaded", "load")], "days>later>days_loaded")
    bench = Bench(tmp_path)
    with (
        closing(PostgresqlConnector(postgresql.config("source"))) as bench.connectors["source"],
        closing(PostgresqlConnector(target.config("target"))) as bench.connectors["target"],
    ):
        assert bench.run(made)["days_loaded"].load.rows_out == len(DATES) + 1
    texts = "select n, day::text from {} order by n"
    assert target.execute(texts.format("days_loaded")) == postgresql.execute(texts.format("days"))
    late = target.execute("select n from days_loaded where is_late order by n")
    assert [DATES[number] for (number,) in late] == ["infinity", "2024-02-29", "9999-12-31", "5874897-12-31"]
