"""Target schemas. A column's type stays what it is: tables that were loaded have it."""

from __future__ import annotations

from fastapi import APIRouter

from synqx_dagster.api.problems import ApiError
from synqx_dagster.api.record_routes import RecordRoutes, add_record_routes
from synqx_dagster.api.record_views import SchemaView
from synqx_dagster.model import Record, Schema

router = APIRouter(tags=["schemas"])


def keep_types(before: Record, after: Record) -> None:
    """Refuse another type for a column that is there.

    Raises:
        ApiError: 409, naming the columns.
    """
    assert isinstance(before, Schema)
    assert isinstance(after, Schema)
    types = {column.name: column.data_type for column in before.columns}
    changed = [
        f"column {column.name!r} is of type {types[column.name]}, not {column.data_type}"
        for column in after.columns
        if types.get(column.name, column.data_type) != column.data_type
    ]
    if changed:
        raise ApiError(
            409,
            f"The type of a column cannot be changed: {'; '.join(changed)}",
            hint="add a column of the new type, or make another schema",
        )


add_record_routes(router, RecordRoutes("schema", "schemas", SchemaView, filters=("evolution",), check=keep_types))
