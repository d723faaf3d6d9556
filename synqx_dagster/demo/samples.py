"""A few rows of what the demo has made: of the warehouse, of the quarantine and of the lake."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synqx_dagster.demo.server import DemoServer

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Sample:
    """Some rows under a title; every cell is text, empty for NULL."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_WAREHOUSE = {
    "warehouse: analytics.customers": """
        select customer_id, first_name, last_name, email, left(email_hash, 8) || '…' as email_hash, country_code,
            birth_date, newsletter
        from analytics.customers where customer_id in (3, 4, 6, 8, 26, 35) order by customer_id
    """,
    "warehouse: analytics._synqx_quarantine, rows that broke the contract": """
        select distinct on (mapping, column_name, reason) mapping, column_name, reason,
            left(source_row::text, 60) || '…' as source_row
        from analytics._synqx_quarantine order by mapping, column_name, reason, source_row::text collate "C"
    """,
}
_LAKE = {
    "lake.duckdb: sales_by_day, the best days": """
        select sold_on, country_code, currency, orders, units, revenue
        from sales_by_day order by revenue desc, sold_on limit 5
    """,
}


def read_samples(server: DemoServer) -> list[Sample]:
    """The samples, read by the databases' own drivers and not by what is on show.

    Raises:
        psycopg2.Error, duckdb.Error: A table is not there: the loads have not run.
    """
    import duckdb

    samples = []
    with closing(server.connect("warehouse")) as connection, connection.cursor() as cursor:
        for title, query in _WAREHOUSE.items():
            cursor.execute(query)
            samples.append(_make_sample(title, [item.name for item in cursor.description or ()], cursor.fetchall()))
    with closing(duckdb.connect(str(server.home / "lake.duckdb"), read_only=True)) as lake:
        for title, query in _LAKE.items():
            result = lake.execute(query)
            samples.append(_make_sample(title, [item[0] for item in result.description or ()], result.fetchall()))
    return samples


def _make_sample(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Sample:
    cells = tuple(tuple("" if value is None else str(value) for value in row) for row in rows)
    return Sample(title, tuple(columns), cells)
