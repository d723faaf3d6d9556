"""Metrics as values, and as text in Prometheus' exposition format (version 0.0.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One value of a metric, told from the others by its labels."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Metric:
    """One metric: a gauge with its samples. Names and labels are as Prometheus' naming rules want them."""

    name: str
    help: str
    samples: tuple[Sample, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "type": "gauge", "samples": [asdict(sample) for sample in self.samples]}


def render_metrics(metrics: Iterable[Metric]) -> str:
    """The metrics as text; those without a sample are left out. Source: Prometheus, "Exposition formats"."""
    lines: list[str] = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines.append(f"# HELP {metric.name} {_escape(metric.help)}")
        lines.append(f"# TYPE {metric.name} gauge")
        lines += [f"{metric.name}{_labels(sample.labels)} {_number(sample.value)}" for sample in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    quoted = (f'{name}="{_escape(value).replace(chr(34), chr(92) + chr(34))}"' for name, value in labels.items())
    return "{" + ",".join(quoted) + "}"


def _escape(text: str) -> str:
    """A line that stays one: the text of a help or of a label, whose quotes are the caller's."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").encode("utf-8", "replace").decode("utf-8")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
