"""The audit trail, for admins. It is written by what happens, and by no route."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from synqx_dagster.api.access import Requires
from synqx_dagster.api.context import Context
from synqx_dagster.api.paging import Page, PagingOf
from synqx_dagster.api.people_models import AuditEntryOutput, AuditVerdictOutput
from synqx_dagster.api.problems import problems_of
from synqx_dagster.audit.event import Outcome
from synqx_dagster.audit.trail import AuditFilter, AuditTrail
from synqx_dagster.audit.verify import parse_end, verify_trail
from synqx_dagster.people.roles import Permission

router = APIRouter(prefix="/audit", tags=["audit"], dependencies=[Depends(Requires(Permission.AUDIT_READ))])

Text = Annotated[str | None, Query(max_length=512)]


@router.get("", responses=problems_of(401, 403, 422, 429, 501, 503), summary="List entries")
def list_entries(
    context: Context,
    paging: PagingOf,
    action: Annotated[str | None, Query(max_length=64, description="Such as user.login, or user.*")] = None,
    actor: Text = None,
    outcome: Outcome | None = None,
    target_kind: Text = None,
    target: Text = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[AuditEntryOutput]:
    """Entries by their number, the newest first."""
    wanted = AuditFilter(action, actor, outcome, target_kind, target, since, until)
    found, total = AuditTrail(context.catalog).page(
        wanted, skip=paging.skip, limit=paging.limit, descending=order == "desc"
    )
    items = [AuditEntryOutput.of(item) for item in found]
    return Page(items=items, total=total, skip=paging.skip, limit=paging.limit)


@router.get("/verify", responses=problems_of(401, 403, 422, 429, 501, 503), summary="Verify the trail")
def verify(
    context: Context,
    expect: Annotated[
        list[str] | None,
        Query(max_length=10, description="Ends that were noted: NUMBER:HASH, as this route gives them."),
    ] = None,
) -> AuditVerdictOutput:
    """Read the whole trail, and find the first entry that is not what was written."""
    verdict = verify_trail(context.catalog, [parse_end(text) for text in expect or ()])
    return AuditVerdictOutput(
        intact=verdict.broken is None,
        entries=verdict.entries,
        end=f"{verdict.entries}:{verdict.end_hash}",
        broken_at=verdict.broken and verdict.broken.number,
        reason=verdict.broken and verdict.broken.reason,
    )
