"""`synqx demo`: the example project on a PostgreSQL of its own."""

from __future__ import annotations
