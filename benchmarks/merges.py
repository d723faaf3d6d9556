"""The case that merges changed rows: a tenth of a large table, by its key, round after round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.case import Bar, Bench, Case, Contestant, Outcome, say
from benchmarks.copies import postgresql_source
from benchmarks.lab import COLUMNS, Digest, Lab, compare
from benchmarks.peers import SlingRun, dlt_job
from benchmarks.servers import SOURCE, TARGET
from benchmarks.synqx import create_project, mapping, postgresql_connections

TABLE = "lineitem_merge"
_STRATEGIES = ("delete-insert", "upsert")
#: Every value differs, so that no tool reads rows of an earlier round again because they share the newest value.
_CHANGED_AT = "timestamp '2026-01-01' + interval '{day} days' + l_id * interval '1 microsecond'"


@contextmanager
def start_merge(lab: Lab) -> Iterator[Bench]:
    """All contestants hold the whole table; each round changes a tenth of the source and lets each follow."""
    server = lab.postgresql
    lab.need_lineitem()
    lab.make_once(TABLE, lambda: _make_source(lab))
    rows, size = lab.describe(TABLE)
    end = server.endpoint
    merged = {"mode": "merge", "key": ["l_id"], "cursor": {"column": "updated_at"}}
    records = [*postgresql_connections(end), mapping("merged", f"public.{TABLE}", f"synqx.{TABLE}", **merged)]
    project = create_project(lab.directory / "merge", records)
    expected: list[Digest] = [_digest(lab, SOURCE, TABLE)]

    def before_round(number: int) -> None:
        server.execute(
            SOURCE,
            f"update {TABLE} set l_quantity = l_quantity + 1, l_comment = left(l_comment, 30) || ' round {number}',"
            f" updated_at = {_CHANGED_AT.format(day=number + 1)} where l_id % 10 = {number % 10}",
        )
        lab.describe(TABLE)
        expected[0] = _digest(lab, SOURCE, TABLE)

    def checked(schema: str) -> Callable[[], None]:
        return lambda: compare(expected[0], _digest(lab, TARGET, f"{schema}.{TABLE}"))

    def settled(schema: str) -> Callable[[], None]:
        def settle() -> None:
            # As autovacuum would have done since the last load.
            server.execute(TARGET, f"vacuum (analyze) {schema}.{TABLE}", "checkpoint")

        return settle

    ways: list[tuple[Contestant, str]] = [
        (Contestant("synqx", "synqx", lambda: project.run("merged"), checked("synqx"), settled("synqx")), "synqx"),
        (_sling(lab, checked, settled), "sling"),
        *((_dlt(lab, strategy, rows, checked, settled), _dlt_schema(strategy)) for strategy in _STRATEGIES),
    ]
    lab.drop_schema(*(schema for _, schema in ways), *(f"{schema}_staging" for _, schema in ways))()
    contestants = []
    for contestant, schema in ways:
        contestants.append(_filled(lab, contestant, schema))
    yield Bench(rows, size, contestants, before_round, stateful=True)


def _filled(lab: Lab, contestant: Contestant, schema: str) -> Contestant:
    """The first load, which is not measured; all targets have an index on the key afterwards.

    One that fails stays among the contestants: the first round says why.
    """
    say(f"merge: first load by {contestant.name}")
    try:
        contestant.run()
        contestant.check()
        indexes = lab.postgresql.execute(
            TARGET,
            f"select 1 from pg_index where indrelid = '{schema}.{TABLE}'::regclass and indisunique and indnatts = 1",
        )
        if not indexes:
            lab.postgresql.execute(TARGET, f"create unique index on {schema}.{TABLE} (l_id)")
    # Whatever it was, the others are measured.
    except Exception as exc:  # noqa: BLE001
        say(f"merge: the first load by {contestant.name} failed: {exc}")
        failure = exc

        def fail() -> Outcome:
            raise failure

        return Contestant(contestant.name, contestant.family, fail, contestant.check)
    return contestant


def _make_source(lab: Lab) -> None:
    names = ", ".join(COLUMNS)
    lab.postgresql.execute(
        SOURCE,
        f"create table {TABLE} as select row_number() over () as l_id, {names} from lineitem",
        f"alter table {TABLE} add column updated_at timestamp",
        f"update {TABLE} set updated_at = {_CHANGED_AT.format(day=0)}",
        f"alter table {TABLE} alter updated_at set not null, add primary key (l_id)",
        f"create index on {TABLE} (updated_at)",
        f"vacuum full {TABLE}",
    )


def _digest(lab: Lab, database: str, relation: str) -> Digest:
    (row,) = lab.postgresql.execute(
        database, f"select count(*), count(distinct l_id), max(updated_at::timestamp) from {relation}"
    )
    return (*row, *lab.digest(database, relation))


Check = Callable[[str], Callable[[], None]]


def _sling(lab: Lab, checked: Check, settled: Check) -> Contestant:
    end = lab.postgresql.endpoint
    stream = {
        "object": f"sling.{TABLE}",
        "mode": "incremental",
        "primary_key": ["l_id"],
        "update_key": "updated_at",
    }
    sling = SlingRun(
        "merge",
        end.url("postgres", SOURCE, "sslmode=disable"),
        end.url("postgres", TARGET, "sslmode=disable"),
        {f"public.{TABLE}": stream},
    )

    def run() -> Outcome:
        usage = lab.peers.run_sling(sling, log=lab.log("merge sling"))
        return Outcome(usage.seconds, usage.seconds, usage.peak_memory_bytes)

    return Contestant("sling, incremental", "sling", run, checked("sling"), settled("sling"))


def _dlt_schema(strategy: str) -> str:
    return f"dlt_{strategy.replace('-', '_')}"


def _dlt(lab: Lab, strategy: str, rows: int, checked: Check, settled: Check) -> Contestant:
    schema, pipeline = _dlt_schema(strategy), f"merge_{strategy.replace('-', '_')}"
    more: dict[str, Any] = {"key": "l_id", "cursor": "updated_at", "merge_strategy": strategy}
    job = dlt_job(
        "connectorx", [TABLE], rows // 10, destination="postgres", dataset=schema,
        target=lab.postgresql.endpoint.url("postgresql", TARGET), **postgresql_source(lab), **more,
    )  # fmt: skip
    lab.peers.forget_dlt(pipeline)

    def run() -> Outcome:
        usage, seconds = lab.peers.run_dlt(pipeline, job, log=lab.log(f"merge dlt {strategy}"))
        return Outcome(seconds, usage.seconds, usage.peak_memory_bytes)

    return Contestant(f"dlt, {strategy}", "dlt", run, checked(schema), settled(schema))


MERGE = Case(
    "merge",
    "Merge of a changed tenth, by key",
    start_merge,
    (
        Bar("synqx", "at least 3 x faster than Sling", "sling", at_least=3),
        Bar("synqx", "at least 3 x faster than dlt", "dlt", at_least=3),
    ),
)
