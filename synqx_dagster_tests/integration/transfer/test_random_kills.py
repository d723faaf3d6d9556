"""Loads that are killed at random moments, again and again: no row is lost, none is doubled."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from synqx_dagster.model import Mapping
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.killing import AttemptRequest, attempt
from synqx_dagster_tests.integration.transfer.loading import make_mapping
from synqx_dagster_tests.integration.transfer.modes import Target, make_target

#: Chooses the moments and the changes at the source; unset: another one each time, which is printed.
SEED_VARIABLE = "SYNQX_TEST_SEED"

ROWS = 4_000
RANGE_ROWS = 1_000

#: How often one load may be killed at most before it is left alone.
KILLS_PER_LOAD = 3

#: Moments are drawn from this much of a load's usual time, so that some of them are those around its end.
SPAN = 1.05

#: How often one load may be refused for a reason that passes, such as a lock of a session whose process was killed.
RETRIES_PER_LOAD = 20

SOURCE = """
create table items (id bigint primary key, rev integer not null, body text not null, checksum text not null);
create table events (seq bigserial primary key, id bigint not null, rev integer not null, body text not null,
                     checksum text not null);
create function note() returns trigger language plpgsql as $$
begin
  insert into events (id, rev, body, checksum) values (new.id, new.rev, new.body, new.checksum);
  return null;
end $$;
create trigger noted after insert or update on items for each row execute function note();
create function signed(id bigint, rev integer) returns items language sql as $$
  select id, rev, body, md5(id || '|' || rev || '|' || body)
  from (select repeat(md5(id || ':' || rev), 1 + (id % 9)::integer) as body) as b
$$;
"""

Row = tuple[int, int, str, str]


class Source:
    """A table that changes, and the log of what it ever held."""

    def __init__(self, database: PostgresqlDatabase, rng: random.Random) -> None:
        self.database = database
        self._rng = rng
        self._next_id = 1
        database.execute(SOURCE)
        self._insert(ROWS)
        # The planner asks the statistics how many ranges a table is worth.
        database.execute("analyze")

    def change(self) -> None:
        """Delete, update and insert a few hundred rows each, some of them one after the other."""
        for verb in self._rng.sample(["delete", "update", "update", "insert"], 4):
            part = f"id % {self._rng.randint(10, 25)} = {self._rng.randint(0, 9)}"
            if verb == "delete":
                self.database.execute(f"delete from items where {part}")
            elif verb == "update":
                self.database.execute(
                    "update items set (rev, body, checksum) ="
                    f" (select s.rev, s.body, s.checksum from signed(id, items.rev + 1) as s) where {part}"
                )
            else:
                self._insert(self._rng.randint(1, ROWS // 10))

    def _insert(self, rows: int) -> None:
        first, self._next_id = self._next_id, self._next_id + rows
        self.database.execute(
            f"insert into items select s.* from generate_series({first}, {self._next_id - 1}) as i,"
            " lateral signed(i::bigint, 1) as s"
        )

    def items(self) -> list[Row]:
        return sorted(self.database.execute("select id, rev, body, checksum from items"))

    def events(self) -> list[Row]:
        return sorted(self.database.execute("select id, rev, body, checksum from events"))


@dataclass
class Case:
    """One mapping, and what its target must hold."""

    name: str
    mapping: Mapping
    target: Target
    typical_seconds: float = 2.0
    loads: list[str] = field(default_factory=list)
    kills: int = 0
    versions: dict[int, list[Row]] = field(default_factory=dict)
    current: set[int] = field(default_factory=set)

    @property
    def table(self) -> str:
        return self.mapping.target.name

    def note_load(self, load_id: str, source: Source) -> None:
        """A load has been committed."""
        self.loads.append(load_id)
        items = source.items()
        for row in items:
            known = self.versions.setdefault(row[0], [])
            if row[0] not in self.current or known[-1] != row:
                known.append(row)
        self.current = {row[0] for row in items}

    def check(self, source: Source) -> None:
        """Every row is there once and with its checksum, and nothing else is."""
        columns = "id, rev, body, checksum"
        found = [_row(values) for values in self.target.fetch(f"select {columns} from {self.table}")]
        for row in found:
            assert hashlib.md5(f"{row[0]}|{row[1]}|{row[2]}".encode()).hexdigest() == row[3], (self.name, row[0])
        if self.mapping.mode == "scd2":
            self._check_history(found)
        else:
            expected = source.events() if self.mapping.mode == "append" else source.items()
            assert sorted(found) == expected, self.name
        self._check_books()

    def _check_history(self, found: list[Row]) -> None:
        assert sorted(found) == sorted(row for versions in self.versions.values() for row in versions), self.name
        moments = self.target.fetch(
            f"select id, rev, {self.target.text('valid_from')}, {self.target.text('valid_to')}, is_current"
            f" from {self.table} order by id, valid_from"
        )
        current = [int(str(row[0])) for row in moments if row[4]]
        assert sorted(current) == sorted(self.current), self.name
        for before, after in itertools.pairwise(moments):
            if before[0] == after[0]:
                assert before[3] is not None, (self.name, before)
                assert str(before[3]) <= str(after[2]), (self.name, before, after)

    def _check_books(self) -> None:
        """The ledger has each load once, with all of its batches, and nothing of what was tried is left."""
        entries = self.target.fetch(
            f"select load_id, batch, epoch from _synqx_ledger where target_table = '{self.table}' order by epoch, batch"
        )
        published = [str(load_id) for load_id, batch, _ in entries if batch == 0]
        assert published == self.loads, self.name
        for load_id in self.loads:
            batches = sorted(int(str(batch)) for name, batch, _ in entries if name == load_id)
            assert batches == list(range(len(batches))), (self.name, load_id)
        tables = {name for name in self.target.tables() if name != "_synqx_ranges"}
        assert not {name for name in tables if name.startswith("_synqx")}, (self.name, tables)
        if "_synqx_ranges" in self.target.tables():
            assert [tuple(row) for row in self.target.fetch("select count(*) from _synqx_ranges")] == [(0,)], self.name


def _row(values: tuple[object, ...]) -> Row:
    number, rev, body, checksum = values
    return int(str(number)), int(str(rev)), str(body), str(checksum)


@dataclass
class Havoc:
    """Loads one case after the other, and kills them."""

    source: Source
    cases: list[Case]
    rng: random.Random
    kills: int = 0
    loads: int = 0
    rounds: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    already_committed: int = 0

    def run(self, kills: int) -> None:
        """Load until there were that many kills, and the load of the last one is committed."""
        while self.kills < kills:
            if self.rounds:
                self.source.change()
            self.rounds += 1
            for case in self.rng.sample(self.cases, len(self.cases)):
                if self.kills < kills:
                    # The source stays as it is until the load is committed, so that what to expect is known.
                    self._load(case)
                    case.check(self.source)

    def _load(self, case: Case) -> None:
        self.loads += 1
        load_id = f"load-{self.loads}"
        kills_left, retries_left = self.rng.randint(1, KILLS_PER_LOAD), RETRIES_PER_LOAD
        for number in range(KILLS_PER_LOAD + RETRIES_PER_LOAD + 1):
            request = AttemptRequest(
                self.source.database.config("source"), case.target.config, case.mapping, load_id, f"{load_id}.{number}"
            )
            moment = self.rng.uniform(0, SPAN * case.typical_seconds) if kills_left else None
            with attempt(request) as under_way:
                report = under_way.wait(kill_after_seconds=moment)
            if report is None:
                kills_left -= 1
                case.kills += 1
                self.kills += 1
            elif report.error is not None:
                assert report.error in ("RetryableError", "FencedError", "ConnectionFailedError"), report
                self.refusals[f"{report.error}: {report.message}"] += 1
                retries_left -= 1
                assert retries_left, report
            else:
                self.already_committed += report.already_committed
                if not report.already_committed:
                    case.typical_seconds = report.seconds
                case.note_load(load_id, self.source)
                return
        raise AssertionError(f"{case.name}: {load_id} was never committed")


def make_cases(target: Target, name: str, **fields: object) -> Iterator[Case]:
    """A case for each mode."""
    for mode in ("replace", "append", "merge", "scd2"):
        asked: dict[str, object] = {"target_table": f"{name}_{mode}", "mode": mode, **fields}
        if mode == "append":
            # The log, of which each load brings what is new.
            asked |= {"source_table": "events", "cursor": {"column": "seq", "late_commits": "by_snapshot"}}
        else:
            asked["source_table"] = "items"
        if mode in ("merge", "scd2"):
            asked |= {"key": ["id"], "delete_missing": True}
        yield Case(f"{name} {mode}", make_mapping(name=f"{name}_{mode}", **asked), target)


@pytest.fixture
def havoc(postgresql: PostgresqlDatabase, request: pytest.FixtureRequest, tmp_path: Path) -> Havoc:
    seed = int(os.environ.get(SEED_VARIABLE, "") or random.SystemRandom().randrange(1 << 32))
    print(f"{SEED_VARIABLE}={seed}")
    rng = random.Random(seed)
    target = make_target("postgresql", request, tmp_path)
    duckdb = make_target("duckdb", request, tmp_path)
    mysql = make_target("mysql", request, tmp_path)
    cases = [
        *make_cases(target, "copied"),
        *make_cases(target, "ranged", parallelism=2, range_rows=RANGE_ROWS),
        *make_cases(duckdb, "duckdb"),
        *make_cases(duckdb, "duckdb_ranged", range_rows=RANGE_ROWS),
        *make_cases(mysql, "mysql"),
        *make_cases(mysql, "mysql_ranged", parallelism=2, range_rows=RANGE_ROWS),
    ]
    return Havoc(Source(postgresql, rng), cases, rng)


def run_and_report(havoc: Havoc, kills: int) -> None:
    start = time.monotonic()
    havoc.run(kills)
    print(
        f"{havoc.kills} kills in {havoc.loads} loads of {havoc.rounds} states of the source,"
        f" {time.monotonic() - start:.0f} s; {havoc.already_committed} had committed before they were killed"
    )
    for case in havoc.cases:
        print(f"  {case.name}: {len(case.loads)} loads, {case.kills} kills, {case.typical_seconds:.2f} s each")
    for refusal, times in havoc.refusals.items():
        print(f"  refused {times} times: {refusal}")


@pytest.mark.mysql
def test_a_few_kills_at_random_moments(havoc: Havoc) -> None:
    run_and_report(havoc, 5)


@pytest.mark.slow
@pytest.mark.mysql
def test_many_kills_at_random_moments(havoc: Havoc) -> None:
    run_and_report(havoc, 80)
    assert all(case.loads for case in havoc.cases)
    assert havoc.kills >= 50
