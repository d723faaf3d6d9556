"""The README word for word: its YAML and its commands, on a database of the reader's own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb

from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Your own database") :]


def readme_yaml() -> str:
    (block, *_) = re.findall(r"^```yaml\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    return str(block)


def readme_commands() -> list[str]:
    """The calls of `synqx` in the order of the README, without the web UI, which does not end."""
    (block, *_) = re.findall(r"^```console\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*$", "", line.removeprefix("$ ")) for line in block.splitlines()]
    calls = [call for line in lines for call in line.split(" && ")]
    return [call for call in calls if call.startswith("synqx ") and call != "synqx dev"]


def test_the_ten_lines_work(postgresql: PostgresqlDatabase, tmp_path: Path) -> None:
    postgresql.execute("""
        create table customers (id integer primary key, full_name text, email text, country text, deleted_at date);
        insert into customers values
            (1, 'Ada Lovelace', 'ADA@example.org', 'GB', null), (2, 'Plato', null, 'GR', null),
            (3, 'Jürgen von der Lippe', 'J@Example.DE', 'DE', null), (4, 'Gone Away', 'x', 'US', '2024-01-01')
    """)
    # The reader's own connection stands here instead of localhost's.
    project, changes = re.subn(
        r"host: localhost\ndatabase: shop\nusername: etl\n",
        f"host: {postgresql.host}\nport: {postgresql.port}\n"
        f"database: {postgresql.name}\nusername: {postgresql.username}\n",
        readme_yaml(),
    )
    assert changes == 1
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "shop.yaml").write_text(project, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SYNQX_", "DAGSTER_"))}
    environment |= {"PYTHONPATH": str(ROOT), "SYNQX_MASTER_PASSWORD": "correct horse", "SHOP_PASSWORD": "unused"}
    commands = readme_commands()
    assert [shlex.split(command)[1] for command in commands] == [
        "init",
        "check",
        "apply",
        "apply",
        "connections",
        "plan",
        "run",
    ]
    for command in commands:
        result = subprocess.run(
            [sys.executable, "-m", "synqx_dagster.cli.main", *shlex.split(command)[1:]],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    with closing(duckdb.connect(str(tmp_path / "lake.duckdb"), read_only=True)) as lake:
        rows = lake.execute("select * from customers order by id").fetchall()
        names = [item[0] for item in lake.description or ()]
    assert names == ["id", "first_name", "last_name", "email"]
    assert rows == [
        (1, "Ada", "Lovelace", "ada@example.org"),
        (2, "Plato", None, None),
        (3, "Jürgen", "von der Lippe", "j@example.de"),
    ]
