"""What of a record can be found: names, descriptions and columns, in documents that depend on that record alone.

Guarantee: no secret gets here, and neither does what may hold one as a literal: queries, expressions, constants and
salts. Fields are named one by one; a new field is not searched until somebody says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from synqx_dagster.catalog.words import clean_text, iter_words
from synqx_dagster.model import (
    Agent,
    Alert,
    Connection,
    Dataset,
    Mapping,
    Pipeline,
    Record,
    RecordKind,
    Replication,
    Schedule,
    Schema,
    Sensor,
)

#: What a search finds: records of every kind, and columns of schemas, mappings and pipelines.
SearchKind = Literal[
    "agent",
    "pipeline",
    "mapping",
    "asset",
    "schema",
    "connection",
    "replication",
    "schedule",
    "sensor",
    "alert",
    "column",
]
SEARCH_KINDS: tuple[SearchKind, ...] = get_args(SearchKind)

_MAX_TITLE = 512


@dataclass(frozen=True)
class SearchDocument:
    """One thing that a search finds.

    Attributes:
        title: What it is called.
        names: What it has to do with: tables, other records, people. They count more than the text.
        text: What is said about it.
    """

    kind: SearchKind
    record_kind: RecordKind
    record_name: str
    title: str
    names: str = ""
    text: str = ""

    @property
    def shown_title(self) -> str:
        """The title as far as it is kept."""
        return self.title[:_MAX_TITLE]

    @property
    def title_words(self) -> str:
        """The title's words, as far as they are kept."""
        return " ".join(iter_words(self.title))[:_MAX_TITLE]

    @property
    def body(self) -> str:
        """What is shown below the title."""
        return "\n".join(part for part in (self.names, self.text) if part)


def documents_of(record: Record) -> Iterator[SearchDocument]:
    """All that is found of a record; the record itself first."""
    match record:
        case Connection():
            yield _document(record, [record.db_type])
        case Schema():
            yield _document(record, [column.name for column in record.columns])
            for column in record.columns:
                names = [f"schema {record.name}", str(column.data_type)]
                yield _column(record, column.name, names, column.description)
        case Dataset():
            yield _document(
                record, [record.connection, record.table, record.file, record.target_schema, *_tags(record)]
            )
        case Mapping():
            yield _document(
                record,
                [
                    *(record.source_connection, record.source_table, record.target_connection, record.target_table),
                    *(record.target_schema, record.group, *_tags(record)),
                ],
            )
            for column_mapping in record.column_mappings or ():
                sources = getattr(column_mapping, "source_columns", ())
                for field in column_mapping.target_fields:
                    yield _column(record, field, [record.target_table, f"mapping {record.name}", *sources])
        case Pipeline():
            nodes = [name for node in record.nodes for name in (node.node_id, node.name)]
            yield _document(record, [*nodes, *record.asset_names, *record.mapping_names, *_tags(record)])
            for node in record.nodes:
                columns = node.config.get("columns")
                # Of an operator that makes columns these are their names; the values are expressions.
                for name in columns if isinstance(columns, dict) else ():
                    yield _column(record, name, [f"pipeline {record.name}", f"node {node.node_id}"])
        case Replication():
            tables = [name for table in record.tables for name in (table.name, table.target)]
            yield _document(record, [record.source_connection, record.target_connection, record.mode, *tables])
            for table in record.tables:
                for column_mapping in table.column_mappings or ():
                    sources = getattr(column_mapping, "source_columns", ())
                    for field in column_mapping.target_fields:
                        yield _column(record, field, [table.name, f"replication {record.name}", *sources])
        case Schedule():
            yield _document(record, [*record.mapping_names, *record.pipeline_names])
        case Sensor():
            yield _document(
                record, [*record.mapping_names, record.pipeline, record.after_pipeline, record.connection, record.table]
            )
        case Alert():
            subjects = (*record.pipelines, *record.mappings, *record.schedules, *record.connections)
            yield _document(record, [*record.events, *subjects])
        case Agent():
            yield _agent(record)


def _agent(agent: Agent) -> SearchDocument:
    lists = (agent.goals, agent.in_scope, agent.out_of_scope, agent.inputs, agent.outputs, agent.security_controls)
    texts = [
        agent.problem_statement,
        *(line for lines in lists for line in lines),
        agent.operational_details,
        *(tool.description for tool in agent.tools),
    ]
    names = [
        *(agent.business_domain, agent.status, agent.owner, *agent.personas),
        *(tool.name for tool in agent.tools),
        *(kpi.name for kpi in agent.kpis),
        *(*agent.assets, *agent.pipelines, *agent.mappings),
    ]
    return _document(agent, names, [agent.short_description, *texts])


def _document(record: Record, names: Iterable[str | None], texts: Iterable[str | None] = ()) -> SearchDocument:
    # Owners are a field of some kinds only.
    owners: tuple[str, ...] = getattr(record, "owners", ())
    return SearchDocument(
        record.kind,
        record.kind,
        record.name,
        clean_text(record.name),
        _joined([*names, *owners], ", "),
        _joined([*texts, record.description], "\n"),
    )


def _column(record: Record, name: str, names: Iterable[str], text: str | None = None) -> SearchDocument:
    return SearchDocument(
        "column", record.kind, record.name, clean_text(name), _joined(names, ", "), _joined([text], "\n")
    )


def _tags(record: Dataset | Mapping | Pipeline) -> list[str]:
    return [text for pair in record.tags.items() for text in pair]


def _joined(texts: Iterable[str | None], separator: str) -> str:
    return separator.join(dict.fromkeys(clean_text(text) for text in texts if text))
