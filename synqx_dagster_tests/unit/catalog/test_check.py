"""What is refused before it reaches the catalog: names, references, secrets, cycles, calendars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.catalog.check import check_definitions
from synqx_dagster.catalog.documents import read_documents, scan_documents
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.errors import InvalidInputError
from synqx_dagster.model import Record, SealedSecret
from synqx_dagster_tests.unit.catalog.checking import catalog_of, problems_of
from synqx_dagster_tests.unit.catalog.records import (
    connection,
    mapping,
    pipeline,
    schedule,
    schema,
)

ENDS = (connection("shop"), connection("warehouse"))


def chain(*names: str) -> list[Record]:
    """Mappings within one database, each reading what the one before it loads."""
    return [
        mapping(name, source_connection="warehouse", source_table=source, target_table=name)
        for source, name in zip(("start", *names[:-1]), names, strict=True)
    ]


def test_a_sound_project() -> None:
    assert not problems_of(
        *ENDS,
        schema("customer"),
        mapping("customers", target_schema="customer"),
        mapping("b", source_connection="warehouse", source_query="select * from customers"),
        pipeline("main", "customers", "b", edges=[("customers", "b")]),
        schedule("nightly", pipeline="main"),
        schedule("hourly", mapping=["customers", "b"]),
    )


def test_nothing_declared() -> None:
    assert problems_of() == []


def test_what_only_a_broken_record_brings_is_not_a_problem(tmp_path: Path) -> None:
    known = catalog_of(*ENDS, mapping("old", target_table="x"))
    path = tmp_path / "a.yaml"
    path.write_text(
        "kind: mapping\nname: old\nmode: no\n---\nkind: pipeline\nname: p\nnodes:\n"
        "  - {node_id: a, config: {mapping: old}}\n  - {node_id: b, config: {mapping: gone}}\n"
    )
    found = check_definitions(scan_documents([path]), known=known)
    assert {problem.location.field for problem in found if problem.location} >= {"mode", "nodes[1].config.mapping"}
    assert not any("old" in problem.message for problem in found), found


def test_what_is_read_to_be_applied_has_no_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: mapping\nname: old\n")
    assert scan_documents([path]).problems
    with pytest.raises(InvalidInputError):
        read_documents([path])


LOADS = """kind: mapping
name: m
source_connection: shop
source_table: s
target_connection: warehouse
target_table: t
freshness: {0}
---
kind: pipeline
name: p
nodes:
  - {{node_id: a, operator_type: extract, operator_class: table, config: {{connection: shop, table: s}}}}
  - node_id: b
    operator_type: load
    operator_class: table
    config:
      connection: warehouse
      table: other
      freshness: {0}
edges: [{{from_node_id: a, to_node_id: b}}]
freshness: {0}
"""


@pytest.mark.parametrize(
    ("written", "field", "message"),
    [
        ("{maximum_age_seconds: 59}", ".maximum_age_seconds", "must be at least 60"),
        ("{maximum_age: 60}", ".maximum_age", "unknown key 'maximum_age' (did you mean 'maximum_age_seconds'?)"),
        ("{maximum_age_seconds: 1h}", ".maximum_age_seconds", "must be a whole number"),
        ("3600", "", "must be keys with values"),
    ],
)
def test_a_freshness_that_is_none_is_refused_where_it_stands(
    tmp_path: Path, written: str, field: str, message: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(LOADS.format(written))
    found = [str(problem) for problem in check_definitions(scan_documents([path]), known=catalog_of(*ENDS))]
    places = {f"{path}:7 freshness{field}", f"{path}:21 freshness{field}"}
    assert all(any(text.startswith(place) and message in text for text in found) for place in places), found
    # The config of a node is read once its record can be.
    path.write_text(LOADS.format(written).replace(f"\nfreshness: {written}", ""))
    found = [str(problem) for problem in check_definitions(scan_documents([path]), known=catalog_of(*ENDS))]
    place = f"{path}:18 nodes[1].config.freshness{field}"
    assert any(text.startswith(place) and message in text for text in found), found


# --- names ---------------------------------------------------------------------------------------------------------


def test_duplicates_name_both_places(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("kind: connection\nname: shop\ndb_type: duckdb\ndatabase: /x\n")
    (problem,) = check_definitions(read_documents([tmp_path]), known=None)
    assert str(problem) == (
        f"{tmp_path}/b.yaml:2 name: there are two connections 'shop' (the other one is in {tmp_path}/a.yaml:1)"
    )


def test_one_name_for_two_kinds() -> None:
    assert problems_of(connection("customers"), connection("warehouse"), mapping(source_connection="customers")) == []


def test_names_that_meet_in_dagster() -> None:
    (problem,) = problems_of(connection("my shop"), connection("my-shop"))
    assert "'my-shop' and 'my shop' have one name in Dagster: my_shop" in problem


def test_names_that_meet_in_dagster_with_the_catalog() -> None:
    (problem,) = problems_of(connection("my shop"), known=catalog_of(connection("my-shop")))
    assert "have one name in Dagster: my_shop" in problem


@pytest.mark.parametrize(
    ("values", "is_problem"),
    [({"pipeline": "main"}, False), ({"mapping": "a"}, True), ({"pipeline": ["main", "other"]}, True)],
)
def test_a_schedule_with_the_name_of_a_pipeline(values: dict[str, Any], is_problem: bool) -> None:
    declared = [*ENDS, *chain("a"), pipeline("main", "a"), pipeline("other", "a"), schedule("main", **values)]
    problems = problems_of(*declared)
    assert bool(problems) == is_problem
    assert all("the pipeline 'main' makes a job of this name, too" in problem for problem in problems)


@pytest.mark.parametrize("name", ["config", "import", "__ASSET_JOB", "synqx_follow_catalog", "synqx_freshness", "type"])
def test_names_that_dagster_reserves(name: str) -> None:
    (problem,) = problems_of(*ENDS, *chain("a"), pipeline(name, "a"))
    assert "is reserved" in problem
    assert len(problems_of(*ENDS, *chain("a"), schedule(name, mapping="a"))) == 1
    assert not problems_of(*ENDS, *chain(name))


# --- references ----------------------------------------------------------------------------------------------------


def test_missing_references() -> None:
    assert problems_of(
        *ENDS,
        mapping("a", source_connection="shp", target_schema="customer"),
        pipeline("p", "a", "nope"),
        schedule("s", mapping=["a", "b"], pipeline="q"),
    ) == [
        "mapping 'a' source_connection: there is no connection 'shp' (did you mean 'shop'?)",
        "mapping 'a' target_schema: there is no schema 'customer' (declare a schema of this name)",
        "pipeline 'p' nodes[1].config.mapping: there is no mapping 'nope' (declare a mapping of this name)",
        "schedule 's' mapping: there is no mapping 'b' (declare a mapping of this name)",
        "schedule 's' pipeline: there is no pipeline 'q' (declare a pipeline of this name)",
    ]


def test_a_missing_asset_is_called_one_in_english() -> None:
    load = {"node_id": "l", "operator_type": "load", "operator_class": "table", "config": {"table": "t"}}
    nodes = [{"node_id": "e", "operator_type": "extract", "operator_class": "table", "source_asset": "nope"}, load]
    edges = [{"from_node_id": "e", "to_node_id": "l"}]
    record = build_record("pipeline", {"name": "p", "nodes": nodes, "edges": edges})
    assert "there is no asset 'nope' (declare an asset of this name)" in problems_of(*ENDS, record)[0]


#: A pipeline whose extract and load take all that they need from datasets.
BY_DATASET = """
{{kind: asset, name: orders, connection: {source}, table: orders}}
---
{{kind: asset, name: loaded, connection: {target}, table: loaded, target_schema: {schema}}}
---
kind: pipeline
name: p
nodes:
  - {{node_id: a, operator_type: extract, operator_class: table, source_asset: orders}}
  - {{node_id: b, operator_type: load, operator_class: table, destination_asset: loaded}}
edges: [{{from_node_id: a, to_node_id: b}}]
---
{{kind: connection, name: shop, db_type: duckdb, database: /data/shop.duckdb}}
---
{{kind: connection, name: broken, db_type: duckdb, database: /x, port: none}}
---
{{kind: schema, name: rows, columns: [{{name: id, data_type: integer}}]}}
"""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"source": "shp"}, "asset 'orders' connection: there is no connection 'shp'"),
        ({"target": "shp"}, "asset 'loaded' connection: there is no connection 'shp'"),
        ({"schema": "row"}, "asset 'loaded' target_schema: there is no schema 'row'"),
        ({"source": "broken"}, None),
        ({"target": "broken"}, None),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_dataset_without_its_connection_is_one_problem(
    tmp_path: Path, changed: dict[str, str], says: str | None, is_known: bool
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(BY_DATASET.format(**{"source": "shop", "target": "shop", "schema": "rows"} | changed))
    # What the catalog has under the name of a broken record is not meant.
    known = catalog_of(connection("broken")) if is_known else None
    port, *others = reversed(check_definitions(scan_documents([path]), known=known))
    assert port.location is not None
    assert port.location.field == "port"
    assert len(others) == (says is not None)
    assert all(says is not None and says.split(": ")[1] in problem.message for problem in others)


def test_references_into_the_catalog() -> None:
    known = catalog_of(*ENDS)
    assert not problems_of(mapping("a"), known=known)
    (first, second) = problems_of(mapping("a"), known=known, prune=True)
    assert "would be removed" in first
    assert "would be removed" in second


def test_what_stays_is_checked_with_what_changes() -> None:
    known = catalog_of(*ENDS, schema("customer"), mapping("a", target_schema="customer"))
    changed = schema("customer", columns=[{"name": "number", "data_type": "integer", "nullable": False}])
    column_mappings = [{"type": "direct", "source_columns": ["id"], "target_fields": ["id"]}]
    known = catalog_of(
        *ENDS, schema("customer"), mapping("a", target_schema="customer", column_mappings=column_mappings)
    )
    problems = problems_of(changed, known=known)
    assert problems
    assert all(problem.startswith("mapping 'a'") for problem in problems)
    assert not problems_of(schema("customer", description="the same columns"), known=known)


# --- secrets -------------------------------------------------------------------------------------------------------


def test_a_sealed_mark_needs_a_sealed_value() -> None:
    declared = connection("shop", db_type="postgresql", host="h", database="d", password={"sealed": True})
    plain = declared.model_copy(update={"password": None})
    sealed = declared.model_copy(update={"password": SealedSecret(version=3)})
    expected = "the catalog has no sealed value to keep"
    assert expected in problems_of(declared)[0]
    assert expected in problems_of(declared, known=catalog_of(plain))[0]
    assert expected not in str(problems_of(declared, known=catalog_of(sealed)))


def test_secret_files_and_empty_secrets() -> None:
    values = {"db_type": "postgresql", "host": "h", "database": "d", "username": "u"}
    assert "absolute path" in str(problems_of(connection(**values, password={"file": "secret.txt"})))
    assert "absolute path" not in str(problems_of(connection(**values, password={"file": "~/secret.txt"})))
    assert "must not be empty" in str(problems_of(connection(**values, password="")))


# --- connections ---------------------------------------------------------------------------------------------------


def test_unknown_db_type() -> None:
    (problem,) = problems_of(connection("shop", db_type="postgres"))
    assert problem.startswith("connection 'shop' db_type: ")
    assert "did you mean 'postgresql'?" in problem


def test_a_connector_checks_its_fields() -> None:
    (problem,) = problems_of(connection("shop", database=None))
    assert problem.startswith("connection 'shop' database: ")


def test_a_file_takes_no_password() -> None:
    (problem,) = problems_of(connection("shop", password="hunter2"))
    assert problem.startswith("connection 'shop' password: ")
    assert "hunter2" not in problem


# --- schedules -----------------------------------------------------------------------------------------------------

CRONS = {
    "0 2 * * *": True,
    "*/15 8-18 * * MON-FRI": True,
    "@daily": True,
    "0 0 29 2 *": True,
    "0 0 1,15 * 5": True,
    "0 0 L * *": True,
    "0 2 * *": False,
    "0 2 * * * *": False,
    "61 * * * *": False,
    "0 0 30 2 *": False,
    "0 0 31 4 *": False,
    "@reboot": False,
    "every day": False,
    "*/0 * * * *": False,
    "0 2 * * 8": False,
    "\x00": False,
    "٣ * * * *": False,
}


@pytest.mark.parametrize(("expression", "is_valid"), CRONS.items())
def test_cron(expression: str, is_valid: bool) -> None:
    problems = problems_of(*ENDS, *chain("a"), schedule("s", mapping="a", cron_expression=expression))
    assert (problems == []) == is_valid
    assert all(problem.startswith("schedule 's' cron_expression: ") for problem in problems)


@pytest.mark.parametrize("expression", [expression for expression, is_valid in CRONS.items() if is_valid])
def test_dagster_takes_the_cron_that_we_take(expression: str) -> None:
    from dagster._utils.schedules import is_valid_cron_string

    assert is_valid_cron_string(expression)


# --- tables and cycles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("db_type", "first", "second", "is_one"),
    [
        ("sqlite", "t", "T", True),
        ("duckdb", "t", "Main.T", True),
        ("postgresql", "t", "T", False),
        ("mysql", "t", "shop.t", True),
        ("mysql", "t", "other.t", False),
    ],
)
def test_one_table_by_two_names(db_type: str, first: str, second: str, is_one: bool) -> None:
    target = connection("there", db_type=db_type, database="shop")
    mappings = [
        mapping(name, target_table=table, target_connection="there") for name, table in (("a", first), ("b", second))
    ]
    problems = [problem for problem in problems_of(*ENDS, target, *mappings) if "load one table" in problem]
    assert len(problems) == is_one


def test_two_mappings_with_one_table() -> None:
    first, second = mapping("a", target_table="t"), mapping("b", target_table="main.t")
    (problem,) = problems_of(*ENDS, first, second)
    assert "the mappings 'a' and 'b' load one table" in problem
    (problem,) = problems_of(first, known=catalog_of(*ENDS, second))
    assert problem.startswith("mapping 'a' target_table: ")


def test_a_mapping_that_reads_its_target() -> None:
    (problem,) = problems_of(*ENDS, *[mapping("a", source_connection="warehouse", source_table="a")])
    assert "the mapping loads the table that it reads" in problem


def test_a_cycle_is_printed() -> None:
    ring = chain("a", "b", "c")
    ring[0] = mapping("a", source_connection="warehouse", source_query="select 1 as x from main.c")
    (problem,) = problems_of(*ENDS, *ring)
    assert "the mappings wait for each other: a -> b -> c -> a" in problem


def test_a_cycle_through_the_catalog() -> None:
    first, second = mapping("a", source_connection="warehouse", source_table="b"), chain("a", "b")[1]
    (problem,) = problems_of(first, known=catalog_of(*ENDS, second))
    assert problem.startswith("mapping 'a'")
    assert "a -> b -> a" in problem


def test_two_cycles_are_two_problems() -> None:
    declared = [
        mapping(name, source_connection="warehouse", source_table=source)
        for name, source in [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    ]
    assert len(problems_of(*ENDS, *declared)) == 2


def test_an_edge_against_the_tables() -> None:
    declared = [*ENDS, *chain("a", "b")]
    assert not problems_of(*declared, pipeline("p", "a", "b", edges=[("a", "b")]))
    (problem,) = problems_of(*declared, pipeline("p", "a", "b", edges=[("b", "a")]))
    assert problem.startswith("pipeline 'p' edges: edges and tables together form a cycle: ")


def test_pipelines_may_differ_in_order_unless_they_run_together() -> None:
    declared = [
        *ENDS,
        mapping("a"),
        mapping("b"),
        pipeline("p", "a", "b", edges=[("a", "b")]),
        pipeline("q", "a", "b", edges=[("b", "a")]),
    ]
    assert not problems_of(*declared)
    (problem,) = problems_of(*declared, schedule("s", pipeline=["p", "q"]))
    assert problem.startswith("schedule 's' pipeline: ")


# --- mappings ------------------------------------------------------------------------------------------------------


def test_problems_of_the_compiler_have_a_place(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "kind: connection\nname: shop\ndb_type: duckdb\ndatabase: /x\n---\n"
        "kind: schema\nname: customer\ncolumns:\n  - {name: id, data_type: integer}\n---\n"
        "kind: mapping\nname: customers\nsource_connection: shop\nsource_query: delete from customer\n"
        "target_connection: shop\ntarget_table: c\ntarget_schema: customer\n"
        "column_mappings:\n"
        "  - {type: direct, source_columns: [id], target_fields: [id]}\n"
        "  - {type: direct, source_columns: [x], target_fields: [nmae]}\n"
    )
    problems = check_definitions(read_documents([file]), known=None)
    places = {(problem.location.line, problem.location.field) for problem in problems if problem.location}
    assert (14, "source_query") in places
    assert any(line == 20 for line, _ in places)
