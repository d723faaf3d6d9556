"""What the API asks of Dagster beyond reading: to start, end and repeat runs. The gateway implements it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from synqx_dagster.people.identity import Identity


@dataclass(frozen=True)
class LaunchRequest:
    """A run that somebody wants: of a job, or of some of the assets of all.

    Attributes:
        job_name: The name that Dagster knows the job by (`dagster_name` of a pipeline or schedule); None for a run of
            `asset_keys` alone.
        asset_keys: Assets to materialise, each as the parts of its key.
        partition_key: For what has partitions.
        tags: More tags of the run; who launched it is among them without being asked for.
    """

    job_name: str | None = None
    asset_keys: tuple[tuple[str, ...], ...] = ()
    partition_key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class RunControl(Protocol):
    """Starts and ends runs through Dagster's own code: its run queue, launchers and permissions."""

    def launch(self, request: LaunchRequest, identity: Identity) -> str:
        """Queue a run, and give its id. Returns at once.

        Raises:
            NotFoundError: Dagster's code location has no such job or asset (yet).
            RetryableError: The code server does not answer.
            ConfigurationError: Dagster refuses the run; says why.
        """
        ...

    def cancel(self, run_id: str, identity: Identity) -> None:
        """Ask a run to end.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: It has ended already.
        """
        ...

    def reexecute(self, run_id: str, identity: Identity, *, from_failure: bool) -> str:
        """Queue a run that does an ended one again, whole or from its failed steps on; gives the new run's id.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: It has not ended, or nothing of it failed.
        """
        ...
