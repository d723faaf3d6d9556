"""Replications that are killed, interrupted and started anew at random moments while the source is written to.

The oracle is the source itself: its rows, and a log of all changes that its own triggers keep.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from synqx_dagster.model import Replication
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.killing import RunRequest, following
from synqx_dagster_tests.integration.replication.replicating import make_replication

#: Chooses the moments and the changes; unset: others each time, which are printed.
SEED_VARIABLE = "SYNQX_TEST_SEED"

ROWS = 3_000

SOURCE = """
create table items (id bigint primary key, rev integer not null, body text not null);
create table notes (a integer, b text, body text, primary key (a, b));
create schema log;
create table log.changes (op text, id bigint, rev integer, body text);
create function log.note() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    insert into log.changes values ('delete', old.id, null, null);
  else
    insert into log.changes values (lower(tg_op), new.id, new.rev, new.body);
  end if;
  return null;
end $$;
create trigger noted after insert or update or delete on items for each row execute function log.note();
alter table items alter column body set storage external;
"""

#: Refusals that pass: the slot is still held for a process that was killed, or a newer run has taken over.
PASSING = {"RetryableError", "SlotInUseError", "FencedError", "ConnectionFailedError"}


class Writer(threading.Thread):
    """Writes at the source in transactions of all sizes until it is told to end."""

    def __init__(self, database: PostgresqlDatabase, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._rng = rng
        self._ended = threading.Event()
        self._next_id = 1
        self.failure: BaseException | None = None
        self.transactions = 0

    def run(self) -> None:
        try:
            with closing(self._database.connect()) as connection, connection.cursor() as cursor:
                while not self._ended.wait(self._rng.uniform(0, 0.05)):
                    self._write(cursor)
                    self.transactions += 1
        except BaseException as error:  # noqa: BLE001  # raised by the thread that waits
            self.failure = error

    def finish(self) -> None:
        self._ended.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def fill(self) -> None:
        with closing(self._database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(self._insert(ROWS))
            cursor.execute("insert into notes select n, 'b' || n, repeat('n', n % 50) from generate_series(1, 500) n")

    def _insert(self, rows: int) -> str:
        first, self._next_id = self._next_id, self._next_id + rows
        # Every seventh is too large for its row, and is not sent again while it stays the same.
        return (
            "insert into items select n, 1, repeat(md5(n::text), case when n % 7 = 0 then 200 else 1 end)"
            f" from generate_series({first}, {self._next_id - 1}) n"
        )

    def _write(self, cursor: object) -> None:
        rng = self._rng
        execute = cursor.execute  # type: ignore[attr-defined]
        execute("begin")
        for _ in range(rng.choice([1, 1, 2, 5])):
            verb = rng.choice(["insert", "update", "update", "body", "delete", "key", "undone", "notes", "truncate"])
            part = f"id % {rng.randint(20, 200)} = {rng.randint(0, 19)}"
            if verb == "insert":
                execute(self._insert(rng.choice([1, 10, 300])))
            elif verb == "update":
                execute(f"update items set rev = rev + 1 where {part}")
            elif verb == "body":
                execute(f"update items set rev = rev + 1, body = body || 'x' where {part}")
            elif verb == "delete":
                execute(f"delete from items where {part} and id % 3 = 0")
            elif verb == "key":
                execute(f"update items set id = -id, rev = rev + 1 where {part} and id > 0")
            elif verb == "undone":
                execute(f"savepoint s; update items set rev = -1 where {part}; rollback to savepoint s")
            elif verb == "notes":
                execute("update notes set body = body || 'y' where mod(a, 10) = %s", (rng.randint(0, 9),))
                execute(
                    "insert into notes values (%s, 'new', null) on conflict (a, b) do update set body = 'again'",
                    (rng.randint(1, 600),),
                )
            elif rng.random() < 0.1:
                execute("truncate notes")
        execute("rollback" if rng.random() < 0.1 else "commit")


@dataclass
class Case:
    """One replication, and what its target must hold."""

    replication: Replication
    target: PostgresqlDatabase
    typical_seconds: float = 2.0
    kills: int = 0

    def check(self, source: PostgresqlDatabase) -> None:
        """Every row is there once, and in mode history every change."""
        if self.replication.mode == "mirror":
            for table in ("items", "notes"):
                rows = f"select r::text from (select * from {table}) r order by 1"
                assert self.target.execute(rows) == source.execute(rows), table
            return
        logged = Counter(source.execute("select op, id, rev, md5(body) from log.changes"))
        found = Counter(
            self.target.execute(
                "select change_operation, id, rev, md5(body) from items where change_operation <> 'copy'"
            )
        )
        assert not found - logged, f"there twice, or never done: {list((found - logged).items())[:5]}"
        assert not logged - found, f"left out: {list((logged - found).items())[:5]}"


@dataclass
class Havoc:
    """Follows with one replication after the other, and kills them."""

    source: PostgresqlDatabase
    cases: list[Case]
    rng: random.Random
    spill: Path
    kills: int = 0
    interrupted: int = 0
    runs: int = 0
    refusals: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int) -> None:
        """Disturb runs until there were that many kills; then let each catch up."""
        writer = Writer(self.source, self.rng)
        writer.fill()
        for case in self.cases:
            if case.replication.mode == "history":
                # From the copy on every change is there once; what came before has no place in the log.
                self._catch_up(case)
        self.source.execute("truncate log.changes")
        checks = 0
        while self.kills < kills:
            writer_ = Writer(self.source, self.rng)
            writer_._next_id = writer._next_id
            writer = writer_
            writer.start()
            wanted = min(kills, self.kills + 10)
            while self.kills < wanted and writer.failure is None:
                self._disturb(self.rng.choice(self.cases))
            writer.finish()
            for case in self.cases:
                self._catch_up(case)
                case.check(self.source)
            checks += 1
        print(
            f"{self.kills} kills and {self.interrupted} interruptions in {self.runs} runs, content compared"
            f" {checks} times; refused: {dict(self.refusals)}"
        )

    def _request(self, case: Case) -> RunRequest:
        self.runs += 1
        source, target = self.source.config("origin"), case.target.config("warehouse")
        return RunRequest(case.replication, source, target, f"run-{self.runs}", self.spill)

    def _disturb(self, case: Case) -> None:
        moment = self.rng.uniform(0, case.typical_seconds)
        is_interrupted = self.rng.random() < 0.2
        with following(self._request(case)) as run:
            report = run.interrupt_after(moment) if is_interrupted else run.wait(kill_after_seconds=moment)
        if report is None:
            case.kills += 1
            self.kills += 1
        elif report.error is not None:
            assert report.error in PASSING, report
            self.refusals[report.error] += 1
            time.sleep(0.2)
        else:
            self.interrupted += report.ending == "interrupted"
            case.typical_seconds = max(1.0, min(report.seconds * 1.1, 6.0))

    def _catch_up(self, case: Case) -> None:
        deadline = time.monotonic() + 240
        while True:
            with following(self._request(case)) as run:
                report = run.wait()
            assert report is not None
            if report.error is None:
                assert report.ending == "idle", report
                return
            assert report.error in PASSING, report
            self.refusals[report.error] += 1
            assert time.monotonic() < deadline, report
            time.sleep(0.3)


@pytest.fixture
def havoc(postgresql: PostgresqlDatabase, tmp_path: Path) -> Iterator[Havoc]:
    seed = int(os.environ.get(SEED_VARIABLE, "") or random.SystemRandom().randrange(1 << 32))
    print(f"{SEED_VARIABLE}={seed}")
    postgresql.execute(SOURCE)
    cases = []
    for mode in ("mirror", "history"):
        tables = ["public.items"] if mode == "history" else ["public.*"]
        replication = make_replication(
            f"kill {mode}",
            tables=tables,
            mode=mode,
            slot=f"s_{mode}_{postgresql.name}",
            publication=f"p_{mode}",
            batch_changes=500,
            parallelism=2,
        )
        cases.append(Case(replication, postgresql.create_database()))
    yield Havoc(postgresql, cases, random.Random(seed), tmp_path / "spill")
    postgresql.server.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where database = %s and active",
        (postgresql.name,),
    )
    deadline = time.monotonic() + 30
    held = "select count(*) from pg_replication_slots where database = %s and active"
    while postgresql.server.execute(held, (postgresql.name,)) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.1)
    postgresql.server.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s and not active",
        (postgresql.name,),
    )


def test_a_few_kills_lose_and_double_nothing(havoc: Havoc) -> None:
    havoc.run(6)


@pytest.mark.slow
def test_many_kills_lose_and_double_nothing(havoc: Havoc) -> None:
    havoc.run(60)
    assert all(case.kills >= 10 for case in havoc.cases)
