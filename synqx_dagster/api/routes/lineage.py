"""Lineage: what an asset is made of and what is made of it, by tables and by columns."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.problems import problems_of
from synqx_dagster.defs.lineage import MAX_DEPTH, Direction
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["lineage"])

Reader = Annotated[Identity, Depends(Requires(Permission.CATALOG_READ))]


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class LineageNodeView(_View):
    """An asset of the answer."""

    asset: str
    maker: str = Field(
        description="`mapping` or `pipeline`: a record that loads it; `stored`: rows between the steps of a pipeline; "
        "`source`: nothing in the catalog makes it."
    )
    record: str | None = Field(description="The mapping or the pipeline.")
    direction: str = Field(description="`self`, `up`, `down`, or `both` for an asset in a cycle.")
    distance: int
    columns: list[str] = Field(
        description="Columns of which it is known what they are made of, or what is made of them."
    )


class LineageEdgeView(_View):
    """Rows flow from one asset to another."""

    upstream: str
    downstream: str


class ColumnEdgeView(_View):
    """A column is made of another one, maybe among others."""

    upstream: str
    upstream_column: str
    downstream: str
    downstream_column: str


class LineageView(_View):
    """The neighbourhood of an asset."""

    asset: str
    column: str | None
    revision: int
    nodes: list[LineageNodeView]
    edges: list[LineageEdgeView]
    column_edges: list[ColumnEdgeView]
    is_cut: bool = Field(description="There is more, further away than `depth`, or more than 2000 assets.")


@router.get(
    "/lineage/{asset:path}", responses=problems_of(404), operation_id="read_lineage", summary="Read an asset's lineage"
)
def read_lineage(
    context: Context,
    identity: Reader,
    asset: Annotated[
        str, Path(max_length=1024, description="`connection/schema/table`, or the name of a dataset or a mapping.")
    ],
    direction: Direction = "both",
    depth: Annotated[int, Query(ge=1, le=MAX_DEPTH, description="How many edges away, at most.")] = 10,
    column: Annotated[str | None, Query(max_length=512, description="Follow this column alone.")] = None,
) -> LineageView:
    """Up: what the asset is made of. Down: what is made of it.

    Columns are those that the records tell, and for tables whose columns nobody declared those that their last load
    has found.
    """
    answer = context.lineage.read(
        context.catalog, context.instance, asset, direction=direction, depth=depth, column=column
    )
    return LineageView.model_validate(answer)
