"""A bench of small databases for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from synqx_dagster_tests.unit.pipelines.steps import NUMBERS, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, *NUMBERS)
