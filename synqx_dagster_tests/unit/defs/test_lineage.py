"""Lineage of a snapshot: up, down, by columns, and through cycles."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.lineage import MAX_DEPTH, LineageAnswer, read_lineage, resolve_asset
from synqx_dagster.defs.lineage_graph import LineageAsset, LineageGraph, build_graph_of_lineage
from synqx_dagster.errors import NotFoundError
from synqx_dagster.model import Record
from synqx_dagster_tests.unit.catalog.records import connection, mapping


def graph_of(*records: Record) -> LineageGraph:
    return build_graph_of_lineage(CatalogSnapshot.from_records(1, records))


def chain(name: str, source: str, target: str, *columns: tuple[str, str]) -> Record:
    direct = [{"type": "direct", "source_columns": [a], "target_fields": [b]} for a, b in columns]
    return mapping(
        name,
        source_connection="db",
        target_connection="db",
        source_table=source,
        target_table=target,
        column_mappings=direct or None,
    )


DB = connection("db")


def keys(answer: LineageAnswer) -> dict[str, tuple[str, int]]:
    return {node.asset: (node.direction, node.distance) for node in answer.nodes}


def test_cycles_end_and_say_that_they_are_cycles() -> None:
    graph = graph_of(
        DB, chain("ab", "a", "b", ("x", "x")), chain("bc", "b", "c", ("x", "x")), chain("ca", "c", "a", ("x", "x"))
    )
    answer = read_lineage(graph, None, "db/main/a")
    assert keys(answer) == {"db/main/a": ("self", 0), "db/main/b": ("both", 1), "db/main/c": ("both", 1)}
    assert len(answer.edges) == 3
    assert not answer.is_cut
    followed = read_lineage(graph, None, "db/main/a", column="x")
    assert len(followed.column_edges) == 3


def test_a_mapping_that_reads_its_own_target_has_no_edge_to_itself() -> None:
    graph = graph_of(
        DB,
        mapping(
            "m",
            source_connection="db",
            target_connection="db",
            source_query="select id from main.t",
            target_table="main.t",
        ),
    )
    assert keys(read_lineage(graph, None, "db/main/t")) == {"db/main/t": ("self", 0)}


def test_depth_cuts_and_says_so() -> None:
    graph = graph_of(DB, *(chain(f"m{number}", f"t{number}", f"t{number + 1}") for number in range(5)))
    answer = read_lineage(graph, None, "db/main/t2", depth=1)
    assert set(keys(answer)) == {"db/main/t1", "db/main/t2", "db/main/t3"}
    assert answer.is_cut
    whole = read_lineage(graph, None, "db/main/t2", depth=MAX_DEPTH)
    assert len(whole.nodes) == 6
    assert not whole.is_cut


def test_a_query_that_joins_has_all_its_tables_and_their_columns() -> None:
    joined = mapping(
        "m",
        source_connection="db",
        target_connection="db",
        target_table="t",
        source_query="select c.id, upper(o.total) as total from customer c join orders o on o.customer = c.id",
        column_mappings=[
            {"type": "direct", "source_columns": ["id"], "target_fields": ["key"]},
            {"type": "direct", "source_columns": ["total"], "target_fields": ["total"]},
        ],
    )
    answer = read_lineage(graph_of(DB, joined), None, "m", direction="up", column="total")
    assert [(edge.upstream, edge.upstream_column) for edge in answer.column_edges] == [("db/main/orders", "total")]
    assert set(keys(answer)) == {"db/main/t", "db/main/orders"}


def test_a_record_that_cannot_be_built_takes_nothing_down() -> None:
    lost = mapping("lost", source_connection="gone", target_connection="db", source_table="a", target_table="z")
    assert "db/main/b" in graph_of(DB, lost, chain("ab", "a", "b")).assets


def test_what_is_not_there_is_refused_with_what_is_near() -> None:
    graph = graph_of(DB, chain("ab", "a", "b", ("x", "y")))
    with pytest.raises(NotFoundError, match="did you mean 'db/main/b'"):
        resolve_asset(graph, "db/main/bb")
    with pytest.raises(NotFoundError, match="did you mean 'y'"):
        read_lineage(graph, None, "ab", column="yy")


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), st.integers(1, 8))
def test_up_of_one_is_down_of_the_other(pairs: Sequence[tuple[int, int]], depth: int) -> None:
    graph = LineageGraph(1)
    for number in range(8):
        graph.assets[str(number)] = LineageAsset((str(number),), "source")
    for up, down in set(pairs):
        if up != down:
            graph.upstream[str(down)] = (*graph.upstream.get(str(down), ()), str(up))
            graph.downstream[str(up)] = (*graph.downstream.get(str(up), ()), str(down))
    distances = {
        (start, node.asset, direction): node.distance
        for start in graph.assets
        for direction in ("up", "down")
        for node in read_lineage(graph, None, start, direction=direction, depth=depth).nodes  # type: ignore[arg-type]
    }
    for (start, other, direction), distance in distances.items():
        opposite = "down" if direction == "up" else "up"
        assert distances[other, start, opposite] == distance
        assert distance <= depth
