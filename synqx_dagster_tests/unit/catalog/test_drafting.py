"""Assets for discovered tables: names that fit and do not meet, and none for a table that has one."""

from __future__ import annotations

from synqx_dagster.catalog.drafting import draft_assets
from synqx_dagster.connectors.protocol import TableDescription
from synqx_dagster.model import Dataset, dagster_name
from synqx_dagster.model.table import TableName


def found(*tables: TableName) -> list[TableDescription]:
    return [TableDescription(table, ()) for table in tables]


def names_of(*tables: TableName, known: tuple[Dataset, ...] = (), default_schema: str | None = "public") -> list[str]:
    return [asset.name for asset in draft_assets("shop", found(*tables), known, default_schema=default_schema).created]


def test_the_default_schema_is_left_out_of_names() -> None:
    tables = (TableName("orders", "public"), TableName("orders", "sales"), TableName("plain"))
    assert names_of(*tables) == ["orders", "sales.orders", "plain"]
    made = draft_assets("shop", found(*tables), (), default_schema="public").created
    assert [str(asset.table_name) for asset in made] == ["public.orders", "sales.orders", "plain"]


def test_names_that_dagster_does_not_tell_apart_do_not_meet() -> None:
    elsewhere = Dataset(name="orders", connection="other", table="orders")
    tables = [TableName(name, "public") for name in ("orders", "a b", "a-b", "a_b")]
    made = names_of(*tables, known=(elsewhere,))
    assert made == ["public.orders", "a b", "public.a-b", "shop.public.a_b"]
    more = names_of(*(TableName(f"x{sign}y") for sign in "-+*/"), default_schema=None)
    assert len({dagster_name(name) for name in more}) == 4


def test_a_table_of_any_name_gets_one_that_a_record_may_have() -> None:
    odd = [TableName(name) for name in ("заказы", "счета", " blank ", "a\nb", "x" * 300, "x" * 299 + "y")]
    made = draft_assets("shop", found(*odd), (), default_schema=None)
    assert [asset.table_name for asset in made.created] == odd
    assert made.unnamed == ()
    assert made.created[0].name == "shop.заказы"
    assert len({dagster_name(asset.name) for asset in made.created}) == len(odd)


def test_a_table_has_one_asset_whether_its_schema_is_written_or_not() -> None:
    bare = Dataset(name="mine", connection="shop", table="orders")
    full = Dataset(name="theirs", connection="shop", file="public.items")
    query = Dataset(name="q", connection="shop", query="select 1")
    tables = found(TableName("orders", "public"), TableName("items"), TableName("orders", "sales"))
    drafted = draft_assets("shop", tables, (bare, full, query), default_schema="public")
    assert drafted.existing == (bare, full)
    assert [asset.name for asset in drafted.created] == ["sales.orders"]


def test_our_own_tables_get_none() -> None:
    assert names_of(TableName("_synqx_ledger", "public"), TableName("orders", "public")) == ["orders"]
