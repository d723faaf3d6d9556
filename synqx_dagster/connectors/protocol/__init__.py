"""What a connector is: the seam between one kind of database and the rest of SynqX.

A connector knows its database's mechanics and nothing of mappings, ledgers or Dagster. It opens *read sessions*
(one consistent, read-only view each) and *write sessions* (one connection on which the transfer engine runs its
transactions).

| module | what |
|---|---|
| `carriers` | how values travel between two databases |
| `config` | a connection with its secrets, and what an engine can do |
| `reports` | what a connector says of a server and its tables |
| `reading`, `writing` | the two kinds of sessions |
| `privileges` | what a session's user may do |
| `connector` | what opens them |
| `watching` | what a connector can tell a sensor without reading rows |
| `monitoring` | what is needed to watch a server |
| `replication` | what is needed to follow a source's changes |
| `changing` | write sessions that bring changes of single rows into a table |
| `threads` | how a thread that uses a session is waited for |
"""

from __future__ import annotations

from synqx_dagster.connectors.protocol.carriers import (
    CARRIER_TYPES,
    ENDLESS_DAYS,
    carrier_type,
    direct_type,
    untrusted_text,
)
from synqx_dagster.connectors.protocol.changing import (
    DELETED_PART,
    OLD_KEY_PREFIX,
    PART_COLUMN,
    UPDATED_PART,
    WHOLE_PART,
    ChangedTable,
    ChangingWriteSession,
    LinesWriteSession,
    StagedParts,
)
from synqx_dagster.connectors.protocol.config import (
    Capabilities,
    ConnectionConfig,
    SshTunnelConfig,
    TlsConfig,
)
from synqx_dagster.connectors.protocol.connector import (
    Connector,
    LockingConnector,
    SnapshotConnector,
)
from synqx_dagster.connectors.protocol.monitoring import MonitorConnector, MonitorSession
from synqx_dagster.connectors.protocol.privileges import (
    MissingPrivilege,
    PrivilegedSession,
    TableNeed,
)
from synqx_dagster.connectors.protocol.reading import (
    CopyReadSession,
    DirectReadSession,
    Encoded,
    ReadLimits,
    ReadSession,
    SnapshotReadSession,
)
from synqx_dagster.connectors.protocol.replication import (
    CreatedSlot,
    NativeType,
    ReplicationConnector,
    ReplicationSession,
)
from synqx_dagster.connectors.protocol.reports import (
    ConnectionReport,
    TableDescription,
)
from synqx_dagster.connectors.protocol.threads import wait_for
from synqx_dagster.connectors.protocol.watching import ChangeCounter, FileListing, SourceFile
from synqx_dagster.connectors.protocol.writing import (
    DELETED_FLAG,
    CopyWriteSession,
    HistorySpec,
    InPlaceWriteSession,
    MergeSpec,
    PartitionWriteSession,
    PublishedWriteSession,
    RoomKeepingWriteSession,
    RowChanges,
    SharedWriteSession,
    WriteSession,
)

__all__ = [
    "CARRIER_TYPES",
    "DELETED_FLAG",
    "DELETED_PART",
    "ENDLESS_DAYS",
    "OLD_KEY_PREFIX",
    "PART_COLUMN",
    "UPDATED_PART",
    "WHOLE_PART",
    "Capabilities",
    "ChangeCounter",
    "ChangedTable",
    "ChangingWriteSession",
    "ConnectionConfig",
    "ConnectionReport",
    "Connector",
    "CopyReadSession",
    "CopyWriteSession",
    "CreatedSlot",
    "DirectReadSession",
    "Encoded",
    "FileListing",
    "HistorySpec",
    "InPlaceWriteSession",
    "LinesWriteSession",
    "LockingConnector",
    "MergeSpec",
    "MissingPrivilege",
    "MonitorConnector",
    "MonitorSession",
    "NativeType",
    "PartitionWriteSession",
    "PrivilegedSession",
    "PublishedWriteSession",
    "ReadLimits",
    "ReadSession",
    "ReplicationConnector",
    "ReplicationSession",
    "RoomKeepingWriteSession",
    "RowChanges",
    "SharedWriteSession",
    "SnapshotConnector",
    "SnapshotReadSession",
    "SourceFile",
    "SshTunnelConfig",
    "StagedParts",
    "TableDescription",
    "TableNeed",
    "TlsConfig",
    "WriteSession",
    "carrier_type",
    "direct_type",
    "untrusted_text",
    "wait_for",
]
