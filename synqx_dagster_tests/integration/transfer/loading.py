"""Loads between real databases, as the tests of the engine ask for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.connectors.registry import connector_class
from synqx_dagster.model import Mapping, Schema
from synqx_dagster.transfer.failpoints import VARIABLE
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.result import LoadRequest, LoadResult, PartitionSlice, ReadWindow
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.processes import reaped

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


CHILD = textwrap.dedent(
    """
    import json, sys
    from datetime import datetime
    from synqx_dagster.connectors.protocol import ConnectionConfig
    from synqx_dagster.connectors.registry import connector_class
    from synqx_dagster.errors import SynqxError
    from synqx_dagster.model import Mapping, PoolSettings, Schema
    from synqx_dagster.transfer.load import run_load
    from synqx_dagster.transfer.result import LoadRequest, PartitionSlice, ReadWindow

    asked = json.load(sys.stdin)
    def connect(values):
        values["pool"] = PoolSettings(**values["pool"])
        config = ConnectionConfig(**values)
        return connector_class(config.db_type)(config)
    mapping = Mapping.model_validate(asked["mapping"])
    schema = Schema.model_validate(asked["schema"]) if asked["schema"] else None
    day = asked["day"]
    window = ReadWindow()
    if day:
        window = ReadWindow(partition=PartitionSlice(day, day, 1, *map(datetime.fromisoformat, asked["bounds"])))
    try:
        result = run_load(LoadRequest(mapping, schema, connect(asked["source"]), connect(asked["target"]),
                                      asked["run_id"], asked["load_id"], window=window))
    except SynqxError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
    else:
        print(json.dumps({"rows_out": result.rows_out, "already_committed": result.already_committed}))
    """
)


class ChildLoad:
    """One attempt in a process of its own, which a failpoint may kill or stop."""

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
        asked = {
            "source": _config(source),
            "target": _config(target),
            "mapping": mapping.model_dump(mode="json", exclude_none=True),
            "schema": schema.model_dump(mode="json", exclude_none=True) if schema else None,
            "load_id": load_id,
            "run_id": run_id,
            "day": partition and partition.first,
            "bounds": partition and [str(partition.start), str(partition.end)],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, VARIABLE: failpoints, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked))
        self.process.stdin.close()
        self.process.stdin = None

    def wait_until_stopped(self) -> None:
        """Wait until the process has stopped itself at a failpoint."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def resume(self) -> None:
        """Let a stopped process go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    def wait(self) -> dict[str, Any] | None:
        """What the attempt reported; None when it was killed."""
        with reaped(self.process):
            output, _ = self.process.communicate(timeout=120)
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return None
        assert code == 0, code
        report: dict[str, Any] = json.loads(output)
        return report


def _config(config: ConnectionConfig) -> dict[str, Any]:
    values = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return {**values, "options": dict(config.options), "pool": config.pool.model_dump()}
