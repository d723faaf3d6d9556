"""`synqx alerts`: who is told what, whether it arrives, and a message to try it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import click

from synqx_dagster.cli.figures import format_time
from synqx_dagster.cli.options import SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog, unsealed_vault


@click.group(cls=SynqxSubgroup)
def alerts() -> None:
    """List alerts, and send a test message."""


@alerts.command("list")
@json_option
@pass_output
def list_alerts(output: Output) -> None:
    """List alerts, with what still waits to be told and why."""
    from synqx_dagster.defs.alert_sensor import report_alerts
    from synqx_dagster.defs.instance import open_instance

    catalog = open_catalog()
    found = list(catalog.snapshot().alerts.values())
    with open_instance(catalog.settings) as instance:
        reports = report_alerts(instance, catalog, found)

    def draw() -> None:
        if not reports:
            output.print("No alerts: declare one with `kind: alert`.")
            return
        output.table(
            ["alert", "by", "events", "state", "waiting", "last sent", "last error"],
            [
                [
                    printable(item["name"]),
                    item["channel"],
                    ", ".join(item["events"]),
                    "enabled" if item["enabled"] else "disabled",
                    str(item["waiting"]),
                    format_time(item["last_sent_at"]) if item["last_sent_at"] is not None else "-",
                    printable(item["last_error"] or "-"),
                ]
                for item in reports
            ],
            right=["waiting"],
            fold=["events", "last error"],
        )

    output.result(reports, draw)


@alerts.command()
@click.argument("name")
@json_option
@pass_output
def test(output: Output, name: str) -> None:
    """Send a test message now, by the alert's own channel. It counts for nothing."""
    from synqx_dagster.alerts.delivery import deliver
    from synqx_dagster.alerts.messages import AlertEvent, Untold
    from synqx_dagster.defs.access import needs_vault

    catalog = open_catalog()
    alert = catalog.snapshot().get_alert(name)
    if needs_vault(alert):
        unsealed_vault(catalog)
    event = AlertEvent(
        f"test:{uuid.uuid4()}",
        "test",
        datetime.now(UTC).isoformat(),
        subject=name,
        summary="This is a test. Nothing happened.",
    )
    deliver(
        alert,
        event,
        Untold(),
        lambda field: catalog.resolve_secret(alert, field),
        host_policy=catalog.settings.host_policy,
    )
    output.result(
        {"alert": name, "event_id": event.event_id, "delivered": True},
        lambda: output.print(f"Told by {printable(name)}."),
    )
