"""Publications: what is there compared with what is wanted, made to cover exactly that, dropped.

Guarantee: a publication is changed in one transaction, and only to what leaves the source's own UPDATE and DELETE
working: PostgreSQL itself is asked for each table before the transaction is committed.

It has to be there before the slot: the log is read with the catalog as it was when it was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from synqx_dagster.connectors.protocol import WriteSession
from synqx_dagster.errors import DatabaseError, NotPermittedError, PlanError, SourceChangedError
from synqx_dagster.mapping.quoting import quote_name, quote_text
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.identity import sql_name
from synqx_dagster.replication.queries import load_query

#: Versions that came with what we use of publications.
PARTITION_ROOT_VERSION = 130_000
LISTS_VERSION = 150_000
GENERATED_VERSION = 180_000

#: How the comment of a publication begins that SynqX has made.
_COMMENT_MARK = "SynqX "
#: Between the oids of a publication and of a table's entry.
_MARK_SEPARATOR = "/"

_COMMENT_SQL = """
select pg_catalog.obj_description(p.oid, 'pg_publication') from pg_catalog.pg_publication p where p.pubname = ?
"""

#: Plans a text as exactly one query; see `synqx_dagster.connectors.postgresql_read`.
_PLAN_QUERY = """
do $synqx$
declare
    query refcursor;
begin
    open query no scroll for execute pg_catalog.current_setting('synqx.query');
    close query;
end
$synqx$
"""
#: Not as a statement of its own: a ``?`` in it would be taken for a parameter.
_EXECUTE = "do $synqx$ begin execute pg_catalog.current_setting('synqx.query'); end $synqx$"


@dataclass(frozen=True)
class PublishedTable:
    """What of a table is to be published.

    Attributes:
        columns: Left out: all.
        where: An SQL condition; left out: all rows.
        is_partitioned: It stands for its partitions.
        leaves: Its partitions that hold rows.
    """

    table: TableName
    columns: tuple[str, ...] | None = None
    where: str | None = None
    is_partitioned: bool = False
    leaves: tuple[TableName, ...] = ()


@dataclass(frozen=True)
class FoundTable:
    """What of a table is published.

    Attributes:
        oid: Of the entry itself: another one once the table was taken out and put back.
    """

    oid: int
    columns: frozenset[str] | None
    where: str | None


@dataclass(frozen=True)
class FoundPublication:
    """A publication as the catalog describes it.

    Attributes:
        schemas: Of which all tables are in it, with the oids of these entries.
    """

    oid: int
    is_owned: bool
    all_tables: bool
    publishes_all_changes: bool
    via_partition_root: bool
    publishes_generated: bool
    schemas: Mapping[str, int]
    comment: str | None
    tables: Mapping[TableName, FoundTable]

    @property
    def is_ours(self) -> bool:
        """Whether SynqX has made it, and may alter it; a user may have made his own under the same role."""
        return self.is_owned and (self.comment or "").startswith(_COMMENT_MARK)

    def mark_of(self, table: TableName) -> str:
        """What tells the publication, and a table's place in it, from one that was made anew since."""
        found = self.tables.get(table)
        entry = self.schemas.get(table.schema or "", 0) if found is None else found.oid
        return f"{self.oid}{_MARK_SEPARATOR}{entry}"

    def is_same(self, mark: str) -> bool:
        """Whether a mark is of this publication, whatever became of the table's place in it."""
        return mark.partition(_MARK_SEPARATOR)[0] == str(self.oid)


@dataclass(frozen=True)
class PublicationState:
    """A publication against what is wanted.

    Attributes:
        found: None: there is none.
        lacking: What of it would lose changes or bring wrong ones.
        surplus: What it brings beyond that, and is passed over.
        lacks_options: Some of what it lacks is no table's.
        lacking_tables: Of which it would lose changes or bring wrong ones, and may have done so since somebody changed
            it; all of them where what is wrong concerns all.
    """

    found: FoundPublication | None
    lacking: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    lacking_tables: frozenset[TableName] = field(default=frozenset())
    lacks_options: bool = False

    @property
    def is_sufficient(self) -> bool:
        """Whether the slot may be read through it."""
        return self.found is not None and not self.lacking

    @property
    def is_exact(self) -> bool:
        """Whether there is nothing to change."""
        return self.is_sufficient and not self.surplus


def find_publication(session: WriteSession, name: str, server_version: int) -> FoundPublication | None:
    """A publication as it is; None if there is none."""
    query = "publication_15" if server_version >= LISTS_VERSION else "publication"
    rows = session.fetch_all(load_query(query), [name])
    if not rows:
        return None
    *facts, schemas, comment, tables = cast("tuple[Any, ...]", rows[0])
    oid, owned, all_tables, all_changes, via_root, generated = facts
    return FoundPublication(
        oid,
        owned,
        all_tables,
        all_changes,
        via_root,
        generated,
        dict(sorted(schemas.items())),
        comment,
        {
            TableName(table, schema): FoundTable(entry, None if columns is None else frozenset(columns), where)
            for schema, table, entry, columns, where in tables
        },
    )


def compare(found: FoundPublication | None, wanted: Sequence[PublishedTable], server_version: int) -> PublicationState:
    """What has to be changed of a publication. Pure."""
    if found is None:
        return PublicationState(None)
    lacking, surplus = [], []
    tables: set[TableName] = set()
    names = {one.table for one in wanted}
    if not found.publishes_all_changes:
        lacking.append("it leaves out inserts, updates, deletes or truncates")
        tables |= names
    partitioned = {one.table for one in wanted if one.is_partitioned}
    if not found.via_partition_root and partitioned:
        lacking.append("it sends partitions in place of partitioned tables (publish_via_partition_root)")
        tables |= partitioned
    if server_version >= GENERATED_VERSION and not found.publishes_generated:
        lacking.append("it leaves out generated columns (publish_generated_columns)")
        tables |= names
    filters, lacks_options = _recorded_filters(found.comment), bool(lacking)
    for one in wanted:
        if one.table not in found.tables:
            if not (found.all_tables or one.table.schema in found.schemas):
                lacking.append(f"{one.table} is not in it")
                tables.add(one.table)
            elif one.columns is not None or one.where is not None:
                surplus.append(f"{one.table} is in it with all its columns and rows")
            continue
        for text in _differences(one, found.tables[one.table], filters, server_version):
            lacking.append(text)
            tables.add(one.table)
    if found.all_tables:
        surplus.append("it is for all tables")
    surplus += [f"it is for all tables of the schema {schema}" for schema in found.schemas]
    surplus += [f"{table} is in it" for table in found.tables if table not in names]
    return PublicationState(found, tuple(lacking), tuple(surplus), frozenset(tables), lacks_options)


def _differences(
    wanted: PublishedTable, found: FoundTable, filters: Mapping[str, tuple[str, str]], server_version: int
) -> Iterator[str]:
    if server_version >= LISTS_VERSION:
        columns = None if wanted.columns is None else frozenset(wanted.columns)
        if columns != found.columns:
            yield f"{wanted.table} is in it with other columns"
    if (wanted.where is None) != (found.where is None):
        yield f"{wanted.table} is in it {'with' if found.where is not None else 'without'} a row filter"
    elif wanted.where is not None and found.where is not None:
        # The server prints a condition in its own way, so what it made of ours was written down.
        recorded = filters.get(str(wanted.table))
        same_text = _bare(found.where) == _bare(wanted.where)
        if recorded != (_digest(wanted.where), _digest(found.where)) and not same_text:
            yield f"{wanted.table} is in it with another row filter"


def _bare(condition: str) -> str:
    text = condition.strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    return text


def render(name: str, wanted: Sequence[PublishedTable], server_version: int, *, command: str = "CREATE") -> list[str]:
    """The statements that make a publication, or alter one, to cover exactly what is wanted. Pure."""
    options = ["publish = 'insert, update, delete, truncate'"]
    if server_version >= PARTITION_ROOT_VERSION:
        options.append("publish_via_partition_root = true")
    if server_version >= GENERATED_VERSION:
        options.append("publish_generated_columns = stored")
    quoted, set_options = quote_name(name, "postgres"), ", ".join(options)
    tables = ", ".join(_render_table(one, server_version) for one in wanted)
    if command == "CREATE":
        return [f"CREATE PUBLICATION {quoted} FOR TABLE {tables} WITH ({set_options})"]
    return [f"ALTER PUBLICATION {quoted} SET TABLE {tables}", f"ALTER PUBLICATION {quoted} SET ({set_options})"]


def render_remedy(
    name: str, wanted: Sequence[PublishedTable], state: PublicationState, server_version: int
) -> list[str]:
    """The statements that make a publication cover what is wanted; of one that is not ours all else stays. Pure."""
    if state.found is None:
        return render(name, wanted, server_version)
    if state.found.is_ours and state.found.all_tables:
        # One for all tables cannot be altered to be for some.
        return [f"DROP PUBLICATION {quote_name(name, 'postgres')}", *render(name, wanted, server_version)]
    set_tables, set_options = render(name, wanted, server_version, command="ALTER")
    if state.found.is_ours:
        return [set_tables, set_options]
    alter, statements = f"ALTER PUBLICATION {quote_name(name, 'postgres')}", []
    lacking = [one for one in wanted if one.table in state.lacking_tables]
    if others := [sql_name(one.table) for one in lacking if one.table in state.found.tables]:
        statements.append(f"{alter} DROP TABLE {', '.join(others)}")
    if lacking:
        statements.append(f"{alter} ADD TABLE {', '.join(_render_table(one, server_version) for one in lacking)}")
    if state.lacks_options:
        statements.append(set_options)
    return statements


def _render_table(one: PublishedTable, server_version: int) -> str:
    # Tables that inherit from it are tables of their own.
    sql = sql_name(one.table) if one.is_partitioned else f"ONLY {sql_name(one.table)}"
    if one.columns is not None and server_version >= LISTS_VERSION:
        sql += f" ({', '.join(quote_name(column, 'postgres') for column in one.columns)})"
    if one.where is not None:
        sql += f" WHERE ({one.where}\n)"
    return sql


def check_filters(session: WriteSession, wanted: Sequence[PublishedTable]) -> dict[TableName, str]:
    """Why row filters cannot be planned as what they claim to be: one condition over the table's columns.

    A text that would end the statement that it is put into is found here, and goes no further.
    """
    reasons = {}
    for one in wanted:
        if one.where is None:
            continue
        session.begin()
        try:
            _set_query(session, f"SELECT 1 FROM ONLY {sql_name(one.table)} WHERE (\n{one.where}\n)")
            session.execute(_PLAN_QUERY)
        except (DatabaseError, SourceChangedError) as error:
            reasons[one.table] = error.message
        finally:
            session.rollback()
    return reasons


def ensure_publication(session: WriteSession, name: str, wanted: Sequence[PublishedTable], server_version: int) -> bool:
    """Make or alter a publication to cover exactly what is wanted; True if something was changed.

    One that SynqX has not made is used as it is, and left alone.

    Raises:
        PlanError: It does not suffice and is not ours, or the user may not, or the source's own statements would fail;
            nothing was changed. The hint is what its owner has to run.
    """
    state = compare(find_publication(session, name, server_version), wanted, server_version)
    is_foreign = state.found is not None and not state.found.is_ours
    if state.is_exact or (state.is_sufficient and is_foreign):
        return False
    if is_foreign:
        raise PlanError(
            f"the publication {name!r} does not fit ({'; '.join(state.lacking)}), and is somebody else's",
            hint="its owner runs: " + "; ".join(render_remedy(name, wanted, state, server_version)),
        )
    if reasons := check_filters(session, wanted):
        raise PlanError(
            "; ".join(f"{table}: the condition of its rows is refused: {why}" for table, why in reasons.items()),
            hint="write one SQL condition over the table's columns",
        )
    statements = render_remedy(name, wanted, state, server_version)
    session.begin()
    try:
        for statement in statements:
            _set_query(session, statement)
            session.execute(_EXECUTE)
        for one in wanted:
            _try_changes(session, one)
        _record_filters(session, name, wanted, server_version)
        session.commit()
    except NotPermittedError as error:
        raise PlanError(
            f"the publication {name!r} cannot be made by this user: {error.message}",
            hint="its owner, or a superuser, runs: " + "; ".join(statements),
        ) from None
    finally:
        session.rollback()
    return True


def _try_changes(session: WriteSession, one: PublishedTable) -> None:
    """Have the server plan a change of a published table, which it refuses when it could not log it."""
    for table in one.leaves if one.is_partitioned else (one.table,):
        try:
            # Not run: a statement's triggers would see it.
            session.execute(f"EXPLAIN DELETE FROM ONLY {sql_name(table)} WHERE false")
        except DatabaseError as error:
            if error.context.get("sqlstate") not in ("42P10", "55000"):
                raise
            raise PlanError(
                f"{table}: published so, it would refuse UPDATE and DELETE: where and columns may only speak of and"
                " leave out what its replica identity allows",
                hint="let where look at columns of the replica identity alone, and columns hold all of these, or"
                f" ALTER TABLE {sql_name(table)} REPLICA IDENTITY FULL",
                table=str(table),
            ) from None


def was_made_by_us(session: WriteSession, name: str) -> bool | None:
    """Whether SynqX has made a publication, by its mark in the comment; None if there is none."""
    rows = session.fetch_all(_COMMENT_SQL, [name])
    return str(rows[0][0] or "").startswith(_COMMENT_MARK) if rows else None


def drop_publication(session: WriteSession, name: str) -> None:
    """Drop a publication; silent when there is none."""
    session.execute(f"DROP PUBLICATION IF EXISTS {quote_name(name, 'postgres')}")


# --- what the server made of our row filters -----------------------------------------------------------------------


def _record_filters(session: WriteSession, name: str, wanted: Sequence[PublishedTable], server_version: int) -> None:
    found = find_publication(session, name, server_version)
    if found is None:
        return
    filters = {}
    for one in wanted:
        where = found.tables[one.table].where if one.table in found.tables else None
        if one.where is not None and where is not None:
            filters[str(one.table)] = (_digest(one.where), _digest(where))
    text = _COMMENT_MARK + json.dumps({"filters": filters}, sort_keys=True)
    _set_query(session, f"COMMENT ON PUBLICATION {quote_name(name, 'postgres')} IS {quote_text(text, 'postgres')}")
    session.execute(_EXECUTE)


def _recorded_filters(comment: str | None) -> dict[str, tuple[str, str]]:
    if comment is None or not comment.startswith(_COMMENT_MARK):
        return {}
    try:
        filters = json.loads(comment.removeprefix(_COMMENT_MARK))["filters"]
        return {str(table): (str(pair[0]), str(pair[1])) for table, pair in filters.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}  # Written by somebody else.


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _set_query(session: WriteSession, sql: str) -> None:
    session.fetch_all("select pg_catalog.set_config('synqx.query', ?, true)", [sql])
