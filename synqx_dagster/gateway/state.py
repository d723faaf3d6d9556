"""What state the server is in, as far as anybody may know: not set up, sealed, or ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from synqx_dagster.errors import NotInitialisedError, SealedError, SynqxError

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

Status = Literal["ready", "sealed", "not_initialised", "unavailable"]

#: What anybody may know of why: the reason itself may tell of files of the server's.
SEALED = "The vault is sealed"
_UNTIL = "until it is unlocked, runs that need a password fail, and access tokens wait."


@dataclass(frozen=True)
class ServerState:
    """The state at one moment. ``reason`` is for people, and holds no secret and no address."""

    status: Status
    reason: str = ""

    @property
    def notice(self) -> str | None:
        """What anybody may know about it."""
        return f"{SEALED}: {_UNTIL}" if self.status == "sealed" else None

    @property
    def warning(self) -> str | None:
        """What those who are logged in should know about it."""
        return f"{self.reason}: {_UNTIL}" if self.status == "sealed" else None


def read_state(find_catalog: Callable[[], Catalog]) -> ServerState:
    """Look, and unseal the vault if the settings open it; what did not open it once is not tried again."""
    try:
        find_catalog().unseal()
    except NotInitialisedError:
        return ServerState("not_initialised", "there is no catalog or no vault yet")
    except SealedError as exc:
        # It may say why no credential opens it, and not that this is what is the matter.
        words = exc.message.removesuffix(".")
        return ServerState("sealed", words if "vault" in words else f"The vault is sealed ({words})")
    except SynqxError as exc:
        return ServerState("unavailable", type(exc).__name__)
    return ServerState("ready")
