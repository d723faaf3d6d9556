"""References at the border of the API: ids in requests become names, and answers have the ids beside the names.

A field that refers to another record, such as ``source_connection``, takes the record's name or its id; so does the
field with ``_id`` behind it. Both may stand there, as in an answer that is sent back, if they mean the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synqx_dagster.catalog.listing import find_name, find_numbers
from synqx_dagster.catalog.references import references_of
from synqx_dagster.catalog.revisions import RecordKey
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.yaml_tree import FieldPath, format_path
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import Record, RecordKind


@dataclass(frozen=True)
class Reference:
    """A field that names one record or, where `many`, one or several of a kind."""

    field: str
    kind: RecordKind
    many: bool = False

    @property
    def id_fields(self) -> tuple[str, ...]:
        """Fields that take the id or ids in its place; the first one is that of answers."""
        stem = self.field.removesuffix("s") if self.many else self.field
        return (f"{stem}_ids", f"{stem}_id") if self.many else (f"{stem}_id",)


REFERENCES: Mapping[RecordKind, tuple[Reference, ...]] = {
    "connection": (),
    "schema": (),
    "asset": (Reference("connection", "connection"), Reference("target_schema", "schema")),
    "mapping": (
        Reference("source_connection", "connection"),
        Reference("target_connection", "connection"),
        Reference("target_schema", "schema"),
    ),
    "pipeline": (),
    "replication": (Reference("source_connection", "connection"), Reference("target_connection", "connection")),
    "schedule": (Reference("mapping", "mapping", many=True), Reference("pipeline", "pipeline", many=True)),
    "sensor": (
        Reference("mapping", "mapping", many=True),
        Reference("pipeline", "pipeline"),
        Reference("after_pipeline", "pipeline"),
        Reference("connection", "connection"),
    ),
    "alert": (
        Reference("pipelines", "pipeline", many=True),
        Reference("mappings", "mapping", many=True),
        Reference("schedules", "schedule", many=True),
        Reference("connections", "connection", many=True),
    ),
    "agent": (
        Reference("assets", "asset", many=True),
        Reference("pipelines", "pipeline", many=True),
        Reference("mappings", "mapping", many=True),
    ),
}

#: Those of a pipeline's nodes, and of their configs where the operator is SynqX's own.
NODE_REFERENCES = (Reference("source_asset", "asset"), Reference("destination_asset", "asset"))
_CONFIG_REFERENCES = (
    Reference("mapping", "mapping"),
    Reference("connection", "connection"),
    Reference("target_schema", "schema"),
)


#: Each is looked up; no record refers to more.
_MOST_IDS = 2_000


@dataclass
class Incoming:
    """Values of a request as a record takes them.

    Attributes:
        values: With names in place of ids.
        renamed: Paths of the record's fields that stood somewhere else in the request.
    """

    values: dict[str, Any]
    renamed: dict[FieldPath, FieldPath] = field(default_factory=dict)

    def place_of(self, path: FieldPath) -> FieldPath:
        """Where in the request the value of a field stood."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.renamed:
                return (*self.renamed[path[:length]], *path[length:])
        return path


class _Resolver:
    def __init__(self, catalog: Catalog) -> None:
        self.problems: list[Problem] = []
        self._catalog = catalog
        self._known: dict[tuple[RecordKind, int], str | None] = {}

    def name_of(self, kind: RecordKind, value: Any, path: FieldPath) -> Any:
        """A name for an id; what is no id is left to the checks of the record."""
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if (kind, value) not in self._known:
            if len(self._known) >= _MOST_IDS:
                if not self.problems:
                    self.add(path, f"the request refers to more than {_MOST_IDS} records by id")
                return value
            self._known[kind, value] = find_name(self._catalog, kind, value)
        name = self._known[kind, value]
        if name is None:
            self.add(path, f"there is no {kind} with the id {value}")
        return name

    def names_of(self, reference: Reference, value: Any, path: FieldPath) -> Any:
        if isinstance(value, list) and reference.many:
            return [self.name_of(reference.kind, item, (*path, index)) for index, item in enumerate(value)]
        return self.name_of(reference.kind, value, path)

    def add(self, path: FieldPath, message: str) -> None:
        self.problems.append(Problem(message, SourceLocation(field=format_path(path))))

    def resolve(self, values: Mapping[str, Any], references: Iterable[Reference], at: FieldPath) -> Incoming:
        """Values without ids; `at` is where they stand in the request."""
        incoming = Incoming(dict(values))
        for reference in references:
            name = reference.field
            if name in incoming.values:
                incoming.values[name] = self.names_of(reference, incoming.values[name], (*at, name))
            for id_field in reference.id_fields:
                if id_field in incoming.values:
                    self._take_id(incoming, reference, id_field, at)
        return incoming

    def _take_id(self, incoming: Incoming, reference: Reference, id_field: str, at: FieldPath) -> None:
        given, path = incoming.values.pop(id_field), (*at, id_field)
        if given is None or given == []:
            return
        ids = given if isinstance(given, list) and reference.many else [given]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
            self.add(path, "must be a whole number: the id of a record")
            return
        found = self.names_of(reference, given, path)
        named = incoming.values.get(reference.field)
        if named not in (None, [], ()):
            if _listed(named) != _listed(found):
                self.add(path, f"is another {reference.kind} than {reference.field} names")
            return
        incoming.values[reference.field] = found
        incoming.renamed[(reference.field,)] = (id_field,)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def read_references(catalog: Catalog, kind: RecordKind, values: Mapping[str, Any]) -> Incoming:
    """Put names in place of ids.

    Raises:
        InvalidInputError: An id is that of no record, or does not fit the name beside it; has every problem.
    """
    resolver = _Resolver(catalog)
    incoming = resolver.resolve(values, REFERENCES[kind], ())
    nodes = incoming.values.get("nodes") if kind == "pipeline" else None
    if isinstance(nodes, list):
        incoming.values["nodes"] = [
            _read_node(resolver, incoming, node, index) if isinstance(node, dict) else node
            for index, node in enumerate(nodes)
        ]
    if resolver.problems:
        raise InvalidInputError(resolver.problems)
    return incoming


def _read_node(resolver: _Resolver, whole: Incoming, node: dict[str, Any], index: int) -> dict[str, Any]:
    place: FieldPath = ("nodes", index)
    found = resolver.resolve(node, NODE_REFERENCES, place)
    whole.renamed |= {(*place, *path): (*place, *there) for path, there in found.renamed.items()}
    config = found.values.get("config")
    # What configs of transforms hold is their operator's own.
    if isinstance(config, dict) and node.get("operator_type", "load") in ("extract", "load"):
        inner = resolver.resolve(config, _CONFIG_REFERENCES, (*place, "config"))
        found.values["config"] = inner.values
        whole.renamed |= {
            (*place, "config", *path): (*place, "config", *there) for path, there in inner.renamed.items()
        }
    return found.values


class ReferenceIds:
    """The ids of all that some records refer to, looked up at once."""

    def __init__(self, catalog: Catalog, records: Iterable[Record]) -> None:
        keys: set[RecordKey] = {(kind, name) for record in records for kind, name, _ in references_of(record)}
        self._ids = find_numbers(catalog, keys)

    def fields_of(self, record: Record) -> dict[str, Any]:
        """The fields with ids that stand beside the names in an answer."""
        return self._fields(record, REFERENCES[record.kind])

    def node_fields_of(self, node: Any) -> dict[str, Any]:
        """The same of a pipeline's node."""
        return self._fields(node, NODE_REFERENCES)

    def _fields(self, value: Any, references: Iterable[Reference]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for reference in references:
            named = getattr(value, reference.field)
            if reference.many:
                names = () if named is None else _listed(named)
                fields[reference.id_fields[0]] = [self._ids[reference.kind, name] for name in names]
            else:
                fields[reference.id_fields[0]] = None if named is None else self._ids[reference.kind, named]
        return fields
