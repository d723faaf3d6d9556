"""Checks of a loaded table that run in the transaction that loads it, before readers see it."""

from __future__ import annotations

from collections.abc import Sequence

from synqx_dagster.connectors.protocol import Connector, RowChanges, WriteSession
from synqx_dagster.model.mapping import KEYED_MODES, LoadMode
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.result import CheckOutcome


def count_rows(session: WriteSession, connector: Connector, table: TableName, condition: str | None = None) -> int:
    """Rows of a table as the session sees them; only those that hold a condition, if there is one."""
    where = "" if condition is None else f" WHERE {condition}"
    return int(str(session.fetch_all(f"SELECT count(*) FROM {connector.qualify(table)}{where}")[0][0]))


def check_contract(rows_in: int, rows_quarantined: int, reasons: str) -> CheckOutcome:
    """Whether every row of the source kept the contract. Bad rows that were quarantined fail the check."""
    if rows_quarantined == 0:
        description = f"every row keeps the contract: {rows_in:,} of {rows_in:,}"
    else:
        description = f"{rows_quarantined:,} of {rows_in:,} rows were quarantined: {reasons}"
    return CheckOutcome(
        "contract",
        rows_quarantined == 0,
        description,
        {"rows_in": rows_in, "rows_quarantined": rows_quarantined},
    )


def check_row_count(
    *,
    source_rows: int | None,
    rows_in: int,
    rows_out: int,
    rows_quarantined: int,
    rows_before: int,
    rows_after: int,
    mode: LoadMode,
    changes: RowChanges,
) -> CheckOutcome:
    """Whether no row was lost or doubled on the way.

    Args:
        source_rows: The source's own count in the snapshot that was read; None where counting would run a query twice.
        rows_before: Rows of the target that the load keeps; in mode ``replace`` those of other partitions, if any.
        rows_after: The target's own count after the load.
        changes: What the target's database says that the publication did.
    """
    problems = []
    if source_rows is not None and source_rows != rows_in:
        problems.append(f"the source counts {source_rows:,} rows, {rows_in:,} were read")
    if rows_in != rows_out + rows_quarantined:
        problems.append(f"{rows_in:,} rows came in, {rows_out:,} + {rows_quarantined:,} went out")
    rows_expected = rows_before + rows_out
    if mode in KEYED_MODES:
        # A version that is closed stays a row.
        rows_expected = rows_before + changes.inserted - (changes.deleted if mode == "merge" else 0)
        written = changes.inserted + (changes.updated if mode == "merge" else 0)
        if written > rows_out:
            problems.append(f"{written:,} rows were written, of {rows_out:,} that were read")
    if rows_after != rows_expected:
        problems.append(f"the target counts {rows_after:,} rows, expected {rows_expected:,}")
    expected = f"{rows_out:,} loaded" + (f" + {rows_quarantined:,} quarantined" if rows_quarantined else "")
    return CheckOutcome(
        "row_count",
        not problems,
        "; ".join(problems) or f"{rows_in:,} read = {expected}; the target counts {rows_after:,}",
        {
            "rows_in": rows_in,
            "rows_out": rows_out,
            "rows_quarantined": rows_quarantined,
            "target_rows": rows_after,
            **({"source_rows": source_rows} if source_rows is not None else {}),
        },
    )


def check_keys(
    session: WriteSession,
    connector: Connector,
    table: TableName,
    key: Sequence[str],
    *,
    enforced: bool,
    is_current: str | None = None,
) -> tuple[CheckOutcome, CheckOutcome]:
    """Whether the key's columns are never NULL, and unique together.

    Args:
        enforced: The table's own primary key guarantees both; then nothing is read.
        is_current: The column of a table that keeps history; a key is then unique among the current versions.
    """
    names = ", ".join(key)
    if enforced:
        by_key = {"enforced_by": "primary key"}
        return (
            CheckOutcome("not_null_keys", True, f"{names}: not null by the table's primary key", dict(by_key)),
            CheckOutcome("unique_keys", True, f"{names}: unique by the table's primary key", dict(by_key)),
        )
    quoted = [connector.quote(name) for name in key]
    is_null = " OR ".join(f"{name} IS NULL" for name in quoted)
    columns = ", ".join(quoted)
    qualified = connector.qualify(table)
    current = "" if is_current is None else f" WHERE {connector.quote(is_current)} = TRUE"
    twice = "occur more than once" if is_current is None else "have more than one current version"
    nulls = int(str(session.fetch_all(f"SELECT count(*) FROM {qualified} WHERE {is_null}")[0][0]))
    repeated = f"SELECT 1 AS one FROM {qualified}{current} GROUP BY {columns} HAVING count(*) > 1"
    doubles = int(str(session.fetch_all(f"SELECT count(*) FROM ({repeated}) doubles")[0][0]))
    return (
        CheckOutcome(
            "not_null_keys",
            nulls == 0,
            f"{names}: NULL in {nulls:,} row{'' if nulls == 1 else 's'}",
            {"null_rows": nulls},
        ),
        CheckOutcome("unique_keys", doubles == 0, f"{names}: {doubles:,} keys {twice}", {"double_keys": doubles}),
    )
