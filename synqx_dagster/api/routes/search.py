"""Search over agents, pipelines, mappings, columns and everything else that has a name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.paging import PagingOf
from synqx_dagster.catalog.search import MAX_QUERY_CHARACTERS, SearchHit, search_catalog
from synqx_dagster.catalog.search_documents import SearchKind
from synqx_dagster.catalog.words import TextPart
from synqx_dagster.people.identity import Identity
from synqx_dagster.people.roles import Permission

router = APIRouter(tags=["search"])

Reader = Annotated[Identity, Depends(Requires(Permission.CATALOG_READ))]


class TextPartView(BaseModel):
    """A piece of a text. It is text, not HTML: escape it where it becomes a page."""

    text: str
    match: bool = Field(description="Whether it is one of the words that were looked for.")


class SearchHitView(BaseModel):
    """One thing that was found."""

    kind: SearchKind
    id: str = Field(description="Of the record: an agent's UUID, or a number.")
    record_kind: str = Field(description="Of a column: the kind of record that has it.")
    record_name: str
    title: list[TextPartView]
    snippet: list[TextPartView]
    score: float = Field(description="Greater is better; means something beside the other hits of this answer alone.")

    @classmethod
    def of(cls, hit: SearchHit) -> SearchHitView:
        """A hit of the catalog's."""
        return cls(
            kind=hit.kind,
            id=hit.agent_id or str(hit.number),
            record_kind=hit.record_kind,
            record_name=hit.record_name,
            title=_parts(hit.title),
            snippet=_parts(hit.snippet),
            score=hit.score,
        )


def _parts(parts: tuple[TextPart, ...]) -> list[TextPartView]:
    return [TextPartView(text=part.text, match=part.is_match) for part in parts]


class SearchView(BaseModel):
    """A page of what was found, the best first."""

    items: list[SearchHitView]
    total: int
    skip: int
    limit: int
    counts: dict[str, int] = Field(description="How many there are of each kind, whatever `kind` asks for.")
    corrections: dict[str, list[str]] = Field(
        description="Words that nothing begins with, and what was looked for instead; nothing where nothing is like it."
    )


@router.get("/search", operation_id="search", summary="Search")
def search(
    context: Context,
    identity: Reader,
    paging: PagingOf,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=MAX_QUERY_CHARACTERS,
            description="Words, or their beginnings; all of them must be there.",
        ),
    ],
    kind: Annotated[list[SearchKind] | None, Query(description="Only things of these kinds.")] = None,
) -> SearchView:
    """Names, descriptions and columns of the latest revision; never queries, expressions or secrets.

    A word that nothing begins with is taken for a mistyped one.
    """
    found = search_catalog(context.catalog, q, kinds=kind or (), offset=paging.skip, limit=paging.limit)
    return SearchView(
        items=[SearchHitView.of(hit) for hit in found.hits],
        total=found.total,
        skip=paging.skip,
        limit=paging.limit,
        counts=dict(found.counts),
        corrections={word: list(others) for word, others in found.corrections.items()},
    )
