"""Who acts now: set where a request or a command begins, read where something is written into the trail.

A context variable, because what is written lies layers below who asked for it; threads of a server's pool have the
context of their request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from synqx_dagster.audit.event import AuditEvent


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where; the fields are those of `AuditEvent`."""

    name: str
    user_id: str | None = None
    method: str = "none"
    address: str = ""
    request_id: str = ""

    def signs(self, event: AuditEvent) -> AuditEvent:
        """The event as this one's act."""
        return replace(
            event,
            actor=self.name,
            actor_id=self.user_id,
            method=self.method,
            address=self.address,
            request_id=self.request_id,
        )


#: What nobody asked for.
SYSTEM = Actor("system")

_current: ContextVar[Actor | None] = ContextVar("synqx_audit_actor", default=None)


def find_actor() -> Actor | None:
    """Who acts in this context, where somebody said so."""
    return _current.get()


def current_actor() -> Actor:
    """Who acts in this context; the system where nobody said so."""
    return _current.get() or SYSTEM


def set_actor(actor: Actor) -> None:
    """Say who acts from now on in this context."""
    _current.set(actor)


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Say who acts within the block."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)
