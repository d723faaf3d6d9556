"""Loads between real databases, as the tests of the engine ask for them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.connectors.registry import connector_class
from synqx_dagster.errors import SynqxError
from synqx_dagster.model import Mapping, Schema
from synqx_dagster.transfer.failpoints import VARIABLE
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest, LoadResult, PartitionSlice, ReadWindow
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.forked import PATIENCE_SECONDS, ForkedWork

#: A source and a target.
Databases = tuple[PostgresqlDatabase, PostgresqlDatabase]
Connectors = tuple[Connector, Connector]


def connect(config: ConnectionConfig) -> Connector:
    """A connector over a configuration."""
    connector: Connector = connector_class(config.db_type)(config)  # type: ignore[call-arg]  # every connector takes it
    return connector


def make_mapping(**fields: Any) -> Mapping:
    """A mapping between connections whose names do not matter here."""
    return Mapping.model_validate(
        {"name": "load", "source_connection": "source", "target_connection": "target", **fields}
    )


def make_schema(primary_key: str = "id", **columns: str | dict[str, Any]) -> Schema:
    """A schema with a key of one column; a column is its type, or all of its fields but the name."""
    declared = [
        {"name": name, **({"data_type": column} if isinstance(column, str) else column)}
        for name, column in columns.items()
    ]
    return Schema.model_validate({"name": "schema", "columns": declared, "primary_key": [primary_key]})


def load(
    source: Connector,
    target: Connector,
    mapping: Mapping,
    schema: Schema | None = None,
    *,
    load_id: str = "load-1",
    run_id: str = "run-1",
    partition: PartitionSlice | None = None,
) -> LoadResult:
    """Run one attempt in this process."""
    window = ReadWindow(partition=partition)
    return run_load(LoadRequest(mapping, schema, source, target, run_id, load_id, window=window))


@dataclass(frozen=True)
class _Attempt:
    """What a process is asked to load."""

    source: ConnectionConfig
    target: ConnectionConfig
    mapping: Mapping
    schema: Schema | None
    load_id: str
    run_id: str
    partition: PartitionSlice | None
    failpoints: str


def _attempt(asked: _Attempt) -> dict[str, Any]:
    os.environ[VARIABLE] = asked.failpoints
    window = ReadWindow(partition=asked.partition)
    try:
        result = run_load(
            LoadRequest(
                asked.mapping,
                asked.schema,
                connect(asked.source),
                connect(asked.target),
                asked.run_id,
                asked.load_id,
                window=window,
            )
        )
    except SynqxError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"rows_out": result.rows_out, "already_committed": result.already_committed}


class ChildLoad:
    """One attempt in a process of its own, which a failpoint may kill or stop; as a block: it ends with it."""

    def __init__(
        self,
        source: ConnectionConfig,
        target: ConnectionConfig,
        mapping: Mapping,
        schema: Schema | None = None,
        *,
        failpoints: str = "",
        load_id: str = "load-1",
        run_id: str = "run-1",
        partition: PartitionSlice | None = None,
    ) -> None:
        asked = _Attempt(source, target, mapping, schema, load_id, run_id, partition, failpoints)
        self._work: ForkedWork[dict[str, Any]] = ForkedWork(_attempt, asked, [__name__])
        self._is_closed = False

    def __enter__(self) -> ChildLoad:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_stopped(self) -> None:
        """Wait until the process has stopped itself at a failpoint."""
        self._work.wait_until_stopped()

    def resume(self) -> None:
        """Let a stopped process go on."""
        self._work.resume()

    def resume_to_the_end(self) -> dict[str, Any] | None:
        """What the attempt reports; each of its threads may stop the process once more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._work.process.is_alive():
            assert time.monotonic() < deadline, "the attempt does not end"
            with suppress(ProcessLookupError):
                self._work.resume()
            time.sleep(0.05)
        return self.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the attempt goes on, or is stopped."""
        return self._work.process.is_alive()

    def interrupt(self, *, patience_seconds: float) -> int | None:
        """Interrupt it as by Ctrl-C; its exit code, or None when it has not ended in so many seconds."""
        assert self._work.process.pid is not None
        os.kill(self._work.process.pid, signal.SIGINT)
        self._work.process.join(patience_seconds)
        return self._work.process.exitcode

    def wait(self) -> dict[str, Any] | None:
        """What the attempt reported; None when it was killed."""
        try:
            return self._work.wait()
        finally:
            self.close()

    def close(self) -> None:
        """End the process, if it is still there."""
        if not self._is_closed:
            self._is_closed = True
            self._work.close()
