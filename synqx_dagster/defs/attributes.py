"""The attributes of a component as records: the fields that YAML for `synqx apply` has, with the file and line of each.

Guarantee: every problem is found in one pass, with its place and in the words of `synqx check`; no message repeats a
value, as Dagster's own account of a value that does not fit would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import dagster as dg
from dagster_shared.yaml_utils.source_position import SourcePositionTree
from pydantic import GetJsonSchemaHandler, RootModel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from synqx_dagster.catalog.documents import Definitions, UnreadRecords, locate_unwritten
from synqx_dagster.catalog.snapshot import secrets_of
from synqx_dagster.catalog.validation import FieldProblem, InvalidRecordError, build_record
from synqx_dagster.catalog.yaml_tree import Document, FieldPath, format_path, parse_path
from synqx_dagster.errors import Problem, SourceLocation
from synqx_dagster.model import RECORD_TYPES, Alert, Connection, LiteralSecret, Record, RecordKind, SealedSecret
from synqx_dagster.model.base import with_article

#: A field of a component that holds further records, and their kind.
Parts = Mapping[str, RecordKind]

_ALIVE = ("{{", "{%")
_WRITE_REFERENCE = "write {env: NAME} or {file: PATH}"


class Attributes(RootModel[dict[str, Any]]):
    """A component's attributes as they were written; `read_attributes` judges them.

    Its JSON schema is the record's, which is what ``dg check yaml`` and editors go by.
    """

    kind: ClassVar[RecordKind]
    parts: ClassVar[Parts]

    @classmethod
    def of(cls, kind: RecordKind, parts: Parts) -> type[Attributes]:
        """The attributes of a component for records of a kind."""
        name = f"{RECORD_TYPES[kind].__name__}Attributes"
        return type(name, (cls,), {"kind": kind, "parts": parts, "__module__": __name__})

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What may be written."""
        return attributes_schema(cls.kind, cls.parts)


def read_attributes(attributes: Attributes, context: dg.ResolutionContext) -> Definitions:
    """The records of a component: its own, and those in its parts.

    Args:
        context: At the attributes; it renders templates, and knows where things are written.

    Raises:
        dagster.components.resolved.errors.ResolutionException: A template cannot be rendered.
    """
    positions = _at(context.source_position_tree, context.path)
    reader = _Reader()
    values = reader.render(attributes.root, context, positions)
    for field, kind in attributes.parts.items():
        items = values.pop(field, [])
        if not isinstance(items, list):
            reader.refuse(positions, values, attributes.kind, FieldProblem((field,), "must be a list"))
            continue
        for index, item in enumerate(items):
            reader.read(kind, item, _at(positions, (field, index)))
    reader.read(attributes.kind, values, positions)
    return reader.definitions


def merge_definitions(parts: Iterable[Definitions]) -> Definitions:
    """All that several components declare; what is in no file stands last."""
    parts = list(parts)
    written = [pair for part in parts for pair in zip(part.records, part.documents, strict=False)]
    unwritten = [record for part in parts for record in part.records[len(part.documents) :]]
    return Definitions(
        (*(record for record, _ in written), *unwritten),
        tuple(document for _, document in written),
        tuple(problem for part in parts for problem in part.problems),
        UnreadRecords(
            frozenset().union(*(part.unread.named for part in parts)),
            frozenset().union(*(part.unread.unnamed for part in parts)),
        ),
    )


def refuse_unkept(definitions: Definitions) -> Definitions:
    """The same without what needs a catalog, each with the problem that says so.

    A secret in the clear would be kept in the clear by a file, and a sealed one is in no vault.
    """
    records: list[Record] = []
    documents: list[Document] = []
    problems = list(definitions.problems)
    named = set(definitions.unread.named)
    for index, record in enumerate(definitions.records):
        wrong = list(_why_unkept(record))
        if wrong:
            problems += [Problem(item.message, definitions.locate_at(index, item.path), item.hint) for item in wrong]
            named.add((record.kind, record.name))
            continue
        records.append(record)
        documents += definitions.documents[index : index + 1]
    unread = UnreadRecords(frozenset(named), definitions.unread.unnamed)
    return Definitions(tuple(records), tuple(documents), tuple(problems), unread)


def _why_unkept(record: Record) -> Iterator[FieldProblem]:
    for field, secret in secrets_of(record).items():
        if isinstance(secret, LiteralSecret):
            yield FieldProblem(
                parse_path(field),
                "a secret cannot stand in the files of a project: there is no vault here to seal it",
                _WRITE_REFERENCE,
            )
        elif isinstance(secret, SealedSecret):
            yield FieldProblem(parse_path(field), "there is no vault here that holds a sealed secret", _WRITE_REFERENCE)
    if isinstance(record, Connection) and record.monitor is not None:
        yield FieldProblem(
            ("monitor",),
            "servers are watched by the code location of a catalog, which keeps what it finds, not by components",
            "take it out",
        )
    if isinstance(record, Alert):
        yield FieldProblem(
            (),
            "alerts are told by the code location of a catalog, not by components",
            "take it out, and let one of Dagster's own sensors tell of failed runs",
        )


class _Reader:
    """Gathers records and problems."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._documents: list[Document] = []
        self._problems: list[Problem] = []
        self._named: set[tuple[RecordKind | None, str]] = set()
        self._unnamed: set[RecordKind | None] = set()

    @property
    def definitions(self) -> Definitions:
        unread = UnreadRecords(frozenset(self._named), frozenset(self._unnamed))
        return Definitions(tuple(self._records), tuple(self._documents), tuple(self._problems), unread)

    def render(self, value: Any, context: dg.ResolutionContext, positions: SourcePositionTree | None) -> Any:
        """Plain values, with templates rendered.

        Text without a template stays what it is: Dagster's rendering would make a number of the text "5432".
        """
        if isinstance(value, Mapping):
            return {
                str(key): self.render(item, context.at_path(key), _at(positions, (key,))) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [
                self.render(item, context.at_path(index), _at(positions, (index,))) for index, item in enumerate(value)
            ]
        if not isinstance(value, str):
            return self._plain(value, context, positions)
        is_template = any(mark in value for mark in _ALIVE)
        return self._plain(context.resolve_value(value), context, positions) if is_template else value

    def _plain(self, value: Any, context: dg.ResolutionContext, positions: SourcePositionTree | None) -> Any:
        """What JSON has, too; YAML's tags and templates can give other values."""
        if isinstance(value, Mapping):
            return {str(key): self._plain(item, context, positions) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item, context, positions) for item in value]
        if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        path: FieldPath = tuple(context.path[1:])
        place = SourceLocation() if positions is None else _as_document(None, positions).locate()
        self._problems.append(
            Problem(
                "must be text, a number, true, false, null, a list, or keys with values",
                SourceLocation(place.file, place.line, format_path(path)),
            )
        )
        return None

    def read(self, kind: RecordKind, values: Any, positions: SourcePositionTree | None) -> None:
        if not isinstance(values, dict):
            self.refuse(positions, {}, kind, FieldProblem((), f"{with_article(kind)} must be keys with values"))
            return
        try:
            record = build_record(kind, values)
        except InvalidRecordError as exc:
            self.refuse(positions, values, kind, *exc.problems)
            return
        self._records.append(record)
        if positions is not None:
            self._documents.append(_as_document(values, positions))

    def refuse(
        self, positions: SourcePositionTree | None, values: dict[str, Any], kind: RecordKind, *problems: FieldProblem
    ) -> None:
        name = values.get("name")
        if isinstance(name, str):
            self._named.add((kind, name))
        else:
            self._unnamed.add(kind)
        for problem in problems:
            place = (
                locate_unwritten(kind, str(name or "?"), problem.path)
                if positions is None
                else _as_document(values, positions).locate(problem.path)
            )
            self._problems.append(Problem(problem.message, place, problem.hint))


def _at(positions: SourcePositionTree | None, path: Iterable[str | int]) -> SourcePositionTree | None:
    for part in path:
        if positions is None:
            return None
        # Where the key itself is missing, what encloses it is the nearest place.
        positions = positions.children.get(part, SourcePositionTree(positions.position, {}))
    return positions


def _as_document(values: Any, positions: SourcePositionTree) -> Document:
    lines: dict[FieldPath, int] = {}

    def note(tree: SourcePositionTree, path: FieldPath) -> None:
        lines[path] = tree.position.start.line
        for key, child in tree.children.items():
            note(child, (*path, key))

    note(positions, ())
    return Document(positions.position.filename, values, lines)


# --- the JSON schema ------------------------------------------------------------------------------------------------

_TEMPLATE = {"type": "string", "pattern": r"\{[{%]"}
_NULL = {"type": "null"}
_ANNOTATIONS = ("title", "description", "default")
_LITERAL_SECRET = {"writeOnly": True}
#: Takes what is no object: it is refused when the definitions are loaded, and a validator would print it.
_SECRET = {
    "if": {"type": "object"},
    "then": {
        "properties": {"env": {"type": "string"}, "file": {"type": "string"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    },
}


def attributes_schema(kind: RecordKind, parts: Parts) -> dict[str, Any]:
    """The JSON schema of a component's attributes, without references: it may stand anywhere in a larger one."""
    schema = _schema_of(kind)
    for field, part in parts.items():
        schema["properties"][field] = {
            "type": "array",
            "items": _schema_of(part),
            "description": f"Further records: each is a {part} of the project, as if it had a component of its own.",
        }
    return schema


def _schema_of(kind: RecordKind) -> dict[str, Any]:
    schema = RECORD_TYPES[kind].model_json_schema()
    known = schema.pop("$defs", {})
    rewritten: dict[str, Any] = _rewrite(schema, known)
    return rewritten


def _rewrite(schema: Any, known: Mapping[str, Any]) -> Any:
    """The schema with what it refers to in place, and with a template in place of any value.

    Records hold no record of their own type, so this ends.
    """
    if isinstance(schema, list):
        return [_rewrite(item, known) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, item in schema.items():
        if key == "$ref":
            name = item.rpartition("/")[2]
            result |= _LITERAL_SECRET if name == "LiteralSecret" else _rewrite(known[name], known)
        elif key == "properties":
            result[key] = {name: _or_template(_rewrite(value, known)) for name, value in item.items()}
        elif key in ("items", "additionalProperties") and isinstance(item, dict):
            result[key] = _or_template(_rewrite(item, known))
        elif key == "anyOf":
            flat = [_rewrite(alternative, known) for alternative in item]
            result[key] = [one for alternative in flat for one in _alternatives(alternative)]
        elif key in ("oneOf", "prefixItems"):
            result[key] = _rewrite(item, known)
        # It says by name what the alternatives say themselves.
        elif key != "discriminator":
            result[key] = item
    return result


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    alternatives: list[dict[str, Any]] = schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    return alternatives


def _or_template(schema: dict[str, Any]) -> dict[str, Any]:
    """A value or a template.

    Not as `anyOf`: of what fits no alternative, a validator can only say that, and prints all of it.
    """
    if "const" in schema or (schema.get("type") == "string" and not schema.keys() & {"enum", "pattern"}):
        return schema
    notes = {key: schema[key] for key in _ANNOTATIONS if key in schema}
    rest = {key: value for key, value in schema.items() if key not in notes}
    alternatives = rest.get("anyOf", [])
    if _LITERAL_SECRET in alternatives:
        return {**notes, **_SECRET}
    others = [item for item in alternatives if item != _NULL]
    if len(others) < len(alternatives):
        rest = others[0] if len(others) == 1 else {**rest, "anyOf": others}
        return {**notes, "if": {"anyOf": [_NULL, _TEMPLATE]}, "else": rest}
    return {**notes, "if": _TEMPLATE, "else": rest}
