"""The control plane: people, sessions and keys, the audit trail, agents and what is searched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# Written out, and not made from `tables.metadata`: a migration says what was, whatever the tables become later.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _people()
    _audit()
    _agents()


def _people() -> None:
    pass


def _audit() -> None:
    pass


def _agents() -> None:
    pass
