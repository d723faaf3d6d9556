"""The search index in the catalog's tables, kept in step with the revisions.

Guarantee: a revision and what a search finds of it are one transaction. An index of another revision, or written by
other code, is not searched but made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from synqx_dagster.catalog import revisions
from synqx_dagster.catalog.hub_tables import SEARCH_TEXT, search_document, search_state, search_word
from synqx_dagster.catalog.revisions import RecordKey
from synqx_dagster.catalog.search_documents import SearchDocument, documents_of
from synqx_dagster.catalog.words import iter_words
from synqx_dagster.model import Record

#: Goes up with every change of what is indexed, and how.
FORMAT = 1

#: Documents that are written at once.
_CHUNK = 2000

#: PostgreSQL's limits: the highest place of a word, places of one word, and bytes of all words of a document
#: (PostgreSQL manual, Text Search Limitations), of which places take their share.
_MAX_PLACE = 16_383
_MAX_PLACES_OF_WORD = 8
_MAX_WORDS_BYTES = 500_000

_fts = sa.table(SEARCH_TEXT, sa.column("rowid"), sa.column("title"), sa.column("keywords"), sa.column("body"))
_vectors = sa.table(SEARCH_TEXT, sa.column("document_id", sa.BigInteger()), sa.column("words", postgresql.TSVECTOR()))

#: Records and what is found of each.
Drafts = Mapping[RecordKey, Sequence[SearchDocument]]


def draft_documents(records: Iterable[Record]) -> Drafts:
    """What will be found of records; needs no database."""
    return {(record.kind, record.name): tuple(documents_of(record)) for record in records}


def follow_revision(
    connection: Connection,
    *,
    base_revision: int,
    revision: int,
    drafts: Drafts,
    record_ids: Mapping[RecordKey, int],
) -> None:
    """Bring an index of one revision to the next; one that is of neither is left for `rebuild`.

    Args:
        drafts: Of the records that were created or changed.
        record_ids: Of all records that were created, changed or removed.
    """
    current = read_state(connection)
    if current is None and base_revision == 0:
        connection.execute(sa.insert(search_state), {"singleton": 1, "revision": 0, "format": FORMAT})
        current = (0, FORMAT)
    if current != (base_revision, FORMAT):
        return
    _remove(connection, record_ids.values())
    _insert(connection, ((record_ids[key], document) for key, found in drafts.items() for document in found))
    connection.execute(sa.update(search_state).values(revision=revision))


def read_state(connection: Connection) -> tuple[int, int] | None:
    """The revision and the format of the index; None where there is none yet."""
    row = connection.execute(sa.select(search_state.c.revision, search_state.c.format)).first()
    return None if row is None else (int(row.revision), int(row.format))


def is_current(connection: Connection) -> bool:
    """Whether the index is of the latest revision, and of this code."""
    latest = revisions.read_latest(connection)
    state = read_state(connection)
    return state == (latest, FORMAT) or (state is None and latest == 0)


def rebuild(connection: Connection) -> None:
    """Make the index anew from the latest revision, in a transaction that may write; writers wait meanwhile."""
    revisions.lock_catalog(connection)
    if is_current(connection):
        return  # Somebody else was here while this one waited.
    revision = revisions.read_latest(connection)
    connection.execute(sa.delete(_fts if _is_sqlite(connection) else _vectors))
    for table in (search_document, search_word, search_state):
        connection.execute(sa.delete(table))
    _insert(connection, _all_documents(connection, revision))
    connection.execute(sa.insert(search_state), {"singleton": 1, "revision": revision, "format": FORMAT})


def _all_documents(connection: Connection, revision: int) -> Iterator[tuple[int, SearchDocument]]:
    records = list(revisions.iter_records(connection, revision))
    ids = revisions.ensure_record_ids(connection, ((record.kind, record.name) for record in records))
    for record in records:
        for document in documents_of(record):
            yield ids[record.kind, record.name], document


# --- rows ---------------------------------------------------------------------------------------------------------


def _remove(connection: Connection, record_ids: Iterable[int]) -> None:
    ids = sorted(set(record_ids))
    for start in range(0, len(ids), _CHUNK):
        mine = search_document.c.record_id.in_(ids[start : start + _CHUNK])
        # In PostgreSQL the words go with their document.
        if _is_sqlite(connection):
            connection.execute(
                sa.delete(_fts).where(_fts.c.rowid.in_(sa.select(search_document.c.document_id).where(mine)))
            )
        connection.execute(sa.delete(search_document).where(mine))


def _insert(connection: Connection, documents: Iterable[tuple[int, SearchDocument]]) -> None:
    # The catalog's lock is held, so nobody else gives out ids.
    last = connection.execute(sa.select(sa.func.max(search_document.c.document_id))).scalar() or 0
    chunk: list[tuple[int, int, SearchDocument]] = []
    for document_id, (record_id, document) in enumerate(documents, int(last) + 1):
        chunk.append((document_id, record_id, document))
        if len(chunk) == _CHUNK:
            _insert_chunk(connection, chunk)
            chunk = []
    if chunk:
        _insert_chunk(connection, chunk)


def _insert_chunk(connection: Connection, chunk: Sequence[tuple[int, int, SearchDocument]]) -> None:
    rows = []
    texts: list[dict[str, Any]] = []
    vocabulary: set[str] = set()
    for document_id, record_id, document in chunk:
        words = [list(iter_words(part)) for part in (document.title, document.names, document.text)]
        rows.append(
            {
                "document_id": document_id,
                "record_id": record_id,
                "kind": document.kind,
                "record_kind": document.record_kind,
                "record_name": document.record_name,
                "title": document.shown_title,
                "title_words": document.title_words,
                "body": document.body,
            }
        )
        if _is_sqlite(connection):
            title, keywords, body = (" ".join(part) for part in words)
            texts.append({"rowid": document_id, "title": title, "keywords": keywords, "body": body})
        else:
            texts.append({"document_id": document_id, "words": as_vector(words)})
        vocabulary.update(word for part in words for word in part)
    connection.execute(sa.insert(search_document), rows)
    connection.execute(sa.insert(_fts if _is_sqlite(connection) else _vectors), texts)
    if vocabulary:
        insert = sqlite.insert if _is_sqlite(connection) else postgresql.insert
        connection.execute(
            insert(search_word).on_conflict_do_nothing(), [{"word": word} for word in sorted(vocabulary)]
        )


def as_vector(parts: Sequence[Sequence[str]]) -> str:
    """Title, names and text as PostgreSQL writes a ``tsvector``, with the weights A, B and C.

    Words are letters and digits alone, so that nothing in them needs an escape.
    """
    places: dict[str, list[str]] = {}
    place = 0
    size = 0
    for weight, words in zip("ABC", parts, strict=True):
        for word in words:
            place = min(place + 1, _MAX_PLACE)
            found = places.get(word)
            if found is None:
                size += len(word.encode()) + 2 * _MAX_PLACES_OF_WORD
                if size > _MAX_WORDS_BYTES:
                    break
                found = places[word] = []
            if len(found) < _MAX_PLACES_OF_WORD:
                found.append(f"{place}{weight}")
    return " ".join(f"'{word}':{','.join(found)}" for word, found in places.items())


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"
