"""The example of a third-party connector, laid out as a user's pip lays it out, and a service for it to read."""

from __future__ import annotations

import http.server
import importlib
import json
import shutil
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from synqx_dagster.connectors import registry
from synqx_dagster.connectors.protocol import ConnectionConfig

EXAMPLE = Path(__file__).parents[1] / "examples" / "synqx-connector-ndjson"
PACKAGE = "synqx_connector_ndjson"
TOKEN = "t0ken"


@dataclass
class ExportService:
    """Serves lines of JSON by path, to whoever has the token. ``port`` is on this machine."""

    port: int
    exports: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    #: Answer with this status in place of an export.
    status: int = 200
    #: Promise so many bytes more than are sent.
    missing_bytes: int = 0

    def put(self, table: str, rows: Sequence[dict[str, Any]] | str) -> None:
        """Make a table's export."""
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        self.exports[f"/v1/export/{table}.ndjson"] = text.encode()

    def config(self, *tables: str, name: str = "portal") -> ConnectionConfig:
        """How the connector reaches it."""
        return ConnectionConfig(
            name,
            "ndjson",
            host="127.0.0.1",
            port=self.port,
            database="v1/export",
            password=TOKEN,
            options={"tables": ",".join(tables)},
        )


class _Handler(http.server.BaseHTTPRequestHandler):
    service: ClassVar[ExportService]

    def do_GET(self) -> None:
        service = self.service
        service.asked.append(self.path)
        body = service.exports.get(self.path)
        status = service.status if body is not None else 404
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        content = body if status == 200 and body is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + service.missing_bytes))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay quiet."""


@pytest.fixture
def export_service() -> Iterator[ExportService]:
    """A service of the test's own."""
    handler = type("Handler", (_Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        service = ExportService(server.server_address[1])
        handler.service = service  # type: ignore[attr-defined]  # of a class made just now
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def plugin_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the example as pip would install it; put it on the path of imports.

    Not by pip itself: a test must need neither the network nor a build backend.
    """
    target = tmp_path_factory.mktemp("plugin")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    for name in project["tool"]["setuptools"]["packages"]:
        shutil.copytree(EXAMPLE / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    meta = project["project"]
    info = target / f"{meta['name'].replace('-', '_')}-{meta['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {meta['name']}\nVersion: {meta['version']}\n", encoding="utf-8"
    )
    entries = [
        line
        for group, names in meta["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return target


@pytest.fixture
def plugin(plugin_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example installed for this process, and found by its entry point."""
    monkeypatch.syspath_prepend(str(plugin_directory))
    registry._connector_types.cache_clear()
    importlib.invalidate_caches()
    try:
        yield plugin_directory
    finally:
        registry._connector_types.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
