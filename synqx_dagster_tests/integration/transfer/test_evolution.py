"""A target follows its mapping as far as the policy says, and no value changes on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import SourceChangedError, TargetMismatchError
from synqx_dagster.model import Mapping, Schema
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import Databases, connect, load, make_mapping

SOURCE = """
create table people (id integer primary key, name varchar(10) not null, score smallint, rate real, price numeric(6,2));
insert into people values (1, 'Ann', 5, 0.5, 12.34), (2, 'Bob', -5, 1.25, -9999.99);
"""


@pytest.fixture
def pair(postgresql: PostgresqlDatabase) -> Databases:
    postgresql.execute(SOURCE)
    return postgresql, postgresql.create_database()


@pytest.fixture
def connectors(pair: Databases) -> Iterator[tuple[Connector, Connector]]:
    opened = connect(pair[0].config("source")), connect(pair[1].config("target"))
    yield opened
    for connector in opened:
        connector.close()


def people(**fields: object) -> Mapping:
    return make_mapping(**{"source_table": "people", "target_table": "people", **fields})


def shape(database: PostgresqlDatabase) -> dict[str, tuple[str, bool]]:
    rows = database.execute(
        "select attname::text, format_type(atttypid, atttypmod), attnotnull from pg_attribute"
        " where attrelid = 'people'::regclass and attnum > 0 and not attisdropped"
    )
    return {str(name): (str(kind), bool(not_null)) for name, kind, not_null in rows}


@pytest.mark.parametrize("mode", ["replace", "append", "merge", "scd2"])
def test_new_columns_are_added(pair: Databases, connectors: tuple[Connector, Connector], mode: str) -> None:
    source, target = pair
    load(*connectors, people(mode=mode))
    source.execute(
        "alter table people add city text not null default 'Ulm'; insert into people values (3, 'C', 1, 1, 1)"
    )
    with pytest.raises(TargetMismatchError, match="city: the mapping fills it, the table does not have it"):
        load(*connectors, people(mode=mode), load_id="load-2")
    assert "city" not in shape(target)
    if mode == "append":
        source.execute("delete from people where id < 3")
    mapping = people(mode=mode, evolution="add_columns")
    plan = plan_load(mapping, None, *connectors)
    assert [str(change) for change in plan.schema_changes] == ["city: added as text"]
    assert "city" not in shape(target)
    result = load(*connectors, mapping, load_id="load-2")
    assert result.schema_changes == ("city: added as text",)
    assert shape(target)["city"] == ("text", False)
    cities = target.execute("select id, city from people where city is not null order by id")
    assert cities == ([(3, "Ulm")] if mode == "append" else [(1, "Ulm"), (2, "Ulm"), (3, "Ulm")])
    assert load(*connectors, mapping, load_id="load-3").schema_changes == () if mode != "append" else True


def test_types_grow_and_values_stay(pair: Databases, connectors: tuple[Connector, Connector]) -> None:
    source, target = pair
    load(*connectors, people(mode="merge"))
    source.execute(
        "alter table people alter name type varchar(40), alter score type bigint, alter rate type double precision,"
        " alter price type numeric(12,4), alter name drop not null"
    )
    source.execute("insert into people values (3, repeat('x', 40), 9223372036854775807, 1e300, 12345678.1234)")
    source.execute("insert into people values (4, null, 1, 1, 1)")
    for policy in ("freeze", "add_columns"):
        with pytest.raises(TargetMismatchError) as caught:
            load(*connectors, people(mode="merge", evolution=policy), load_id=policy)
        for name in ("score", "rate", "price"):
            assert f"{name}: the mapping gives" in str(caught.value)
        assert (caught.value.hint or "").startswith("set evolution: widen; or change the mapping")
    assert shape(target)["score"] == ("smallint", False)
    result = load(*connectors, people(mode="merge", evolution="widen"), load_id="load-2")
    assert shape(target) == {
        "id": ("integer", True),
        "name": ("character varying(40)", False),
        "score": ("bigint", False),
        "rate": ("double precision", False),
        "price": ("numeric(12,4)", False),
    }
    assert set(result.schema_changes) == {
        "name: character varying(10) becomes character varying(40)",
        "name: may be NULL",
        "score: smallint becomes bigint",
        "rate: real becomes double precision",
        "price: numeric(6,2) becomes numeric(12,4)",
    }
    every = "select string_agg(p::text, '|' order by id) from people as p"
    assert target.execute(every) == source.execute(every)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("alter table people drop column score", SourceChangedError, "no column 'score'"),
        ("alter table people rename score to points", SourceChangedError, "but a new one, 'points'"),
        ("alter table people alter score type text", TargetMismatchError, "score: the mapping gives text"),
        ("alter table people alter price type date using '2024-01-01'", TargetMismatchError, "price: the mapping"),
        ("alter table people alter price type numeric(6,4) using 1", TargetMismatchError, "price: the mapping"),
        ('alter table people add "NAME" text', TargetMismatchError, "NAME: the mapping fills it"),
    ],
)
def test_what_would_lose_or_bend_values_is_refused_by_every_policy(
    pair: Databases, connectors: tuple[Connector, Connector], change: str, error: type[Exception], words: str
) -> None:
    source, target = pair
    load(*connectors, people())
    before = shape(target), target.execute("select * from people order by id")
    source.execute(change)
    with pytest.raises(error, match=words) as caught:
        load(*connectors, people(evolution="widen"), load_id="load-2")
    assert "evolution" not in str(caught.value), "no policy would help"
    assert (shape(target), target.execute("select * from people order by id")) == before


def test_narrower_reordered_and_stricter_sources_fit_as_they_are(
    pair: Databases, connectors: tuple[Connector, Connector]
) -> None:
    source, target = pair
    load(*connectors, people())
    before = shape(target)
    source.execute(
        "create table other (price numeric(4,1) not null, rate real, score smallint not null, name varchar(3) not null,"
        " id integer primary key); insert into other values (1.5, 0.1, 3, 'abc', 9)"
    )
    result = load(*connectors, people(source_table="other", evolution="widen"), load_id="load-2")
    assert result.schema_changes == ()
    assert shape(target) == before
    assert target.execute("select id, name, score, rate::text, price from people")[0][:4] == (9, "abc", 3, "0.1")


def test_the_schema_says_the_policy_unless_the_mapping_does(
    pair: Databases, connectors: tuple[Connector, Connector]
) -> None:
    _, target = pair
    columns = [{"name": "id", "data_type": "integer"}, {"name": "name", "data_type": "string"}]
    schema = {"name": "s", "columns": columns, "primary_key": ["id"], "evolution": "add_columns"}
    load(*connectors, people(target_schema="s"), Schema.model_validate(schema))
    schema["columns"] = [*columns, {"name": "score", "data_type": "bigint"}]
    wider = Schema.model_validate(schema)
    with pytest.raises(TargetMismatchError, match="score"):
        load(*connectors, people(target_schema="s", evolution="freeze"), wider, load_id="load-2")
    load(*connectors, people(target_schema="s"), wider, load_id="load-2")
    assert target.execute("select id, score from people order by id") == [(1, 5), (2, -5)]


@pytest.mark.parametrize("db_type", ["sqlite", "duckdb", pytest.param("mysql", marks=pytest.mark.mysql)])
def test_other_databases_follow_as_far_as_they_can(
    pair: Databases, db_type: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, _ = pair
    if db_type == "mysql":
        config = request.getfixturevalue("mysql").config("target")
    else:
        config = ConnectionConfig(name="target", db_type=db_type, database=str(tmp_path / "target.db"))
    opened = connect(source.config("source")), connect(config)
    load(*opened, people(mode="merge"))
    source.execute(
        "alter table people add city text default 'Ulm', alter score type bigint; update people set score = 3000000000"
    )
    mapping = people(mode="merge", evolution="widen")
    if db_type == "mysql":
        # Its MODIFY would forget the column's default and comment.
        with pytest.raises(TargetMismatchError, match="score"):
            load(*opened, mapping, load_id="load-2")
        mapping = people(
            mode="merge",
            evolution="widen",
            column_mappings=[
                {"type": "direct", "source_columns": [name], "target_fields": [name]} for name in ("id", "name", "city")
            ],
        )
    load(*opened, mapping, load_id="load-2")
    with opened[1].write() as write:
        score = "1" if db_type == "mysql" else "score"
        rows = write.fetch_all(f"SELECT id, city, {score} FROM people ORDER BY id")
    expected = 1 if db_type == "mysql" else 3000000000
    assert [tuple(row) for row in rows] == [(1, "Ulm", expected), (2, "Ulm", expected)]
    for connector in opened:
        connector.close()
