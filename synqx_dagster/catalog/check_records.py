"""Checks of single records that need more than the record: a connector, a schema, a calendar."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from synqx_dagster.catalog.snapshot import secrets_of
from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.catalog.yaml_tree import parse_path
from synqx_dagster.connectors.protocol import Connector, MonitorConnector, SnapshotConnector
from synqx_dagster.errors import ConfigurationError, DriverMissingError, Problem
from synqx_dagster.model import Connection, Mapping, RecordKind, Schedule
from synqx_dagster.model.sessions import find_pool_shortage

#: Stands for a secret that is set: checks may ask whether there is one, not what it is.
_SOME_SECRET = "set"  # noqa: S105


def check_connection(union: RecordUnion, connection: Connection) -> Iterator[Problem]:
    """Whether a connector exists, and what it says of the configuration."""
    from synqx_dagster.connectors.registry import check_config, connector_class, make_config

    try:
        found = connector_class(connection.db_type)
    except (ConfigurationError, DriverMissingError) as exc:
        yield union.problem(connection, ("db_type",), exc.message, exc.hint)
        return
    if connection.monitor is not None and connection.monitor.wal and not issubclass(found, MonitorConnector):
        yield union.problem(
            connection,
            ("monitor", "wal"),
            f"{connection.db_type} has no write-ahead log that can be watched",
            "that is for PostgreSQL",
        )
    secrets = secrets_of(connection)
    config = make_config(connection, lambda path: _SOME_SECRET if path in secrets else None)
    for text in check_config(config):
        # "field: what is wrong with it", as connectors say it.
        field, separator, message = text.partition(": ")
        path = parse_path(field)
        if separator and path and path[0] in Connection.model_fields:
            yield union.problem(connection, path, message)
        else:
            yield union.problem(connection, (), text)


def check_schedule(union: RecordUnion, schedule: Schedule) -> Iterator[Problem]:
    """Whether the cron expression is one that Dagster runs, and ever comes true."""
    reason = _why_not_cron(schedule.cron_expression)
    if reason is not None:
        yield union.problem(
            schedule,
            ("cron_expression",),
            reason,
            'five fields: minute, hour, day, month, weekday, such as "0 2 * * *"',
        )


def _why_not_cron(expression: str) -> str | None:
    from croniter import CroniterBadDateError, CroniterError, croniter

    try:
        fields = croniter.expand(expression)[0]
        if len(fields) != 5:
            return f"a cron expression has five fields, not {len(fields)}"
        croniter(expression, datetime.now(UTC)).get_next(datetime)
    except CroniterBadDateError:
        return "the cron expression names a day that never comes"
    except (CroniterError, ValueError, KeyError, AttributeError, TypeError):
        return f"{expression!r} is not a cron expression"
    return None


def check_mapping_record(
    union: RecordUnion, mapping: Mapping, missing: Collection[tuple[RecordKind, str]] = ()
) -> Iterator[Problem]:
    """Whether the connections can do what the mapping asks, and what the mapping compiler can tell by itself.

    A mapping that the catalog already has, with the same schema and the same kind of source, has been checked.

    Args:
        missing: Records that are not there; what needs one of them is not judged.
    """
    from synqx_dagster.connectors.registry import capabilities_of, dialect_of
    from synqx_dagster.mapping.check import check_mapping

    source = union.records.connections.get(mapping.source_connection)
    target = union.records.connections.get(mapping.target_connection)
    schema = union.records.schemas.get(mapping.target_schema or "")
    ends_unchanged = all(end is not None and _has_same_type(union, end) for end in (source, target))
    if ends_unchanged and all(union.is_unchanged(record) for record in (mapping, schema) if record is not None):
        return
    ends = (mapping.source_connection, mapping.source), (mapping.target_connection, mapping.target)
    if ends[0] == ends[1]:
        yield union.problem(mapping, ("target_table",), "the mapping loads the table that it reads")
    # Where a connection has no connector, the problem stands there.
    if target is not None and _find_connector(target) and not capabilities_of(target.db_type, target.options).writes:
        yield union.problem(mapping, ("target_connection",), f"{target.db_type} cannot be written to")
    if target is not None and target.role == "source":
        yield union.problem(mapping, ("target_connection",), role_problem(target))
    if source is not None and source.role == "destination":
        yield union.problem(mapping, ("source_connection",), role_problem(source))
    if source is None or _find_connector(source) is None:
        return
    if not capabilities_of(source.db_type, source.options).reads:
        yield union.problem(mapping, ("source_connection",), f"{source.db_type} cannot be read from")
    if mapping.target_schema is not None and (schema is None or ("schema", mapping.target_schema) in missing):
        return
    for problem in check_mapping(mapping, schema, source_dialect=dialect_of(source.db_type, source.options)):
        field = problem.location.field if problem.location else None
        yield union.problem(mapping, parse_path(field or ""), problem.message, problem.hint)


def role_problem(connection: Connection) -> str:
    """Why a connection with a role cannot be at the other end."""
    if connection.role == "source":
        return f"the connection {connection.name!r} is a source: nothing is loaded into it"
    return f"the connection {connection.name!r} is a destination: nothing is read from it"


def check_pools(union: RecordUnion, mapping: Mapping) -> Iterator[Problem]:
    """Whether the connections' pools allow as many sessions as a load in ranges takes at most.

    Nothing to say of a mapping that has been checked with both connections as they are, nor where ranges are read one
    after another however many are asked for.
    """
    source = union.records.connections[mapping.source_connection]
    target = union.records.connections[mapping.target_connection]
    if mapping.parallelism == 1 or mapping.source is None:
        return
    if all(union.is_unchanged(record) for record in (mapping, source, target)):
        return
    reader, writer = _find_connector(source), _find_connector(target)
    if reader is None or writer is None or not issubclass(reader, SnapshotConnector):
        return
    if not (writer.capabilities.shares_staging and writer.capabilities.concurrent_writers):
        return
    shortage = find_pool_shortage([(end.name, end.pool) for end in (source, target)], mapping.parallelism)
    if shortage is None:
        return
    message = shortage.describe(mapping.parallelism)
    if (mapping.kind, mapping.name) in union.positions:
        yield union.problem(mapping, ("parallelism",), message, shortage.hint)
    else:
        # The mapping is in the catalog only; what the user has just written is the connection.
        connection = union.records.connections[shortage.connection]
        yield union.problem(connection, ("pool",), f"mapping {mapping.name!r}: {message}", shortage.hint)


def _has_same_type(union: RecordUnion, connection: Connection) -> bool:
    before = union.known.connections.get(connection.name) if union.known is not None else None
    return before is not None and (before.db_type, before.role, before.options) == (
        connection.db_type,
        connection.role,
        connection.options,
    )


def _find_connector(connection: Connection) -> type[Connector] | None:
    from synqx_dagster.connectors.registry import connector_class

    try:
        return connector_class(connection.db_type)
    except (ConfigurationError, DriverMissingError):
        return None
