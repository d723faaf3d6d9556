"""What may be shown of a vault to anybody who may see the catalog."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from synqx_dagster.vault.keyslots import KeyslotKind
from synqx_dagster.vault.state import VaultState


@dataclass(frozen=True)
class KeyslotInfo:
    """What may be shown of a keyslot. ``created_at`` is aware, UTC."""

    id: str
    kind: KeyslotKind
    created_at: datetime


@dataclass(frozen=True)
class VaultStatus:
    """What may be shown of a vault.

    Attributes:
        initialised: There is a vault.
        sealed_by_operator: No process may unseal until somebody unlocks.
        unsealed: In this process.
        keyslots: In the order of their making.
        active_generation: Of the data encryption key; None before there is a vault.
        generations: Of the data keys that are kept, ascending.
        rotation_in_progress: `Vault.rotate` has to be called again to end a rotation.
        retry_after_seconds: How long the next password must wait; 0.0 when it need not.
    """

    initialised: bool
    sealed_by_operator: bool = False
    unsealed: bool = False
    keyslots: tuple[KeyslotInfo, ...] = ()
    active_generation: int | None = None
    generations: tuple[int, ...] = ()
    rotation_in_progress: bool = False
    retry_after_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        for slot in values["keyslots"]:
            slot["created_at"] = slot["created_at"].isoformat()
        return {**values, "keyslots": list(values["keyslots"]), "generations": list(self.generations)}

    @classmethod
    def of(cls, state: VaultState | None, *, unsealed: bool, now: datetime) -> VaultStatus:
        """The status of a state, or of no vault at all."""
        if state is None:
            return cls(initialised=False)
        return cls(
            initialised=True,
            sealed_by_operator=state.sealed_by_operator,
            unsealed=unsealed,
            keyslots=tuple(KeyslotInfo(slot.id, slot.kind, slot.created_at) for slot in state.keyslots),
            active_generation=state.active_generation,
            generations=tuple(key.generation for key in state.data_keys),
            rotation_in_progress=state.rotating,
            retry_after_seconds=state.retry_after_seconds(now),
        )
