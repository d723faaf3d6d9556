"""What an asset is made of and what is made of it, up and down, by tables and by columns.

Guarantee: the answer ends, whatever cycles there are: an asset is looked at once in each direction.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import dagster as dg

from synqx_dagster.catalog.snapshot import nearest
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.lineage_cache import LineageCache
from synqx_dagster.defs.lineage_graph import ColumnOf, LineageGraph, build_graph_of_lineage, columns_of
from synqx_dagster.errors import NotFoundError

Direction = Literal["up", "down", "both"]

#: No drawing shows more.
MAX_ASSETS = 2000
MAX_DEPTH = 100

_COLUMN_LINEAGE = "dagster/column_lineage"


@dataclass(frozen=True)
class LineageNode:
    """An asset of an answer.

    Attributes:
        maker: ``mapping`` or ``pipeline``: a record that loads it; ``stored``: rows between the steps of a pipeline;
            ``source``: nothing in the catalog makes it.
        record: The mapping or the pipeline.
        direction: ``self``, ``up``, ``down``, or ``both`` for an asset in a cycle.
        distance: How many edges away it is, at least.
        columns: Those of which something is known, in no order of the table's.
    """

    asset: str
    maker: str
    record: str | None
    direction: Literal["self", "up", "down", "both"]
    distance: int
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class LineageEdge:
    """Rows flow from one asset to another."""

    upstream: str
    downstream: str


@dataclass(frozen=True)
class ColumnEdge:
    """A column is made of another one, maybe among others."""

    upstream: str
    upstream_column: str
    downstream: str
    downstream_column: str


@dataclass(frozen=True)
class LineageAnswer:
    """The neighbourhood of an asset.

    Attributes:
        is_cut: There is more, past the depth or the number of assets that was asked for.
    """

    asset: str
    column: str | None
    revision: int
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
    column_edges: tuple[ColumnEdge, ...]
    is_cut: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class LineageReader:
    """Answers for the latest revision of a catalog; keeps the graph of one revision. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graph: tuple[str, LineageGraph] | None = None

    def graph(self, catalog: Catalog) -> LineageGraph:
        """The lineage of the latest revision."""
        with self._lock:
            latest = catalog.latest_revision()
            known = self._graph
            if known is not None and (known[0], known[1].revision) == (catalog.catalog_id, latest):
                return known[1]
            cache = LineageCache(catalog.settings.home)
            graph = build_graph_of_lineage(catalog.snapshot(latest), cache.trace)
            self._graph = (catalog.catalog_id, graph)
            return graph

    def read(
        self,
        catalog: Catalog,
        instance: dg.DagsterInstance | None,
        reference: str,
        *,
        direction: Direction = "both",
        depth: int = 10,
        column: str | None = None,
    ) -> LineageAnswer:
        """As `read_lineage`, of the latest revision."""
        return read_lineage(self.graph(catalog), instance, reference, direction=direction, depth=depth, column=column)


def read_lineage(
    graph: LineageGraph,
    instance: dg.DagsterInstance | None,
    reference: str,
    *,
    direction: Direction = "both",
    depth: int = 10,
    column: str | None = None,
) -> LineageAnswer:
    """The lineage of one asset, or of one of its columns.

    Args:
        instance: Where loads have said which columns they found, for mappings whose columns nobody declared; None to go
            by the records alone.
        reference: A key (``connection/schema/table``), or the name of a dataset or a mapping.
        depth: How many edges away, at most.
        column: Follow this column alone; the answer then has only assets on its way.

    Raises:
        NotFoundError: There is no such asset, or it has no such column as far as is known.
    """
    start = resolve_asset(graph, reference)
    nothing: tuple[dict[str, int], set[tuple[str, str]], bool] = ({}, set(), False)
    up, up_edges, up_cut = _walk(start, graph.upstream, depth) if direction != "down" else nothing
    down, down_edges, down_cut = _walk(start, graph.downstream, depth) if direction != "up" else nothing
    within = {start, *up, *down}
    edges = {(other, key) for key, other in up_edges} | down_edges
    columns = _known_columns(graph, instance, sorted(within))
    column_edges = {
        (origin, (key, name))
        for key, made in columns.items()
        for name, origins in made.items()
        for origin in origins
        if (origin[0], key) in edges
    }
    if column is not None:
        found = _find_column(start, column, column_edges, columns)
        column_edges = _through(found, column_edges, direction)
        on_its_way = {key for edge in column_edges for key, _ in edge} | {start}
        within &= on_its_way
        edges = {(source[0], target[0]) for source, target in column_edges}
        column = found[1]
    names: dict[str, dict[str, None]] = {key: {} for key in within}
    for key, name in sorted(end for edge in column_edges for end in edge):
        names[key][name] = None
    nodes = [
        LineageNode(
            asset=key,
            maker=graph.assets[key].maker,
            record=graph.assets[key].record,
            direction=_direction_of(key, start, up, down),
            distance=min(distances.get(key, MAX_DEPTH) for distances in (up, down)) if key != start else 0,
            columns=tuple(names[key]),
        )
        for key in within
    ]
    return LineageAnswer(
        asset=start,
        column=column,
        revision=graph.revision,
        nodes=tuple(sorted(nodes, key=lambda node: (node.distance, node.direction, node.asset))),
        edges=tuple(LineageEdge(*pair) for pair in sorted(edges)),
        column_edges=tuple(ColumnEdge(*source, *target) for source, target in sorted(column_edges)),
        is_cut=up_cut or down_cut,
    )


def resolve_asset(graph: LineageGraph, reference: str) -> str:
    """The key of an asset, by its key or a name.

    Raises:
        NotFoundError: There is none; the hint gives the nearest.
    """
    if reference in graph.assets:
        return reference
    if reference in graph.names:
        return graph.names[reference]
    near = nearest(reference, [*graph.assets, *graph.names])
    raise NotFoundError(
        f"There is no asset {reference!r}",
        hint=f"did you mean {near!r}?"
        if near
        else "write connection/schema/table, or the name of a dataset or mapping",
    )


def _walk(
    start: str, neighbours: Mapping[str, Sequence[str]], depth: int
) -> tuple[dict[str, int], set[tuple[str, str]], bool]:
    """Distances of all that can be reached, the edges on the way, and whether there was more than may be shown."""
    distances: dict[str, int] = {}
    edges: set[tuple[str, str]] = set()
    waiting = deque([(start, 0)])
    is_cut = False
    while waiting:
        key, distance = waiting.popleft()
        for other in neighbours.get(key, ()):
            is_known = other == start or other in distances
            if not is_known and (distance >= depth or len(distances) >= MAX_ASSETS):
                is_cut = True
                continue
            edges.add((key, other))
            if not is_known:
                distances[other] = distance + 1
                waiting.append((other, distance + 1))
    return distances, edges, is_cut


def _direction_of(
    key: str, start: str, up: Mapping[str, int], down: Mapping[str, int]
) -> Literal["self", "up", "down", "both"]:
    if key == start:
        return "self"
    if key in up:
        return "both" if key in down else "up"
    return "down"


# --- columns ------------------------------------------------------------------------------------------------------


def _known_columns(
    graph: LineageGraph, instance: dg.DagsterInstance | None, keys: Sequence[str]
) -> dict[str, Mapping[str, tuple[ColumnOf, ...]]]:
    """What the records tell of each asset's columns, else what its last load has told."""
    known = {key: graph.columns.get(key, {}) for key in keys}
    asked = [key for key, columns in known.items() if not columns and graph.assets[key].maker != "source"]
    if instance is None or not asked:
        return known
    by_key = {dg.AssetKey(graph.assets[key].path): key for key in asked}
    for record in instance.get_asset_records(list(by_key)):
        event = record.asset_entry.last_materialization
        found = None if event is None or event.asset_materialization is None else event.asset_materialization.metadata
        value = None if found is None else found.get(_COLUMN_LINEAGE)
        if isinstance(value, dg.TableColumnLineageMetadataValue):
            known[by_key[record.asset_entry.asset_key]] = columns_of(value.column_lineage)
    return known


def _find_column(
    start: str,
    column: str,
    column_edges: set[tuple[ColumnOf, ColumnOf]],
    columns: Mapping[str, Mapping[str, object]],
) -> ColumnOf:
    """A column of the asset by its name, whatever its case where that is enough to tell it."""
    names = {*columns.get(start, {}), *(name for edge in column_edges for key, name in edge if key == start)}
    if column in names:
        return start, column
    alike = [name for name in names if name.casefold() == column.casefold()]
    if len(alike) == 1:
        return start, alike[0]
    near = nearest(column, names)
    raise NotFoundError(
        f"Nothing is known of a column {column!r} of {start}", hint=f"did you mean {near!r}?" if near else None
    )


def _through(
    start: ColumnOf, column_edges: set[tuple[ColumnOf, ColumnOf]], direction: Direction
) -> set[tuple[ColumnOf, ColumnOf]]:
    """The edges on the way of one column."""
    found: set[tuple[ColumnOf, ColumnOf]] = set()
    if direction != "down":
        found |= _follow(start, column_edges, lambda edge: edge[1], lambda edge: edge[0])
    if direction != "up":
        found |= _follow(start, column_edges, lambda edge: edge[0], lambda edge: edge[1])
    return found


_Edge = tuple[ColumnOf, ColumnOf]


def _follow(
    start: ColumnOf, edges: set[_Edge], near: Callable[[_Edge], ColumnOf], far: Callable[[_Edge], ColumnOf]
) -> set[_Edge]:
    by_near: dict[ColumnOf, list[_Edge]] = {}
    for edge in edges:
        by_near.setdefault(near(edge), []).append(edge)
    found: set[_Edge] = set()
    waiting = [start]
    while waiting:
        for edge in by_near.get(waiting.pop(), ()):
            if edge not in found:
                found.add(edge)
                waiting.append(far(edge))
    return found
