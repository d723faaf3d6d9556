"""One act, as the audit trail keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``allowed``: done; ``denied``: the role or the owner forbids it; ``failed``: tried, and it did not work.
Outcome = Literal["allowed", "denied", "failed"]


@dataclass(frozen=True)
class AuditEvent:
    """What happened: names of things and of fields, never values. More people read the trail than may know a secret.

    Attributes:
        action: What was done, as ``noun.verb``: ``user.login``, ``mapping.update``, ``run.launch``, ``vault.seal``.
        actor: User name; for a login by a name that nobody has its beginning; ``system`` for what nobody asked for.
        actor_id: UUID of the user, where there is one.
        method: How they proved who they are: ``session``, ``token``, ``api_key``, ``local``, or ``none``.
        address: Where the request came from; empty for a command.
        target_kind: What it was done to, such as ``connection``, ``run`` or ``user``; with its name or id in `target`.
        fields: Names of changed fields.
        detail: A few more words for people, such as why it was denied.
    """

    action: str
    outcome: Outcome
    actor: str
    actor_id: str | None = None
    method: str = "none"
    address: str = ""
    target_kind: str | None = None
    target: str | None = None
    fields: tuple[str, ...] = ()
    request_id: str = ""
    run_id: str | None = None
    revision: int | None = None
    detail: str | None = None
