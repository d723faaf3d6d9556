"""The order that a pipeline's edges give to the steps of its job, apart from the lineage of its assets.

Guarantee: a step waits for the steps that an edge puts before it and is skipped when one of them fails, while the
assets keep the dependencies that they have everywhere else.

An edge that were a dependency of the job's asset would be recorded with each load as one of its inputs; the asset of
the code location, where no such input is, would then show as out of date ("dependency removed"). Only this module
knows how a job's graph is put together.
"""

from __future__ import annotations

import dagster as dg

#: The output of an op that its asset is.
RESULT = "result"

_AFTER = "synqx/after"


def after_step(name: str) -> dg.In:
    """An input by which an op waits for the step of this name, in jobs that have it, and takes nothing from it."""
    return dg.In(dg.Nothing, metadata={_AFTER: name})


def order_steps(job: dg.JobDefinition) -> dg.JobDefinition:
    """The job with its steps in the order that their inputs ask for; the job itself when none does.

    Ordering a job twice is the same as once.

    Raises:
        dagster.DagsterInvalidDefinitionError: Edges and data together form a cycle.
    """
    graph = job.graph
    names = set(graph.node_dict)
    earlier: dict[str, dict[str, dg.DependencyDefinition]] = {}
    for node in graph.nodes:
        for definition in node.definition.input_defs:
            first = definition.metadata.get(_AFTER)
            if first in names:
                earlier.setdefault(node.name, {})[definition.name] = dg.DependencyDefinition(str(first), RESULT)
    if not earlier:
        return job
    ordered = dg.GraphDefinition(
        name=graph.name,
        description=graph.description,
        node_defs=graph.node_defs,
        dependencies={
            step: {**inputs, **earlier.get(step.alias or step.name, {})} for step, inputs in graph.dependencies.items()
        },
    )
    # Every public way to a job from a graph loses which of its steps are assets.
    return job._copy(graph_def=ordered)
