"""What ``celery -A synqx_dagster.defs.celery_worker worker`` finds: the application of this environment.

`synqx worker` starts it, after it has checked what a worker needs.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]  # not in typeshed
from typing import Any

from celery.signals import setup_logging, worker_process_init

from synqx_dagster.defs.celery_app import make_worker_app
from synqx_dagster.defs.json_logs import follow_settings
from synqx_dagster.settings import load_settings

_FORMAT = "[%(asctime)s %(levelname)s %(processName)s] %(message)s"

_settings = load_settings()
app = make_worker_app(_settings)


def log_as_settings_say(loglevel: int | str = logging.INFO, **_: Any) -> None:
    """Log what the worker does; what a step does, Dagster logs by itself, and twice would be once too often."""
    follow_settings(_settings)
    logger = logging.getLogger("celery")
    logger.setLevel(loglevel)
    if _settings.log_format != "json":
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
        logger.propagate = False


def allow_children(**_: Any) -> None:
    """Let a step start processes: nodes with a time limit run in some of their own.

    Celery's processes are daemons, to which Python refuses children, and their key's class lets nobody hand it on.
    """
    process: Any = multiprocessing.current_process()
    process.daemon = False
    process._config["authkey"] = AuthenticationString(process.authkey)


setup_logging.connect(log_as_settings_say)
worker_process_init.connect(allow_children)
