"""The columns of a pipeline's nodes, and which columns of its extracts they are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from synqx_dagster.pipelines.graph import Node
from synqx_dagster.pipelines.operators.protocol import Input, NodeColumns, Origins


def known_columns(
    nodes: Mapping[str, Node], given: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, NodeColumns]:
    """The names of the columns of every node, as far as the pipeline itself tells them.

    Args:
        nodes: Each after those that it reads, as far as these are among them.
        given: What somebody has found out about some nodes.
    """
    columns: dict[str, NodeColumns] = {}
    for node_id, node in nodes.items():
        inputs = [Input(name, columns.get(name)) for name in node.inputs]
        found = (given or {}).get(node_id)
        columns[node_id] = found if found is not None else node.operator.columns(node.config, inputs)
    return columns


def trace_origins(
    node_id: str, nodes: Mapping[str, Node], columns: Mapping[str, NodeColumns], *, sources: Collection[str] = ()
) -> Origins:
    """The columns of extracts, and of `sources`, that each column of a node is made of, through all nodes between.

    None where nobody can tell.
    """
    traced: dict[str, Origins] = {}
    for name, node in nodes.items():
        inputs = [Input(one, columns.get(one)) for one in node.inputs]
        if not node.inputs or name in sources:
            known = columns.get(name)
            traced[name] = None if known is None else {column: ((name, column),) for column in known}
            continue
        direct = node.operator.origins(node.config, inputs)
        traced[name] = (
            None
            if direct is None
            else {
                column: tuple(dict.fromkeys(origin for pair in pairs for origin in _through(traced, *pair)))
                for column, pairs in direct.items()
            }
        )
        if name == node_id:
            break
    return traced.get(node_id)


def _through(traced: Mapping[str, Origins], node_id: str, column: str) -> tuple[tuple[str, str], ...]:
    known = traced.get(node_id)
    return () if known is None else known.get(column, ())
