"""From the body of a request to a record: references, secrets that stay, and problems at the fields of the request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from synqx_dagster.api.references import Incoming, read_references
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.catalog.validation import InvalidRecordError, build_record
from synqx_dagster.catalog.yaml_tree import Document, FieldPath, format_path
from synqx_dagster.errors import InvalidInputError, Problem, SourceLocation
from synqx_dagster.model import RECORD_TYPES, Record, RecordKind
from synqx_dagster.model.base import with_article

#: What answers have beside a record's own fields. A body that is an answer, changed and sent back, has them too.
FACTS = frozenset(
    {"id", "kind", "etag", "revision", "created_at", "created_by", "updated_at", "updated_by"}
    | {"last_tested_at", "last_test_status", "server_version"}
    | {"last_run_at", "last_run_id", "last_run_status", "next_run_at"}
    | {"last_tick_at", "last_tick_status", "last_tick_reason", "state", "version"}
)


@dataclass(frozen=True)
class BodyDocument(Document):
    """Places the problems of a record at the fields of the request that it was made of."""

    incoming: Incoming = field(default_factory=lambda: Incoming({}), repr=False)
    prefix: FieldPath | None = None

    @classmethod
    def of(cls, value: Any, incoming: Incoming | None = None, prefix: FieldPath | None = None) -> BodyDocument:
        """The document of a record; `prefix`: the one field of the request that stands for all of it."""
        return cls("", value, {}, incoming or Incoming({}), prefix)

    def locate(self, path: FieldPath = ()) -> SourceLocation:
        """The field of the request."""
        place = self.incoming.place_of(path) if self.prefix is None else self.prefix
        return SourceLocation(field=format_path(place) or None)


@dataclass(frozen=True)
class RecordBody:
    """The values of a request, ready to become a record."""

    values: dict[str, Any]
    document: BodyDocument

    def build(self, kind: RecordKind, values: Mapping[str, Any]) -> Record:
        """The record.

        Raises:
            InvalidInputError: The values make none; has every problem at its field.
        """
        try:
            return build_record(kind, values)
        except InvalidRecordError as error:
            problems = [Problem(item.message, self.document.locate(item.path), item.hint) for item in error.problems]
        # Outside of the handler: the error holds no values, and shall not point to what does.
        raise InvalidInputError(problems)


def read_body(catalog: Catalog, kind: RecordKind, values: Mapping[str, Any], renames: str | None = None) -> RecordBody:
    """The fields of a record that a request gives, with names in place of ids.

    Args:
        renames: The name that the record has, and keeps.

    Raises:
        InvalidInputError: An id leads nowhere, or the name is another one.
    """
    fields = RECORD_TYPES[kind].model_fields
    # The version of an agent is its own, and not what the catalog counts.
    own = {name: value for name, value in values.items() if name not in FACTS or name in fields}
    incoming = read_references(catalog, kind, own)
    if renames is not None and incoming.values.get("name") != renames:
        raise InvalidInputError(
            [
                Problem(
                    f"{with_article(kind)} cannot be renamed; this one is {renames!r}",
                    SourceLocation(field="name"),
                    "make one of the new name, and remove this one",
                )
            ]
        )
    return RecordBody(incoming.values, BodyDocument.of(values, incoming))


@contextmanager
def moved_problems(moved: Mapping[str, str]) -> Iterator[None]:
    """Place problems where the request has the fields that they are of.

    Args:
        moved: By the name of a field of the record, its place in the request.
    """
    try:
        yield
    except InvalidInputError as error:
        if not moved:
            raise
        problems = [replace(problem, location=_moved(problem.location, moved)) for problem in error.problems]
        raise InvalidInputError(problems, error.message) from None


def _moved(location: SourceLocation | None, moved: Mapping[str, str]) -> SourceLocation | None:
    if location is None or location.field is None:
        return location
    for name, place in moved.items():
        if re.match(rf"{re.escape(name)}(?![\w])", location.field):
            return replace(location, field=place + location.field.removeprefix(name))
    return location
