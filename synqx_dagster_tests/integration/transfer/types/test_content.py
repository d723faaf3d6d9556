"""Every type and value of every source, loaded into every target, is the same to a comparison of content."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synqx_dagster.transfer.content import verify_content
from synqx_dagster.transfer.content_plan import ContentRequest
from synqx_dagster.transfer.content_report import ContentReport
from synqx_dagster_tests.integration.transfer.loading import make_mapping
from synqx_dagster_tests.integration.transfer.types.cases import Case
from synqx_dagster_tests.integration.transfer.types.conftest import MakeDatabase
from synqx_dagster_tests.integration.transfer.types.databases import TABLE, Database, column_names, fill
from synqx_dagster_tests.integration.transfer.types.embedded_cases import DUCKDB_CASES, SQLITE_CASES
from synqx_dagster_tests.integration.transfer.types.mysql_cases import CASES as MYSQL_CASES
from synqx_dagster_tests.integration.transfer.types.postgresql_cases import CASES as POSTGRESQL_CASES
from synqx_dagster_tests.integration.transfer.types.routes import LANE_COLUMN, connected, load_cases

pytestmark = pytest.mark.mysql

CASES: dict[str, Sequence[Case]] = {
    "postgresql": POSTGRESQL_CASES,
    "mysql": MYSQL_CASES,
    "sqlite": SQLITE_CASES,
    "duckdb": DUCKDB_CASES,
}


@pytest.fixture(scope="module")
def sources(make_database: MakeDatabase) -> dict[str, Database]:
    return {}


@pytest.fixture(params=CASES)
def source(request: pytest.FixtureRequest, sources: dict[str, Database], make_database: MakeDatabase) -> Database:
    family: str = request.param
    if family not in sources:
        sources[family] = make_database(family)
        fill(sources[family], CASES[family])
        if family == "postgresql":
            sources[family].run(f"alter table {TABLE} add {LANE_COLUMN} inet")
    return sources[family]


def _verify(source: Database, target: Database, names: Sequence[str], on_bad_row: str) -> ContentReport:
    direct = [{"type": "direct", "source_columns": [name], "target_fields": [name]} for name in ("id", *names)]
    mapping = make_mapping(source_table=TABLE, target_table=TABLE, on_bad_row=on_bad_row, column_mappings=direct)
    with connected(source, target) as (reads, writes):
        return verify_content(ContentRequest(mapping, None, reads, writes, show_values=True))


@pytest.mark.parametrize("family", CASES)
def test_what_was_loaded_is_the_same(source: Database, family: str, make_database: MakeDatabase) -> None:
    target = make_database(family)
    stopped, quarantined = load_cases(source, target, column_names(CASES[source.family]), "passthrough")
    left = [name for name in column_names(CASES[source.family]) if name not in stopped]

    report = _verify(source, target, left, "quarantine")
    assert report.differences == ()
    assert report.passed

    # A source that digests by itself does not know what a load refused: that, and nothing else, is missing.
    report = _verify(source, target, left, "fail")
    found = {(one.kind, one.key[0]) for one in report.differences}
    assert found <= {("missing", str(row)) for row in quarantined}, [
        d for d in report.differences if d.kind != "missing"
    ]

    # The servers but SQLite digest by themselves what they all can spell.
    names = column_names(CASES[source.family])
    inexact = {name for name, case in zip(names, CASES[source.family], strict=True) if case.kind in ("real", "float")}
    report = _verify(source, target, [name for name in left if name not in inexact], "fail")
    found = {(one.kind, one.key[0]) for one in report.differences}
    assert found <= {("missing", str(row)) for row in quarantined}, [
        d for d in report.differences if d.kind != "missing"
    ]
    for side, database in ((report.source, source), (report.target, target)):
        assert side.computed_in == ("here" if database.family == "sqlite" else "database"), side.reason
