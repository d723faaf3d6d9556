"""Logs as lines of JSON: one for each event of a run, and one for each record that a process logs beside runs.

Guarantee: a line is one JSON object; values that look like credentials are masked, and of an error that is not
SynqX's own only class and place are told, because its message may hold a cell value or a DSN.

With SYNQX_LOG_FORMAT=json it takes the place of the coloured text that Dagster writes to the console of each process
that executes a run. Dagster has no setting for that logger: handlers of ``python_logs`` come on top of it, and a job's
own loggers count only where the run config names them. So the function that gives it is replaced, here and nowhere
else; see docs/decisions/json-logs.md.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from synqx_dagster.defs.names import METADATA_PREFIX, PIPELINE_TAG, REVISION_TAG
from synqx_dagster.errors import SynqxError
from synqx_dagster.settings import Settings

#: Figures of a load that its line has beside the names.
_FIGURES = ("rows_in", "rows_out", "rows_quarantined", "bytes", "seconds")

#: Loggers of Dagster's own commands, which bring handlers of their own.
_DAGSTER_LOGGERS = ("dagster", "dagster-webserver")

_MASK = "***"
# Bounded, so that a long text is not gone through again from each of its words.
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s'\"<>]*@")
_ASSIGNMENT = re.compile(
    r"""(?ix) ((?:password|passwd|passphrase|pwd|secret|token|credential|api[_-]?key|access[_-]?key)[\w-]{0,40}
    ["']? \s* [=:] \s*) ( '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | [^\s,;&)}\]]+ )"""
)
_SECRET_NAME = re.compile(r"(?i)password|passwd|passphrase|secret|token|_pwd|api_?key|access_?key")
#: A shorter value of a variable would mask what is no secret.
_SHORTEST_SECRET = 6


def mask_secrets(text: str) -> str:
    """A text without what looks like a credential: in a URL, after a telling name, or in such a variable."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, _MASK)
    return _ASSIGNMENT.sub(rf"\1{_MASK}", _URL.sub(rf"\1{_MASK}@", text))


class JsonFormatter(logging.Formatter):
    """One line of JSON for each record.

    Args:
        mappings: The mapping that a step loads, by the step's key.
    """

    def __init__(self, mappings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._mappings = mappings or {}

    def format(self, record: logging.LogRecord) -> str:
        """The record; what is not known of it is left out."""
        meta: Mapping[str, Any] = getattr(record, "dagster_meta", None) or {}
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": mask_secrets(str(meta.get("orig_message") or record.getMessage())),
            # Of what a server says while it answers a request.
            "request_id": getattr(record, "request_id", None) or None,
        }
        if meta:
            fields |= self._run_fields(meta)
        # Fields that a module of SynqX gives with a record itself, such as those of a request.
        fields |= getattr(record, "synqx_fields", None) or {}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = describe_exception(record.exc_info[1])
        return json.dumps({name: value for name, value in fields.items() if value is not None}, default=str)

    def _run_fields(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        tags: Mapping[str, str] = meta.get("job_tags") or {}
        step = meta.get("step_key")
        revision = tags.get(REVISION_TAG, "")
        fields: dict[str, Any] = {
            "run": meta.get("run_id"),
            "job": meta.get("job_name"),
            "step": step,
            "pipeline": tags.get(PIPELINE_TAG),
            "mapping": self._mappings.get(step or ""),
            "revision": int(revision) if revision.isdigit() else None,
        }
        event = meta.get("dagster_event")
        if event is not None:
            fields["event"] = event.event_type_value
            fields |= _event_fields(event)
        return fields


def _event_fields(event: Any) -> dict[str, Any]:
    """What an event says beside its message."""
    kind = event.event_type_value
    if kind == "ASSET_MATERIALIZATION" and event.asset_key is not None:
        metadata = event.materialization.metadata
        figures = {
            name: found.value for name in _FIGURES if (found := metadata.get(f"{METADATA_PREFIX}{name}")) is not None
        }
        return {"asset": event.asset_key.to_user_string(), **figures}
    if kind == "STEP_FAILURE":
        return {"error": _describe_failure(event.step_failure_data)}
    return {}


def _describe_failure(data: Any) -> dict[str, Any]:
    failure = data.user_failure_data
    if failure is not None:  # raised on purpose, with a text for who reads the log
        found = failure.metadata.get(f"{METADATA_PREFIX}error")
        kind = "Failure" if found is None else str(found.value)
        return {"type": kind, "message": mask_secrets(failure.description or failure.label)}
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return {"type": None if error is None else error.cls_name}


def describe_exception(error: BaseException) -> dict[str, Any]:
    """The class of an exception, its place, and its message if it is one of SynqX."""
    described: dict[str, Any] = {"type": type(error).__name__}
    if frames := traceback.extract_tb(error.__traceback__):
        described["at"] = f"{frames[-1].filename}:{frames[-1].lineno}"
    if isinstance(error, SynqxError):
        described["message"] = mask_secrets(str(error))
    return described


class _CurrentStream(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stdout` (or `sys.stderr`) is at the time: under ``--json`` that is standard error."""

    def __init__(self, name: str) -> None:
        self._stream_name = name
        super().__init__()

    @property
    def stream(self) -> TextIO:
        """The stream of the moment."""
        found: TextIO = getattr(sys, self._stream_name)
        return found

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Nothing: it is looked up."""


class _ProcessHandler(_CurrentStream):
    """What a process logs beside its runs; the events of runs have a logger of their own."""

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "dagster_meta"):
            return False
        top = record.name.partition(".")[0]
        if top in _DAGSTER_LOGGERS and logging.getLogger(top).handlers:
            return False
        return bool(super().filter(record))


def follow_settings(settings: Settings, *, process_stream: str = "stdout") -> None:
    """Have this process log lines of JSON if the settings ask for it. Idempotent; text is Dagster's own affair.

    Args:
        process_stream: Where records beside runs go: ``stdout``, or ``stderr`` for a command whose result is there.
    """
    if settings.log_format != "json":
        return
    _replace_console_logger()
    root = logging.getLogger()
    if not any(isinstance(handler, _ProcessHandler) for handler in root.handlers):
        handler = _ProcessHandler(process_stream)
        handler.setLevel(logging.INFO)
        handler.setFormatter(JsonFormatter())
        root.addHandler(handler)
        logging.getLogger("synqx_dagster").setLevel(logging.INFO)
    for name in _DAGSTER_LOGGERS:
        for present in logging.getLogger(name).handlers:
            if isinstance(present, logging.StreamHandler):
                present.setFormatter(JsonFormatter())


def _replace_console_logger() -> None:
    import dagster as dg
    from dagster._core.execution import context_creation_job

    def make_logger(context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("dagster", logging.DEBUG)  # outside the tree: nothing but this handler hears it
        handler = _CurrentStream("stdout")
        handler.setFormatter(JsonFormatter(_mappings_of(context.job_def)))
        logger.addHandler(handler)
        return logger

    definition = dg.LoggerDefinition(make_logger, config_schema={}, description="Events as lines of JSON.")
    # It imports the function by name, so that is where the name has to lead elsewhere.
    context_creation_job.default_system_loggers = lambda instance: [(definition, {})]  # type: ignore[attr-defined]


def _mappings_of(job: Any) -> dict[str, str]:
    """The mapping that each step of a job loads."""
    found: dict[str, str] = {}
    layer = None if job is None else job.asset_layer
    if layer is None:
        return found
    for key in layer.selected_asset_keys:
        asset = layer.get(key)
        name = asset.metadata.get(f"{METADATA_PREFIX}mapping")
        handle = layer.get_op_output_handle(key).node_handle
        if name is not None:
            found[str(handle)] = str(getattr(name, "value", name))
    return found
