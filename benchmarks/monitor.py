"""Measures what watching costs: a look at the log of a server with 20 slots, and testing 100 connections for an hour.

Run it on a calm machine: ``python -m benchmarks.monitor``. A real PostgreSQL, a real catalog, passwords in the vault.
Processor time is this process's own, in which a code server evaluates the sensors; Dagster's part of an evaluation, a
tick for all connections together, is measured by itself.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from benchmarks.servers import SOURCE, Postgresql, running_postgresql

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

SLOTS = 20
LOOKS = 50
CONNECTIONS = 100
EVALUATIONS = 20
#: How often an hour a connection is looked at: with `monitor` as it is by default, and without.
PER_HOUR = {"once a minute": 60, "every two minutes": 30}
PASSWORD = SecretStr("a benchmark's master password")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--connections", type=int, default=CONNECTIONS)
    arguments.add_argument("--evaluations", type=int, default=EVALUATIONS)
    options = arguments.parse_args()
    logging.disable(logging.WARNING)
    slots = str(SLOTS + 5)
    with running_postgresql(wal_level="logical", max_replication_slots=slots) as server:
        for number in range(SLOTS):
            server.execute(SOURCE, f"select pg_create_logical_replication_slot('slot_{number}', 'pgoutput')")
        measure_looks(server)
        with tempfile.TemporaryDirectory() as directory:
            catalog = make_catalog(Path(directory), server, options.connections)
            measure_evaluations(catalog, options.evaluations, options.connections)
            catalog.close()


def measure_looks(server: Postgresql) -> None:
    """A look, connecting included."""
    from synqx_dagster.connectors.postgresql import PostgresqlConnector
    from synqx_dagster.connectors.protocol import ConnectionConfig
    from synqx_dagster.monitor.wal import watch_wal

    end = server.endpoint
    config = ConnectionConfig(
        name="shop",
        db_type="postgresql",
        host=end.host,
        port=end.port,
        database=SOURCE,
        username=end.username,
        password=end.password,
    )
    connector = PostgresqlConnector(config)
    seconds, inside = [], []
    for _ in range(LOOKS):
        started = time.perf_counter()
        look = watch_wal(connector, timeout_seconds=5)
        seconds.append(time.perf_counter() - started)
        inside.append(look.seconds)
        assert look.slots is not None
        assert len(look.slots) == SLOTS
        assert look.missing == ()
    print(
        f"a look at {SLOTS} slots, connecting included: median {statistics.median(seconds) * 1000:.1f} ms,"
        f" slowest of {LOOKS} {max(seconds) * 1000:.1f} ms; its queries alone {statistics.median(inside) * 1000:.1f} ms"
    )


def make_catalog(home: Path, server: Postgresql, connections: int) -> Catalog:
    """A catalog of so many watched connections, with their passwords in its vault."""
    from synqx_dagster.catalog.apply import apply_changes, plan_changes
    from synqx_dagster.catalog.documents import Definitions
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.model import Connection
    from synqx_dagster.settings import Settings

    end = server.endpoint
    url = f"sqlite:///{home / 'catalog.db'}"
    catalog = Catalog.initialise(Settings(home=home, dagster_home=home, catalog_url=url, master_password=PASSWORD))
    catalog.vault.initialise(password=PASSWORD)
    records = tuple(
        Connection.model_validate(
            {
                "name": f"shop_{number}",
                "db_type": "postgresql",
                "host": end.host,
                "port": end.port,
                "database": SOURCE,
                "username": end.username,
                "password": {"value": end.password},
                "monitor": {"wal": True},
            }
        )
        for number in range(connections)
    )
    apply_changes(catalog, plan_changes(catalog, Definitions(records)), author="benchmark", reason=None)
    return catalog


def measure_evaluations(catalog: Catalog, evaluations: int, connections: int) -> None:
    """Evaluations as the sensors make them, with everything due; and an hour of them."""
    import dagster as dg
    import sqlalchemy as sa

    from synqx_dagster.catalog.monitor_tables import monitor_state
    from synqx_dagster.defs.monitoring import HEALTH_SENSOR_NAME, WAL_SENSOR_NAME, build_monitor_sensors

    snapshot = catalog.snapshot()
    sensors = {item.name: item for item in build_monitor_sensors(snapshot, lambda: catalog)}
    with dg.DagsterInstance.local_temp() as instance:
        for name, what in (
            (HEALTH_SENSOR_NAME, f"testing {connections} connections and looking at this machine"),
            (WAL_SENSOR_NAME, f"looking at {connections} logs of {SLOTS} slots each"),
        ):
            walls, spent = [], []
            for number in range(evaluations + 1):
                with catalog.write() as connection:
                    long_ago = datetime.now(UTC) - timedelta(hours=1)
                    due = sa.update(monitor_state).where(monitor_state.c.subject != "thinning")
                    connection.execute(due.values(looked_at=long_ago))
                context = dg.build_sensor_context(instance=instance)
                wall, cpu = time.perf_counter(), time.process_time()
                data: Any = sensors[name].evaluate_tick(context)
                if number:  # the first one opens the vault and imports the driver
                    walls.append(time.perf_counter() - wall)
                    spent.append(time.process_time() - cpu)
                assert "failed" not in (data.skip_message or ""), data.skip_message
            mean = statistics.mean(spent)
            hours = (
                f"{often} {mean * count:.1f} s in an hour, {mean * count / 36:.2f} % of a core"
                for often, count in PER_HOUR.items()
            )
            print(
                f"{what}: {mean * 1000:.0f} ms of processor time, {statistics.median(walls):.2f} s; {'; '.join(hours)}"
            )


if __name__ == "__main__":
    main()
