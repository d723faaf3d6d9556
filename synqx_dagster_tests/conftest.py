"""Fixtures of every suite; one module for each kind of server."""

import os

# Parallel test processes are told the width of the terminal that they do not have.
for _variable in ("COLUMNS", "LINES"):
    os.environ.pop(_variable, None)

pytest_plugins = [
    "synqx_dagster_tests.fix_postgresql",
    "synqx_dagster_tests.fix_mysql",
    "synqx_dagster_tests.fix_catalog",
    "synqx_dagster_tests.fix_cli",
]
