"""A user's function in a process of its own, so that one that hangs can be ended when its node's time is up.

The node, its config and all rows go over a socket as pickles of plain values and Arrow messages; the process is given
no connection, no secret and no log of its own, and forgets the secrets of SynqX's that the environment holds. That is
no sandbox: it is a process of the same user. Guarantee: when the generator is closed or fails, the process is gone.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from synqx_dagster.errors import NodeTimeoutError, OperatorFailedError, SynqxError
from synqx_dagster.model.pipeline import PipelineNode
from synqx_dagster.pipelines.graph import Node

if TYPE_CHECKING:
    import pyarrow as pa

_ENDED = b""

#: What opens the vault, or may hold a password of SynqX's own; a function may need any other variable.
_FORGOTTEN = (
    "SYNQX_MASTER_PASSWORD",
    "SYNQX_KEY_FILE",
    "SYNQX_CATALOG_URL",
    "SYNQX_CELERY_BROKER",
    "SYNQX_CELERY_BACKEND",
)


def run_in_process(
    node: Node, batches: Iterator[pa.RecordBatch], schema: pa.Schema, memory_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The rows that a node's function makes.

    Raises:
        SynqxError: What ``batches`` raised.
        OperatorFailedError: The function failed, or its process died.
        NodeTimeoutError: It did not end within the node's ``timeout_seconds``.
    """
    import pyarrow as pa

    # A fork of a process with threads and drivers may hang by itself.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve,
        args=(theirs, node.record, schema.serialize().to_pybytes(), memory_bytes),
        name=f"synqx-node-{node.node_id}",
        daemon=True,
    )
    process.start()
    theirs.close()
    seconds = node.record.timeout_seconds or 0
    timed_out = threading.Event()

    def time_out() -> None:
        timed_out.set()
        process.kill()

    timer = threading.Timer(seconds, time_out)
    timer.daemon = True
    timer.start()
    feeder = _Feeder(ours, batches, process.kill)
    feeder.start()
    try:
        while True:
            try:
                kind, payload = ours.recv()
            except (EOFError, OSError):
                if feeder.error is not None:
                    raise feeder.error from None
                if timed_out.is_set():
                    raise NodeTimeoutError(
                        f"node {node.node_id!r} did not end within its {seconds} s",
                        hint="raise its timeout_seconds, or find out what keeps it",
                    ) from None
                raise OperatorFailedError(
                    f"the process of node {node.node_id!r} died", hint="was it out of memory? see the system's log"
                ) from None
            if kind == "batch":
                yield pa.ipc.read_record_batch(pa.py_buffer(payload), schema)
            elif kind == "error":
                raise OperatorFailedError(payload[0], hint=payload[1])
            else:
                return
    finally:
        timer.cancel()
        process.kill()
        process.join()
        ours.close()


class _Feeder(threading.Thread):
    """Hands a node's input to its process, as fast as it is taken; ends it where the input fails, and keeps `error`."""

    def __init__(
        self, connection: Connection, batches: Iterator[pa.RecordBatch], end_process: Callable[[], None]
    ) -> None:
        super().__init__(name="synqx-node-input", daemon=True)
        self._connection = connection
        self._batches = batches
        self._end_process = end_process
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for batch in self._batches:
                if not self._send(batch.schema.serialize().to_pybytes(), batch.serialize().to_pybytes()):
                    return
        except BaseException as error:  # noqa: BLE001  # raised where the rows are awaited
            self.error = error
            # The end of the process wakes who waits for its rows; closing our end of the socket would not.
            self._end_process()
            return
        self._send(_ENDED)

    def _send(self, *messages: bytes) -> bool:
        """Send messages; False where the process has ended, or was ended, of which whoever waits for its rows tells."""
        try:
            for message in messages:
                self._connection.send_bytes(message)
        except (OSError, ValueError):
            return False
        return True


def _serve(connection: Connection, record: PipelineNode, schema_bytes: bytes, memory_bytes: int) -> None:
    """What the process does."""
    import json
    import os

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    # Before any code of the user's is imported.
    for name in _FORGOTTEN:
        os.environ.pop(name, None)

    # A parent that was killed ends nobody.
    threading.Thread(target=end_with_parent, daemon=True).start()

    import pyarrow as pa

    from synqx_dagster.pipelines.operators.protocol import BatchOperator
    from synqx_dagster.pipelines.operators.registry import find_operator

    schema = pa.ipc.read_schema(pa.py_buffer(schema_bytes))

    def incoming() -> Iterator[pa.RecordBatch]:
        while True:
            header = connection.recv_bytes()
            if header == _ENDED:
                return
            given = pa.ipc.read_schema(pa.py_buffer(header))
            yield pa.ipc.read_record_batch(pa.py_buffer(connection.recv_bytes()), given)

    try:
        operator = find_operator(record, frozenset())
        assert isinstance(operator, BatchOperator)
        config = operator.config_type.model_validate_json(json.dumps(record.config), strict=True)
        for batch in operator.run(config, incoming(), schema, memory_bytes):
            connection.send(("batch", batch.serialize().to_pybytes()))
        connection.send(("end", None))
    except SynqxError as exc:
        connection.send(("error", (exc.message, exc.hint)))
    except EOFError:
        pass
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # an operator of somebody's; what it says may hold values
        connection.send(("error", (f"the operator raised {type(exc).__name__}", None)))
    finally:
        connection.close()
