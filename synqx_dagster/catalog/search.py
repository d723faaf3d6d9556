"""Full-text search over the catalog: what somebody types, to ranked hits with the words marked.

Every word is looked for as the beginning of one, and all of them must be there. A word that nothing begins with is
taken for a mistyped one, and the words most like it are looked for instead.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import search_index, tables
from synqx_dagster.catalog.hub_tables import SEARCH_TEXT, agent, search_document, search_word
from synqx_dagster.catalog.search_documents import SEARCH_KINDS, SearchKind
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.words import TextPart, cut_around, iter_words, mark_words, query_words

logger = logging.getLogger(__name__)

MAX_QUERY_CHARACTERS = 500
#: More words than anybody types; those past it do not narrow the search.
_MAX_QUERY_WORDS = 16
_SNIPPET_CHARACTERS = 240

#: A word of fewer letters is like too many others.
_SHORTEST_MISTYPED = 4
_LIKENESS = 0.75
_ALTERNATIVES = 5
_MAX_CANDIDATES = 20_000

#: What the title, the names and the text of a document count.
_SQLITE_WEIGHTS = (10.0, 4.0, 1.0)
#: PostgreSQL's own order: D, C, B, A.
_POSTGRESQL_WEIGHTS = "{0.0, 0.1, 0.4, 1.0}"


@dataclass(frozen=True)
class SearchHit:
    """One thing that was found.

    Attributes:
        number: What the API calls its record by, within its kind.
        agent_id: The UUID of an agent; None for everything else.
        title: What it is called, in pieces.
        snippet: A piece of what is said about it, around the words that were found, in pieces; maybe none.
        score: Greater is better; means something beside the other hits of the same search alone.
    """

    kind: SearchKind
    record_kind: str
    record_name: str
    number: int
    agent_id: str | None
    title: tuple[TextPart, ...]
    snippet: tuple[TextPart, ...]
    score: float


@dataclass(frozen=True)
class SearchResult:
    """A page of hits.

    Attributes:
        total: How many there are in all.
        counts: How many there are of each kind, whatever kinds were asked for.
        corrections: Words that nothing begins with, and what was looked for instead; nothing where nothing is like it.
    """

    hits: tuple[SearchHit, ...]
    total: int
    counts: Mapping[str, int]
    corrections: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def search_catalog(
    catalog: Catalog, text: str, *, kinds: Collection[SearchKind] = (), offset: int = 0, limit: int = 20
) -> SearchResult:
    """What the latest revision has of some words, the best hits first.

    An index that is missing or stale is made anew first; that takes seconds in a catalog of ten thousand records.

    Args:
        text: What somebody typed; anything. Without a letter or a digit nothing is found.
        kinds: What to look for; empty for everything.
    """
    with catalog.read() as connection:
        result = _search(connection, text, kinds, offset, limit) if search_index.is_current(connection) else None
    if result is not None:
        return result
    logger.info("The search index is missing or of another revision: it is made anew")
    with catalog.write() as connection:
        search_index.rebuild(connection)
        return _search(connection, text, kinds, offset, limit)


#: For each word of the query what may stand in its place: the beginning of a word, or whole words.
_Alternatives = Sequence[tuple[Sequence[str], bool]]


def _search(connection: Connection, text: str, kinds: Collection[SearchKind], offset: int, limit: int) -> SearchResult:
    alternatives, corrections = _resolve(connection, text)
    if not alternatives:
        return SearchResult((), 0, {}, corrections)
    found = _matching(connection, alternatives, text)
    matching = found.subquery()
    counts = {
        row.kind: int(row.hits)
        for row in connection.execute(
            sa.select(matching.c.kind, sa.func.count().label("hits")).group_by(matching.c.kind)
        )
    }
    wanted = [kind for kind in SEARCH_KINDS if not kinds or kind in kinds]
    place = sa.case({kind: number for number, kind in enumerate(SEARCH_KINDS)}, value=matching.c.kind)
    page = (
        sa.select(matching, tables.record.c.number, agent.c.agent_id)
        .join_from(matching, tables.record, tables.record.c.record_id == matching.c.record_id)
        .join(
            agent,
            sa.and_(matching.c.record_kind == "agent", agent.c.record_id == matching.c.record_id),
            isouter=True,
        )
        .where(matching.c.kind.in_(wanted))
        .order_by(matching.c.is_exact.desc(), matching.c.score.desc(), place, matching.c.title, matching.c.document_id)
        .offset(offset)
        .limit(limit)
    )
    marked = [word for words, _ in alternatives for word in words]
    hits = tuple(_hit(row, marked) for row in connection.execute(page))
    return SearchResult(hits, sum(counts.get(kind, 0) for kind in wanted), counts, corrections)


def _hit(row: Any, marked: Sequence[str]) -> SearchHit:
    return SearchHit(
        kind=row.kind,
        record_kind=row.record_kind,
        record_name=row.record_name,
        number=int(row.number),
        agent_id=row.agent_id,
        title=mark_words(row.title, marked),
        snippet=mark_words(cut_around(row.body, marked, _SNIPPET_CHARACTERS), marked),
        score=round(float(row.score), 6),
    )


# --- words --------------------------------------------------------------------------------------------------------


def _resolve(connection: Connection, text: str) -> tuple[_Alternatives, dict[str, tuple[str, ...]]]:
    """What to look for, and which words were corrected; nothing to look for where a word leads nowhere."""
    words = query_words(text[:MAX_QUERY_CHARACTERS], _MAX_QUERY_WORDS)
    alternatives: list[tuple[Sequence[str], bool]] = []
    corrections: dict[str, tuple[str, ...]] = {}
    for word in words:
        if _begins_one(connection, word):
            alternatives.append(((word,), True))
            continue
        corrections[word] = _similar_words(connection, word)
        alternatives.append((corrections[word], False))
    if not all(found for found, _ in alternatives):
        return (), corrections
    return alternatives, corrections


def _begins_one(connection: Connection, word: str) -> bool:
    begins = search_word.c.word.startswith(word, autoescape=True)
    return connection.execute(sa.select(sa.literal(1)).where(sa.exists().where(begins))).first() is not None


def _similar_words(connection: Connection, word: str) -> tuple[str, ...]:
    """The words most like one, the most like first; judged by Python, and so alike on every backend."""
    if len(word) < _SHORTEST_MISTYPED:
        return ()
    known = search_word.c.word
    # A slip of one or two letters leaves the first letter or the last one.
    ends = sa.or_(known.startswith(word[0], autoescape=True), known.endswith(word[-1], autoescape=True))
    near = sa.func.length(known).between(len(word) - 2, len(word) + 2)
    candidates = connection.execute(sa.select(known).where(near, ends).limit(_MAX_CANDIDATES)).scalars()
    return tuple(difflib.get_close_matches(word, candidates, n=_ALTERNATIVES, cutoff=_LIKENESS))


def _matching(connection: Connection, alternatives: _Alternatives, text: str) -> sa.Select[Any]:
    """Every document that has all words, with a score, and whether its title is just what was asked for."""
    exact = " ".join(iter_words(text[:MAX_QUERY_CHARACTERS]))
    is_exact = sa.case((search_document.c.title_words == exact, 1), else_=0).label("is_exact")
    if connection.dialect.name == "sqlite":
        # FTS5's own way to name a table in its functions, and to be asked.
        score = (-sa.func.bm25(sa.literal_column(SEARCH_TEXT), *_SQLITE_WEIGHTS)).label("score")
        table = sa.table(SEARCH_TEXT, sa.column("rowid", sa.Integer()))
        asked = sa.literal_column(SEARCH_TEXT).op("match")(_fts_query(alternatives))
        key = table.c.rowid
    else:
        table = sa.table(SEARCH_TEXT, sa.column("document_id", sa.BigInteger()), sa.column("words"))
        query = sa.cast(_tsquery(alternatives), postgresql.TSQUERY)
        weights: sa.ColumnElement[Any] = sa.literal_column(f"'{_POSTGRESQL_WEIGHTS}'::real[]")
        score = sa.func.ts_rank(weights, table.c.words, query).label("score")
        asked = table.c.words.op("@@")(query)
        key = table.c.document_id
    return (
        sa.select(search_document, score, is_exact)
        .join_from(table, search_document, key == search_document.c.document_id)
        .where(asked)
    )


def _fts_query(alternatives: _Alternatives) -> str:
    """In the language of FTS5; words are letters and digits alone, so that quotes are all they need."""
    return " AND ".join(
        "(" + " OR ".join(f'"{word}"' + (" *" if is_prefix else "") for word in words) + ")"
        for words, is_prefix in alternatives
    )


def _tsquery(alternatives: _Alternatives) -> str:
    return " & ".join(
        "(" + " | ".join(f"'{word}'" + (":*" if is_prefix else "") for word in words) + ")"
        for words, is_prefix in alternatives
    )
