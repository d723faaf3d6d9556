"""What the code of a step wrote to its standard output and error, as Dagster captured it.

Dagster captures a process and not a step: steps that ran in one process have one file, and a step that was tried again
has one for each process that it ran in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import dagster as dg
from dagster._core.events import ComputeLogsCaptureData
from dagster._core.storage.compute_log_manager import ComputeIOType

from synqx_dagster.defs.json_logs import mask_secrets
from synqx_dagster.defs.runs import RunInfo
from synqx_dagster.errors import InvalidInputError, NotFoundError, Problem, SourceLocation

Stream = Literal["stdout", "stderr"]

_TYPES: dict[Stream, ComputeIOType] = {"stdout": ComputeIOType.STDOUT, "stderr": ComputeIOType.STDERR}
_PAGE_RECORDS = 500
_CHUNK_BYTES = 64 * 1024
#: What is shown of a single line.
_LONGEST_LINE = 1024 * 1024
_ENDED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


@dataclass(frozen=True)
class OutputPage:
    """A piece of one stream.

    Attributes:
        captures: How many processes Dagster captured for the step.
        capture: Which of them this is, from 1; None where there is none.
        step_keys: The steps that ran in that process, and so share the file.
        text: The piece, of whole lines; what looks like a credential is masked. A line of more than a megabyte is cut.
        end: The byte after it, to read on from.
        has_more: Whether more is there already.
        is_complete: Whether nothing will be written any more.
        external_url: Where the stream is kept, if it is kept elsewhere.
    """

    captures: int
    capture: int | None
    step_keys: tuple[str, ...]
    text: str
    end: int
    has_more: bool
    is_complete: bool
    external_url: str | None


def read_output(
    instance: dg.DagsterInstance,
    run: RunInfo,
    step: str,
    stream: Stream,
    *,
    after: int = 0,
    limit_bytes: int = 65536,
    capture: int | None = None,
) -> OutputPage:
    """A page of what a step's process wrote.

    Args:
        instance: Where the run is.
        run: As it was before this is called: what a process writes at its end is in the file when the run has ended.
        step: The key of a step that the run has.
        stream: Which of the two.
        after: The byte to begin at: the `end` of the page before.
        limit_bytes: How much at most, but for a single line that is longer.
        capture: Which of the step's processes, from 1; None: the latest.

    Raises:
        NotFoundError: The step was not captured so often.
        InvalidInputError: The page would begin within a line, of which a secret might be seen by its half.
    """
    found = _find_captures(instance, run.run_id, step)
    if capture is not None and capture > len(found):
        raise NotFoundError(
            f"step {step!r} has no capture {capture}", hint=f"it has {len(found)}; leave it out for the latest"
        )
    is_over = run.status in _ENDED
    if not found:
        return OutputPage(0, None, (), "", after, has_more=False, is_complete=is_over, external_url=None)
    number = len(found) if capture is None else capture
    data = found[number - 1]
    manager = instance.compute_log_manager
    log_key = manager.build_log_key_for_run(run.run_id, data.file_key)
    is_complete = is_over or manager.is_capture_complete(log_key)

    def read(offset: int, count: int) -> bytes:
        return manager.get_log_data_for_type(log_key, _TYPES[stream], offset, count)[0] or b""

    if after and read(after - 1, 1) not in (b"\n", b""):
        problem = "a page cannot begin within a line"
        hint = "begin at 0, or at the `next_after` or `end` of a page"
        raise InvalidInputError([Problem(problem, SourceLocation(field="after"), hint)])
    content, length, has_more = _whole_lines(read, after, limit_bytes, is_complete=is_complete)
    return OutputPage(
        captures=len(found),
        capture=number,
        step_keys=tuple(data.step_keys),
        text=mask_secrets(content.decode("utf-8", "replace")),
        end=after + length,
        has_more=has_more,
        is_complete=is_complete,
        external_url=(data.external_stdout_url if stream == "stdout" else data.external_stderr_url)
        or data.external_url,
    )


def _find_captures(instance: dg.DagsterInstance, run_id: str, step: str) -> list[ComputeLogsCaptureData]:
    """The processes that a step ran in, in the order of their start."""
    found: list[ComputeLogsCaptureData] = []
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(
            run_id, cursor=cursor, of_type=dg.DagsterEventType.LOGS_CAPTURED, limit=_PAGE_RECORDS
        )
        for record in page.records:
            event = record.event_log_entry.dagster_event
            data = None if event is None else event.event_specific_data
            if isinstance(data, ComputeLogsCaptureData) and step in data.step_keys:
                found.append(data)
        cursor = page.cursor
        if not page.has_more:
            return found


def _whole_lines(
    read: Callable[[int, int], bytes], after: int, limit: int, *, is_complete: bool
) -> tuple[bytes, int, bool]:
    """Whole lines, `limit` bytes of them or a single longer one, how many bytes they take, and whether more are there.

    Secrets are found in whole lines alone. Of a stream that goes on the last line is whole once its end is there.
    """
    content = read(after, limit)
    if end := content.rfind(b"\n") + 1:
        is_full = len(content) == limit
        if is_complete and not is_full:
            return content, len(content), False
        return content[:end], end, is_full and (end < limit or bool(read(after + limit, 1)))
    length = len(content)
    while chunk := read(after + length, _CHUNK_BYTES):
        end = chunk.find(b"\n") + 1
        length += end or len(chunk)
        if len(content) < _LONGEST_LINE:
            content += chunk[: end or None]
        if end:
            break
    else:
        if not is_complete:
            return b"", 0, False
    if length > len(content):
        content += b" [the line goes on]\n"
    return content, length, bool(read(after + length, 1))
