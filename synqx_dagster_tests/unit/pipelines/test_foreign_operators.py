"""Operators that a package of its own brings by an entry point: found, checked and run as those of SynqX."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.errors import OperatorFailedError
from synqx_dagster.pipelines.operators import registry
from synqx_dagster_tests.unit.pipelines.graphs import check, node, pipeline
from synqx_dagster_tests.unit.pipelines.steps import LOAD, READ, Bench, run_chain, through

PACKAGE = "synqx_operators_of_somebody"

MODULE = """
from collections.abc import Iterator
from typing import ClassVar

from synqx_dagster.model.base import Value
from synqx_dagster.pipelines.operators import BatchOperator, OperatorProblem, SqlOperator


class ShoutConfig(Value):
    column: str
    times: int = 1


class Shout(SqlOperator):
    operator_type = "transform"
    operator_class = "shout"
    config_type = ShoutConfig
    keeps_rows = True

    def check(self, config, inputs):
        if config.times < 1:
            yield OperatorProblem(("times",), "a shout needs a time or more", "write 1")

    def columns(self, config, inputs):
        return inputs[0].columns

    def sql(self, config, inputs):
        loud = f"upper({config.column}) || repeat('!', {config.times})"
        return f"SELECT * REPLACE ({loud} AS {config.column}) FROM {inputs[0].sql_name}"


class Halve(BatchOperator):
    operator_type = "transform"
    operator_class = "halve"
    config_type = Value

    def output(self, config, inputs):
        return inputs[0].columns

    def run(self, config, batches, schema, memory_bytes):
        for batch in batches:
            if batch.num_rows == 13:
                raise ValueError(batch.to_pylist())
            yield batch.slice(0, batch.num_rows // 2)
"""

ENTRIES = f"""
[synqx_dagster.operators]
transform.shout = {PACKAGE}:Shout
transform.halve = {PACKAGE}:Halve
transform.whisper = {PACKAGE}:Shout
validate.gone = {PACKAGE}:Gone
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as pip lays it out, for this process."""
    target = tmp_path / "installed"
    info = target / f"{PACKAGE}-1.0.dist-info"
    info.mkdir(parents=True)
    (target / f"{PACKAGE}.py").write_text(MODULE)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(target))
    importlib.invalidate_caches()
    _forget()
    yield
    sys.modules.pop(PACKAGE, None)
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    registry._foreign_names.cache_clear()
    registry._load_foreign.cache_clear()


def problem_of(kind: str, **config: object) -> tuple[str, str, str | None]:
    made = pipeline([READ, node("x", kind, **config), LOAD], "numbers>x>loaded")
    (problem,) = check(made)[1]
    return ".".join(map(str, problem.path)), problem.message, problem.hint


@pytest.mark.usefixtures("package")
def test_they_run_beside_others(bench: Bench) -> None:
    chain = [node("s", "transform.shout", column="word", times=2), node("h", "transform.halve")]
    rows = run_chain(bench, *chain, select="n, word")
    assert (len(rows), rows[8]) == (500, (8, "W1!!"))
    assert (bench.reports["s"].operator, bench.reports["h"].operator) == ("transform.shout", "transform.halve")
    assert (bench.reports["h"].rows_in, bench.reports["h"].rows_out) == (1000, 500)


@pytest.mark.usefixtures("package")
def test_what_they_say_of_a_config_has_its_field() -> None:
    place, message, hint = problem_of("transform.shout", column="word", times=0)
    assert (place, message, hint) == ("nodes.1.config.times", "a shout needs a time or more", "write 1")
    assert problem_of("transform.shout", column="word", tims=1)[0] == "nodes.1.config.tims"
    assert problem_of("transform.shuot", column="word")[2] == "did you mean 'shout'?"


@pytest.mark.usefixtures("package")
def test_one_that_fails_is_named_without_what_it_says(bench: Bench) -> None:
    few = node("few", "transform.filter", condition="n < 13")
    with pytest.raises(OperatorFailedError) as caught:
        bench.run(through(few, node("h", "transform.halve")))
    assert caught.value.message == "node 'h': the operator raised ValueError"


@pytest.mark.usefixtures("package")
def test_an_entry_point_that_leads_nowhere_or_elsewhere_is_a_problem() -> None:
    assert "leads to the operator transform.shout" in problem_of("transform.whisper", column="word")[1]
    assert "cannot be loaded from synqx_operators_of_somebody:Gone" in problem_of("validate.gone")[1]


def test_without_the_package_its_operators_are_unknown() -> None:
    _forget()
    assert problem_of("transform.shout", column="word")[1] == "there is no transform operator 'shout'"
