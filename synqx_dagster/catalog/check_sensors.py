"""Checks of sensors and alerts that need more than the record: what can be asked, and who waits for whom."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from synqx_dagster.catalog.union import RecordUnion
from synqx_dagster.connectors.protocol import ChangeCounter, FileListing
from synqx_dagster.errors import ConfigurationError, DriverMissingError, Problem
from synqx_dagster.model import Alert, Sensor
from synqx_dagster.model.pipeline import find_cycle


def check_sensor(union: RecordUnion, sensor: Sensor) -> Iterator[Problem]:
    """Whether its connection can be asked what the sensor wants to know. The connection must be there."""
    from synqx_dagster.connectors.registry import capabilities_of, connector_class

    if sensor.connection is None:
        return
    connection = union.records.connections[sensor.connection]
    try:
        found = connector_class(connection.db_type)
        reads = capabilities_of(connection.db_type, connection.options).reads
    except (ConfigurationError, DriverMissingError):
        return  # The problem stands at the connection.
    if sensor.type == "new_file":
        if not issubclass(found, FileListing):
            yield union.problem(
                sensor,
                ("connection",),
                f"{connection.db_type} has no files to look for",
                "new_file needs a connection of db_type files",
            )
    elif not reads:
        yield union.problem(sensor, ("connection",), f"{connection.db_type} cannot be read from")
    elif sensor.column is None and not issubclass(found, ChangeCounter):
        yield union.problem(
            sensor,
            ("column",),
            f"{connection.db_type} does not count changes",
            "give a column whose greatest value grows with each change",
        )


def check_sensor_cycles(union: RecordUnion) -> Iterator[Problem]:
    """Pipelines that start each other by sensors, in a circle that would never end. Every reference leads somewhere."""
    sensors = [sensor for sensor in union.records.sensors.values() if sensor.after_pipeline and sensor.pipeline]
    graph: dict[str, list[str]] = {}
    for sensor in sensors:
        assert sensor.after_pipeline is not None
        assert sensor.pipeline is not None
        graph.setdefault(sensor.after_pipeline, []).append(sensor.pipeline)
    cycle = find_cycle(graph)
    if not cycle:
        return
    pairs = set(itertools.pairwise(cycle))
    guilty = [sensor for sensor in sensors if (sensor.after_pipeline, sensor.pipeline) in pairs]
    written = (sensor for sensor in guilty if (sensor.kind, sensor.name) in union.positions)
    yield union.problem(
        next(written, guilty[0]),
        ("after_pipeline",),
        f"the pipelines start each other without an end: {' -> '.join(cycle)}",
        "take one of the sensors out",
    )


def check_alert(union: RecordUnion, alert: Alert) -> Iterator[Problem]:
    """Whether files are named so that every process finds them."""
    for name in ("webhook", "slack", "email"):
        channel = getattr(alert, name)
        ca_file = channel.ca_file if channel is not None else None
        if ca_file is not None and not ca_file.startswith(("/", "~")):
            yield union.problem(
                alert,
                (name, "ca_file"),
                "the file needs an absolute path",
                "the process that connects may run in another directory",
            )
