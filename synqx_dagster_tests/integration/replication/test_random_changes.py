"""Random changes of random tables, rows and columns alike, against replicas: equal content after each catch-up."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.replication import operations
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.random_tables import RandomTable, make_table
from synqx_dagster_tests.integration.replication.replicating import Pair, open_pair

#: Chooses tables and changes; unset: others each time, which are printed.
SEED_VARIABLE = "SYNQX_TEST_SEED"


class World:
    """A source with a few tables, and two replicas: of it, and of what a slow reader's memory makes of it."""

    def __init__(self, source: PostgresqlDatabase, pairs: list[Pair], seed: int) -> None:
        self.source = source
        self.pairs = pairs
        self.rng = random.Random(seed)
        self.tables = [make_table(self.rng, number) for number in range(3)]
        self.statements: list[str] = []
        self.resyncs = 0
        for table in self.tables:
            source.execute(table.create())
            source.execute(table.insert(self.rng, self.rng.choice([0, 3, 200])))

    def change(self) -> None:
        """Some transactions."""
        with closing(self.source.connect()) as connection, connection.cursor() as cursor:
            for _ in range(self.rng.randint(1, 6)):
                statements = [self._statement() for _ in range(self.rng.randint(1, 5))]
                end = "rollback" if self._all_rows(statements) and self.rng.random() < 0.1 else "commit"
                self._run(cursor, ["begin", *statements, end])
            # The log tells of a table's columns with its next row, and not before.
            self._run(cursor, [table.insert(self.rng, 1) for table in self.tables])

    def _run(self, cursor: Any, statements: list[str]) -> None:
        for statement in statements:
            self.statements.append(statement)
            cursor.execute(statement)

    @staticmethod
    def _all_rows(statements: list[str]) -> bool:
        """Whether nothing but rows is changed, of which the tables here remember nothing."""
        return not any(statement.startswith(("alter", "drop")) for statement in statements)

    def _statement(self) -> str:
        table, rng = self.rng.choice(self.tables), self.rng
        draw = rng.random()
        if draw < 0.30:
            return table.insert(rng, rng.choice([1, 5, 100]))
        if draw < 0.60:
            return table.update(rng)
        if draw < 0.70:
            return table.delete(rng)
        if draw < 0.78:
            return table.move(rng)
        if draw < 0.86:
            return f"savepoint s; {table.update(rng)}; {table.delete(rng)}; rollback to savepoint s"
        if draw < 0.90:
            return f"truncate {table.quoted}"
        if draw < 0.985:
            return table.alter(rng)
        table.generation += 1
        return f"drop table {table.quoted}; {table.create()}"

    def check(self) -> None:
        """Let each replica catch up, have copied what had to stop, and compare."""
        for pair in self.pairs:
            pair.follow()
            stopped = [table for table in pair.status().tables if table.status == "stopped"]
            if stopped:
                self.resyncs += len(stopped)
                for table in stopped:
                    # Its columns may have come to others in ways that nobody can tell: the copy makes it anew.
                    pair.target.execute(f"drop table {pair.target_connector.qualify(table.target)}")
                names = [str(table.source) for table in stopped]
                operations.resync(pair.replication, pair.source_connector, pair.target_connector, names)
                pair.follow()
            for table in self.tables:
                self._compare(pair, table)

    def _compare(self, pair: Pair, table: RandomTable) -> None:
        # Columns that the source has dropped stay in the target, and have their own place there.
        names = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in (*table.key, *table.columns, "big"))
        query = f"select md5(r::text), r::text from (select {names} from {table.quoted}) r order by 1"
        expected, found = self.source.execute(query), pair.target.execute(query)
        if found != expected:
            missing = sorted(set(expected) - set(found))[:3]
            surplus = sorted(set(found) - set(expected))[:3]
            recent = "\n".join(statement[:300] for statement in self.statements[-60:])
            pytest.fail(f"{table.name}: not there {missing}, too much {surplus}; after\n{recent}")


@pytest.fixture
def world(postgresql: PostgresqlDatabase, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    seed = int(os.environ.get(SEED_VARIABLE, "") or random.SystemRandom().randrange(1 << 32))
    print(f"{SEED_VARIABLE}={seed}")
    with ExitStack() as stack:
        pairs = []
        for name, options in (("whole", {}), ("cut", {"batch_changes": 7})):
            target = postgresql.create_database()
            pair = stack.enter_context(
                open_pair(
                    postgresql,
                    target,
                    tmp_path / name,
                    name=name,
                    slot=f"{name}_{postgresql.name}",
                    publication=name,
                    evolution="widen",
                    **options,
                )
            )
            pair.options["memory_bytes"] = 64 * 1024 if name == "cut" else 32 * 1024**2
            pairs.append(pair)
        yield World(postgresql, pairs, seed)


def run(world: World, rounds: int) -> None:
    world.check()
    for _ in range(rounds):
        world.change()
        world.check()
    print(f"{rounds} rounds, {len(world.statements)} statements, {world.resyncs} tables copied again")


def test_replicas_follow_a_few_random_changes(world: World) -> None:
    run(world, 3)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(12))
def test_replicas_follow_many_random_changes(world: World, case: int) -> None:
    run(world, 12)
