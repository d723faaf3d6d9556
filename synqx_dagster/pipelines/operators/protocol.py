"""What an operator is: a config with typed fields, what it makes of its inputs' columns, and how its rows are made.

An operator is stateless; one object serves every node of its class. It knows nothing of databases or of Dagster. A
package brings operators of its own by the entry point group ``synqx_dagster.operators``: the name is
``transform.NAME`` or ``validate.NAME``, the value a subclass of `SqlOperator` or `BatchOperator`.

Guarantee asked of an operator: what it does depends on its config and its inputs alone. A step that is run again
after a crash must give the same rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from synqx_dagster.model.base import Value
from synqx_dagster.model.pipeline import OperatorType
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

#: Names of a node's columns in order; None where nobody can tell before the rows come.
NodeColumns = tuple[str, ...] | None

#: For each column of a node the inputs' columns that it is made of, as pairs of input and column; None where nobody
#: can tell.
Origins = dict[str, tuple[tuple[str, str], ...]] | None


@dataclass(frozen=True)
class Input:
    """An input as it is known before anything runs: the node that makes it, and its columns if they are known."""

    node_id: str
    columns: NodeColumns = None
    #: Types of columns, of those that somebody has declared before.
    types: Mapping[str, DataType] = field(default_factory=dict)

    def type_of(self, name: str) -> DataType | None:
        """The type of a column, whose name's case does not matter; None where it is not known."""
        return next((found for column, found in self.types.items() if column.casefold() == name.casefold()), None)


@dataclass(frozen=True)
class Relation:
    """An input while a step runs: what DuckDB calls it (quoted), the node that makes it, and its typed columns."""

    sql_name: str
    node_id: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of a name, whose case does not matter."""
        return next(column for column in self.columns if column.name.casefold() == name.casefold())


@dataclass(frozen=True)
class OperatorProblem:
    """Something wrong with a node: the field of its config (a path; empty for the node), what, and what to do."""

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None


class Operator(ABC):
    """What every operator says of itself.

    Attributes:
        config_type: The fields of a node's ``config``; unknown ones are refused with the nearest name.
        least_inputs, most_inputs: How many nodes it reads; None for any number.
        keeps_types: Its columns are some of its one input's, with the types that they have there.
        keeps_rows: It gives exactly one row for each row of all its inputs, so that nobody has to count them.
    """

    operator_type: ClassVar[OperatorType]
    operator_class: ClassVar[str]
    config_type: ClassVar[type[Value]]
    least_inputs: ClassVar[int] = 1
    most_inputs: ClassVar[int | None] = 1
    keeps_rows: ClassVar[bool] = False
    keeps_types: ClassVar[bool] = False

    def holds_rows(self, config: Any) -> bool:
        """Whether it needs memory for more than the rows in flight."""
        return False

    def check(self, config: Any, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """What is wrong with a node as far as it can be told without rows or databases."""
        yield from ()

    def columns(self, config: Any, inputs: Sequence[Input]) -> NodeColumns:
        """The names of the columns it gives; called for a node that `check` has nothing against."""
        return None

    def types(self, config: Any, inputs: Sequence[Input]) -> Mapping[str, DataType]:
        """The types of its columns as far as they are declared; called as `columns` is."""
        return inputs[0].types if self.keeps_types else {}

    def origins(self, config: Any, inputs: Sequence[Input]) -> Origins:
        """Where each column comes from."""
        return None


class SqlOperator(Operator):
    """An operator that is one SELECT of DuckDB over its inputs."""

    @abstractmethod
    def sql(self, config: Any, inputs: Sequence[Relation]) -> str:
        """The SELECT.

        Raises:
            PlanError: The inputs' columns or types do not allow it; names the column.
        """

    def parts(self, config: Any, inputs: Sequence[Relation]) -> Sequence[tuple[str, str]]:
        """SELECTs of the expressions that may fail on a value, each with what messages call it (``column 'x'``).

        After a failure they are tried one by one on the rows that came last, to tell which one it was.
        """
        return ()


class BatchOperator(Operator):
    """An operator that is a function over record batches, in Python."""

    @abstractmethod
    def output(self, config: Any, inputs: Sequence[Relation]) -> tuple[Column, ...]:
        """The typed columns of what it gives, before any row has come.

        Raises:
            PlanError: As `SqlOperator.sql`.
        """

    @abstractmethod
    def run(
        self, config: Any, batches: Iterator[pa.RecordBatch], schema: pa.Schema, memory_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        """The rows it makes of the rows of its one input.

        Args:
            schema: What it must give; a batch of other columns or types is the node's error.
            memory_bytes: How much it may hold at once, if it holds rows at all.

        Raises:
            OperatorFailedError: The user's code failed, or gave what was not asked for.
        """

    #: May run in a process of its own, so that it can be ended when its time is up.
    runs_foreign_code: ClassVar[bool] = False


class ExtractOperator(Operator):
    """An operator that reads a source; the step's runtime knows how."""

    operator_type: ClassVar[OperatorType] = "extract"
    least_inputs: ClassVar[int] = 0
    most_inputs: ClassVar[int | None] = 0


class LoadOperator(Operator):
    """An operator that fills a target; the transfer engine does it."""

    operator_type: ClassVar[OperatorType] = "load"
