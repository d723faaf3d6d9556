"""The column mappings of a mapping: which columns of the source become which fields of the target."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from synqx_dagster.api.access import Caller
from synqx_dagster.api.bodies import JsonBody
from synqx_dagster.api.context import Context
from synqx_dagster.api.problems import problems_of
from synqx_dagster.api.record_routes import Editor, IfMatch, Reader, Ref
from synqx_dagster.api.record_schemas import body_of
from synqx_dagster.api.records import Precondition, Writer
from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.catalog.yaml_tree import FieldPath, format_path
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import ColumnMapping, Mapping, Record

router = APIRouter(prefix="/mappings/{ref}/column-mappings", tags=["mappings"])

_ONE = {
    "oneOf": [
        {"$ref": f"#/components/schemas/{name}MappingInput"}
        for name in ("Direct", "Split", "Join", "Expression", "Constant", "Hash")
    ]
}


@router.get(
    "",
    response_model=list[ColumnMapping],
    responses=problems_of(404),
    operation_id="list_column_mappings",
    summary="The column mappings of a mapping",
)
def list_column_mappings(context: Context, identity: Reader, ref: Ref, response: Response) -> Any:
    """In their order; empty where every column becomes a field of its own name."""
    stored = context.records.get("mapping", ref)
    assert isinstance(stored.record, Mapping)
    response.headers["ETag"] = f'"{stored.etag}"'
    return list(stored.record.column_mappings or ())


@router.post(
    "",
    status_code=201,
    response_model=ColumnMapping | list[ColumnMapping],
    responses=problems_of(404, 409, 412),
    openapi_extra=body_of({"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1}]}),
    operation_id="add_column_mappings",
    summary="Add column mappings to a mapping",
)
def add_column_mappings(
    context: Context,
    identity: Editor,
    client: Caller,
    ref: Ref,
    body: JsonBody,
    response: Response,
    if_match: IfMatch = None,
) -> Any:
    """One, or a list that is added as a whole; behind those that are there."""
    items = body if isinstance(body, list) else [body]
    if not items:
        raise InvalidInputError([Problem("must have at least one column mapping", SourceLocation(field=""))])
    stored = context.records.get("mapping", ref)

    def add(before: Record) -> Record:
        assert isinstance(before, Mapping)
        there = len(before.column_mappings or ())
        values = before.model_dump(mode="json")
        values["column_mappings"] = [*(values["column_mappings"] or []), *items]
        try:
            return build_record("mapping", values)
        except InvalidRecordError as error:
            problems = [
                Problem(item.message, _place(item.path, there, is_list=isinstance(body, list)), item.hint)
                for item in error.problems
            ]
        raise InvalidInputError(problems)

    changed = context.records.change(
        stored,
        add,
        Writer(identity, client),
        reason=f"add column mappings to mapping {stored.record.name}",
        precondition=Precondition.parse(if_match),
    )
    assert isinstance(changed.record, Mapping)
    response.headers["ETag"] = f'"{changed.etag}"'
    added = list(changed.record.column_mappings or ())[-len(items) :]
    return added if isinstance(body, list) else added[0]


def _place(path: FieldPath, there: int, *, is_list: bool) -> SourceLocation:
    """Where in the request what is wrong with the mapping stands."""
    if path[:1] == ("column_mappings",) and len(path) > 1 and isinstance(path[1], int):
        path = (path[1] - there, *path[2:]) if is_list else path[2:]
    return SourceLocation(field=format_path(path) or None)
