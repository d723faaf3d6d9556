"""The sensors that watch: the logs of servers; and all connections, this machine and its processes.

Guarantee: a server that is slow or dead holds up no other one; an evaluation ends long before Dagster gives it up. A
sealed vault skips what needs it, and changes nothing of what is known.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.catalog.metrics import (
    Advance,
    MetricsHistory,
    MonitorEvent,
    Step,
    health_subject,
    system_subject,
    wal_subject,
)
from synqx_dagster.catalog.snapshot import CatalogSnapshot, secrets_of
from synqx_dagster.catalog.thinning import Thinner
from synqx_dagster.connectors.protocol import Connector, MonitorConnector
from synqx_dagster.defs.access import find_seal_reason, needs_vault
from synqx_dagster.defs.monitor_assets import evaluations_of, observation_of, watched_connections
from synqx_dagster.defs.monitor_looks import (
    WalOutcome,
    advance_health,
    advance_system,
    advance_wal,
    describe_failure,
    read_health,
)
from synqx_dagster.errors import ConfigurationError, SealedError
from synqx_dagster.model import Connection, SealedSecret
from synqx_dagster.model.connection import MonitorSettings
from synqx_dagster.monitor.health import HealthLook, check_health
from synqx_dagster.monitor.rounds import Outcome, Rounds
from synqx_dagster.monitor.system import SystemMeter
from synqx_dagster.monitor.wal import WalLook, watch_wal

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

logger = logging.getLogger(__name__)

WAL_SENSOR_NAME = "synqx_wal"
HEALTH_SENSOR_NAME = "synqx_health"

#: How long an evaluation waits for looks: Dagster ends it after 60 s. What ends later is stored by the next one.
COLLECT_SECONDS = 20.0
#: A look that has not ended this long after its limit hangs in the operating system.
_HUNG_SECONDS = 30.0

SYSTEM_INTERVAL_SECONDS = 60
#: How connections are tested that say nothing of it. To log in takes some milliseconds of processor time, most of it
#: for the password's proof, so it is not done more often than somebody asks for.
_UNWATCHED = MonitorSettings(interval_seconds=120)
_THINNING = "thinning"
_THINNING_INTERVAL_SECONDS = 600
_THINNING_SECONDS = 5.0


class Monitor:
    """What looks in this process, between evaluations. One evaluation of a kind at a time."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.history = MetricsHistory(catalog)
        self._wal: Rounds[WalLook] = Rounds("wal")
        self._health: Rounds[HealthLook] = Rounds("health")
        self._connectors: dict[str, tuple[Connection, Connector]] = {}
        self._meter = SystemMeter(catalog.settings.home)
        self._locks = {name: threading.Lock() for name in (WAL_SENSOR_NAME, HEALTH_SENSOR_NAME)}

    # --- the write-ahead logs ---------------------------------------------------------------------------------

    def watch_logs(
        self, snapshot: CatalogSnapshot, *, seconds: float = COLLECT_SECONDS
    ) -> tuple[list[WalOutcome], str]:
        """Look at the logs that are due, and store what is found; gives what came of it, and the same in words."""
        with self._alone(WAL_SENSOR_NAME) as is_alone:
            if not is_alone:
                return [], "the look before this one has not ended"
            return self._watch_logs(snapshot, seconds)

    def _watch_logs(self, snapshot: CatalogSnapshot, seconds: float) -> tuple[list[WalOutcome], str]:
        watched = watched_connections(snapshot)
        usable, sealed = self._split(snapshot.get_connection(name) for name in watched)
        due = self.history.claim(
            {wal_subject(item.name): watched[item.name].interval_seconds for item in usable}, datetime.now(UTC)
        )
        looks = {
            item.name: partial(self._look_at_log, item, watched[item.name])
            for item in usable
            if wal_subject(item.name) in due
        }
        self._wal.begin(looks)
        outcomes: list[WalOutcome] = []
        steps: dict[str, Step] = {}
        for name, found in self._wal.collect(seconds).items():
            if isinstance(found.error, SealedError) or name not in watched:
                continue  # Sealed, or taken out of the catalog, while it was looked at.
            outcome = WalOutcome(name, found.value, None if found.error is None else describe_failure(found.error))
            outcomes.append(outcome)
            steps[wal_subject(name)] = partial(_advance_wal, outcome, watched[name])
        for name, seconds in _iter_hung(self._wal, watched):
            if wal_subject(name) in due:
                outcome = WalOutcome(
                    name, error=f"connection {name!r}: the look at its log hangs since {seconds:.0f} s"
                )
                outcomes.append(outcome)
                steps[wal_subject(name)] = partial(_advance_wal, outcome, watched[name])
        events = self.history.advance(steps)
        return outcomes, _describe("log", outcomes, [item.error for item in outcomes], events, sealed, self._wal)

    def _look_at_log(self, connection: Connection, settings: MonitorSettings) -> WalLook:
        connector = self._connect(connection)
        try:
            if not isinstance(connector, MonitorConnector):
                raise ConfigurationError(f"connection {connection.name!r}: {connection.db_type} cannot be watched")
            return watch_wal(connector, timeout_seconds=settings.timeout_seconds)
        finally:
            connector.close()

    # --- health -----------------------------------------------------------------------------------------------

    def check_connections(self, snapshot: CatalogSnapshot, *, seconds: float = COLLECT_SECONDS) -> str:
        """Test the connections that are due, and look at this machine; gives what came of it in words."""
        with self._alone(HEALTH_SENSOR_NAME) as is_alone:
            if not is_alone:
                return "the look before this one has not ended"
            return self._check_connections(snapshot, seconds)

    def _check_connections(self, snapshot: CatalogSnapshot, seconds: float) -> str:
        tested = tested_connections(snapshot)
        usable, sealed = self._split(snapshot.get_connection(name) for name in tested)
        now, host_name = datetime.now(UTC), socket.gethostname()
        intervals: dict[str, float] = {health_subject(item.name): tested[item.name].interval_seconds for item in usable}
        machine = system_subject(host_name)[:320]
        due = set(
            self.history.claim(
                {**intervals, machine: SYSTEM_INTERVAL_SECONDS, _THINNING: _THINNING_INTERVAL_SECONDS}, now
            )
        )
        states = {state.subject: read_health(state.state) for state in self.history.read_states(due & set(intervals))}
        looks: dict[str, Callable[[], HealthLook]] = {}
        for item in usable:
            subject = health_subject(item.name)
            if subject in due:
                state = states.get(subject)
                was_up = state is None or state.status == "up"
                looks[item.name] = partial(self._test, item, tested[item.name], was_up)
        self._health.begin(looks)
        steps: dict[str, Step] = {}
        if machine in due:
            # While the others wait for the network.
            measured = advance_system(self._meter.look())
            steps[machine] = lambda before: measured
        found = {name: item for name, item in self._health.collect(seconds).items() if name in tested}
        found |= self._find_hung(tested)
        failed: list[str | None] = []
        for name, outcome in found.items():
            look = outcome.value
            if look is None and isinstance(outcome.error, SealedError):
                continue
            if look is None:
                assert outcome.error is not None
                look = HealthLook(now, False, 0.0, reason="unknown", message=describe_failure(outcome.error))
            failed.append(None if look.ok else look.message)
            steps[health_subject(name)] = partial(_advance_health, name, look)
        events = self.history.advance(steps)
        if _THINNING in due:
            self._thin(snapshot, now)
        return _describe("connection", failed, failed, events, sealed, self._health)

    def _test(self, connection: Connection, settings: MonitorSettings, was_up: bool) -> HealthLook:
        try:
            connector = self._connect(connection)
        except ConfigurationError as exc:
            message = exc.message
            return HealthLook(datetime.now(UTC), False, 0.0, reason="configuration", message=message, hint=exc.hint)
        try:
            return check_health(connector, timeout_seconds=settings.timeout_seconds, was_up=was_up)
        finally:
            connector.close()

    def _find_hung(self, tested: Mapping[str, MonitorSettings]) -> dict[str, Outcome[HealthLook]]:
        """Tests that hang beyond any limit: their connections cannot be used either."""
        hung = {}
        for name, seconds in _iter_hung(self._health, tested):
            message = f"connection {name!r}: the test hangs since {seconds:.0f} s"
            look = HealthLook(datetime.now(UTC), False, seconds, reason="timeout", message=message)
            hung[name] = Outcome(look)
        return hung

    # --- both -------------------------------------------------------------------------------------------------

    def _connect(self, connection: Connection) -> Connector:
        """A connector; nothing is opened yet.

        Of 100 connections that are tested once a minute, taking their passwords out of the vault took as much
        processor time as testing them. What a sealed secret is never changes, and `_split` has asked whether the vault
        is open; what a variable or a file holds may change.
        """
        from synqx_dagster.connectors.registry import make_connector

        kept = self._connectors.get(connection.name)
        if kept is not None and kept[0] == connection:
            return kept[1]
        policy = self._catalog.settings.host_policy
        made = make_connector(connection, self._catalog.resolve_secret, host_policy=policy)
        secrets = secrets_of(connection).values()
        if all(isinstance(secret, SealedSecret) for secret in secrets):
            self._connectors[connection.name] = (connection, made)
        return made

    def _split(self, connections: Iterable[Connection]) -> tuple[list[Connection], str | None]:
        """Those that can be looked at now, and why others cannot."""
        usable: list[Connection] = []
        reasons: dict[bool, str | None] = {}
        sealed: str | None = None
        for connection in connections:
            needed = needs_vault(connection)
            if needed not in reasons:
                reasons[needed] = find_seal_reason(self._catalog, secrets_needed=needed)
            if reasons[needed] is None:
                usable.append(connection)
            else:
                sealed = reasons[needed]
        return usable, sealed

    def _thin(self, snapshot: CatalogSnapshot, now: datetime) -> None:
        days = {
            name: item.monitor.retention_days for name, item in snapshot.connections.items() if item.monitor is not None
        }
        ids = self.history.record_ids(days)
        Thinner(self._catalog, {record_id: days[name] for name, record_id in ids.items()}).run(
            now, limit_seconds=_THINNING_SECONDS
        )

    def _alone(self, name: str) -> _Alone:
        return _Alone(self._locks[name])


class _Alone:
    """Dagster gives up an evaluation that takes too long, and begins another one while it goes on."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._held = False

    def __enter__(self) -> bool:
        self._held = self._lock.acquire(blocking=False)
        return self._held

    def __exit__(self, *exc: object) -> None:
        if self._held:
            self._lock.release()


def _iter_hung(
    rounds: Rounds[WalLook] | Rounds[HealthLook], watched: Mapping[str, MonitorSettings]
) -> Iterator[tuple[str, float]]:
    """Looks that hang in the operating system, beyond any limit, and for how long."""
    for name, seconds in rounds.under_way().items():
        if name in watched and seconds > 2 * watched[name].timeout_seconds + _HUNG_SECONDS:
            yield name, seconds


def _advance_wal(outcome: WalOutcome, settings: MonitorSettings, before: Mapping[str, object] | None) -> Advance:
    return advance_wal(outcome, settings.thresholds, before, datetime.now(UTC))


def _advance_health(name: str, look: HealthLook, before: Mapping[str, object] | None) -> Advance:
    return advance_health(name, look, before)


def _describe(
    noun: str,
    outcomes: Iterable[object],
    errors: Iterable[str | None],
    events: Iterable[MonitorEvent],
    sealed: str | None,
    rounds: Rounds[WalLook] | Rounds[HealthLook],
) -> str:
    failed = [error for error in errors if error is not None]
    count = len(list(outcomes))
    lines = [f"looked at {count} {noun}{'' if count == 1 else 's'}" if count else "nothing was due"]
    lines += [str(event.body.get("summary")) for event in events]
    if failed:
        lines.append(f"{len(failed)} failed: {failed[0]}")
    if late := len(rounds.under_way()):
        lines.append(f"{late} have not answered yet")
    if sealed is not None:
        lines.append(f"some were left out, because the vault is sealed: {sealed}")
    return "\n".join(lines)


def tested_connections(snapshot: CatalogSnapshot) -> dict[str, MonitorSettings]:
    """Connections that are tested, with how: all but those that say otherwise."""
    found = {name: connection.monitor or _UNWATCHED for name, connection in snapshot.connections.items()}
    return {name: settings for name, settings in found.items() if settings.health}


# --- the sensors ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def monitor_of(catalog: Catalog) -> Monitor:
    """What looks for a catalog in this process."""
    return Monitor(catalog)


def build_monitor_sensors(snapshot: CatalogSnapshot, get_catalog: Callable[[], Catalog]) -> list[dg.SensorDefinition]:
    """The sensors that watch what a snapshot has; none where it has no connection."""
    sensors = []
    watched = watched_connections(snapshot)
    tested = tested_connections(snapshot)
    if watched:

        def evaluate_logs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
            outcomes, text = monitor_of(get_catalog()).watch_logs(snapshot)
            shown = [outcome for outcome in outcomes if outcome.observed]
            events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = []
            for outcome in shown:
                events += [observation_of(outcome), *evaluations_of(outcome)]
            return dg.SensorResult(skip_reason=text, asset_events=events)

        sensors.append(
            dg.SensorDefinition(
                name=WAL_SENSOR_NAME,
                evaluation_fn=evaluate_logs,
                minimum_interval_seconds=min(item.interval_seconds for item in watched.values()),
                default_status=dg.DefaultSensorStatus.RUNNING,
                description="Watches the write-ahead logs of PostgreSQL servers; starts no run.",
            )
        )
    if tested:

        def evaluate_health(context: dg.SensorEvaluationContext) -> dg.SkipReason:
            return dg.SkipReason(monitor_of(get_catalog()).check_connections(snapshot))

        shortest = min(item.interval_seconds for item in tested.values())
        sensors.append(
            dg.SensorDefinition(
                name=HEALTH_SENSOR_NAME,
                evaluation_fn=evaluate_health,
                minimum_interval_seconds=min(shortest, SYSTEM_INTERVAL_SECONDS),
                default_status=dg.DefaultSensorStatus.RUNNING,
                description="Tests connections, and looks at this machine and its processes; starts no run.",
            )
        )
    return sensors
