"""Fixtures of every suite; one module for each kind of server."""

import os
import signal

import hypothesis
import pytest

# A shell without job control starts what goes to the background deaf to SIGINT, and a deaf process's children are born
# deaf. With a handler this process stays as deaf as it was asked to be, and the programs that it starts hear.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda number, frame: None)

# Parallel test processes are told the width of the terminal that they do not have.
for _variable in ("COLUMNS", "LINES"):
    os.environ.pop(_variable, None)

# An example's time says more of the machine than of the law: one that is busy for a moment must not fail it.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("unhurried")

SLOW_TIMEOUT_SECONDS = 7200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the slow tests longer than `timeout` in pyproject.toml."""
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_SECONDS))


pytest_plugins = [
    "synqx_dagster_tests.fix_postgresql",
    "synqx_dagster_tests.fix_mysql",
    "synqx_dagster_tests.fix_redis",
    "synqx_dagster_tests.fix_s3",
    "synqx_dagster_tests.fix_tls",
    "synqx_dagster_tests.fix_ssh",
    "synqx_dagster_tests.fix_catalog",
    "synqx_dagster_tests.fix_cli",
    "synqx_dagster_tests.fix_plugin",
    "synqx_dagster_tests.fix_shop",
    "synqx_dagster_tests.fix_receivers",
    "synqx_dagster_tests.fix_gateway",
    "synqx_dagster_tests.fix_people",
]
