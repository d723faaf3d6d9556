"""`synqx wal`: one look at a server's write-ahead log, or one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.session import open_catalog, unsealed_vault
from synqx_dagster.errors import ConfigurationError, RetryableError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog
    from synqx_dagster.cli.wal_screen import WalScreen
    from synqx_dagster.connectors.protocol import MonitorConnector
    from synqx_dagster.model.connection import MonitorSettings
    from synqx_dagster.monitor.wal import WalLook
    from synqx_dagster.monitor.wal_change import WalMark

#: What was stored longer ago says little of how much is written now.
_RECENT_SECONDS = 600
#: Without such a look, two are made, so far apart.
_APART_SECONDS = 1.0


@click.command(cls=SynqxCommand)
@click.argument("name")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often, with --watch.",
)
@json_option
@pass_output
def wal(output: Output, name: str, watch: bool, interval: float) -> None:
    """Show the write-ahead log of the PostgreSQL server at a connection.

    How large it is and how fast it grows, every replication slot with what it keeps, who reads it, and which
    thresholds of `monitor` are broken. What the user may not see is left out, with the statement that grants it.
    Changes nothing, and is stored nowhere.
    """
    from synqx_dagster.catalog.connecting import make_connector_of
    from synqx_dagster.cli.wal_screen import WalScreen
    from synqx_dagster.connectors.protocol import MonitorConnector
    from synqx_dagster.defs.access import needs_vault
    from synqx_dagster.model.connection import MonitorSettings

    catalog = open_catalog()
    connection = catalog.snapshot_for(connections=[name]).get_connection(name)
    if needs_vault(connection):
        unsealed_vault(catalog)
    connector = make_connector_of(catalog, connection)
    try:
        if not isinstance(connector, MonitorConnector):
            raise ConfigurationError(
                f"connection {name!r}: {connection.db_type} has no write-ahead log that can be watched",
                hint="that is for PostgreSQL",
            )
        settings = connection.monitor or MonitorSettings()
        screen = WalScreen(name, settings.thresholds)
        if watch:
            _watch(output, connector, settings, screen, interval)
        else:
            _show_once(output, catalog, connector, settings, screen)
    finally:
        connector.close()


def _show_once(
    output: Output, catalog: Catalog, connector: MonitorConnector, settings: MonitorSettings, screen: WalScreen
) -> None:
    from synqx_dagster.monitor.wal import watch_wal

    look = watch_wal(connector, timeout_seconds=settings.timeout_seconds)
    before = _find_recent(catalog, screen.name)
    if before is not None:
        screen.add(look, before)
    else:
        screen.add(look)
        time.sleep(_APART_SECONDS)
        screen.add(watch_wal(connector, timeout_seconds=settings.timeout_seconds))
    output.result(screen.to_dict(), lambda: output.print(screen.draw()))


def _find_recent(catalog: Catalog, name: str) -> WalMark | None:
    """What the sensor has stored of its last look, if that was not long ago."""
    from synqx_dagster.catalog.metrics import MetricsHistory, wal_subject
    from synqx_dagster.monitor.wal_change import WalMark

    for state in MetricsHistory(catalog).read_states([wal_subject(name)]):
        if state.state is None or state.looked_at is None:
            return None
        if abs((datetime.now(UTC) - state.looked_at).total_seconds()) > _RECENT_SECONDS:
            return None
        try:
            return WalMark.from_dict(state.state["mark"])
        except (KeyError, TypeError):
            return None
    return None


def _watch(
    output: Output, connector: MonitorConnector, settings: MonitorSettings, screen: WalScreen, interval: float
) -> None:
    from synqx_dagster.monitor.wal import watch_wal

    looks = _iter_looks(lambda: watch_wal(connector, timeout_seconds=settings.timeout_seconds), interval)
    if output.as_json:
        for found in looks:
            output.json_line(_add(screen, found))
        return
    console = output.console()
    if not console.is_terminal:
        for found in looks:
            _add(screen, found)
            output.print(screen.draw())
        return
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        for found in looks:
            _add(screen, found)
            live.update(screen.draw(height=console.height), refresh=True)


def _add(screen: WalScreen, found: WalLook | RetryableError) -> dict[str, Any]:
    if isinstance(found, RetryableError):
        screen.fail(found)
    else:
        screen.add(found)
    return screen.to_dict()


def _iter_looks(look: Callable[[], WalLook], interval: float) -> Iterator[WalLook | RetryableError]:
    """Looks at a fixed pace; what may pass by itself (the server restarts) does not end them."""
    next_at = time.monotonic()
    while True:
        try:
            yield look()
        except RetryableError as exc:
            yield exc
        next_at = max(next_at + interval, time.monotonic())
        time.sleep(max(0.0, next_at - time.monotonic()))
