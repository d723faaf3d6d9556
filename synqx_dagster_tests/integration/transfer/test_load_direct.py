"""Loads whose batches go straight from PostgreSQL into DuckDB and Parquet: exact, and in bounded memory."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.transfer.arrow import BATCH_ROWS
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping
from synqx_dagster_tests.processes import reaped

Ask = Callable[[str], list[tuple[object, ...]]]

#: So many that the rows after them come in batches of their own.
COMMON_ROWS = 2 * BATCH_ROWS

TABLE = f"""
create table ledger (id integer primary key, day date, amount numeric(9,2), code char(5), due date not null);
insert into ledger
select i, date '2020-01-01' + i % 1000, i / 100.0, case when i % 2 = 0 then 'a ' else '' end, '2020-02-29'
from generate_series(1, {COMMON_ROWS}) as i;
"""
#: Days that are no common ones, as both databases print them.
DAYS = ["infinity", "-infinity", "4713-01-01 BC", "0001-12-31 BC", "0001-01-01", "9999-12-31", "10000-01-01"]
DAYS.append("5874897-12-31")

TEXT = "replace(CAST({} AS VARCHAR), ' (BC)', ' BC')"


def target(kind: str, directory: Path) -> tuple[ConnectionConfig, Ask, str]:
    """A target, how it is asked without the connector, and its table."""
    if kind == "duckdb":
        path = directory / "lake.duckdb"
        return ConnectionConfig("target", "duckdb", database=str(path)), ask(path), "main.ledger"
    config = ConnectionConfig("target", "files", database=str(directory), options={"format": "parquet"})
    return config, ask(None), f"read_parquet('{directory}/ledger.parquet')"


def ask(path: Path | None) -> Ask:
    def fetch(sql: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(path) if path else ":memory:", read_only=path is not None) as connection:
            return connection.execute(sql).fetchall()

    return fetch


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_uncommon_values_among_common_batches_arrive_exactly(
    postgresql: PostgresqlDatabase, tmp_path: Path, kind: str
) -> None:
    """Also what ADBC itself makes of endless dates, which the connector has to know."""
    postgresql.execute(TABLE)
    for number, day in enumerate(DAYS, start=COMMON_ROWS + 1):
        postgresql.execute(f"insert into ledger values ({number}, '{day}', -0.01, 'é', '2020-02-29')")
    postgresql.execute(f"insert into ledger values ({COMMON_ROWS + 100}, null, 'NaN', null, '2020-02-29')")
    config, fetch, table = target(kind, tmp_path)
    mapping = make_mapping(
        source_table="public.ledger",
        target_table="main.ledger" if kind == "duckdb" else "ledger",
        on_bad_row="quarantine",
    )
    result = load(connect(postgresql.config("source")), connect(config), mapping)
    refused = 1 if kind == "duckdb" else 3
    assert (result.rows_in, result.rows_quarantined) == (COMMON_ROWS + len(DAYS) + 1, refused)
    held = DAYS if kind == "duckdb" else DAYS[2:]
    day = TEXT.format("day")
    found = fetch(f"select {day} from {table} where id > {COMMON_ROWS} order by id")
    assert [text for (text,) in found] == held
    assert fetch(f"select typeof(day), typeof(amount), typeof(due) from {table} limit 1") == [
        ("DATE", "DECIMAL(9,2)", "DATE")
    ]
    common = f"from {table} where id <= {COMMON_ROWS}"
    (expected,) = postgresql.execute(
        "select count(*), sum(amount)::text, sum(day - date '1970-01-01'), sum(length(bpcharout(code)::text)),"
        f" min(bpcharout(code)::text) from ledger where id <= {COMMON_ROWS}"
    )
    assert fetch(
        "select count(*), sum(amount)::varchar, sum(day - date '1970-01-01')::bigint, sum(length(code))::bigint,"
        f" min(code) {common}"
    ) == [tuple(expected)]


_CHILD = textwrap.dedent(
    """
    import json, sys
    from synqx_dagster.connectors.protocol import ConnectionConfig
    from synqx_dagster.model import PoolSettings
    from synqx_dagster.transfer.result import peak_memory_bytes
    from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping

    asked = json.load(sys.stdin)
    source, target = (ConnectionConfig(**{**one, "pool": PoolSettings(**one["pool"])}) for one in asked["ends"])
    peaks = []
    for number, rows in enumerate(asked["rows"]):
        mapping = make_mapping(
            source_query=asked["query"].replace("ROWS", str(rows)), target_table=asked["table"] + str(number)
        )
        assert load(connect(source), connect(target), mapping, load_id=str(number)).rows_out == rows
        peaks.append(peak_memory_bytes())
    heavy = [name for name in ("pandas", "pyarrow.dataset") if name in sys.modules]
    print(json.dumps({"peaks": peaks, "heavy": heavy}))
    """
)

_QUERY = """
select i as id, i * 7919 as part, cast((i % 1000000) / 100.0 as numeric(15,2)) as price,
    cast(i % 11 as numeric(15,2)) as discount, date '1992-01-01' + (i % 2500)::int as shipped, md5(i::text) as comment,
    md5((i * 3)::text) as instructions, cast(i as float8) as weight, md5((i * 5)::text) as mode
from generate_series(1::bigint, ROWS) as i
"""


def run_child(postgresql: PostgresqlDatabase, directory: Path, kind: str, rows: list[int]) -> dict[str, Any]:
    """Load so many rows after each other in a process of its own; its peaks of memory, and what it has imported."""
    config, _, _ = target(kind, directory)
    ends = [
        {**{name: getattr(one, name) for name in one.__dataclass_fields__}, "pool": one.pool.model_dump()}
        for one in (postgresql.config("source"), config)
    ]
    asked = {"ends": ends, "rows": rows, "query": _QUERY, "table": "ledger"}
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with reaped(process):
        output, _ = process.communicate(json.dumps(asked), timeout=300)
    assert process.returncode == 0
    # DuckDB takes a process without a script for somebody's terminal, and shows progress.
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    return said


def test_pandas_is_left_alone(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    """It is installed here; pyarrow and ADBC would import it, with 43 MB, for what is not used."""
    assert importlib.util.find_spec("pandas") is not None
    assert run_child(postgresql, tmp_path, "duckdb", [10])["heavy"] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_memory_does_not_grow_with_the_table(postgresql: PostgresqlDatabase, tmp_path: Path, kind: str) -> None:
    """The second load must not take much more than the first, which has ten rows."""
    small, large = run_child(postgresql, tmp_path, kind, [10, 1_500_000])["peaks"]
    assert (large - small) / 1e6 < 150
