"""What nodes can do: one class for each operator, found by its type and class name."""

from synqx_dagster.pipelines.operators.protocol import (
    BatchOperator,
    ExtractOperator,
    Input,
    LoadOperator,
    NodeColumns,
    Operator,
    OperatorProblem,
    Origins,
    Relation,
    SqlOperator,
)

__all__ = [
    "BatchOperator",
    "ExtractOperator",
    "Input",
    "LoadOperator",
    "NodeColumns",
    "Operator",
    "OperatorProblem",
    "Origins",
    "Relation",
    "SqlOperator",
]
