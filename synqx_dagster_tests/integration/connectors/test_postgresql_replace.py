"""Replacing a PostgreSQL table: what belongs to it and what depends on it stays, and no reader sees it empty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import carrier_type
from synqx_dagster.errors import BadRowsError, DatabaseError, TargetMismatchError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

TARGET = TableName("item", "shop")
ID = Column("id", DataType("integer"), False, "integer", "postgres")
NAME = Column("name", DataType("string"), True, "text", "postgres")

#: All that makes up a table, as its server describes it, without the table's OID.
PORTRAIT_SQL = """
select 'column', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage,
    a.attcollation::regcollation,
    pg_get_expr(d.adbin, d.adrelid), a.attgenerated, a.attidentity, col_description(c.oid, a.attnum), a.attacl::text
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.oid = 'shop.item'::regclass and not a.attisdropped
union all
select 'index', indexname, indexdef, null, null, null, obj_description(('shop.' || quote_ident(indexname))::regclass),
    null, null, null, null
from pg_indexes where schemaname = 'shop' and tablename = 'item'
union all
select 'constraint', conname, pg_get_constraintdef(oid), condeferrable, null, null, obj_description(oid), null, null,
    null, null
from pg_constraint where conrelid = 'shop.item'::regclass
union all
select 'table', relname, relowner::regrole::text, null, relpersistence, null, relacl::text, null, null,
    obj_description(oid), reloptions::text
from pg_class where oid = 'shop.item'::regclass
union all
select 'sequence', pg_get_serial_sequence('shop.item', 'id'), null, null, null, null, null, null, null, null, null
order by 1, 2
"""

RICH_SQL = """
create role reader; create role clerk; create role owner_of_shop; grant owner_of_shop to current_user;
create schema shop;
grant all on schema shop to owner_of_shop;
alter default privileges in schema shop grant select on tables to clerk;
create table shop.kind (code text primary key);
insert into shop.kind values ('a'), ('b');
create table shop.item (
    id serial,
    name text collate "C" not null default 'none',
    kind text default 'a' references shop.kind deferrable initially deferred,
    price numeric(9,2) constraint "not negative" check (price >= 0),
    doubled numeric generated always as (price * 2) stored,
    period int4range,
    constraint "the Key" primary key (id) include (name) with (fillfactor = 70),
    unique nulls not distinct (name) with (fillfactor = 60),
    exclude using gist (period with &&) with (buffering = off)
) with (fillfactor = 70, autovacuum_enabled = false);
alter table shop.item owner to owner_of_shop;
alter table shop.item alter column name set storage external;
create index "by lower name" on shop.item (lower(name)) where price > 1;
create unique index on shop.item (kind, name desc nulls last) with (fillfactor = 50);
comment on table shop.item is 'what''s for \\sale';
comment on column shop.item.name is 'a name';
comment on index shop."by lower name" is 'an index';
comment on index shop."the Key" is 'the key''s index';
comment on index shop.item_period_excl is 'an index, too';
comment on constraint "the Key" on shop.item is 'a key';
comment on constraint "not negative" on shop.item is 'a check';
grant select on shop.item to reader with grant option;
grant insert (name) on shop.item to public;
revoke delete on shop.item from owner_of_shop;
insert into shop.item (name, price) values ('old', 5);
"""


@pytest.fixture
def connector(postgresql: PostgresqlDatabase) -> Iterator[PostgresqlConnector]:
    with closing(PostgresqlConnector(postgresql.config())) as made:
        yield made


@pytest.fixture
def roles(postgresql: PostgresqlDatabase) -> Iterator[None]:
    """Roles belong to the server, not to the test's database."""
    yield
    for role in ("reader", "clerk", "owner_of_shop", "loader"):
        if postgresql.execute("select 1 from pg_roles where rolname = %s", (role,)):
            postgresql.execute(f"drop owned by {role} cascade; drop role {role}")


def batch(columns: tuple[Column, ...], rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    arrays = [pa.array([row[at] for row in rows], carrier_type(item.data_type)) for at, item in enumerate(columns)]
    return pa.RecordBatch.from_arrays(arrays, names=[item.name for item in columns])


def load(
    connector: PostgresqlConnector,
    rows: list[tuple[Any, ...]],
    columns: tuple[Column, ...] = (ID, NAME),
    *,
    table: TableName = TARGET,
    append: bool = False,
) -> None:
    with connector.write() as session:
        session.begin()
        staging = session.create_staging(table, columns, epoch=1)
        session.write_batches(staging, columns, iter([batch(columns, rows)]))
        if append:
            session.publish_append(staging, table, columns)
        else:
            session.publish_replace(staging, table, columns, ("id",))
        session.commit()


def oid(database: PostgresqlDatabase, table: str = "shop.item") -> int:
    found: int = database.execute("select %s::regclass::oid::int", (table,))[0][0]
    return found


def rows(database: PostgresqlDatabase, table: str = "shop.item") -> list[tuple[Any, ...]]:
    return database.execute(f"select id, name from {table} order by id")


def simple(database: PostgresqlDatabase, definition: str = "id integer primary key, name text") -> int:
    database.execute(f"create schema shop; create table shop.item ({definition})")
    database.execute("insert into shop.item (id, name) overriding system value values (1, 'old')")
    return oid(database)


@pytest.mark.usefixtures("roles")
def test_a_swapped_table_is_the_same_in_every_respect(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    rich_sql = RICH_SQL if connection_version(postgresql) >= 150000 else RICH_SQL.replace("nulls not distinct ", "")
    postgresql.execute(rich_sql)
    portrait = postgresql.execute(PORTRAIT_SQL)
    before = oid(postgresql)
    for loaded in ([(3, "three"), (9, "nine")], [(4, "four")]):
        load(connector, loaded)
        assert postgresql.execute(PORTRAIT_SQL) == portrait
        assert rows(postgresql) == loaded
        assert oid(postgresql) != before
        before = oid(postgresql)
    assert postgresql.execute("select kind, price, doubled from shop.item") == [("a", None, None)]
    # A row of the application does not meet a loaded key; the sequence is the column's own, and goes with it.
    assert postgresql.execute("insert into shop.item (name) values ('next') returning id") == [(10,)]
    assert not postgresql.execute("select relname from pg_class where relname like '%synqx%'")
    postgresql.execute("drop table shop.item; select 1")
    assert postgresql.execute("select to_regclass('shop.item_id_seq')") == [(None,)]


def connection_version(database: PostgresqlDatabase) -> int:
    return int(database.execute("show server_version_num")[0][0])


OBSTACLES = {
    "view": "create view shop.names as select name from shop.item",
    "materialised view": "create materialized view shop.names as select name from shop.item",
    "function": "create function shop.f() returns bigint begin atomic select count(*) from shop.item; end",
    "row type": "create table shop.uses (i shop.item)",
    "function of row type": "create function shop.f(shop.item) returns int language sql as 'select 1'",
    "trigger": "create function shop.f() returns trigger language plpgsql as 'begin return new; end';"
    " create trigger t before insert on shop.item for each row execute function shop.f()",
    "rule": "create rule r as on update to shop.item do also select 1",
    "publication": "create publication p for table shop.item",
    "publication of all": "create publication p for all tables",
    "policy": "create policy p on shop.item",
    "statistics": "create statistics shop.s on id, name from shop.item",
    "replica identity": "alter table shop.item replica identity full",
    "child": "create table shop.child () inherits (shop.item)",
    "foreign key": "create table shop.order_line (item integer references shop.item)",
    "foreign key to itself": "alter table shop.item add parent integer references shop.item",
    "cluster": "cluster shop.item using item_pkey",
    "statistics target": "alter table shop.item alter name set statistics 500",
    "statistics target of an index": "create index by_name on shop.item (lower(name));"
    " alter index shop.by_name alter column 1 set statistics 500",
    "other grantor": "create role reader; grant usage on schema shop to reader;"
    " grant select on shop.item to reader with grant option; set role reader; grant select on shop.item to public",
}


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_table_that_something_depends_on_stays_where_it_is(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector, obstacle: str
) -> None:
    if obstacle == "function" and connection_version(postgresql) < 140000:
        pytest.skip("SQL-standard function bodies came with version 14")
    before = simple(postgresql)
    postgresql.execute(OBSTACLES[obstacle])
    load(connector, [(1, "new"), (2, "two")])
    assert rows(postgresql) == [(1, "new"), (2, "two")]
    assert oid(postgresql) == before
    assert not postgresql.execute("select relname from pg_class where relname like '%synqx%'")


@pytest.mark.parametrize(
    "definition",
    [
        "id integer generated always as identity primary key, name text",
        "id integer generated by default as identity primary key, name text",
        "id serial primary key, name text",
    ],
)
def test_keys_of_numbered_columns_are_kept_and_counted_on(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector, definition: str
) -> None:
    simple(postgresql, definition)
    load(connector, [(5, "five"), (7, "seven")])
    assert rows(postgresql) == [(5, "five"), (7, "seven")]
    load(connector, [(11, "eleven")], append=True)
    assert postgresql.execute("insert into shop.item (name) values ('next') returning id") == [(12,)]


def test_a_partitioned_table_is_replaced_in_place(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    postgresql.execute(
        "create schema shop; create table shop.item (id integer primary key, name text) partition by range (id);"
        " create table shop.low partition of shop.item for values from (0) to (10);"
        " create table shop.high partition of shop.item for values from (10) to (20)"
    )
    load(connector, [(1, "low"), (11, "high")])
    load(connector, [(2, "low"), (12, "high")])
    assert rows(postgresql, "shop.low") == [(2, "low")]
    assert rows(postgresql, "shop.high") == [(12, "high")]
    with pytest.raises(BadRowsError):
        load(connector, [(99, "nowhere")])


def test_rows_that_stay_do_not_cascade(postgresql: PostgresqlDatabase, connector: PostgresqlConnector) -> None:
    simple(postgresql)
    postgresql.execute(
        "insert into shop.item values (2, 'two'), (3, 'three');"
        "create table shop.line (item integer references shop.item on delete cascade);"
        "insert into shop.line values (1), (2), (3)"
    )
    load(connector, [(1, "new"), (3, "three"), (4, None)])
    assert rows(postgresql) == [(1, "new"), (3, "three"), (4, None)]
    assert postgresql.execute("select item from shop.line order by 1") == [(1,), (3,)]


def test_a_row_that_others_point_to_is_not_taken_away(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    simple(postgresql)
    postgresql.execute("create table shop.line (item integer references shop.item); insert into shop.line values (1)")
    with pytest.raises(BadRowsError, match="foreign key"):
        load(connector, [(2, "two")])
    assert rows(postgresql) == [(1, "old")]


def test_a_cascade_without_a_key_to_tell_rows_apart_is_refused(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    simple(postgresql, "id integer unique, name text")
    postgresql.execute(
        "create table shop.line (item integer references shop.item (id) on delete set null);"
        " insert into shop.line values (1)"
    )
    with pytest.raises(TargetMismatchError, match=r"shop\.line"):
        load(connector, [(1, "new")])
    assert postgresql.execute("select item from shop.line") == [(1,)]


@pytest.mark.usefixtures("roles")
def test_a_user_who_only_has_privileges_replaces_in_place(postgresql: PostgresqlDatabase) -> None:
    before = simple(postgresql)
    postgresql.execute(
        "create role loader login; grant usage, create on schema shop to loader;"
        " grant select, insert, update, delete on shop.item to loader"
    )
    config = postgresql.config()
    with closing(PostgresqlConnector(type(config)(**{**vars(config), "username": "loader"}))) as connector:
        load(connector, [(2, "two")])
        assert rows(postgresql) == [(2, "two")]
        assert oid(postgresql) == before
        # A policy would hide rows from the DELETE; half a replacement is worse than none.
        postgresql.execute(
            "alter table shop.item enable row level security; create policy p on shop.item using (id > 5)"
        )
        with pytest.raises(DatabaseError, match="row-level security"):
            load(connector, [(3, "three")])
    assert rows(postgresql) == [(2, "two")]


def test_a_reader_in_a_transaction_is_not_waited_for(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    before = simple(postgresql)
    with closing(postgresql.connect()) as reader, reader.cursor() as cursor:
        cursor.execute("begin; select count(*) from shop.item")
        load(connector, [(2, "two"), (3, "three")])
        assert oid(postgresql) == before
        cursor.execute("select count(*) from shop.item")
        assert cursor.fetchone() == (2,)
        cursor.execute("commit")
    assert rows(postgresql) == [(2, "two"), (3, "three")]


def test_an_old_snapshot_never_finds_the_table_empty(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    before = simple(postgresql)
    with closing(postgresql.connect()) as reader, reader.cursor() as cursor:
        # It takes its snapshot elsewhere and comes to the table after the swap.
        cursor.execute("begin isolation level repeatable read; select count(*) from pg_class")
        load(connector, [(2, "two"), (3, "three")])
        assert oid(postgresql) != before
        cursor.execute("select count(*) from shop.item")
        assert cursor.fetchone() == (2,)
        cursor.execute("commit")


def test_rows_that_break_a_constraint_of_the_target_are_refused_by_name(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    simple(postgresql, "id integer primary key, name text constraint short check (length(name) < 5)")
    for bad, reason in (
        ([(1, "much too long")], "short"),
        ([(1, "a"), (1, "b")], "key occurs more than once"),
        ([(None, "a")], "column 'id': NULL"),
    ):
        with pytest.raises(BadRowsError, match=reason) as caught:
            load(connector, bad)
        assert "much too" not in str(caught.value)
        assert rows(postgresql) == [(1, "old")]
    assert not postgresql.execute("select relname from pg_class where relname like '%synqx%'")


def test_a_table_that_changes_while_it_is_loaded_keeps_the_change(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    before = simple(postgresql)
    with connector.write() as session:
        session.begin()
        staging = session.create_staging(TARGET, (ID, NAME), epoch=1)
        session.write_batches(staging, (ID, NAME), iter([batch((ID, NAME), [(2, "two")])]))
        postgresql.execute("create view shop.names as select name from shop.item")
        session.publish_replace(staging, TARGET, (ID, NAME), ("id",))
        session.commit()
    assert oid(postgresql) == before
    assert postgresql.execute("select * from shop.names") == [("two",)]


def test_appending_keeps_what_is_there(postgresql: PostgresqlDatabase, connector: PostgresqlConnector) -> None:
    before = simple(postgresql)
    load(connector, [(2, "two")], append=True)
    assert rows(postgresql) == [(1, "old"), (2, "two")]
    assert oid(postgresql) == before
    with pytest.raises(BadRowsError, match="item_pkey"):
        load(connector, [(2, "again")], append=True)
    assert rows(postgresql) == [(1, "old"), (2, "two")]
