"""The Celery application that runs of the executor ``celery`` and their workers share.

Both read broker and backend from their own settings, so these URLs, which hold a password, are in no run config, no
event and no message. Guarantee: a message is executed once at most; a second delivery of it, or one that nobody waits
for any more, is dropped. Whether a step has to be submitted again is decided by its run alone (`celery_executor`).
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING, Any

import dagster as dg
from celery import Task, states
from celery.exceptions import Ignore
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value
from dagster_celery.make_app import make_app as make_dagster_app
from dagster_celery.tasks import create_task

from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings

logger = logging.getLogger(__name__)

#: dagster-celery's name of the queue in which steps wait.
QUEUE = "dagster"

#: What a dead worker held is delivered again after so long, and then dropped: see `StepTask`.
_VISIBILITY_SECONDS = 6 * 3600
#: Marks of what is done or given up must outlive every second delivery.
_RESULT_SECONDS = 7 * 86_400
_SOCKET_TIMEOUT_SECONDS = 30


def app_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for Celery's application.

    Raises:
        ConfigurationError: No broker is set.
    """
    if settings.celery_broker is None or settings.celery_backend is None:
        raise ConfigurationError(
            "the executor celery cannot be used: SYNQX_CELERY_BROKER is not set",
            hint="write the URL of a Redis: redis://:PASSWORD@HOST:6379/0",
        )
    broker, backend = settings.celery_broker.get_secret_value(), settings.celery_backend.get_secret_value()
    # Authorities are the system's, or those of SSL_CERT_FILE.
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return {
        "broker": broker,
        "backend": backend,
        "config_source": {
            **({"broker_use_ssl": tls} if broker.startswith("rediss:") else {}),
            **({"redis_backend_use_ssl": tls} if backend.startswith("rediss:") else {}),
            "task_default_queue": QUEUE,
            "task_default_priority": 5,
            # With both, a worker takes no message before a process is free for it; so a worker that dies takes nothing
            # along but the steps that it was executing.
            "task_acks_late": True,
            "worker_prefetch_multiplier": 1,
            # A step whose process was killed is the run's to submit again, which counts how often.
            "task_reject_on_worker_lost": False,
            # A step goes on when the broker is away for a while; its second delivery is dropped.
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            "broker_connection_retry_on_startup": True,
            "broker_transport_options": {
                "visibility_timeout": _VISIBILITY_SECONDS,
                "max_retries": 3,
                "interval_start": 0,
                "interval_step": 0.2,
                "interval_max": 0.5,
                "socket_connect_timeout": _SOCKET_TIMEOUT_SECONDS,
                "socket_keepalive": True,
            },
            "redis_socket_connect_timeout": _SOCKET_TIMEOUT_SECONDS,
            "redis_socket_timeout": _SOCKET_TIMEOUT_SECONDS,
            "redis_socket_keepalive": True,
            "result_expires": _RESULT_SECONDS,
            # Lines of JSON are for standard output as they are.
            "worker_redirect_stdouts": False,
        },
    }


def make_worker_app(settings: Settings) -> Any:
    """The application of a worker, with the one task that it has: execute a step.

    Raises:
        ConfigurationError: No broker is set.
    """
    app = make_dagster_app(app_options(settings))
    # Shared tasks, as they are by default, would be those of every application in this process.
    create_task(app, base=StepTask, shared=False)
    return app


class StepTask(Task):  # type: ignore[misc]  # Celery has no types
    """A step in a worker: executed if nobody did before, and if its run still waits for it."""

    #: Celery logs results; those of steps are their events, which Dagster has.
    resultrepr_maxsize = 64

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Execute the step.

        Raises:
            Ignore: It is not to be executed; nothing is said of its result.
        """
        request = self.request
        state = self.backend.get_state(request.id)
        if state != states.PENDING:
            logger.warning("a second delivery of the step %s is dropped: it is %s", request.id, state)
            raise Ignore
        if (status := _status_of_run(kwargs.get("execute_step_args_packed"))) is not None:
            logger.warning("the step %s is dropped: its run is %s", request.id, status)
            raise Ignore
        self.update_state(state=states.STARTED, meta={"hostname": request.hostname, "pid": os.getpid()})
        return self.run(*args, **kwargs)


def _status_of_run(packed: Any) -> str | None:
    """How the run of a step has ended; None while it goes on, and for what is not to be understood here."""
    arguments = unpack_value(packed, as_type=ExecuteStepArgs)
    if arguments.instance_ref is None:
        return None
    with dg.DagsterInstance.from_ref(arguments.instance_ref) as instance:
        run = instance.get_run_by_id(arguments.run_id)
    if run is None:
        return "gone"
    return run.status.value.lower() if run.is_finished else None
