"""Partitions as Dagster has them, and what a run of some of them replaces."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.defs.jobs import JobBuilder, JobPlan, partitions_of
from synqx_dagster.defs.names import table_pool
from synqx_dagster.defs.partitions import (
    all_partitions,
    cut_into_runs,
    due_tags,
    make_slice,
    partitions_definition,
    slice_tags,
)
from synqx_dagster.defs.translator import Translator
from synqx_dagster.errors import ConfigurationError, RequestError
from synqx_dagster.model.partitions import StaticPartitions, TimePartitions
from synqx_dagster_tests.unit.defs.fakes import mapping, snapshot_of

BERLIN = TimePartitions(type="daily", start=date(2024, 1, 1), timezone="Europe/Berlin")
LANDS = StaticPartitions(type="static", values=("de", "fr", "at"), partitions_per_run=2)


def test_a_day_of_a_time_zone_may_have_23_hours() -> None:
    day = make_slice(BERLIN, "2024-03-31", "2024-03-31")
    assert day.start is not None
    assert day.end is not None
    assert day.end.astimezone(UTC) - day.start.astimezone(UTC) == timedelta(hours=23)
    assert day.start.astimezone(UTC) == datetime(2024, 3, 30, 23, tzinfo=UTC)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["hourly", "daily", "monthly"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
    st.integers(0, 6_000),
    st.integers(0, 60),
)
def test_partitions_follow_each_other_without_a_gap(kind: str, zone: str, first: int, count: int) -> None:
    # Both changes of each zone's clocks are between.
    start, end = date(2021, 3, 1), date(2021, 12, 1)
    partitions = TimePartitions(type=kind, start=start, end=end, timezone=zone)  # type: ignore[arg-type]
    keys = partitions_definition(partitions).get_partition_keys()
    first = min(first, len(keys) - 1)
    chosen = keys[first : first + count + 1]
    single = [make_slice(partitions, key, key) for key in chosen]
    assert all(one.end == two.start for one, two in itertools.pairwise(single))
    together = make_slice(partitions, chosen[0], chosen[-1])
    assert (together.count, together.start, together.end) == (len(chosen), single[0].start, single[-1].end)


def test_keys_that_are_none_are_refused_with_those_that_are() -> None:
    with pytest.raises(RequestError, match="there is no partition '2023-12-31'") as caught:
        make_slice(BERLIN, "2023-12-31", "2024-01-02")
    assert "go from 2024-01-01 to" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="there is no partition 'x'"):
        make_slice(LANDS, "x", "fr")
    with pytest.raises(RequestError, match="'de' comes before 'fr'"):
        make_slice(LANDS, "fr", "de")


def test_a_backfill_is_cut_into_runs() -> None:
    assert cut_into_runs(BERLIN, make_slice(BERLIN, "2024-01-01", "2024-03-01"))[0].count == 61
    runs = cut_into_runs(LANDS, all_partitions(LANDS))
    assert [(part.first, part.last, part.values) for part in runs] == [
        ("de", "fr", ("de", "fr")),
        ("at", "at", ("at",)),
    ]


def test_partitions_that_have_not_begun_are_said_so() -> None:
    future = TimePartitions(type="daily", start=datetime.now(UTC).date() + timedelta(days=5))
    with pytest.raises(ConfigurationError, match="there is no partition yet"):
        all_partitions(future)
    assert due_tags(future, datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("moment", "key"),
    [
        ("2024-03-05T23:00:00+00:00", "2024-03-05"),
        ("2024-03-05T22:59:59+00:00", "2024-03-04"),
        ("2024-03-05T12:00:00+00:00", "2024-03-04"),
    ],
)
def test_a_tick_replaces_the_last_day_that_had_ended(moment: str, key: str) -> None:
    assert due_tags(BERLIN, datetime.fromisoformat(moment)) == {"dagster/partition": key}


def test_a_tick_replaces_all_static_partitions() -> None:
    assert due_tags(LANDS, datetime.now(UTC)) == {
        "dagster/asset_partition_range_start": "de",
        "dagster/asset_partition_range_end": "at",
    }
    assert due_tags(None, datetime.now(UTC)) == {}


def test_tags_name_one_partition_or_a_range() -> None:
    assert slice_tags(make_slice(LANDS, "fr", "fr")) == {"dagster/partition": "fr"}


def test_an_asset_has_the_partitions_of_its_mapping() -> None:
    record = mapping("orders", partitions=BERLIN, partition_column="day")
    spec = Translator(snapshot_of(record)).spec(record)
    assert isinstance(spec.partitions_def, dg.DailyPartitionsDefinition)
    assert spec.metadata["dagster/partition_expr"] == "day"
    assert table_pool(spec.key) == "table_warehouse__public__orders"


def test_what_runs_together_has_one_kind_of_partitions() -> None:
    one = mapping("a", partitions=BERLIN, partition_column="day")
    other = mapping("b", partitions=LANDS, partition_column="land")
    snapshot = snapshot_of(one, other, mapping("c"))
    assert partitions_of(JobPlan("job", ("a", "c")), snapshot) == BERLIN
    assert partitions_of(JobPlan("job", ("c",)), snapshot) is None
    with pytest.raises(ConfigurationError, match="job: mapping 'a' and mapping 'b' have different partitions"):
        partitions_of(JobPlan("job", ("a", "b")), snapshot)


def test_a_table_by_days_that_reads_one_by_lands_depends_on_all_of_them() -> None:
    lands = mapping("lands", partitions=LANDS, partition_column="land")
    days = mapping(
        "days", source_connection="warehouse", source_table="lands", partitions=BERLIN, partition_column="day"
    )
    hours = mapping(
        "hours",
        source_connection="warehouse",
        source_table="days",
        partitions=TimePartitions(type="hourly", start=date(2024, 1, 1)),
        partition_column="at",
    )
    builder = JobBuilder(Translator(snapshot_of(lands, days, hours)), lambda: None, None)  # type: ignore[arg-type, return-value]
    assets = [builder.asset(record) for record in (lands, days, hours)]
    dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources=builder.resources()))
