"""Where tables go, by which key rows are matched, and what a change of columns asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from synqx_dagster.errors import PlanError
from synqx_dagster.model.replication import ReplicatedTable, Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.replication.changes import Relation, ReplicaIdentity
from synqx_dagster.replication.evolution import Evolved, compare
from synqx_dagster.replication.source_columns import KnownRelation, SourceColumn
from synqx_dagster.replication.tables import (
    FollowedTable,
    choose_key,
    follow_table,
    refuse_shared_targets,
    state_schema,
)


def make(**fields: Any) -> Replication:
    values: dict[str, Any] = {
        "name": "shop",
        "source_connection": "source",
        "target_connection": "target",
        "tables": ({"name": "*"},),
    }
    return Replication(**(values | fields))


def columns(**types: str) -> tuple[Column, ...]:
    kinds = {"integer": "integer", "bigint": "bigint", "text": "string", "smallint": "smallint"}
    found = []
    for name, native in types.items():
        kind = kinds.get(native, native.replace("numeric", "decimal") if native.startswith("numeric") else "string")
        found.append(Column(name, DataType.parse(kind), True, native, "postgres"))
    return tuple(found)


def relation(of: tuple[Column, ...], identity: ReplicaIdentity = "default", *key: str, oid: int = 1) -> Relation:
    return Relation(oid, TableName("t", "public"), identity, of, key)


def table(key: tuple[str, ...] = (), primary_key: tuple[str, ...] = ()) -> FollowedTable:
    name = TableName("t", "public")
    return FollowedTable(name, name, ReplicatedTable(name="t", key=key), primary_key)


def test_targets_follow_the_naming_unless_they_are_named() -> None:
    naming = make(target_naming={"target_schema": "raw_{schema}", "table": "x_{table}"})
    source = TableName("orders")
    assert follow_table(naming, source, ReplicatedTable(name="*")).target == TableName("x_orders", "raw_public")
    assert follow_table(naming, source, ReplicatedTable(name="orders", target="a.b")).target == TableName("b", "a")
    assert state_schema(naming) is None
    assert state_schema(make(target_naming={"target_schema": "raw"})) == "raw"


def test_two_tables_do_not_share_a_target() -> None:
    tables = [
        follow_table(make(), TableName("T", schema), ReplicatedTable(name="*", target=None)) for schema in ("a", "b")
    ]
    with pytest.raises(PlanError, match=r"put \{schema\} into target_naming|would both be written"):
        refuse_shared_targets(tables, folds_case=False)
    names = [follow_table(make(), TableName(name, "a"), ReplicatedTable(name="*")) for name in ("T", "t")]
    refuse_shared_targets(names, folds_case=False)
    with pytest.raises(PlanError):
        refuse_shared_targets(names, folds_case=True)


ID_NAME = columns(id="integer", name="text")


@pytest.mark.parametrize(
    ("of", "followed", "expected"),
    [
        (relation(ID_NAME, "default", "id"), table(), ("id",)),
        (relation(ID_NAME, "index", "name"), table(primary_key=("id",)), ("name",)),
        (relation(ID_NAME, "full", "id", "name"), table(primary_key=("id",)), ("id",)),
        (relation(ID_NAME, "full", "id", "name"), table(key=("name",)), ("name",)),
        (relation(ID_NAME, "default", "id", "name"), table(key=("id",)), ("id",)),
        (relation(ID_NAME, "nothing"), table(key=("id",)), ("id",)),
    ],
)
def test_the_key_is_what_the_log_tells_the_old_values_of(
    of: Relation, followed: FollowedTable, expected: tuple[str, ...]
) -> None:
    assert choose_key(followed, of) == expected


@pytest.mark.parametrize(
    ("of", "followed", "hint"),
    [
        (relation(ID_NAME, "full", "id", "name"), table(), "primary key"),
        (relation(ID_NAME, "nothing"), table(primary_key=("id",)), "primary key"),
        (relation(ID_NAME, "default", "id"), table(key=("name",)), "REPLICA IDENTITY FULL"),
        (relation(ID_NAME, "default", "id"), table(key=("other",)), ""),
    ],
)
def test_a_key_that_cannot_be_followed_is_refused(of: Relation, followed: FollowedTable, hint: str) -> None:
    with pytest.raises(PlanError) as caught:
        choose_key(followed, of)
    assert hint in (caught.value.hint or "")


def known(of: tuple[Column, ...], **numbers: int) -> KnownRelation:
    return KnownRelation.of(1, of, {name: SourceColumn(number) for name, number in numbers.items()})


def now(**numbers: int) -> Mapping[str, SourceColumn]:
    return {name: SourceColumn(number) for name, number in numbers.items()}


def test_what_is_kept_of_a_relation_is_read_back() -> None:
    of = (*ID_NAME, Column("odd", DataType("decimal", 2, 5), True, "numeric(2,5)", "postgres"))
    kept = known(of, id=1, name=2, odd=7)
    again = KnownRelation.from_json(kept.to_json())
    assert again == kept


def test_the_same_columns_ask_for_nothing() -> None:
    assert compare(known(ID_NAME, id=1, name=2), relation(ID_NAME), now(id=1, name=2), "freeze") == Evolved()
    # An index was dropped, a comment was made: the catalog is not asked.
    assert compare(known(ID_NAME), relation(ID_NAME), None, "freeze") == Evolved()


def test_without_the_catalog_a_renamed_column_cannot_be_told_from_a_new_one() -> None:
    renamed = relation(columns(id="integer", title="text"))
    assert "which was renamed" in (compare(known(ID_NAME), renamed, None, "widen").stopped or "")
    told = compare(known(ID_NAME, id=1, name=2), renamed, now(id=1, title=2), "widen")
    assert told.renamed == (("name", "title"),)
    new = compare(known(ID_NAME, id=1, name=2), renamed, now(id=1, title=3), "widen")
    assert (new.added, new.dropped, new.renamed) == ({"title": None}, ("name",), ())


def test_a_catalog_that_speaks_of_another_time_is_not_believed() -> None:
    more = relation(columns(id="integer", name="text", more="text"))
    # Since then name and more have changed places: their numbers are not in the order of the log.
    told = compare(known(ID_NAME, id=1, name=2), more, now(id=1, name=3, more=2), "add_columns")
    assert (told.renamed, told.dropped, told.added) == ((), (), {"more": None})


@pytest.mark.parametrize(
    ("before", "after", "goes_on"),
    [
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("numeric(6,2)", "numeric(8,2)", True),
        ("numeric(6,2)", "numeric(8,4)", False),
        ("numeric(6,2)", "numeric", True),
        ("integer", "numeric(12,2)", False),
        ("integer", "numeric(12,0)", True),
        ("character varying(5)", "character varying(9)", True),
        ("character varying(9)", "character varying(5)", False),
        ("text", "integer", False),
        ("integer", "text", False),
    ],
)
def test_a_type_may_change_where_no_value_does(before: str, after: str, goes_on: bool) -> None:
    was, is_now = columns(id="integer", v=before), columns(id="integer", v=after)
    told = compare(known(was, id=1, v=2), relation(is_now), now(id=1, v=2), "widen")
    assert (told.stopped is None) is goes_on, told.stopped
