"""Runs over real Celery workers behind a real Redis: one is killed while it works, and every row arrives once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from synqx_dagster_tests.fix_cli import Outcome
from synqx_dagster_tests.fix_cli import Project as CliProject
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.fix_redis import RedisServer
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.defs.dev_server import wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"
CANARY = "kanarienvogel-5b1e"
ROWS = 5_000
LOADS = 5

CONNECTIONS = """
kind: connection
name: source
db_type: postgresql
host: 127.0.0.1
port: {port}
database: {source}
username: {username}
password: {password}
---
kind: connection
name: target
db_type: postgresql
host: 127.0.0.1
port: {port}
database: {target}
username: {username}
password: {password}
"""

MAPPING = """
---
kind: mapping
name: orders_{number}
source_connection: source
source_query: select id, {function}(body) as body from orders
target_connection: target
target_table: orders_{number}
mode: append
"""

#: Loads that append, so that one that ran twice shows; rows that two steps read and a third one stored; and a function
#: of the user's with a time limit, for which a worker's process has to start one of its own.
PIPELINE = """
---
kind: pipeline
name: spread
executor: celery
nodes:
{mappings}
  - {{node_id: read, operator_type: extract, operator_class: table, config: {{connection: source, table: orders}}}}
  - node_id: evens
    operator_type: transform
    operator_class: filter
    config: {{condition: "id % 2 = 0"}}
  - node_id: kept
    operator_type: transform
    operator_class: arrow
    config: {{function: "own_code:keep"}}
    timeout_seconds: 120
  - {{node_id: all, operator_type: load, operator_class: table, config: {{connection: target, table: all_orders}}}}
  - {{node_id: some, operator_type: load, operator_class: table, config: {{connection: target, table: some_orders}}}}
edges:
  - {{from_node_id: read, to_node_id: all}}
  - {{from_node_id: read, to_node_id: evens}}
  - {{from_node_id: evens, to_node_id: kept}}
  - {{from_node_id: kept, to_node_id: some}}
"""


@dataclass
class Field:
    """A project over a source and a target, its catalog and Dagster's storage on PostgreSQL, its workers on Redis."""

    project: CliProject
    source: PostgresqlDatabase
    target: PostgresqlDatabase
    storage: PostgresqlDatabase

    def apply(self, function: str) -> None:
        """Declare the loads as a new revision."""
        values = {"port": self.source.port, "username": self.source.username, "password": CANARY}
        text = CONNECTIONS.format(source=self.source.name, target=self.target.name, **values)
        text += "".join(MAPPING.format(number=number, function=function) for number in range(LOADS))
        nodes = (f"  - {{node_id: n{number}, config: {{mapping: orders_{number}}}}}" for number in range(LOADS))
        text += PIPELINE.format(mappings="\n".join(nodes))
        self.project.write("synqx.yaml", text)
        succeed(self.project.process("apply", "synqx.yaml", "--yes"))

    @contextmanager
    def worker(self, name: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker of one step at a time with a SYNQX_HOME of its own, as on another machine; ready for steps."""
        home = self.project.directory / name
        home.mkdir(exist_ok=True)
        log = self.project.directory / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "synqx_dagster.cli.main", "worker", "--concurrency", "1", "--name", name],
                cwd=home,
                env=self.project.process_environment({"SYNQX_HOME": str(home), **environ}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with reaped(process):
            try:

                def is_ready() -> bool:
                    assert process.poll() is None, log.read_text()
                    return "ready." in log.read_text()

                wait_for(is_ready, seconds=120, what=f"worker {name}")
                yield process
            finally:
                for child in children_of(process):
                    child.kill()

    @contextmanager
    def run(self) -> Iterator[subprocess.Popen[bytes]]:
        """The run of the pipeline, started with Dagster's own command."""
        with (self.project.directory / "run.log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dagster", "job", "execute", "-m", "synqx_dagster.definitions", "-j", "spread"],
                cwd=self.project.directory,
                env=self.project.process_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with reaped(process):
            yield process

    def run_log(self) -> str:
        return (self.project.directory / "run.log").read_text()

    def loaded(self) -> list[tuple[int, str]]:
        """Number of rows and digest of each target."""
        tables = [*(f"orders_{number}" for number in range(LOADS)), "all_orders", "some_orders"]
        return [digest(self.target, table) for table in tables]

    def expected(self, *functions: str) -> list[tuple[int, str]]:
        """What `loaded` gives after runs of these revisions: appends add up, the others are replaced."""
        union = " union all ".join(f"select id, {function}(body) as body from orders" for function in functions)
        appended = digest(self.source, f"({union}) as loaded")
        return [
            *(appended for _ in range(LOADS)),
            digest(self.source, "orders"),
            digest(self.source, "(select * from orders where id % 2 = 0) as loaded"),
        ]


def digest(database: PostgresqlDatabase, table: str) -> tuple[int, str]:
    ((count, text),) = database.execute(
        f"select count(*), md5(string_agg(id || body, '|' order by id, body collate \"C\")) from {table}"
    )
    return count, text


def succeed(outcome: Outcome) -> Outcome:
    assert outcome.exit_code == 0, outcome.output
    return outcome


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find_stopped(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in children_of(process) if child.status() == psutil.STATUS_STOPPED]


@pytest.fixture
def field(empty_project: CliProject, postgresql: PostgresqlDatabase, redis_server: RedisServer) -> Field:
    target, storage, catalog = (postgresql.create_database() for _ in range(3))
    postgresql.execute("create table orders (id integer primary key, body text not null)")
    postgresql.execute(f"insert into orders select i, 'Order ' || md5(i::text) from generate_series(1, {ROWS}) as i")
    for number in range(LOADS):
        target.execute(f"create table orders_{number} (id integer, body text)")
    home = empty_project.home
    home.mkdir()
    shutil.copy(DEPLOY / "dagster.yaml", home)
    key = empty_project.directory / "vault.key"
    empty_project.environment |= {
        "SYNQX_HOME": str(home),
        "DAGSTER_HOME": str(home),
        "SYNQX_KEY_FILE": str(key),
        "SYNQX_CATALOG_URL": f"postgresql://{postgresql.username}@127.0.0.1:{postgresql.port}/{catalog.name}",
        "SYNQX_CELERY_BROKER": redis_server.url,
        "SYNQX_EXCHANGE": str(empty_project.directory / "rows"),
        "SYNQX_CODE_DIRECTORY": str(empty_project.directory / "code"),
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(postgresql.port),
        "DAGSTER_PG_DATABASE": storage.name,
        "DAGSTER_PG_USERNAME": postgresql.username,
        "DAGSTER_PG_PASSWORD": "not-asked-for",
        "PYTHONWARNINGS": "ignore",
    }
    empty_project.write("code/own_code.py", "def keep(batch):\n    return batch\n")
    succeed(empty_project.process("init", "--key-file", str(key)))
    made = Field(empty_project, postgresql, target, storage)
    made.apply("upper")
    return made


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_run_costs_no_row_and_doubles_none(
    field: Field, redis_server: RedisServer
) -> None:
    with ExitStack() as stack:
        # The first worker hangs just before its first load commits.
        doomed = stack.enter_context(field.worker("doomed", SYNQX_FAILPOINTS="before_commit=stop"))
        stack.enter_context(field.worker("other"))
        with field.run() as run:
            wait_for(lambda: bool(find_stopped(doomed)), seconds=180, what="step that is about to commit")
            started = children_of(doomed)
            doomed.kill()
            doomed.wait()
            # Its processes go as well, as with a machine; the system ends the stopped one by itself.
            for child in started:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            assert run.wait(timeout=400) == 0, field.run_log()
        assert field.loaded() == field.expected("upper")
        events = "\n".join(row[0] for row in field.storage.execute("select event from event_logs"))
        assert events.count("is gone: this step is submitted again") == 1
        assert "doomed@" in events
        # The same worker meets another revision, and no secret has gone anywhere.
        field.apply("lower")
        with field.run() as run:
            assert run.wait(timeout=300) == 0, field.run_log()
        assert field.loaded() == field.expected("upper", "lower")
        stored = "\n".join(
            str(row)
            for table in ("event_logs", "runs", "snapshots", "run_tags", "kvs")
            for row in field.storage.execute(f"select t::text from {table} as t")
        )
        assert len(stored) > 10_000
        for secret in (redis_server.password, CANARY):
            assert secret not in stored
            assert secret not in redis_server.everything()
            for log in field.project.directory.glob("*.log"):
                assert secret not in log.read_text(), log


@pytest.mark.slow
def test_a_step_that_kills_its_process_fails_after_three_and_the_worker_lives_on(field: Field) -> None:
    with field.worker("one", SYNQX_FAILPOINTS="before_commit=kill") as worker:
        with field.run() as run:
            assert run.wait(timeout=500) != 0
        assert worker.poll() is None
    events = "\n".join(row[0] for row in field.storage.execute("select event from event_logs"))
    loads = LOADS + 2
    assert events.count("was killed while it executed this step: this step is submitted again") == 2 * loads
    assert events.count("it was the last of 3 attempts that ended so") >= loads
    for number in range(LOADS):
        assert field.target.execute(f"select count(*) from orders_{number}") == [(0,)]
    with field.worker("two"), field.run() as run:
        assert run.wait(timeout=300) == 0, field.run_log()
    assert field.loaded() == field.expected("upper")


@pytest.mark.slow
def test_a_run_without_a_broker_is_refused_before_it_starts(field: Field) -> None:
    del field.project.environment["SYNQX_CELERY_BROKER"]
    with field.run() as run:
        assert run.wait(timeout=120) != 0
    assert "SYNQX_CELERY_BROKER is not set" in field.run_log()
    assert field.storage.execute("select count(*) from runs") == [(0,)]


@pytest.mark.slow
def test_a_worker_says_all_that_it_misses(field: Field) -> None:
    environ = {
        "SYNQX_CELERY_BROKER": "redis://:hunter2@127.0.0.1:1/0",
        "SYNQX_KEY_FILE": str(field.project.directory / "another.key"),
        "DAGSTER_PG_PORT": "1",
        "SYNQX_EXCHANGE": "/dev/null/rows",
    }
    outcome = field.project.process("worker", "--check", extra=environ)
    assert outcome.exit_code == 2, outcome.output
    for name in ("broker", "catalog and vault", "Dagster's storage", "exchange"):
        assert f"{name}: " in outcome.stderr
    assert "hunter2" not in outcome.output
    assert "Traceback" not in outcome.output
    ready = succeed(field.project.process("worker", "--check", "--json"))
    assert {check["problem"] for check in ready.document["checks"]} == {None}
