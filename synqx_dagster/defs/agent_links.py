"""What agents of the hub say of the assets that they link to: owner, domain, and the way back to the agent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import dagster as dg

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.names import METADATA_PREFIX, dagster_owner, is_dagster_tag
from synqx_dagster.model import Agent, dagster_name

#: Where an agent is read, on the server that shows the assets.
AGENT_PATH = "/api/v1/agents/"

_MAX_TAG_CHARACTERS = 63


@dataclass(frozen=True)
class AgentMarks:
    """What an asset carries of its agents; nothing where no agent links to it."""

    owners: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


class AgentLinks:
    """The agents of a snapshot by what they link to."""

    def __init__(self, snapshot: CatalogSnapshot) -> None:
        self._by_mapping: dict[str, list[Agent]] = {}
        self._by_pipeline: dict[str, list[Agent]] = {}
        self._by_dataset: dict[str, list[Agent]] = {}
        for agent in snapshot.agents.values():
            for names, known in (
                (agent.mappings, self._by_mapping),
                (agent.pipelines, self._by_pipeline),
                (agent.assets, self._by_dataset),
            ):
                for name in names:
                    known.setdefault(name, []).append(agent)
        for pipeline in snapshot.pipelines.values():
            for name in pipeline.mapping_names if pipeline.name in self._by_pipeline else ():
                self._by_mapping.setdefault(name, []).extend(self._by_pipeline[pipeline.name])

    @property
    def dataset_names(self) -> Iterable[str]:
        """The datasets that agents link to."""
        return self._by_dataset

    def of_mapping(self, name: str) -> list[Agent]:
        """Agents that run a mapping, by itself or in a pipeline."""
        return self._by_mapping.get(name, [])

    def of_pipeline(self, name: str) -> list[Agent]:
        """Agents that run a pipeline."""
        return self._by_pipeline.get(name, [])

    def of_dataset(self, name: str) -> list[Agent]:
        """Agents that link to a dataset."""
        return self._by_dataset.get(name, [])


def marks_of(agents: Iterable[Agent]) -> AgentMarks:
    """What an asset carries of these agents, each counted once."""
    found = {agent.name: agent for agent in agents}
    if not found:
        return AgentMarks()
    owners = dict.fromkeys(dagster_owner(agent.owner) for agent in found.values() if agent.owner)
    domains = list(dict.fromkeys(agent.business_domain for agent in found.values() if agent.business_domain))
    metadata: dict[str, Any] = {}
    for number, name in enumerate(sorted(found), 1):
        # One entry for each link: the web UI makes a link of a whole value only.
        key = f"{METADATA_PREFIX}agent" + ("" if number == 1 else f"_{number}")
        metadata[key] = dg.MetadataValue.url(AGENT_PATH + quote(name, safe=""))
    if domains:
        metadata[f"{METADATA_PREFIX}domain"] = ", ".join(domains)
    tags = {f"{METADATA_PREFIX}agent": _tag(next(iter(sorted(found))))}
    if domains:
        tags[f"{METADATA_PREFIX}domain"] = _tag(domains[0])
    return AgentMarks(
        tuple(owners), {name: value for name, value in tags.items() if is_dagster_tag(name, value)}, metadata
    )


def _tag(text: str) -> str:
    """A text as the value of a tag, which has letters, digits and underscores alone; the metadata has it whole."""
    return dagster_name(text)[:_MAX_TAG_CHARACTERS]
