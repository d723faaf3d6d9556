"""The executor ``k8s``: each step a Kubernetes Job, configured by a file of the operator's and by nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml
from dagster._config import validate_config
from dagster_k8s import k8s_job_executor

from synqx_dagster.errors import ConfigurationError, InvalidInputError, Problem, SourceLocation

if TYPE_CHECKING:
    from synqx_dagster.settings import Settings


def build_k8s_executor(settings: Settings) -> dg.ExecutorDefinition:
    """dagster-k8s' executor with the configuration of the file that ``SYNQX_K8S_CONFIG`` names.

    A run cannot change it: whoever could name another image for a step would be handed the vault's key. What the file
    leaves out comes from the run launcher in ``dagster.yaml``.

    Raises:
        ConfigurationError: The file cannot be read, or does not fit dagster-k8s.
    """
    executor: dg.ExecutorDefinition = k8s_job_executor
    return executor.configured(read_k8s_config(settings), name="k8s")


def read_k8s_config(settings: Settings) -> dict[str, Any]:
    """The configuration of the executor; empty where no file is named.

    Raises:
        ConfigurationError: The file cannot be read, or is no mapping.
        InvalidInputError: It does not fit dagster-k8s' schema; lists each place.
    """
    path = settings.k8s_config
    if path is None:
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"SYNQX_K8S_CONFIG: {path} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"SYNQX_K8S_CONFIG: {path} is no YAML") from exc
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigurationError(
            f"SYNQX_K8S_CONFIG: {path} holds no mapping", hint="deploy/k8s/configmaps.yaml has one, as steps.yaml"
        )
    checked = validate_config(k8s_job_executor.config_schema.config_type, config)
    if not checked.success:
        raise InvalidInputError(
            [Problem(error.message, location=SourceLocation(file=str(path))) for error in checked.errors or ()]
        )
    return config
