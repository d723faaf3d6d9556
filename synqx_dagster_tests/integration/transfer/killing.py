"""Attempts at a load in processes of their own, which may be killed at any moment."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest
from synqx_dagster_tests.forked import ForkedWork, forked
from synqx_dagster_tests.integration.transfer.loading import connect


@dataclass(frozen=True)
class AttemptRequest:
    """What an attempt loads; the connections are opened by it."""

    source: ConnectionConfig
    target: ConnectionConfig
    mapping: Mapping
    load_id: str
    run_id: str


@dataclass(frozen=True)
class Report:
    """How an attempt ended that was not killed.

    Attributes:
        error: The name of its error, None if the load is committed.
        message: The error's.
        seconds: From the call to its end.
    """

    error: str | None
    message: str
    seconds: float
    already_committed: bool


def attempt(request: AttemptRequest) -> AbstractContextManager[ForkedWork[Report]]:
    """An attempt that has begun, and is over at the end of the block."""
    return forked(_load, request, [__name__])


def _load(request: AttemptRequest) -> Report:
    start = time.monotonic()
    source, target = connect(request.source), connect(request.target)
    error, message, already_committed = None, "", False
    try:
        result = run_load(LoadRequest(request.mapping, None, source, target, request.run_id, request.load_id))
        already_committed = result.already_committed
    except SynqxError as caught:
        error, message = type(caught).__name__, str(caught)
    finally:
        source.close()
        target.close()
    return Report(error, message, time.monotonic() - start, already_committed)
