"""How the nodes of a step are put into stages: which of them one SELECT of DuckDB does, and where rows are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synqx_dagster.pipelines.graph import Node, Step
from synqx_dagster.pipelines.operators.protocol import BatchOperator, LoadOperator
from synqx_dagster.pipelines.operators.validate import Validate

#: DuckDB binds a pile of views recursively, and a hundred of them take their time.
MAX_NODES = 24


@dataclass(frozen=True)
class Stage:
    """Nodes that run as one query, or one node in Python.

    Attributes:
        end: The node whose rows leave the stage.
        nodes: All of them, each after those that it reads.
        inputs: Nodes of other stages and of other steps whose rows arrive.
        is_python: The one node is a function over batches.
    """

    end: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    is_python: bool


def plan_stages(step: Step, nodes: Mapping[str, Node]) -> tuple[Stage, ...]:
    """The stages of a step, each after those that it reads; a load is in none.

    A node whose rows nobody can count from its inputs ends a stage: between two stages rows are counted.
    """
    members: dict[str, list[str]] = {}
    stage_of: dict[str, str] = {}
    for node_id in step.nodes:
        node = nodes[node_id]
        if isinstance(node.operator, LoadOperator):
            continue
        joined = [node_id]
        if not isinstance(node.operator, BatchOperator):
            for one in node.inputs:
                if one in stage_of and not _ends_stage(nodes[one]):
                    earlier = members[stage_of[one]]
                    if len(earlier) + len(joined) <= MAX_NODES:
                        joined = [*earlier, *joined]
                        del members[stage_of[one]]
        members[node_id] = joined
        stage_of.update(dict.fromkeys(joined, node_id))
    return tuple(
        Stage(
            end,
            tuple(joined),
            tuple(dict.fromkeys(one for name in joined for one in nodes[name].inputs if one not in joined)),
            isinstance(nodes[end].operator, BatchOperator),
        )
        for end, joined in members.items()
    )


def _ends_stage(node: Node) -> bool:
    operator = node.operator
    if isinstance(operator, BatchOperator | Validate):
        return True
    # An extract's rows are counted where they arrive.
    return not operator.keeps_rows and operator.operator_type != "extract"
