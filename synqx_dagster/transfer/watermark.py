"""The watermark: how far the loads of one target have read a source with a cursor.

It is kept in the destination's ledger, in the transaction that commits the rows it speaks of, and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from synqx_dagster.errors import FatalError

#: A value of a cursor column: its canonical text, or a number where the source stores one.
CursorValue = str | int | float


@dataclass(frozen=True)
class Watermark:
    """A place in a source's order.

    Attributes:
        column: The cursor column that the value belongs to.
        value: The newest value that was seen; None where no row has been.
        is_loaded: Rows that have exactly `value` were loaded; False where they were held back.
        lag_seconds: Rows this much older than `value`, and newer, were held back too (``append`` with a lag).
        transaction: PostgreSQL's transaction horizon: what transactions before it wrote has been read, and what
            the others write may not have been. None without ``late_commits: by_snapshot``.
    """

    column: str
    value: CursorValue | None
    is_loaded: bool = True
    lag_seconds: int = 0
    transaction: int | None = None

    def to_json(self) -> str:
        """The watermark as the ledger keeps it."""
        document: dict[str, Any] = {"column": self.column, "value": self.value}
        if not self.is_loaded:
            document["held_back"] = True
        if self.lag_seconds:
            document["lag_seconds"] = self.lag_seconds
        if self.transaction is not None:
            document["transaction"] = self.transaction
        return json.dumps(document, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Watermark:
        """Read what `to_json` wrote.

        Raises:
            FatalError: Somebody else wrote it.
        """
        try:
            document = json.loads(text)
            transaction = document.get("transaction")
            return cls(
                column=str(document["column"]),
                value=document["value"],
                is_loaded=not document.get("held_back", False),
                lag_seconds=int(document.get("lag_seconds", 0)),
                transaction=None if transaction is None else int(transaction),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise FatalError(
                "the ledger holds a watermark that cannot be read", hint="`synqx run NAME --full` takes a new one"
            ) from exc

    def __str__(self) -> str:
        return "" if self.value is None else str(self.value)
