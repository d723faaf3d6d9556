"""Another try for quarantined rows: they are read from the source again, by their keys, and loaded like any others.

What was wrong may have been mended at the source or in the mapping; either counts. Guarantee: the rows leave the
quarantine in the transaction that loads them, and those that are still bad are back in it with today's reasons.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from synqx_dagster.connectors.protocol import Connector, WriteSession
from synqx_dagster.errors import DataError, PlanError, RequestError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.table import Column
from synqx_dagster.transfer.cursor_values import literal
from synqx_dagster.transfer.facts import SOURCE_ALIAS
from synqx_dagster.transfer.plan import LoadPlan
from synqx_dagster.transfer.quarantine import Quarantine

#: More bad rows than this are not mended one by one; and a condition of more keys is more than a server should parse.
MAX_KEYS = 20_000


def check_retry(mapping: Mapping) -> None:
    """Refuse what can be told from the mapping alone.

    Raises:
        RequestError: The mapping reads all rows each time anyway.
    """
    if mapping.mode == "replace":
        raise RequestError(
            f"mapping {mapping.name!r} replaces all rows, so every load tries all of them again",
            hint=f"`synqx run {mapping.name}`",
        )


def plan_retry(mapping: Mapping, plan: LoadPlan, source: Connector, target: Connector, write: WriteSession) -> str:
    """The condition that holds for the source's rows that lie in quarantine.

    Raises:
        RequestError: The mapping reads all rows each time anyway.
        PlanError: Its source has no key.
        DataError: Nothing lies in quarantine, or too much, or under another key than the source's.
    """
    check_retry(mapping)
    if not plan.key_columns:
        raise PlanError(
            f"mapping {mapping.name!r}: its source has no key, by which quarantined rows could be found again",
            hint="give the target a key whose fields are direct copies of source columns",
        )
    keys = Quarantine(target, write, plan.target).find_keys(limit=MAX_KEYS + 1)
    if not keys:
        raise DataError(f"{plan.target}: no row with a key lies in quarantine")
    if len(keys) > MAX_KEYS:
        raise DataError(
            f"{plan.target}: more than {MAX_KEYS:,} rows lie in quarantine, too many to be read one by one",
            hint="`synqx run NAME --full` reads everything, or load their part by --from and --to",
        )
    columns = {column.name: column for column in plan.source_columns}
    by_name = [columns[name] for name in plan.key_columns]
    values = [_read_key(text, plan) for text in keys]
    return _condition(by_name, values, source)


def _read_key(text: str, plan: LoadPlan) -> tuple[object, ...]:
    values = json.loads(text)
    if not isinstance(values, dict) or set(values) != set(plan.key_columns):
        raise DataError(
            f"{plan.target}: rows lie in quarantine under another key than ({', '.join(plan.key_columns)})",
            hint="`synqx run NAME --full` reads everything",
        )
    return tuple(values[name] for name in plan.key_columns)


def _condition(columns: Sequence[Column], keys: Sequence[tuple[object, ...]], source: Connector) -> str:
    names = [f"{SOURCE_ALIAS}.{source.quote(column.name)}" for column in columns]
    rows = [
        [
            literal(value if isinstance(value, (int, float)) else str(value), column, source.dialect)
            for value, column in zip(key, columns, strict=True)
        ]
        for key in keys
    ]
    if len(names) == 1:
        return f"{names[0]} IN ({', '.join(row[0] for row in rows)})"
    # A list of comparisons for each key would be nested as deeply as there are keys; row values are not.
    listed = ", ".join(f"({', '.join(row)})" for row in rows)
    return f"({', '.join(names)}) IN ({listed})"
