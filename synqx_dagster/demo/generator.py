"""The demo's source data: about 500,000 rows of a web shop, the same bytes on every machine.

The rows come from ``shop.sql``, which computes every value from the row's number; the server makes them, so that
nothing crosses to Python.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from importlib.resources import files

from synqx_dagster.demo.server import ROLES, DemoServer, create_database

#: The tables of the shop and what orders their rows.
SHOP_TABLES = {
    "customers": "customer_id",
    "addresses": "address_id",
    "products": "product_id",
    "orders": "order_id",
    "order_lines": "order_id, line_number",
    "payments": "order_id, payment_id",
}


def shop_sql() -> str:
    """The statements that create and fill the shop in an empty database."""
    return (files("synqx_dagster.demo") / "shop.sql").read_text(encoding="utf-8")


def fill_shop(server: DemoServer) -> bool:
    """Create and fill the database ``shop``; one transaction, so that it is whole or not there.

    A database that this version of ``shop.sql`` has filled is left alone; another one is made anew.

    Returns:
        Whether there was anything to do.
    """
    from psycopg2 import sql

    statements = shop_sql()
    fingerprint = hashlib.sha256(statements.encode()).hexdigest()
    with closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("select pg_advisory_lock(7205)")
        cursor.execute("select shobj_description(oid, 'pg_database') from pg_database where datname = 'shop'")
        if cursor.fetchone() == (fingerprint,):
            return False
        cursor.execute("drop database if exists shop with (force)")
        create_database(cursor, "shop")
        with closing(server.connect("shop")) as shop, shop, shop.cursor() as fill:
            fill.execute(statements)
            role = sql.Identifier(ROLES["shop"])
            fill.execute(sql.SQL("grant select on all tables in schema public to {}").format(role))
            fill.execute(sql.SQL("comment on database shop is %s"), (fingerprint,))
    return True


def ensure_users(server: DemoServer) -> None:
    """A small table in the warehouse that no part of the project loads, for pipelines that somebody tries out."""
    from psycopg2 import sql

    with closing(server.connect("warehouse")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("set role {}").format(sql.Identifier(ROLES["warehouse"])))
        cursor.execute("select to_regclass('public.users')")
        if cursor.fetchone() == (None,):
            cursor.execute("create table public.users (user_id integer primary key, email text not null)")
            cursor.execute(
                "insert into public.users select i, 'user.' || i || '@example.com' from generate_series(1, 1000) as i"
            )


def count_shop_rows(server: DemoServer) -> dict[str, int]:
    """Rows of each table of the shop."""
    from psycopg2 import sql

    counts = {}
    with closing(server.connect("shop")) as connection, connection.cursor() as cursor:
        for table in SHOP_TABLES:
            cursor.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table)))
            row = cursor.fetchone()
            counts[table] = int(row[0]) if row else 0
    return counts
