"""Snapshots: the records of one revision as frozen values.

Guarantee: a snapshot holds no secret. A sealed secret is the number of its version, and a literal never gets here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import pydantic

from synqx_dagster import model
from synqx_dagster.errors import CatalogVersionError, NotFoundError
from synqx_dagster.model import (
    RECORD_KINDS,
    RECORD_TYPES,
    Agent,
    Alert,
    Connection,
    Dataset,
    EnvSecret,
    FileSecret,
    LiteralSecret,
    Pipeline,
    Record,
    RecordKind,
    Replication,
    Schedule,
    Schema,
    SealedSecret,
    Sensor,
    Value,
)

AnySecret = EnvSecret | FileSecret | SealedSecret | LiteralSecret

_RecordT = TypeVar("_RecordT", bound=Record)
_ValueT = TypeVar("_ValueT", bound=Value)


@dataclass(frozen=True)
class CatalogSnapshot:
    """The records of one revision by kind and name, in the order of their names.

    Attributes:
        revision: Number of the revision; 0 is the empty catalog.
    """

    revision: int
    connections: Mapping[str, Connection] = field(default_factory=dict)
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    assets: Mapping[str, Dataset] = field(default_factory=dict)
    mappings: Mapping[str, model.Mapping] = field(default_factory=dict)
    pipelines: Mapping[str, Pipeline] = field(default_factory=dict)
    replications: Mapping[str, Replication] = field(default_factory=dict)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    sensors: Mapping[str, Sensor] = field(default_factory=dict)
    alerts: Mapping[str, Alert] = field(default_factory=dict)
    agents: Mapping[str, Agent] = field(default_factory=dict)

    @classmethod
    def from_records(cls, revision: int, records: Iterable[Record]) -> CatalogSnapshot:
        """Sort records into a snapshot. Of two records of one kind and name the later one stays."""
        by_kind: dict[RecordKind, dict[str, Any]] = {kind: {} for kind in RECORD_KINDS}
        for record in records:
            by_kind[record.kind][record.name] = record
        ordered = {f"{kind}s": MappingProxyType(dict(sorted(by_name.items()))) for kind, by_name in by_kind.items()}
        return cls(revision, **ordered)

    def moved_to(
        self, revision: int, changed: Iterable[Record], ended: Iterable[tuple[RecordKind, str]]
    ) -> CatalogSnapshot:
        """The snapshot of a later revision; shares with this one the kinds of which nothing changed.

        Args:
            changed: Records as they are in the later revision.
            ended: Kinds and names of what it no longer has, or has changed.
        """
        moved: dict[RecordKind, dict[str, Record]] = {}
        for kind, name in ended:
            moved.setdefault(kind, dict(self.of_kind(kind))).pop(name, None)
        for record in changed:
            moved.setdefault(record.kind, dict(self.of_kind(record.kind)))[record.name] = record
        fields: dict[str, Any] = {f"{kind}s": self.of_kind(kind) for kind in RECORD_KINDS}
        fields |= {f"{kind}s": MappingProxyType(dict(sorted(by_name.items()))) for kind, by_name in moved.items()}
        return CatalogSnapshot(revision, **fields)

    def of_kind(self, kind: RecordKind) -> Mapping[str, Record]:
        """The records of one kind by name."""
        by_name: Mapping[str, Record] = getattr(self, f"{kind}s")
        return by_name

    def iter_records(self) -> Iterator[Record]:
        """Every record; what is referred to comes before what refers to it, then by name."""
        for kind in RECORD_KINDS:
            yield from self.of_kind(kind).values()

    def __len__(self) -> int:
        return sum(len(self.of_kind(kind)) for kind in RECORD_KINDS)

    def find(self, kind: RecordKind, name: str) -> Record | None:
        """The record of this kind and name, or None."""
        return self.of_kind(kind).get(name)

    def get_connection(self, name: str) -> Connection:
        """The connection of this name.

        Raises:
            NotFoundError: There is none; the hint gives the nearest name. The same holds for the other getters.
        """
        return self._get(self.connections, "connection", name)

    def get_schema(self, name: str) -> Schema:
        """The schema of this name."""
        return self._get(self.schemas, "schema", name)

    def get_asset(self, name: str) -> Dataset:
        """The dataset (``kind: asset``) of this name."""
        return self._get(self.assets, "asset", name)

    def get_mapping(self, name: str) -> model.Mapping:
        """The mapping of this name."""
        return self._get(self.mappings, "mapping", name)

    def get_pipeline(self, name: str) -> Pipeline:
        """The pipeline of this name."""
        return self._get(self.pipelines, "pipeline", name)

    def get_replication(self, name: str) -> Replication:
        """The replication of this name."""
        return self._get(self.replications, "replication", name)

    def get_schedule(self, name: str) -> Schedule:
        """The schedule of this name."""
        return self._get(self.schedules, "schedule", name)

    def get_sensor(self, name: str) -> Sensor:
        """The sensor of this name."""
        return self._get(self.sensors, "sensor", name)

    def get_alert(self, name: str) -> Alert:
        """The alert of this name."""
        return self._get(self.alerts, "alert", name)

    def get_agent(self, name: str) -> Agent:
        """The agent of this name."""
        return self._get(self.agents, "agent", name)

    def _get(self, records: Mapping[str, _RecordT], kind: str, name: str) -> _RecordT:
        record = records.get(name)
        if record is None:
            raise not_found(kind, name, records, revision=self.revision)
        return record

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return {
            "revision": self.revision,
            **{
                f"{kind}s": [record.model_dump(mode="json") for record in self.of_kind(kind).values()]
                for kind in RECORD_KINDS
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CatalogSnapshot:
        """Read what `to_dict` gave.

        Raises:
            CatalogVersionError: The values are not of this version.
        """
        try:
            records = [RECORD_TYPES[kind].model_validate(body) for kind in RECORD_KINDS for body in values[f"{kind}s"]]
            return cls.from_records(int(values["revision"]), records)
        except (KeyError, TypeError, pydantic.ValidationError) as exc:
            raise CatalogVersionError("This snapshot was written by another version of SynqX") from exc


def not_found(kind: str, name: str, names: Iterable[str], *, revision: int | None = None) -> NotFoundError:
    """The error that says that there is no record of a name, and which name is nearest."""
    near = nearest(name, names)
    return NotFoundError(
        f"There is no {kind} {name!r}",
        hint=f"did you mean {near!r}?" if near else None,
        kind=kind,
        revision=revision,
    )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like a mistyped one; None when none is like it."""
    by_folded = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def secrets_of(record: Record) -> dict[str, AnySecret]:
    """The secret fields of a record that are set, by their paths: ``password``, ``ssh_tunnel.password``."""
    return dict(_iter_secrets(record, ""))


def _iter_secrets(value: Value, prefix: str) -> Iterator[tuple[str, AnySecret]]:
    for name in type(value).model_fields:
        part = getattr(value, name)
        if isinstance(part, AnySecret):
            yield prefix + name, part
        elif isinstance(part, Value):
            yield from _iter_secrets(part, f"{prefix}{name}.")


def with_secrets(record: _RecordT, secrets: Mapping[str, AnySecret]) -> _RecordT:
    """The record with secrets in place of those that it has at these paths."""
    for path, secret in secrets.items():
        record = _with_secret(record, path.split("."), secret)
    return record


def _with_secret(value: _ValueT, path: list[str], secret: AnySecret) -> _ValueT:
    name, *rest = path
    part = _with_secret(getattr(value, name), rest, secret) if rest else secret
    return value.model_copy(update={name: part})


def plain_values(record: Record, secrets: Mapping[str, Any], *, exclude_defaults: bool = False) -> dict[str, Any]:
    """A record as JSON has it, with `secrets` at their paths in place of its own; others are left out."""
    hidden: dict[str, Any] = {}
    for path in secrets_of(record):
        *parents, name = path.split(".")
        inner = hidden
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = True
    values = record.model_dump(mode="json", exclude=hidden, exclude_defaults=exclude_defaults)
    for path, secret in secrets.items():
        *parents, name = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = secret
    return values


def is_same(before: Record, after: Record) -> bool:
    """Whether two records say the same. Not ``==``, for which 1 is True."""
    return (
        secrets_of(before) == secrets_of(after)
        and type(before) is type(after)
        and json.dumps(plain_values(before, {})) == json.dumps(plain_values(after, {}))
    )
