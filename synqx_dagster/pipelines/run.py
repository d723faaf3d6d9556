"""Running one step: a load by the transfer engine, or rows stored for other steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import FatalError, RetryableError
from synqx_dagster.model.schema import Schema
from synqx_dagster.pipelines.exchange import Dataset, Exchange, Watermarks
from synqx_dagster.pipelines.extract import ReadPartitions, ReadSoFar
from synqx_dagster.pipelines.graph import Graph, Node, Step, extracts_of, loads_after, quarantine_of
from synqx_dagster.pipelines.loading import load_mapping
from synqx_dagster.pipelines.operators.ends import IncrementalConfig, LoadConfig
from synqx_dagster.pipelines.report import NodeReport
from synqx_dagster.pipelines.source import StreamConnector
from synqx_dagster.pipelines.stream import StepContext, StepStream
from synqx_dagster.transfer.ledger import Ledger
from synqx_dagster.transfer.load import run_load
from synqx_dagster.transfer.prepare import refuse_locked
from synqx_dagster.transfer.quarantine import BadRowSpool
from synqx_dagster.transfer.result import LoadRequest, LoadResult, Progress, ReadWindow


@dataclass(frozen=True)
class StoredInput:
    """A dataset that a step reads, and where it lies in the exchange."""

    path: tuple[str, ...]
    dataset: Dataset


@dataclass(frozen=True)
class StepRequest:
    """One attempt at one step.

    Attributes:
        connectors: The connections of the pipeline's extracts and loads, by name.
        schemas: The schema records that its loads keep to, by name.
        inputs: What the step reads and carries of other steps, by node.
        run_id, load_id: As in `LoadRequest`.
        window: For incremental extracts, and the partitions that the run is of.
        on_reports: Told what the nodes did at the end, whether the step has failed or not.
    """

    graph: Graph
    step: Step
    connectors: Mapping[str, Connector]
    schemas: Mapping[str, Schema]
    exchange: Exchange
    inputs: Mapping[str, StoredInput]
    run_id: str
    load_id: str
    memory_bytes: int
    spill: Path
    window: ReadWindow = field(default_factory=ReadWindow)
    progress: Callable[[Progress], None] | None = None
    on_reports: Callable[[tuple[NodeReport, ...]], None] | None = None

    @property
    def made_of(self) -> dict[str, str]:
        """The attempts whose rows the step reads, directly or through others, by the node that stored them.

        Raises:
            FatalError: Two of its inputs are made of different rows of one node: they are of different runs.
        """
        found: dict[str, str] = {}
        for name, given in self.inputs.items():
            for node_id, attempt in {**given.dataset.made_of, name: given.dataset.attempt}.items():
                if found.setdefault(node_id, attempt) != attempt:
                    raise FatalError(
                        f"what {self.step.name!r} reads is made of different rows of {node_id!r}",
                        hint="run the whole pipeline: some of its steps were run by themselves since",
                    )
        return found


@dataclass(frozen=True)
class StepResult:
    """What a step with a load did.

    ``source_columns`` are the columns of its extracts and of the stored rows that it has read, by node.
    """

    load: LoadResult
    nodes: tuple[NodeReport, ...]
    source_columns: Mapping[str, tuple[str, ...]]


def run_load_step(request: StepRequest) -> StepResult:
    """Run a step that ends in a load; effectively once for a ``load_id``, as `run_load` is.

    Raises:
        SynqxError: As `run_load`; the error of a node names it.
    """
    _ = request.made_of  # refuses inputs that are not of one piece
    load = _LoadStep(request)
    for node in extracts_of(request.step, request.graph.nodes):
        refuse_locked(load.request.mapping, request.connectors[str(node.connection)], load.request.target)
    result: LoadResult | None = None
    try:
        result = run_load(load.request)
        return StepResult(result, load.reports(result), load.source_columns)
    finally:
        if request.on_reports is not None:
            request.on_reports(load.reports(result))


@contextmanager
def open_stored_step(request: StepRequest) -> Iterator[tuple[StepStream, Watermarks | None]]:
    """Open a step whose rows are stored; `Exchange.write` makes them flow."""
    so_far = _read_so_far(request, lambda load: _find_start(request, load))
    stream = StepStream(request.graph, request.step, _context(request, so_far))
    try:
        with stream:
            yield stream, _watermarks(stream, so_far)
    finally:
        if request.on_reports is not None:
            request.on_reports(tuple(stream.reports.values()))


class _LoadStep:
    """A load whose rows come from the nodes of its step; the engine's `Upstream`."""

    def __init__(self, request: StepRequest) -> None:
        self._request = request
        node = request.graph.nodes[request.step.name]
        mapping = load_mapping(request.graph, node)
        self._source = StreamConnector(mapping.name, self._open)
        self._so_far: Mapping[str, ReadSoFar] = {}
        self._own: Watermarks | None = None
        self.request = LoadRequest(
            mapping=mapping,
            schema=None if node.target_schema is None else request.schemas[node.target_schema],
            source=self._source,
            target=request.connectors[str(node.connection)],
            run_id=request.run_id,
            load_id=request.load_id,
            progress=request.progress,
            # What is read the extracts decide; what is replaced, the load.
            window=ReadWindow(partition=None if mapping.partitions is None else request.window.partition),
            upstream=self,
        )

    @contextmanager
    def _open(self) -> Iterator[StepStream]:
        stream = StepStream(self._request.graph, self._request.step, _context(self._request, self._so_far))
        # Before it opens: what cannot be opened has a report, too.
        self._source.stream = stream
        with stream:
            self._own = _watermarks(stream, self._so_far)
            yield stream

    def _carried(self) -> Watermarks | None:
        found = (given.dataset.watermarks for given in self._request.inputs.values())
        return self._own or next((one for one in found if one is not None), None)

    def prepare(self, find_start: Callable[[], str | None]) -> None:
        """Learn what incremental extracts go on from; their rows reach this load and no other."""
        self._so_far = _read_so_far(self._request, lambda _: find_start())

    def begin(self, watermark: str | None) -> None:
        """Refuse rows that were chosen by a watermark which is not the target's any more."""
        chosen = self._carried()
        if chosen is None or chosen.before == watermark:
            return
        message = f"another load of {self.request.mapping.target_table} has moved its watermark meanwhile"
        if self._own is not None:
            raise RetryableError(message)
        raise FatalError(message, hint="run the whole pipeline again: its extract has read by the old one")

    def give_bad_rows(self, spool: BadRowSpool) -> None:
        """Bad rows of validate nodes that this load keeps, of this step and of others."""
        nodes, stream, load = self._request.graph.nodes, self._source.stream, self._request.step.name
        for name, own in (stream.spools if stream is not None else {}).items():
            if quarantine_of(nodes[name], nodes) == load:
                spool.absorb(own.iter_batches(), own.counts)
        for given in self._request.inputs.values():
            for name in given.dataset.bad_rows:
                if quarantine_of(nodes[name], nodes) == load:
                    self._request.exchange.give_bad_rows(given.path, given.dataset, name, spool)

    @property
    def watermark(self) -> str | None:
        """Of the one incremental extract whose rows come here."""
        carried = self._carried()
        return None if carried is None else carried.after

    @property
    def source_columns(self) -> Mapping[str, tuple[str, ...]]:
        """Columns by the node that reads or stored them."""
        return {} if self._source.stream is None else self._source.stream.source_columns

    def reports(self, result: LoadResult | None) -> tuple[NodeReport, ...]:
        """What the nodes did, the load included."""
        stream = self._source.stream
        if stream is None:
            return ()
        if result is not None:
            own = stream.reports[self._request.step.name]
            own.rows_in, own.rows_out = result.rows_in, result.rows_out
            own.rows_quarantined = result.rows_quarantined
            phases = result.phase_seconds
            # What it waited for its rows is their nodes' time.
            own.seconds = result.seconds - phases.get("read", 0.0)
        return tuple(stream.reports.values())


def _context(request: StepRequest, so_far: Mapping[str, ReadSoFar]) -> StepContext:
    stored = {
        name: request.exchange.read(given.path, given.dataset)
        for name, given in request.inputs.items()
        if name in request.step.inputs
    }
    partitions, asked = request.graph.pipeline.partitions, request.window.partition
    part = None if partitions is None or asked is None else ReadPartitions(partitions, asked)
    return StepContext(request.connectors, stored, so_far, request.memory_bytes, request.spill, part)


def _read_so_far(request: StepRequest, find_start: Callable[[Node], str | None]) -> dict[str, ReadSoFar]:
    """What the incremental extracts of a step go on from: the watermark in the ledger of the load that they reach."""
    found = {}
    for name in request.step.nodes:
        if not isinstance(request.graph.nodes[name].config, IncrementalConfig):
            continue
        load = request.graph.nodes[loads_after(name, request.graph.nodes)[0]]
        assert isinstance(load.config, LoadConfig)
        found[name] = ReadSoFar(load.config.mode, find_start(load), request.window)
    return found


def _find_start(request: StepRequest, load: Node) -> str | None:
    """The watermark of a load that is another step's."""
    assert load.table is not None
    target = request.connectors[str(load.connection)]
    with target.write() as write:
        return Ledger(target, write, load.table).find_start()


def _watermarks(stream: StepStream, so_far: Mapping[str, ReadSoFar]) -> Watermarks | None:
    for name, before in so_far.items():
        window = stream.extracts[name].window
        after = None if window is None or window.after is None else window.after.to_json()
        return Watermarks(before.watermark, after)
    return None
