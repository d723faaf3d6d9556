"""What a mapping looks like as an asset."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.translator import Translator, connection_uri, loaded_columns
from synqx_dagster.errors import ConfigurationError, NotFoundError
from synqx_dagster.model import Column, DataType
from synqx_dagster_tests.unit.defs.fakes import connection, mapping, schema, snapshot_of

KEY = dg.AssetKey(["warehouse", "public", "orders"])


def spec_of(*records: Any, **fields: Any) -> dg.AssetSpec:
    """The asset of a mapping ``orders`` with these fields."""
    orders = mapping("orders", **fields)
    return Translator(snapshot_of(orders, *records)).spec(orders)


def upstream(spec: dg.AssetSpec) -> set[tuple[str, ...]]:
    return {tuple(dep.asset_key.path) for dep in spec.deps}


@pytest.mark.parametrize(
    ("db_type", "table", "path"),
    [
        ("postgresql", "orders", ["warehouse", "public", "orders"]),
        ("postgresql", "analytics.orders", ["warehouse", "analytics", "orders"]),
        ("sqlite", "orders", ["warehouse", "orders"]),
    ],
)
def test_the_key_is_connection_schema_table(db_type, table, path):
    orders = mapping("orders", target_table=table)
    snapshot = CatalogSnapshot.from_records(1, [connection("shop"), connection("warehouse", db_type), orders])
    assert Translator(snapshot).target_key(orders).path == path


def test_a_source_table_with_and_without_its_schema_is_one_asset():
    assert upstream(spec_of(source_table="customer")) == {("shop", "public", "customer")}
    assert upstream(spec_of(source_table="public.customer")) == {("shop", "public", "customer")}


def test_the_tables_of_a_query_are_upstream():
    spec = spec_of(source_query="select o.id, c.name from orders o join crm.customer c on c.id = o.customer_id")
    assert upstream(spec) == {("shop", "public", "orders"), ("shop", "crm", "customer")}
    assert "select o.id" in str(spec.metadata["synqx/query"].value)


def test_a_mapping_that_reads_its_own_target_does_not_wait_for_itself():
    orders = mapping("orders", source_connection="warehouse", source_query="select * from orders where id > 0")
    assert upstream(Translator(snapshot_of(orders)).spec(orders)) == set()


def test_metadata_of_a_mapping_with_a_schema():
    spec = spec_of(
        schema(),
        target_schema="customer",
        source_table="customer",
        column_mappings=[
            {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]},
            {"type": "join", "source_columns": ["a", "b"], "target_fields": ["name"], "config": {"separator": " "}},
        ],
    )
    columns = spec.metadata["dagster/column_schema"].columns
    assert [(column.name, column.type, column.constraints.nullable) for column in columns] == [
        ("id", "integer", False),
        ("name", "string", True),
    ]
    lineage = spec.metadata["dagster/column_lineage"].deps_by_column
    source = dg.AssetKey(["shop", "public", "customer"])
    assert lineage["id"] == [dg.TableColumnDep(asset_key=source, column_name="id")]
    assert {dep.column_name for dep in lineage["name"]} == {"a", "b"}
    assert spec.metadata["dagster/table_name"] == "warehouse.public.orders"
    assert spec.metadata["dagster/uri"] == "postgresql://db.example:5432/warehouse/public/orders"
    assert spec.metadata["synqx/mapping"] == "orders"
    assert spec.metadata["synqx/revision"] == 1


def test_group_owners_tags_kinds_and_freshness():
    spec = spec_of(
        group="Sales & Co",
        owners=("ana@example.com", "Data Team"),
        tags={"domain": "sales", "note": "two words", "dagster/priority": "10"},
        freshness={"maximum_age_seconds": 3600},
        description="Orders of the shop",
    )
    assert spec.key == KEY
    assert spec.group_name == "Sales_Co"
    assert set(spec.owners) == {"ana@example.com", "team:Data_Team"}
    assert {name: value for name, value in spec.tags.items() if not name.startswith("dagster/kind")} == {
        "domain": "sales"
    }
    assert spec.metadata["synqx/tags"] == {"note": "two words", "dagster/priority": "10"}
    assert spec.kinds == {"synqx", "postgresql"}
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(hours=1))
    assert spec.description == "Orders of the shop"


def test_without_a_group_it_is_the_target_connections():
    assert spec_of().group_name == "warehouse"


def test_tables_that_nothing_loads_are_external_and_grouped_by_connection():
    first = mapping("orders", source_table="orders")
    second = mapping("totals", source_connection="warehouse", source_table="orders", target_table="totals")
    translator = Translator(snapshot_of(first, second))
    specs = [translator.spec(first), translator.spec(second)]
    assert [(list(spec.key.path), spec.group_name) for spec in translator.external_specs(specs)] == [
        (["shop", "public", "orders"], "shop")
    ]


@pytest.mark.parametrize("field", ["source_connection", "target_connection", "target_schema"])
def test_a_missing_reference_is_named(field):
    with pytest.raises(NotFoundError, match="nowhere"):
        spec_of(**{field: "nowhere"})


def test_an_unknown_kind_of_connection_is_named():
    snapshot = CatalogSnapshot.from_records(1, [connection("shop"), connection("warehouse", "orakel")])
    with pytest.raises(ConfigurationError, match="orakel"):
        Translator(snapshot).spec(mapping("orders"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "postgresql://db.example:5432/shop/public/t"),
        ({"host": "::1", "port": None}, "postgresql://[::1]/shop/public/t"),
        ({"host": "/run/pg"}, "postgresql:///run/pg:5432/shop/public/t"),
        ({"database": "a/b ä"}, "postgresql://db.example:5432/a%2Fb%20%C3%A4/public/t"),
        ({"db_type": "sqlite", "host": None, "port": None, "database": "/x/y.db"}, "sqlite:/x/y.db#public/t"),
    ],
)
def test_the_uri_says_where_and_holds_no_credentials(fields, expected):
    values = {"password": "canary", "username": "canary", "options": {"sslpassword": "canary"}, **fields}
    record = connection("shop", **values)
    uri = connection_uri(record, ["public", "t"])
    assert uri == expected
    assert "canary" not in uri


def test_columns_after_a_load_are_spelled_as_the_database_does():
    columns = (
        Column("id", DataType("bigint"), nullable=False, native_type="bigint", key_position=1),
        Column("name", DataType("string"), native_type="character varying(20)"),
        Column("note", DataType("string")),
    )
    shown = loaded_columns(columns).columns
    assert [column.type for column in shown] == ["bigint", "character varying(20)", "string"]
    assert [column.constraints.unique for column in shown] == [True, False, False]
