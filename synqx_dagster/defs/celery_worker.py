"""What ``celery -A synqx_dagster.defs.celery_worker worker`` finds: the application of this environment.

`synqx worker` starts it, after it has checked what a worker needs.
"""

from __future__ import annotations

from synqx_dagster.defs.celery_app import make_worker_app
from synqx_dagster.settings import load_settings

app = make_worker_app(load_settings())
