"""Transforms in Python: a function over pandas frames or Arrow batches, named by ``module:function``.

Guarantee: the function gets a copy of the rows, so what it does to them in place reaches nobody else; what it gives
must have exactly the columns that the node declares, and every value must fit its type without loss. What it raises
is told with its type and its own words cut out: they may hold values of rows.
"""

from __future__ import annotations

import importlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from synqx_dagster.connectors.duckdb_types import native_type
from synqx_dagster.errors import OperatorFailedError, PlanError
from synqx_dagster.model.base import Value
from synqx_dagster.model.pipeline import OperatorType
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.operators.protocol import (
    BatchOperator,
    Input,
    NodeColumns,
    OperatorProblem,
    Relation,
)

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of the batches that a function gives, at most.
_OUTPUT_ROWS = 65_536
#: Columns that a hint names.
_SHOWN_NAMES = 10


class FunctionConfig(Value):
    """Which function runs, and what it gives.

    Attributes:
        function: ``module:function``; the module lies in the project's directory or is installed.
        columns: What it gives: types by column, in order. Left out: the input's columns and types.
        parameters: Keyword arguments for the function.
    """

    function: str = Field(min_length=3, max_length=512)
    columns: dict[str, DataType] | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("function")
    @classmethod
    def _check_function(cls, text: str) -> str:
        module, separator, function = text.partition(":")
        if not separator or not all(part.isidentifier() for part in (*module.split("."), function)):
            raise ValueError("write module:function, such as transforms.orders:add_margin")
        return text


class PandasConfig(FunctionConfig):
    """How a function gets its frame.

    Attributes:
        per: ``frame`` hands all rows over at once, as far as the pipeline's ``memory_limit`` allows; ``batch`` calls
            the function for a few ten thousand rows at a time, whose bounds it must not rely on.
        dtypes: ``arrow`` keeps every value (integers beside NULLs, decimals, dates); ``numpy`` gives pandas' classic
            types, in which integers beside NULLs are floats.
    """

    per: Literal["frame", "batch"] = "frame"
    dtypes: Literal["arrow", "numpy"] = "arrow"


class _FunctionOperator(BatchOperator):
    operator_type: ClassVar[OperatorType] = "transform"
    runs_foreign_code = True

    def check(self, config: FunctionConfig, inputs: Sequence[Input]) -> Iterator[OperatorProblem]:
        """Types that DuckDB does not have."""
        for name, data_type in (config.columns or {}).items():
            try:
                native_type(Column(name, data_type))
            except PlanError as exc:
                yield OperatorProblem(("columns", name), exc.message, "give a precision of up to 38 digits")

    def columns(self, config: FunctionConfig, inputs: Sequence[Input]) -> NodeColumns:
        """Those that are declared."""
        return inputs[0].columns if config.columns is None else tuple(config.columns)

    def types(self, config: FunctionConfig, inputs: Sequence[Input]) -> Mapping[str, DataType]:
        """What is declared, else the input's."""
        return inputs[0].types if config.columns is None else config.columns

    def output(self, config: FunctionConfig, inputs: Sequence[Relation]) -> tuple[Column, ...]:
        """What is declared, else the input's."""
        if config.columns is None:
            return inputs[0].columns
        return tuple(Column(name, data_type) for name, data_type in config.columns.items())


class Pandas(_FunctionOperator):
    """A function from a pandas frame to a pandas frame."""

    operator_class = "pandas"
    config_type = PandasConfig

    def holds_rows(self, config: PandasConfig) -> bool:
        """A whole frame is all rows."""
        return config.per == "frame"

    def run(
        self, config: PandasConfig, batches: Iterator[pa.RecordBatch], schema: pa.Schema, memory_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        """Call the function for all rows, or batch by batch; without rows it is called once, with none."""
        import pyarrow as pa

        try:
            import pandas as pd
        except ImportError as exc:
            raise OperatorFailedError("pandas is not installed", hint="pip install 'synqx-dagster[pandas]'") from exc
        function = load_function(config.function)
        mapper = pd.ArrowDtype if config.dtypes == "arrow" else None
        for table in _gather(batches, whole=config.per == "frame", memory_bytes=memory_bytes):
            frame = call(config, function, table.to_pandas(types_mapper=mapper))
            if not isinstance(frame, pd.DataFrame):
                raise _wrong(config, f"gave {type(frame).__name__}, not a DataFrame", _return_hint(frame))
            _check_names(config, list(map(str, frame.columns)), schema.names)
            columns = [_from_series(config, frame[field.name], field) for field in schema]
            yield from pa.Table.from_arrays(columns, schema=schema).to_batches(_OUTPUT_ROWS)


def _from_series(config: FunctionConfig, series: Any, field: pa.Field) -> pa.ChunkedArray:
    """A frame's column as the node's; what pandas calls missing is NULL."""
    import pyarrow as pa

    try:
        found = pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Objects of several kinds; the declared type may be able to take them all.
        try:
            found = pa.array(series, type=field.type, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise _wrong(config, f"gave values in {field.name!r} that are no {field.type}") from None
    found = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    return _fitted(config, found, field)


class Arrow(_FunctionOperator):
    """A function from an Arrow record batch to an Arrow record batch or table."""

    operator_class = "arrow"
    config_type = FunctionConfig

    def run(
        self, config: FunctionConfig, batches: Iterator[pa.RecordBatch], schema: pa.Schema, memory_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        """Call the function for every batch."""
        import pyarrow as pa

        function = load_function(config.function)
        for batch in batches:
            given = call(config, function, batch)
            if not isinstance(given, pa.RecordBatch | pa.Table):
                raise _wrong(config, f"gave {type(given).__name__}, not a RecordBatch or a Table", _return_hint(given))
            _check_names(config, given.schema.names, schema.names)
            for part in given.to_batches() if isinstance(given, pa.Table) else [given]:
                arrays = [_fitted(config, part.column(field.name), field) for field in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fitted(config: FunctionConfig, values: pa.ChunkedArray | pa.Array, field: pa.Field) -> Any:
    """Values as a type, if none of them changes.

    Raises:
        OperatorFailedError: One would.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if kind == field.type:
        return values
    moments = [getattr(one, "tz", None) is None for one in (kind, field.type) if pa.types.is_timestamp(one)]
    try:
        # A time of the wall clock is no moment, whatever a cast makes of it.
        if len(moments) == 1 and pa.types.is_timestamp(field.type) and not pa.types.is_date(kind):
            raise pa.ArrowInvalid("no moment")
        if len(moments) == 2 and moments[0] != moments[1]:
            raise pa.ArrowInvalid("another kind of moment")
        if not pa.types.is_floating(field.type) or not (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return values.cast(field.type)
        # Arrow's own check does not look at digits, and its cast of a decimal is wrong in the last one; a text is not.
        if pa.types.is_decimal(kind):
            result = values.cast(pa.string()).cast(field.type)
            same = pc.equal(values, result.cast(pa.string()).cast(kind))
        else:
            result = values.cast(field.type)
            same = pc.or_(pc.equal(values, result.cast(kind)), pc.is_nan(values))
        if not pc.all(pc.fill_null(same, True), min_count=0).as_py():
            raise pa.ArrowInvalid("digits would be lost")
    except pa.ArrowException:
        raise _wrong(config, f"gave values in {field.name!r} ({kind}) that are no {field.type} without loss") from None
    return result


def load_function(text: str) -> Callable[..., Any]:
    """The function of ``module:function``.

    Raises:
        OperatorFailedError: It cannot be imported.
    """
    module_name, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as exc:
        # What a user's module says while it is imported may hold a password; that a name is missing does not.
        told = f": {exc}" if isinstance(exc, ImportError | AttributeError | SyntaxError) else ""
        raise OperatorFailedError(
            f"the function {text} cannot be imported: {type(exc).__name__}{told}",
            hint="its module must lie in the project's directory or be installed where the run is",
        ) from exc
    if not callable(found):
        raise OperatorFailedError(f"{text} is not a function")
    return found  # type: ignore[no-any-return]  # callable() narrows to an unknown callable


def call(config: FunctionConfig, function: Callable[..., Any], rows: Any) -> Any:
    """Call the user's function.

    Raises:
        OperatorFailedError: It raised; says what and on which line of the user's file, never its message.
    """
    try:
        return function(rows, **config.parameters)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # whatever a user's code raises, sys.exit() too
        where = ""
        module = Path(getattr(getattr(function, "__code__", None), "co_filename", ""))
        for frame in reversed(traceback.extract_tb(exc.__traceback__)):
            if Path(frame.filename) == module:
                where = f" at {module.name}:{frame.lineno}"
                break
        # A message such as pandas' own quotes values of rows, and it would go into the log.
        raise OperatorFailedError(
            f"the function {config.function} raised {type(exc).__name__}{where}",
            hint=f"to see its message, call it in Python on a {type(rows).__name__} with the columns {_listed(rows)}",
        ) from None


def _listed(rows: Any) -> str:
    """The columns of what a function is called with; their names are no values."""
    names = list(map(repr, rows.schema.names if hasattr(rows, "schema") else rows.columns))
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{shown} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown


def _gather(batches: Iterator[pa.RecordBatch], *, whole: bool, memory_bytes: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    if not whole:
        for batch in batches:
            yield pa.Table.from_batches([batch])
        return
    collected: list[pa.RecordBatch] = []
    size, schema = 0, None
    for batch in batches:
        schema = batch.schema
        collected.append(batch)
        size += batch.nbytes
        if size > memory_bytes:
            raise OperatorFailedError(
                f"the frame is larger than the pipeline's memory limit of {memory_bytes:,} bytes",
                hint="set per: batch, or raise memory_limit",
            )
    if schema is not None:
        yield pa.Table.from_batches(collected, schema)


def _check_names(config: FunctionConfig, given: Sequence[str], wanted: Sequence[str]) -> None:
    lacking = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if lacking or extra:
        parts = [f"lacks {', '.join(map(repr, lacking[:5]))}"] if lacking else []
        parts += [f"has {', '.join(map(repr, extra[:5]))} too much"] if extra else []
        raise _wrong(config, f"gave other columns than the node declares: it {' and '.join(parts)}")
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        hint = "let it drop or rename one of the two before it returns"
        raise _wrong(config, f"gave the column {twice[0]!r} twice", hint)


def _return_hint(given: Any) -> str:
    return (
        "end it with a return of what it has made"
        if given is None
        else "let it return what it is called with, changed or anew"
    )


def _wrong(
    config: FunctionConfig, what: str, hint: str = "declare what it gives in config.columns"
) -> OperatorFailedError:
    return OperatorFailedError(f"the function {config.function} {what}", hint=hint)


OPERATORS: tuple[Any, ...] = (Pandas(), Arrow())
