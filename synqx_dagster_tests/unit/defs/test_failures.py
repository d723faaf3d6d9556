"""How errors end a step."""

import dagster as dg
import pytest

from synqx_dagster.defs.failures import FIRST_WAIT_SECONDS, LAST_WAIT_SECONDS, translate_error
from synqx_dagster.errors import (
    BadRowsError,
    ConnectionFailedError,
    FencedError,
    InvalidInputError,
    Problem,
    SealedError,
    SynqxError,
)


def translate(error: SynqxError, *, retry_number: int = 0, max_retries: int = 3) -> dg.Failure | dg.RetryRequested:
    return translate_error(error, mapping_name="orders", retry_number=retry_number, max_retries=max_retries)


def test_a_passing_fault_is_retried_with_growing_waits_up_to_a_bound():
    waits = []
    for number in range(12):
        outcome = translate(ConnectionFailedError("refused"), retry_number=number, max_retries=12)
        assert isinstance(outcome, dg.RetryRequested)
        assert outcome.max_retries == 12
        waits.append(outcome.seconds_to_wait)
    assert waits[0] == FIRST_WAIT_SECONDS
    assert waits[1] == 2 * FIRST_WAIT_SECONDS
    assert waits == sorted(waits)
    assert waits[-1] == LAST_WAIT_SECONDS


@pytest.mark.parametrize("max_retries", [0, 2])
def test_the_last_attempt_fails_for_good(max_retries):
    outcome = translate(ConnectionFailedError("refused"), retry_number=max_retries, max_retries=max_retries)
    assert isinstance(outcome, dg.Failure)
    assert outcome.allow_retries is False


@pytest.mark.parametrize("error", [SealedError(), BadRowsError("3 rows"), FencedError()])
def test_what_a_retry_cannot_help_spends_none(error):
    outcome = translate(error)
    assert isinstance(outcome, dg.Failure)
    assert outcome.allow_retries is False


def test_a_failure_says_what_and_what_to_do():
    error = BadRowsError("3 of 10 rows are bad", hint="set on_bad_row: quarantine", rows=3, table="a.b", odd=object)
    outcome = translate(error)
    assert isinstance(outcome, dg.Failure)
    assert outcome.description == "3 of 10 rows are bad\nset on_bad_row: quarantine"
    values = {name: value.value for name, value in outcome.metadata.items()}
    assert values["synqx/rows"] == 3
    assert values["synqx/table"] == "a.b"
    assert values["synqx/hint"] == "set on_bad_row: quarantine"
    assert values["synqx/error"] == "BadRowsError"
    assert values["synqx/mapping"] == "orders"


def test_every_problem_of_the_input_is_told():
    outcome = translate(InvalidInputError([Problem("first"), Problem("second")]))
    assert isinstance(outcome, dg.Failure)
    assert "first" in str(outcome.description)
    assert "second" in str(outcome.description)
