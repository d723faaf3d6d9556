"""The demo's data: the same on every machine, believable, and as dirty as it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from synqx_dagster.demo.generator import SHOP_TABLES, shop_sql
from synqx_dagster_tests.fix_postgresql import PostgresqlServer

#: Rows and checksum of each table's text, in the order of its key. They change only when shop.sql is meant to.
EXPECTED = {
    "customers": (40000, "a2363e3f8199862e46a3b609b84d21e0"),
    "addresses": (50000, "cb4183155cf90d47297a3c621b3f7658"),
    "products": (2000, "07e4a39ce63333b81046e9c278f8441a"),
    "orders": (100000, "d8a5b950f0c8e8151ecfa642dcab9c3e"),
    "order_lines": (220050, "dbe6fc5268d78fd5b0599d54b03ca9dc"),
    "payments": (95006, "5a281a6ba1e8270ab3197f50487387dd"),
}


@pytest.fixture(scope="module")
def shop(postgresql_server: PostgresqlServer) -> Iterator[Any]:
    """A cursor on a filled shop, in a session that is far from UTC and from ISO dates."""
    database = postgresql_server.create_database()
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("set timezone = 'Asia/Kolkata'; set datestyle = 'German'")
        connection.autocommit = False
        cursor.execute(shop_sql())
        connection.commit()
        cursor.execute("set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 1")
        yield cursor
    database.drop()


@pytest.mark.parametrize("table", SHOP_TABLES)
def test_the_data_is_the_same_everywhere(shop: Any, table: str) -> None:
    shop.execute(f"select count(*), md5(string_agg(md5(t::text), '' order by {SHOP_TABLES[table]})) from {table} as t")
    assert shop.fetchone() == EXPECTED[table]


def test_every_table_is_expected() -> None:
    assert set(EXPECTED) == set(SHOP_TABLES)
    assert sum(rows for rows, _ in EXPECTED.values()) == 507_056


@pytest.mark.parametrize(
    ("what", "query", "count"),
    [
        ("impossible dates", "from customers where birth_date in ('1985-02-30', '31.12.1979', 'unknown')", 24),
        ("prices that are no numbers", "from products where price !~ '^[0-9]+[.][0-9]{2}$'", 12),
        ("orders without a customer", "from orders where customer_id is null", 20),
        ("fees that are no numbers", "from payments where fee !~ '^[0-9]+[.][0-9]{2}$'", 21),
        ("payments without an order", "from payments where order_id is null", 15),
        ("payments that came twice", "from (select from payments group by payment_id having count(*) > 1) as t", 6),
        ("orders of nobody", "from orders left join customers using (customer_id) where full_name is null", 20),
    ],
)
def test_the_data_breaks_the_contract_where_it_should(shop: Any, what: str, query: str, count: int) -> None:
    shop.execute(f"select count(*) {query}")
    assert shop.fetchone() == (count,), what


@pytest.mark.parametrize(
    ("what", "query"),
    [
        ("missing addresses", "from customers where email is null"),
        ("capital letters in addresses", "from customers where email <> lower(email)"),
        ("blanks around addresses", "from customers where email <> trim(email)"),
        ("names beyond Latin", "from customers where full_name ~ '[一-龠ぁ-んα-ωА-я]'"),
        ("names of one word", "from customers where full_name !~ ' '"),
        ("empty texts beside NULL", "from customers where note = ''"),
        ("tabs, line breaks and backslashes", r"from customers where note ~ '[\t\n\\]'"),
        ("characters beyond the BMP", "from customers where note like '%😀%'"),
        ("leading zeros", "from addresses where postal_code like '0%'"),
        ("clocks behind and ahead of UTC", "from orders where placed_local ~ '-0[35]:00$'"),
        ("refunds", "from payments where amount < 0"),
    ],
)
def test_the_data_has_the_mess_of_real_data(shop: Any, what: str, query: str) -> None:
    shop.execute(f"select count(*) {query}")
    (count,) = shop.fetchone()
    assert count >= 15, what
