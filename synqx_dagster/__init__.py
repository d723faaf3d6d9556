"""SynqX on Dagster.

Dagster finds components as attributes of the package. They are imported when somebody asks for one, so that importing
the package, as every part of it does, imports nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synqx_dagster.defs.components import (
        CatalogComponent,
        ConnectionComponent,
        DatasetComponent,
        MappingComponent,
        PipelineComponent,
        ReplicationComponent,
        ScheduleComponent,
        SchemaComponent,
        SensorComponent,
    )

__all__ = [
    "CatalogComponent",
    "ConnectionComponent",
    "DatasetComponent",
    "MappingComponent",
    "PipelineComponent",
    "ReplicationComponent",
    "ScheduleComponent",
    "SchemaComponent",
    "SensorComponent",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from synqx_dagster.defs import components

        return getattr(components, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
