"""A real S3 server on loopback, from moto: one for each test process, one prefix in a bucket for each test."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.model.connection import OptionValue

BUCKET, USERNAME, PASSWORD = "warehouse", "AKIASYNQX", "s3cret-key"

_numbers = itertools.count(1)


@dataclass
class S3Prefix:
    """A prefix that nobody else uses."""

    endpoint: str
    prefix: str

    def config(self, name: str = "exports", **options: OptionValue) -> ConnectionConfig:
        """A connection to it."""
        return ConnectionConfig(
            name,
            "files",
            username=USERNAME,
            password=PASSWORD,
            options={
                "url": f"s3://{BUCKET}/{self.prefix}",
                "endpoint": self.endpoint,
                "region": "us-east-1",
                **options,
            },
        )

    @property
    def client(self) -> Any:
        """A client of boto3's, for what tests do behind a connector's back."""
        return _client(self.endpoint)

    def keys(self) -> list[str]:
        """Keys below the prefix, without it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        return [entry["Key"][len(self.prefix) + 1 :] for page in pages for entry in page.get("Contents", ())]

    def put(self, path: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{path}", Body=body)

    def get(self, path: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{path}")["Body"].read()
        return body


def _client(endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=USERNAME,
        aws_secret_access_key=PASSWORD,
        region_name="us-east-1",
    )


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a running server."""
    from moto.server import ThreadedMotoServer

    # It logs every request to the terminal.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        _client(endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        server.stop()


@pytest.fixture
def s3(s3_endpoint: str) -> S3Prefix:
    return S3Prefix(s3_endpoint, f"test-{next(_numbers)}")
