"""Which operators there are: those of this package, and those that other packages bring by entry points."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import get_args

from synqx_dagster.errors import DriverMissingError, NotFoundError
from synqx_dagster.mapping.names import nearest
from synqx_dagster.model.pipeline import OperatorType, PipelineNode
from synqx_dagster.pipelines.operators import columns, ends, mapped, python, rows, validate
from synqx_dagster.pipelines.operators.protocol import BatchOperator, Operator, SqlOperator

ENTRY_POINTS = "synqx_dagster.operators"


@lru_cache(maxsize=1)
def built_in_operators() -> dict[tuple[OperatorType, str], Operator]:
    """The operators of this package by type and class."""
    found: list[Operator] = []
    for module in (ends, columns, mapped, rows, python, validate):
        found.extend(module.OPERATORS)
    return {(operator.operator_type, operator.operator_class): operator for operator in found}


def operator_classes(operator_type: OperatorType) -> tuple[str, ...]:
    """The names of all operators of a type, those of packages included, in order."""
    own = [name for kind, name in built_in_operators() if kind == operator_type]
    foreign = [name.partition(".")[2] for name in _foreign_names() if name.startswith(f"{operator_type}.")]
    return tuple(sorted({*own, *foreign}))


def find_operator(node: PipelineNode, db_types: frozenset[str]) -> Operator:
    """The operator of a node.

    Args:
        db_types: Kinds of connections; as the class of an extract or a load each of them stands for ``table``.

    Raises:
        NotFoundError: There is none of this type and class; the hint gives the nearest.
        DriverMissingError: A package brings it, and it cannot be imported.
    """
    operator_class = node.operator_class
    if node.operator_type in ("extract", "load") and operator_class in db_types:
        operator_class = "table"
    operator = built_in_operators().get((node.operator_type, operator_class))
    if operator is not None:
        return operator
    name = f"{node.operator_type}.{operator_class}"
    if name in _foreign_names():
        return _load_foreign(name)
    raise NotFoundError(
        f"there is no {node.operator_type} operator {operator_class!r}",
        hint=nearest(operator_class, operator_classes(node.operator_type)),
    )


@lru_cache(maxsize=1)
def _foreign_names() -> frozenset[str]:
    return frozenset(point.name for point in entry_points(group=ENTRY_POINTS))


@lru_cache(maxsize=256)
def _load_foreign(name: str) -> Operator:
    (point, *others) = entry_points(group=ENTRY_POINTS, name=name)
    if others:
        raise DriverMissingError(f"two packages bring the operator {name!r}", hint="uninstall one of them")
    try:
        made = point.load()()
    except Exception as exc:
        raise DriverMissingError(
            f"the operator {name!r} cannot be loaded from {point.value}: {type(exc).__name__}: {exc}",
            hint="reinstall the package that brings it",
        ) from exc
    if not isinstance(made, SqlOperator | BatchOperator):
        raise DriverMissingError(f"the operator {name!r} ({point.value}) is neither a SqlOperator nor a BatchOperator")
    kind, _, operator_class = name.partition(".")
    if kind not in get_args(OperatorType) or (made.operator_type, made.operator_class) != (kind, operator_class):
        raise DriverMissingError(
            f"the entry point {name!r} leads to the operator {made.operator_type}.{made.operator_class}",
            hint="its name must be the operator's type and class",
        )
    return made
