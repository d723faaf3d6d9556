"""Fixtures of every suite; one module for each kind of server."""

pytest_plugins = [
    "synqx_dagster_tests.fix_postgresql",
    "synqx_dagster_tests.fix_mysql",
    "synqx_dagster_tests.fix_catalog",
    "synqx_dagster_tests.fix_cli",
]
