"""The logs of watched servers as external assets: their observations, and the checks of their thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.protocol import MonitorConnector
from synqx_dagster.defs.access import CatalogAccess
from synqx_dagster.defs.monitor_looks import WalOutcome
from synqx_dagster.defs.names import METADATA_PREFIX, op_name
from synqx_dagster.defs.resources import ConnectionResource
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model import Connection, dagster_name
from synqx_dagster.model.connection import MONITORING, MonitorSettings
from synqx_dagster.monitor.wal import WalLook, watch_wal
from synqx_dagster.monitor.wal_breaches import WalBreach, find_breaches

#: Which of the keys of `WalBreach` a check is about, by how they end.
_CHECKS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "slot_lag": ((":lag",), "No slot keeps more log than max_lag_bytes."),
    "slot_status": ((":lost", ":unreserved", ":safe"), "No slot is lost, or may be soon."),
    "slot_activity": ((":inactive",), "No slot is without a reader for longer than max_inactive_seconds."),
    "archiver": (("archiver",), "The last file of the log that was to be archived was."),
}
#: A slot is a line of its own in the plots; a server with more slots has their greatest lag alone.
_MOST_SLOTS = 20


def watched_connections(snapshot: CatalogSnapshot) -> dict[str, MonitorSettings]:
    """Connections whose log is watched, with how."""
    return {
        name: connection.monitor
        for name, connection in snapshot.connections.items()
        if connection.monitor is not None and connection.monitor.wal
    }


def wal_key(connection: str) -> dg.AssetKey:
    """The asset of a server's log."""
    return dg.AssetKey([MONITORING, connection, "wal"])


def wal_specs(snapshot: CatalogSnapshot) -> list[dg.AssetSpec]:
    """The assets of all logs that are watched."""
    return [
        dg.AssetSpec(
            wal_key(name),
            group_name=dagster_name(name),
            kinds={"postgresql"},
            description=f"The write-ahead log of the server of {name}",
        )
        for name in watched_connections(snapshot)
    ]


# --- observations ---------------------------------------------------------------------------------------------------


def observation_of(outcome: WalOutcome) -> dg.AssetObservation:
    """A look as Dagster plots it."""
    assert outcome.look is not None
    return dg.AssetObservation(wal_key(outcome.connection), metadata=_metadata_of(outcome, outcome.look))


def _metadata_of(outcome: WalOutcome, look: WalLook) -> dict[str, Any]:
    change, slots = outcome.change, look.slots
    figures: dict[str, Any] = {
        "directory_bytes": look.directory_bytes,
        "wal_bytes_per_second": change.wal_bytes_per_second,
        "checkpoints": change.checkpoints,
        "checkpoints_requested": change.checkpoints_requested,
        "archive_failures": change.archive_failures,
        "replication_clients": None if look.clients is None else len(look.clients),
        "replay_age_seconds": look.replay_age_seconds,
    }
    if slots is not None:
        figures |= {
            "slots": len(slots),
            "active_slots": sum(slot.active for slot in slots),
            "lost_slots": sum(slot.is_lost for slot in slots),
            "lag_bytes": max((slot.lag_bytes or 0 for slot in slots), default=0),
        }
        if len(slots) <= _MOST_SLOTS:
            figures |= {f"lag_bytes/{slot.name}": slot.lag_bytes for slot in slots}
    if look.settings is not None:
        figures["max_slot_wal_keep_bytes"] = look.settings.max_slot_wal_keep_bytes
    known = {f"{METADATA_PREFIX}{name}": value for name, value in figures.items() if value is not None}
    if look.missing:
        known[f"{METADATA_PREFIX}missing"] = dg.MetadataValue.md(
            "\n".join(f"- {item.figure}: {item.reason}; {item.grant or 'nothing to grant'}" for item in look.missing)
        )
    return known


# --- checks ---------------------------------------------------------------------------------------------------------


def check_specs(connection: str) -> list[dg.AssetCheckSpec]:
    """The checks of a log."""
    return [
        dg.AssetCheckSpec(name, asset=wal_key(connection), description=description)
        for name, (_, description) in _CHECKS.items()
    ]


def evaluations_of(outcome: WalOutcome) -> Iterator[dg.AssetCheckEvaluation]:
    """What a look says of the checks; of what could not be seen, nothing: what was said last stands."""
    assert outcome.look is not None
    for name, passed, severity, description in _judge(outcome.look, outcome.breaches):
        yield dg.AssetCheckEvaluation(
            asset_key=wal_key(outcome.connection),
            check_name=name,
            passed=passed,
            severity=severity,
            description=description,
        )


def _judge(
    look: WalLook, breaches: Iterable[WalBreach]
) -> Iterator[tuple[str, bool, dg.AssetCheckSeverity, str | None]]:
    for name, (ends, _) in _CHECKS.items():
        if (look.archiver if name == "archiver" else look.slots) is None:
            continue
        found = [breach for breach in breaches if breach.key.endswith(ends)]
        severity = dg.AssetCheckSeverity.ERROR if any(item.is_severe for item in found) else dg.AssetCheckSeverity.WARN
        yield name, not found, severity, "\n".join(item.message for item in found) or None


def build_wal_checks(connection: Connection, get_catalog: Callable[[], CatalogAccess]) -> dg.AssetChecksDefinition:
    """The checks of a log as Dagster runs them when somebody asks: they look at the server then."""
    settings = connection.monitor
    assert settings is not None
    specs = check_specs(connection.name)

    @dg.multi_asset_check(specs=specs, name=f"{op_name([MONITORING, connection.name])}_checks", can_subset=True)
    def check_wal(context):  # type: ignore[no-untyped-def]  # Dagster would resolve the annotations
        resource = ConnectionResource(connection, get_catalog)
        try:
            connector = resource.connector
            if not isinstance(connector, MonitorConnector):
                raise ConfigurationError(f"connection {connection.name!r}: {connection.db_type} cannot be watched")
            look = watch_wal(connector, timeout_seconds=settings.timeout_seconds)
        finally:
            resource.close()
        judged = {item[0]: item for item in _judge(look, find_breaches(look, settings.thresholds))}
        for spec in specs:
            if spec.key not in context.selected_asset_check_keys:
                continue
            unseen = (spec.name, False, dg.AssetCheckSeverity.WARN, _why_unseen(look))
            _, passed, severity, description = judged.get(spec.name, unseen)
            yield dg.AssetCheckResult(
                check_name=spec.name,
                asset_key=spec.asset_key,
                passed=passed,
                severity=severity,
                description=description,
            )

    return check_wal


def _why_unseen(look: WalLook) -> str:
    return "\n".join(f"{item.figure} cannot be seen: {item.reason}" for item in look.missing)
