"""`synqx metrics`: what a monitoring system watches, as text for Prometheus or as JSON."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from synqx_dagster.cli.figures import plural
from synqx_dagster.cli.options import PATH, SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.errors import ConfigurationError


@click.command(cls=SynqxCommand)
@click.option("--output", "file", type=PATH, metavar="FILE", help="Write to a file, which readers see whole or not.")
@json_option
@pass_output
def metrics(output: Output, file: Path | None) -> None:
    """Print metrics of runs, assets and schedules for Prometheus.

    With --output the text goes to a file for the textfile collector of Prometheus' node exporter.
    """
    from synqx_dagster.defs.exposition import render_metrics
    from synqx_dagster.defs.instance import open_instance
    from synqx_dagster.defs.metrics import collect_metrics

    catalog = open_catalog()
    with open_instance(catalog.settings) as instance:
        collected = collect_metrics(instance, catalog)
    text = render_metrics(collected)
    if file is None:
        output.result({"metrics": [metric.to_dict() for metric in collected]}, lambda: click.echo(text, nl=False))
        return
    write_whole(file, text)
    samples = sum(len(metric.samples) for metric in collected)
    document: dict[str, Any] = {"file": file, "samples": samples}
    output.result(document, lambda: output.print(f"Wrote {plural(samples, 'sample')} to {file}"))


def write_whole(file: Path, text: str) -> None:
    """Replace a file in one step, readable for everybody: who reads it meanwhile gets the old one.

    Raises:
        ConfigurationError: It cannot be written; a file that is there stays as it is.
    """
    try:
        # In the same directory, because a file moves in one step only within its file system. The collector reads
        # what ends in .prom alone.
        descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".new", dir=file.parent)
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be written: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            os.fchmod(handle.fileno(), 0o644)
        os.replace(draft, file)
    except OSError as exc:
        Path(draft).unlink(missing_ok=True)
        raise ConfigurationError(f"{file} cannot be written: {exc.strerror}") from exc
