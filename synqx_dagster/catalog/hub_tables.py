"""The tables of the agent hub and of the search index.

The index is made of the records and can be made anew from them; what looked at an agent, and how often, is kept here
alone.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, String, Table, Text

from synqx_dagster.catalog.table_base import Id, UtcDateTime, metadata

#: One row for each agent that has ever been: its id, and how often it was looked at.
agent = Table(
    "synqx_agent",
    metadata,
    Column("record_id", Id, ForeignKey("synqx_record.record_id"), primary_key=True, autoincrement=False),
    Column("agent_id", String(36), nullable=False, unique=True),
    Column("view_count", BigInteger, nullable=False),
)

#: Who looked at an agent, and when; never updated.
agent_view = Table(
    "synqx_agent_view",
    metadata,
    Column("view_id", Id, primary_key=True),
    Column("record_id", Id, ForeignKey("synqx_agent.record_id"), nullable=False),
    Column("viewed_at", UtcDateTime, nullable=False),
    Column("user_id", String(36)),
    Column("session_id", String(128)),
)
Index("ix_synqx_agent_view_record_id_viewed_at", agent_view.c.record_id, agent_view.c.viewed_at)
Index("ix_synqx_agent_view_viewed_at", agent_view.c.viewed_at)

#: One row: the revision that the index is of, and the number of the code that wrote it.
search_state = Table(
    "synqx_search_state",
    metadata,
    Column("singleton", Integer, primary_key=True),
    Column("revision", Id, nullable=False),
    Column("format", Integer, nullable=False),
    CheckConstraint("singleton = 1", name="singleton"),
)

#: What is found: records, and the columns of some of them. ``title`` and ``body`` are what is shown of it.
search_document = Table(
    "synqx_search_document",
    metadata,
    Column("document_id", Id, primary_key=True, autoincrement=False),
    Column("record_id", Id, ForeignKey("synqx_record.record_id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("record_kind", String(32), nullable=False),
    Column("record_name", String(128), nullable=False),
    Column("title", String(512), nullable=False),
    # The title's words, by which one that was meant exactly stands first.
    Column("title_words", String(512), nullable=False),
    Column("body", Text, nullable=False),
)
Index("ix_synqx_search_document_record_id", search_document.c.record_id)

#: Every word of the index once; one that is mistyped is looked for here. Words of removed records stay until the
#: index is made anew, and find nothing.
search_word = Table("synqx_search_word", metadata, Column("word", String(64), primary_key=True))

#: Beside them, made by the migration because each backend has its own: ``synqx_search_text``, with the words of each
#: document, in PostgreSQL as a ``tsvector`` below a GIN index, in SQLite as a table of FTS5.
SEARCH_TEXT = "synqx_search_text"
