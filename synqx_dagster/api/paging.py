"""Lists: a part of what there is, and how much that is."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

ItemT = TypeVar("ItemT")

MAX_LIMIT = 500
#: Far beyond any list, and within what databases count to.
MAX_SKIP = 1_000_000_000


class Page(BaseModel, Generic[ItemT]):
    """A part of a list."""

    items: list[ItemT]
    total: int = Field(description="How many there are in all, of those that the filters let through.")
    skip: int
    limit: int


class Paging(BaseModel):
    """Which part of a list is asked for."""

    skip: int
    limit: int


def paging_of(
    skip: Annotated[int, Query(ge=0, le=MAX_SKIP, description="How many to leave out from the beginning.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many at most.")] = 50,
) -> Paging:
    """The part that a request asks for."""
    return Paging(skip=skip, limit=limit)


PagingOf = Annotated[Paging, Depends(paging_of)]
