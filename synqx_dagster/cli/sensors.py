"""`synqx sensors`: what waits for something to happen, and whether it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from synqx_dagster.cli.options import SynqxSubgroup, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.cli.switching import add_switch

if TYPE_CHECKING:
    from synqx_dagster.model import Sensor


@click.group(cls=SynqxSubgroup)
def sensors() -> None:
    """List sensors; enable and disable them."""


@sensors.command("list")
@json_option
@pass_output
def list_sensors(output: Output) -> None:
    """List sensors with their last run and what their last look said."""
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.ticks import report_sensors

    catalog = open_catalog()
    found = list(catalog.snapshot().sensors.values())
    with open_instance(catalog.settings) as instance:
        reports = report_sensors(instance, found)
    documents = [
        {
            "name": sensor.name,
            "type": sensor.type,
            "watches": _describe(sensor),
            "runs": [sensor.pipeline] if sensor.pipeline is not None else list(sensor.mapping_names),
            "enabled": sensor.enabled,
            "interval_seconds": sensor.interval_seconds,
            **report,
        }
        for sensor, report in zip(found, reports, strict=True)
    ]

    def draw() -> None:
        if not documents:
            output.print("No sensors: declare one with `kind: sensor`.")
            return
        output.table(
            ["sensor", "watches", "runs", "state", "last look"],
            [
                [
                    printable(item["name"]),
                    printable(item["watches"]),
                    printable(", ".join(item["runs"])),
                    "enabled" if item["enabled"] else "disabled",
                    printable(item["last_tick_reason"] or item["last_tick_status"] or "none yet"),
                ]
                for item in documents
            ],
            fold=["watches", "last look"],
        )

    output.result(documents, draw)


def _describe(sensor: Sensor) -> str:
    match sensor.type:
        case "source_changed":
            return f"{sensor.table} at {sensor.connection}"
        case "new_file":
            place = f"{sensor.directory}/" if sensor.directory else ""
            return f"{place}{sensor.pattern or '*'} at {sensor.connection}"
        case "pipeline_succeeded":
            return f"success of {sensor.after_pipeline}"


add_switch(sensors, "enable", kind="sensor", values={"enabled": True}, help_text="Let sensors look.")
add_switch(
    sensors,
    "disable",
    kind="sensor",
    values={"enabled": False},
    help_text="Let sensors not look until they are enabled; they remember what they have seen.",
)
