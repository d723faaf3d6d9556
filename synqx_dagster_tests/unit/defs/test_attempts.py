"""Which load an attempt belongs to."""

from collections.abc import Iterator

import dagster as dg
import pytest

from synqx_dagster.defs.attempts import LOAD_ID_METADATA, find_load_id

KEY = dg.AssetKey(["warehouse", "public", "orders"])
OTHER = dg.AssetKey(["warehouse", "public", "customers"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(
    instance: dg.DagsterInstance,
    *,
    parent: dg.DagsterRun | None = None,
    reports: dg.AssetKey | None = None,
    load_id: str | None = None,
) -> dg.DagsterRun:
    """A run that materialized `reports`, or crashed before it could."""

    @dg.op(name="load")
    def load(context: dg.OpExecutionContext) -> None:
        if reports is not None:
            metadata = {LOAD_ID_METADATA: load_id or context.run_id}
            context.log_event(dg.AssetMaterialization(reports, metadata=metadata))

    @dg.job(name="loads")
    def loads() -> None:
        load()

    tags = {"dagster/parent_run_id": parent.run_id} if parent else {}
    result = loads.execute_in_process(instance=instance, tags=tags)
    found = instance.get_run_by_id(result.run_id)
    assert found is not None
    return found


def test_a_run_without_a_parent_is_its_own_load(instance):
    only = run(instance)
    assert find_load_id(instance, only, KEY) == only.run_id


def test_a_retry_of_a_run_that_crashed_continues_its_load(instance):
    crashed = run(instance)
    retried = run(instance, parent=crashed)
    again = run(instance, parent=retried)
    assert find_load_id(instance, retried, KEY) == crashed.run_id
    assert find_load_id(instance, again, KEY) == crashed.run_id


def test_running_again_what_had_succeeded_is_a_new_load(instance):
    succeeded = run(instance, reports=KEY)
    again = run(instance, parent=succeeded)
    assert find_load_id(instance, again, KEY) == again.run_id


def test_what_another_asset_reported_does_not_count(instance):
    crashed = run(instance, reports=OTHER)
    retried = run(instance, parent=crashed)
    assert find_load_id(instance, retried, KEY) == crashed.run_id
    assert find_load_id(instance, retried, OTHER) == retried.run_id


def test_a_load_that_a_retry_reported_is_not_continued_a_second_time(instance):
    crashed = run(instance)
    run(instance, parent=crashed, reports=KEY, load_id=crashed.run_id)
    second = run(instance, parent=crashed)
    assert find_load_id(instance, second, KEY) == second.run_id


def test_a_parent_that_was_deleted_ends_the_chain(instance):
    crashed = run(instance)
    retried = run(instance, parent=crashed)
    instance.delete_run(crashed.run_id)
    assert find_load_id(instance, retried, KEY) == retried.run_id
