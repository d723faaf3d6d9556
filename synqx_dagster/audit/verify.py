"""Verification: the whole trail read once, against its own end and against what somebody noted elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from synqx_dagster.audit.chain import AuditEntry, Break, Verdict, verify_chain
from synqx_dagster.audit.trail import TrailEnd, entry_of, read_end
from synqx_dagster.catalog.people_tables import audit
from synqx_dagster.errors import ConfigurationError, IntegrityError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

_END = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
_PAGE_ROWS = 1000


def parse_end(text: str) -> TrailEnd:
    """An end as `TrailEnd` is written.

    Raises:
        ConfigurationError: It is none.
    """
    match = _END.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            "An end of the audit trail is a number, a colon and 64 hexadecimal digits",
            hint="`synqx audit verify` prints it",
        )
    return TrailEnd(int(match[1]), match[2])


def verify_trail(catalog: Catalog, expected: Sequence[TrailEnd] = ()) -> Verdict:
    """Read the whole trail, in pages of their own transaction each: appends go on meanwhile.

    Args:
        catalog: Whose trail.
        expected: Ends that were noted at any time; the trail must still have those entries.
    """
    with catalog.read() as connection:
        end = read_end(connection)
    reader = _Reader(catalog)
    ends = [(item.number, item.entry_hash) for item in (end, *expected)]
    verdict = verify_chain(reader.entries(), catalog_id=catalog.catalog_id, expected=ends)
    if reader.unreadable is not None:
        return Verdict(verdict.entries, verdict.end_hash, Break(reader.unreadable, "it was changed"))
    if verdict.broken is None:
        with catalog.read() as connection:
            end = read_end(connection)
        if verdict.entries > end.number:
            return replace(verdict, broken=Break(end.number + 1, "it stands behind the trail's own end"))
    return verdict


class _Reader:
    """Reads entries and keeps the number of one that is past reading."""

    def __init__(self, catalog: Catalog) -> None:
        self.unreadable: int | None = None
        self._catalog = catalog

    def entries(self) -> Iterator[AuditEntry]:
        after = -(2**62)
        while True:
            query = sa.select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(_PAGE_ROWS)
            with self._catalog.read() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                try:
                    yield entry_of(row)
                except IntegrityError:
                    self.unreadable = int(row.number)
                    return
            if len(rows) < _PAGE_ROWS:
                return
            after = int(rows[-1].number)
