"""How an error of SynqX ends a step: with what is wrong and what to do, and retried only where that can help."""

from __future__ import annotations

from typing import Any

import dagster as dg

from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.errors import FencedError, InvalidInputError, RetryableError, SynqxError

#: Waits double from the first to the last, so that a server that restarts is not met by a crowd.
FIRST_WAIT_SECONDS = 2.0
LAST_WAIT_SECONDS = 300.0


def translate_error(
    error: SynqxError, *, mapping_name: str, retry_number: int, max_retries: int
) -> dg.Failure | dg.RetryRequested:
    """What an op raises for an error.

    Args:
        retry_number: How often this step was retried already; 0 at the first attempt.
        max_retries: How often it may be.
    """
    if isinstance(error, RetryableError) and retry_number < max_retries:
        wait = min(FIRST_WAIT_SECONDS * 2**retry_number, LAST_WAIT_SECONDS)
        return dg.RetryRequested(max_retries=max_retries, seconds_to_wait=wait)
    metadata = {**error_metadata(error), f"{METADATA_PREFIX}mapping": mapping_name}
    return dg.Failure(description=describe_error(error), metadata=metadata, allow_retries=False)


def describe_error(error: SynqxError) -> str:
    """The message and, on a line of its own, what to do."""
    text = str(error) if isinstance(error, InvalidInputError) else error.message
    if isinstance(error, FencedError) and error.hint is None:
        return f"{text}\nNothing to do: the newer attempt reports."
    return f"{text}\n{error.hint}" if error.hint else text


def error_metadata(error: SynqxError) -> dict[str, Any]:
    """The safe facts of an error."""
    facts: dict[str, Any] = {
        f"{METADATA_PREFIX}{name}": value if isinstance(value, (int, float, str)) else str(value)
        for name, value in error.context.items()
    }
    facts[f"{METADATA_PREFIX}error"] = type(error).__name__
    if error.hint:
        facts[f"{METADATA_PREFIX}hint"] = error.hint
    return facts
