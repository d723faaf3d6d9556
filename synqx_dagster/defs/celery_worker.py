"""What ``celery -A synqx_dagster.defs.celery_worker worker`` finds: the application of this environment.

`synqx worker` starts it, after it has checked what a worker needs.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

from celery.signals import worker_process_init

from synqx_dagster.defs.celery_app import make_worker_app
from synqx_dagster.settings import load_settings

app = make_worker_app(load_settings())


def allow_children(**_: Any) -> None:
    """Nodes with a time limit run in processes of their own, which Python refuses to daemons, as Celery's are."""
    multiprocessing.current_process().daemon = False


worker_process_init.connect(allow_children)
