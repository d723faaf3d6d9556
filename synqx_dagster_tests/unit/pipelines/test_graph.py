"""The graph of a pipeline: what is wrong with it is found and placed, and steps are what one consumer makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.model import Dataset
from synqx_dagster.model.mapping import Freshness
from synqx_dagster.pipelines.graph import order_nodes
from synqx_dagster.pipelines.lineage import known_columns, trace_origins
from synqx_dagster.pipelines.loading import load_mapping
from synqx_dagster_tests.unit.pipelines.graphs import check, graph, node, pipeline

A, B = node("a", "extract"), node("b", "extract")
LOAD = node("load", "load")


def only_problem(nodes: list[dict[str, Any]], *edges: str) -> tuple[str, str, str]:
    made, problems = check(pipeline(nodes, *edges))
    assert made is None
    assert len(problems) == 1, problems
    return ".".join(map(str, problems[0].path)), problems[0].message, problems[0].hint or ""


# --- steps ------------------------------------------------------------------------------------------------------


def test_a_chain_is_one_step() -> None:
    nodes = [A, node("f", "transform.filter", condition="x > 1"), node("s", "transform.sort", by=["x"]), LOAD]
    (step,) = graph(nodes, "a>f>s>load").steps
    assert step.nodes == ("a", "f", "s", "load")
    assert step.is_load
    assert step.inputs == ()


def test_two_extracts_that_meet_are_one_step() -> None:
    (step,) = graph([A, B, node("j", "transform.join", on=["id"]), LOAD], "a>j>load", "b>j").steps
    assert step.nodes == ("a", "b", "j", "load")


def test_rows_that_two_nodes_read_are_stored_once() -> None:
    made = graph([A, node("l1", "load"), node("l2", "load")], "a>l1", "a>l2")
    assert [(step.name, step.inputs, step.is_load) for step in made.steps] == [
        ("a", (), False),
        ("l1", ("a",), True),
        ("l2", ("a",), True),
    ]


def test_a_node_that_asks_to_be_stored_ends_its_step() -> None:
    nodes = [A, node("s", "transform.sort", by=["x"], stored=True), LOAD]
    assert [step.name for step in graph(nodes, "a>s>load").steps] == ["s", "load"]


def test_an_edge_without_rows_makes_a_step_wait() -> None:
    nodes = [A, node("l1", "load"), B, node("l2", "load")]
    first, second = graph(nodes, "a>l1>b>l2").steps
    assert (first.name, first.after) == ("l1", ())
    assert (second.name, second.after) == ("l2", ("l1",))
    assert second.inputs == ()


def test_bad_rows_are_carried_to_the_load_that_keeps_them() -> None:
    rules = [{"check": "not_null", "column": "x"}]
    valid = node("v", "validate.rules", rules=rules, on_bad_row="quarantine", quarantine="l1")
    nodes = [A, valid, node("t", "transform.sort", by=["x"], stored=True)]
    made = graph([*nodes, node("l1", "load", on_bad_row="quarantine"), node("l2", "load")], "a>v>t>l1", "v>l2")
    assert {step.name: step.carried for step in made.steps} == {"v": (), "t": (), "l1": ("v",), "l2": ()}


@st.composite
def random_graphs(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[str]]:
    count = draw(st.integers(1, 12))
    nodes, edges = [node("n0", "extract")], []
    for number in range(1, count):
        inputs = draw(st.lists(st.integers(0, number - 1), min_size=0, max_size=3, unique=True))
        if not inputs:
            nodes.append(node(f"n{number}", "extract"))
        elif len(inputs) == 1:
            nodes.append(node(f"n{number}", "transform.sort", by=["x"], stored=draw(st.booleans())))
        else:
            nodes.append(node(f"n{number}", "transform.union", missing_columns="null"))
        edges += [f"n{one}>n{number}" for one in inputs]
    read = {edge.split(">")[0] for edge in edges}
    for number in range(count):
        if f"n{number}" not in read:
            nodes.append(node(f"load{number}", "load"))
            edges.append(f"n{number}>load{number}")
    return nodes, edges


@given(random_graphs())
@settings(max_examples=150, deadline=None)
def test_steps_divide_the_nodes_and_come_in_order(made: tuple[list[dict[str, Any]], list[str]]) -> None:
    nodes, edges = made
    found = graph(nodes, *edges)
    assert sorted(name for step in found.steps for name in step.nodes) == sorted(item["node_id"] for item in nodes)
    done: set[str] = set()
    for step in found.steps:
        # What a step reads is stored by a step before it, and nothing else of that step is read.
        assert set(step.inputs) <= done
        assert step.nodes[-1] == step.name
        within = set(step.nodes)
        for name in step.nodes:
            assert set(found.nodes[name].inputs) <= within | set(step.inputs)
            if name != step.name:
                assert len(found.nodes[name].consumers) == 1
                assert not found.nodes[name].record.stored
        done.add(step.name)


def test_five_hundred_nodes_and_a_chain_of_three_hundred_are_no_matter_of_recursion() -> None:
    nodes = [A, *(node(f"t{number}", "transform.sort", by=["x"]) for number in range(300)), LOAD]
    chain = ">".join(item["node_id"] for item in nodes)
    (step,) = graph(nodes, chain).steps
    assert len(step.nodes) == 302
    wide = [item for number in range(250) for item in (node(f"e{number}", "extract"), node(f"l{number}", "load"))]
    assert len(graph(wide, *(f"e{number}>l{number}" for number in range(250))).steps) == 250


def test_nodes_are_ordered_as_listed_where_edges_say_nothing() -> None:
    assert order_nodes(pipeline([B, A, LOAD], "a>load")) == ("b", "a", "load")


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_a_cycle_is_printed() -> None:
    nodes = [node("x", "transform.sort", by=["n"]), node("y", "transform.sort", by=["n"])]
    with pytest.raises(ValueError, match="the edges form a cycle: x -> y -> x"):
        pipeline(nodes, "x>y", "y>x")


def test_rows_that_nobody_reads() -> None:
    assert only_problem([A, B, LOAD], "a>load") == (
        "nodes.1",
        "nothing reads the rows of 'b'",
        "lead an edge from it to a load, or remove it",
    )


def test_an_operator_that_is_not_there() -> None:
    place, message, hint = only_problem([A, node("f", "transform.filtre", condition="true"), LOAD], "a>f>load")
    assert (place, message) == ("nodes.1.operator_class", "there is no transform operator 'filtre'")
    assert hint == "did you mean 'filter'?"
    _, _, hint = only_problem([A, node("v", "validate.xyz"), LOAD], "a>v>load")
    assert hint == "there are: rules"


def test_a_wrong_number_of_inputs() -> None:
    place, message, _ = only_problem([A, node("j", "transform.join", on=["id"]), LOAD], "a>j>load")
    assert place == "nodes.1"
    assert message == "'j': transform 'join' takes 2 inputs, not 1"


def test_a_config_field_that_is_not_there() -> None:
    made, problems = check(pipeline([A, node("f", "transform.filter", conditon="true"), LOAD], "a>f>load"))
    assert made is None
    assert {problem.path[:3] for problem in problems} == {("nodes", 1, "config")}
    assert problems[0].error is not None


def test_two_loads_of_one_table() -> None:
    nodes = [A, B, node("l1", "load", table="t"), node("l2", "load", table="t")]
    assert only_problem(nodes, "a>l1", "b>l2")[1] == "'l1' and 'l2' load one table: t"


def test_freshness_of_a_pipeline_that_loads_nothing_itself() -> None:
    runs = {"node_id": "m", "config": {"mapping": "customers"}}
    made, problems = check(pipeline([runs], freshness={"maximum_age_seconds": 60}))
    assert made is None
    assert [(problem.path, problem.hint) for problem in problems] == [
        (("freshness",), "set freshness at the mappings that its nodes run")
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("freshness", "set freshness at the mapping"),
        ("mode", "set mode at the mapping"),
        ("mapings", "its config holds the name of the mapping alone"),
    ],
)
def test_a_node_that_runs_a_mapping_takes_nothing_beside_its_name(name: str, hint: str) -> None:
    given = {"node_id": "m", "config": {"mapping": "customers", name: "x"}}
    assert only_problem([given]) == (f"nodes.0.config.{name}", f"a node that runs a mapping has no {name}", hint)


def test_a_load_has_the_freshness_of_its_pipeline_unless_it_has_its_own() -> None:
    own = node("l2", "load", freshness={"maximum_age_seconds": 60})
    made = graph([A, node("l1", "load"), own], "a>l1", "a>l2", freshness={"maximum_age_seconds": 3600})
    found = {name: load_mapping(made, made.nodes[name]).freshness for name in ("l1", "l2")}
    assert found == {"l1": Freshness(maximum_age_seconds=3600), "l2": Freshness(maximum_age_seconds=60)}


def test_an_extract_that_does_not_say_what_it_reads() -> None:
    bare = {"node_id": "a", "operator_type": "extract", "operator_class": "table", "config": {}}
    place, message, _ = only_problem([bare, LOAD], "a>load")
    assert (place, message) == ("nodes.0.config", "the node does not say what it reads")


def test_an_asset_and_a_table_are_one_too_many() -> None:
    both = {**A, "source_asset": "orders"}
    orders = Dataset(name="orders", connection="shop", table="orders")
    made, problems = check(pipeline([both, LOAD], "a>load"), orders=orders)
    assert made is None
    assert problems[0].message == "source_asset says what config.connection says, too"


def test_a_query_cannot_be_loaded() -> None:
    load = {"node_id": "load", "operator_type": "load", "operator_class": "table", "destination_asset": "q"}
    query = Dataset(name="q", connection="shop", query="select 1")
    assert (
        check(pipeline([A, load], "a>load"), q=query)[1][0].message
        == "the asset 'q' is a query, which cannot be loaded"
    )


def test_the_kind_of_a_connection_stands_for_table() -> None:
    nodes = [node("a", "extract.postgresql"), node("load", "load.postgresql")]
    assert graph(nodes, "a>load").nodes["load"].operator.operator_class == "table"


def test_columns_are_followed_along_edges() -> None:
    nodes = [
        node("a", "extract", columns=["id", "name"]),
        node("r", "transform.rename", columns={"name": "title"}),
        node("s", "transform.select", columns=["id", "name"]),
        LOAD,
    ]
    place, message, hint = only_problem(nodes, "a>r>s>load")
    assert place == "nodes.2.config.columns"
    assert message == "'r' gives no column 'name'"
    assert "id, title" in hint


def test_an_expression_over_a_column_that_is_not_there() -> None:
    nodes = [node("a", "extract", columns=["id"]), node("f", "transform.filter", condition="ids > 1"), LOAD]
    assert only_problem(nodes, "a>f>load") == (
        "nodes.1.config.condition",
        "the expression reads 'ids', which no input gives",
        "did you mean 'id'?",
    )


@pytest.mark.parametrize("text", ["id > 1; drop table x", "(select 1)", "sum(id) > 1", "read_csv('x')", ""])
def test_a_condition_that_is_no_scalar_expression(text: str) -> None:
    made, problems = check(pipeline([A, node("f", "transform.filter", condition=text), LOAD], "a>f>load"))
    assert made is None
    assert problems[0].path[:2] == ("nodes", 1)


def test_sql_must_read_its_inputs_and_nothing_else() -> None:
    nodes = [A, B, node("q", "transform.sql", query="select * from a join elsewhere using (id)"), LOAD]
    made, problems = check(pipeline(nodes, "a>q>load", "b>q"))
    assert made is None
    assert [problem.message for problem in problems] == [
        "the query reads 'elsewhere', and no edge leads here from such a node",
        "the query does not read its input 'b'",
    ]


@pytest.mark.parametrize(
    "query", ["insert into a values (1)", "select 1 from a; select 2 from a", "select * from read_csv('/etc/passwd')"]
)
def test_sql_is_one_select_over_inputs(query: str) -> None:
    made, problems = check(pipeline([A, node("q", "transform.sql", query=query), LOAD], "a>q>load"))
    assert made is None
    assert problems[0].path == ("nodes", 1, "config", "query")


def test_a_quarantine_needs_a_load_that_keeps_it() -> None:
    valid = node("v", "validate.rules", rules=[{"check": "not_null", "column": "x"}], on_bad_row="quarantine")
    assert only_problem([A, valid, LOAD], "a>v>load")[1] == "'v' sends bad rows to the load 'load', which keeps none"
    two = [A, valid, node("l1", "load", on_bad_row="quarantine"), node("l2", "load")]
    assert only_problem(two, "a>v>l1", "v>l2")[1] == "the rows of 'v' reach several loads"


def test_a_quarantine_that_reaches_no_load_is_rows_that_nobody_reads() -> None:
    rules = [{"check": "not_null", "column": "x"}]
    valid = node("v", "validate.rules", rules=rules, on_bad_row="quarantine")
    assert only_problem([A, valid], "a>v")[:2] == ("nodes.1", "nothing reads the rows of 'v'")
    named = node("v", "validate.rules", rules=rules, on_bad_row="quarantine", quarantine="load")
    nodes = [A, B, named, node("s", "transform.sort", by=["x"]), LOAD]
    assert only_problem(nodes, "a>v>s", "b>load")[:2] == ("nodes.3", "nothing reads the rows of 's'")


def test_an_incremental_extract_feeds_one_load_that_keeps_what_is_there() -> None:
    fresh = node("a", "extract.incremental", cursor={"column": "id"})
    assert only_problem([fresh, LOAD], "a>load")[1] == (
        "'a' reads only what is new, and the load 'load' replaces the rest"
    )
    two = [fresh, node("l1", "load", mode="append"), node("l2", "load", mode="append")]
    assert "reach 2 loads" in only_problem(two, "a>l1", "a>l2")[1]


# --- lineage --------------------------------------------------------------------------------------------------------


def test_columns_are_traced_through_the_nodes() -> None:
    nodes = [
        node("a", "extract", columns=["id", "price", "amount"]),
        node("b", "extract", columns=["id", "name"]),
        node("d", "transform.derive", columns={"total": "price * amount"}),
        node("j", "transform.join", left="d", on=["id"]),
        node("r", "transform.rename", columns={"name": "customer"}),
        node("q", "transform.sql", query="select customer, sum(total) as revenue from r group by customer"),
        LOAD,
    ]
    made = graph(nodes, "a>d>j>r>q>load", "b>j")
    assert trace_origins("q", made.nodes, known_columns(made.nodes)) == {
        "customer": (("b", "name"),),
        "revenue": (("a", "price"), ("a", "amount")),
    }


# --- waiting --------------------------------------------------------------------------------------------------------


def test_steps_that_would_wait_for_each_other() -> None:
    union = {"missing_columns": "null"}
    nodes = [
        *(node(name, "extract") for name in ("e1", "e2", "e3", "e4")),
        node("u1", "transform.union", **union),
        node("u2", "transform.union", **union),
        node("l1", "load"),
        node("l2", "load"),
    ]
    flows = ["e1>u1>l1", "e2>u1", "e3>u2>l2", "e4>u2"]
    assert graph(nodes, *flows, "e1>e3").steps[1].after == ("l1",)
    place, message, _ = only_problem(nodes, *flows, "e1>e3", "e4>e2")
    assert place == "edges"
    assert message == "steps wait for each other: 'l2' -> 'l1' -> 'l2'"


def test_a_node_that_is_to_wait_for_one_of_its_own_step() -> None:
    nodes = [A, B, node("u", "transform.union", missing_columns="null"), LOAD]
    place, message, hint = only_problem(nodes, "a>u>load", "b>u", "a>b")
    assert (place, message) == ("edges.3", "'b' is to wait for 'a', and both run in one step")
    assert "stored: true" in hint
    stored = [{**A, "stored": True}, *nodes[1:]]
    assert graph(stored, "a>u>load", "b>u", "a>b").steps[1].after == ("a",)


def test_what_is_new_must_not_delete_the_rest() -> None:
    fresh = node("a", "extract.incremental", cursor={"column": "id"})
    load = node("load", "load", mode="merge", key=["id"], delete_missing=True)
    assert only_problem([fresh, load], "a>load")[2] == "leave delete_missing out"


@pytest.mark.parametrize(
    "text", ["sum(x)) AS a, (max(y)", "(select max(n) from a)", "sum(x) over ()", "x, y", "sum(missing)"]
)
def test_an_aggregate_is_one_expression_over_the_input(text: str) -> None:
    nodes = [
        node("a", "extract", columns=["x", "y"]),
        node("g", "transform.aggregate", group_by=["y"], columns={"total": text}),
        LOAD,
    ]
    made, problems = check(pipeline(nodes, "a>g>load"))
    assert made is None
    assert problems[0].path == ("nodes", 1, "config", "columns", "total")
