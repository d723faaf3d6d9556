"""The judgement over the bad rows of a load, once all of its rows are staged."""

from __future__ import annotations

from synqx_dagster.connectors.protocol import WriteSession
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model.mapping import KEYED_MODES
from synqx_dagster.model.table import TableName
from synqx_dagster.transfer.duplicates import refuse_duplicates, set_duplicates_aside
from synqx_dagster.transfer.move import Moved
from synqx_dagster.transfer.plan import LoadPlan
from synqx_dagster.transfer.quarantine import BadRowSpool
from synqx_dagster.transfer.result import LoadRequest


def set_bad_rows_aside(
    request: LoadRequest, plan: LoadPlan, staging: TableName, moved: Moved, write: WriteSession, spool: BadRowSpool
) -> None:
    """Find the rows that share a key, and judge whether the load may go on with so many bad rows.

    Raises:
        BadRowsError: It may not.
    """
    mapping = request.mapping
    quarantines = mapping.on_bad_row == "quarantine"
    if plan.mode in KEYED_MODES and not quarantines:
        refuse_duplicates(write, request.target, staging, plan.primary_key)
    if quarantines and plan.primary_key:
        set_duplicates_aside(
            write,
            request.target,
            staging,
            plan.columns,
            plan.primary_key,
            spool,
            present_in=plan.target if plan.mode == "append" and staging != plan.target else None,
        )
    if spool.rows and not quarantines:
        raise BadRowsError(
            f"{spool.rows:,} of {moved.rows_in:,} rows break the contract of {plan.target}: {spool.describe()}",
            hint="nothing was loaded; correct them at the source, or set on_bad_row: quarantine",
            rows=spool.rows,
            table=str(plan.target),
        )
    limit, bad_rows = mapping.max_bad_rows, spool.total_rows
    if limit is not None and not limit.allows(bad_rows, moved.rows_in):
        raise BadRowsError(
            f"{bad_rows:,} of {moved.rows_in:,} rows break the contract of {plan.target}, and max_bad_rows allows"
            f" {limit}: {spool.describe()}",
            hint="nothing was loaded, nor quarantined; correct them at the source, or raise max_bad_rows",
            rows=bad_rows,
            table=str(plan.target),
        )
