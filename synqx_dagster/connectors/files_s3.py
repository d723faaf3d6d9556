"""Files in an S3-compatible object store.

Every file is a multipart upload that the commit completes, so that it appears whole, under its final key, or not at
all; an upload that is prepared can be completed by anybody who reads the journal. The state document is replaced by a
conditional PUT. Guarantee: reads are conditional too (If-Match), so an object that changes under a read is an error.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.files_objects import PROTOCOL, ObjectFiles
from synqx_dagster.connectors.files_options import S3Settings
from synqx_dagster.connectors.files_s3_errors import error_code, wrap_client_error
from synqx_dagster.connectors.files_scratch import Scratch
from synqx_dagster.connectors.files_state import OWN_DIRECTORY, Journal, Stamp, StoredFile
from synqx_dagster.connectors.files_store import DocumentChangedError, Pinned, Store, is_hidden, join
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import CommitUnknownError, ConnectionFailedError, DatabaseError, RetryableError, SynqxError

#: One part of an upload; S3 wants at least 5 MiB and allows 10,000 parts, so that large files have larger ones.
_PART_BYTES = 16 * 1024 * 1024
_MAXIMUM_PARTS = 9_000
_UPLOAD_THREADS = 4

#: Time-outs of one request; the whole of a connection test must stay within five seconds.
_CONNECT_SECONDS = 3
_READ_SECONDS = 30

#: An own file that no document speaks of may be of a commit that is under way.
_ORPHAN_AGE = timedelta(days=1)

_CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_MISSING = ("NoSuchKey", "404", "NotFound")


class S3Store(Store):
    """A prefix in a bucket."""

    def __init__(self, settings: S3Settings, prefix: str, config: ConnectionConfig) -> None:
        self._settings = settings
        self._prefix = prefix
        self._config = config
        self._client: Any = None
        self._files: ObjectFiles | None = None
        self._checked = False
        self._mutex = threading.Lock()

    def describe(self, path: str) -> str:
        return "s3://" + "/".join(part for part in (self._settings.bucket, self._prefix, path) if part)

    # --- requests ---------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Any:
        """The client; made by its first use, and shared by threads."""
        with self._mutex:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError

            from synqx_dagster.connectors.files_s3_session import guard
        except ImportError as exc:
            from synqx_dagster.errors import DriverMissingError

            raise DriverMissingError(
                f"object stores need a library that is not installed: {exc}", hint="pip install 'synqx-dagster[s3]'"
            ) from exc
        settings = self._settings
        verify = settings.ca_file or settings.tls_verify
        try:
            session = boto3.session.Session(
                aws_access_key_id=self._config.username,
                aws_secret_access_key=self._config.password,
                region_name=settings.region,
            )
            client = session.client(
                "s3",
                endpoint_url=settings.endpoint,
                region_name=settings.region or session.region_name or "us-east-1",
                verify=verify,
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    retries={"total_max_attempts": 3, "mode": "standard"},
                    s3={"addressing_style": "path" if settings.path_style else "auto"},
                    # Checksums that a store does not know must not keep it from being used.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        except (BotoCoreError, ValueError) as exc:
            raise ConnectionFailedError(
                f"{self.describe('')}: the client cannot be made: {type(exc).__name__}",
                hint="check endpoint, region and credentials",
            ) from exc
        timeouts = (_CONNECT_SECONDS, _READ_SECONDS)
        guard(client, self._config, verify=verify, timeouts=timeouts, size=_UPLOAD_THREADS * 4)
        return client

    def _key(self, path: str) -> str:
        return join(self._prefix, path)

    def call(self, operation: str, path: str, **arguments: Any) -> Any:
        """One request about an object.

        Raises:
            FileNotFoundError: There is no such object.
            DocumentChangedError: A condition of the request does not hold.
            ConnectionFailedError, RetryableError, DatabaseError: The store refused or cannot be reached.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self.client, operation)(Bucket=self._settings.bucket, Key=self._key(path), **arguments)
        except ClientError as exc:
            code = error_code(exc)
            if code in _MISSING:
                raise FileNotFoundError(self.describe(path)) from exc
            if code in _CHANGED:
                raise DocumentChangedError(f"{self.describe(path)} was changed by another process") from exc
            raise wrap_client_error(exc, self.describe(path)) from exc
        except BotoCoreError as exc:
            raise wrap_client_error(exc, self.describe(path)) from exc

    def _list(self, prefix: str, operation: str = "list_objects_v2", **arguments: Any) -> Iterator[dict[str, Any]]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            pages = self.client.get_paginator(operation).paginate(
                Bucket=self._settings.bucket, Prefix=self._key(prefix) if prefix else self._folder(""), **arguments
            )
            yield from pages
        except (ClientError, BotoCoreError) as exc:
            raise wrap_client_error(exc, self.describe("")) from exc

    def _folder(self, directory: str) -> str:
        key = self._key(directory) if directory else self._prefix
        return f"{key}/" if key else ""

    def _path(self, key: str) -> str:
        return key[len(self._prefix) + 1 :] if self._prefix else key

    def check(self) -> tuple[bool, bool]:
        from botocore.exceptions import BotoCoreError, ClientError

        if self._checked:
            return True, True
        try:
            self.client.list_objects_v2(Bucket=self._settings.bucket, Prefix=self._folder(""), MaxKeys=1)
        except (ClientError, BotoCoreError) as exc:
            raise wrap_client_error(exc, self.describe("")) from exc
        return True, True

    def check_commits(self) -> None:
        """Find out whether the store keeps the conditions that a commit relies on; once for each store.

        Raises:
            DatabaseError: It does not: two commits at once could overwrite each other.
        """
        if self._checked:
            return
        path = f"{OWN_DIRECTORY}/probe-{uuid.uuid4().hex}"
        try:
            first = self.call("put_object", path, Body=b"1", IfNoneMatch="*")
            for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
                with contextlib.suppress(DocumentChangedError):
                    self.call("put_object", path, Body=b"2", **condition)
                    raise DatabaseError(
                        f"{self.describe('')}: the store does not know conditional writes (If-Match, If-None-Match)",
                        hint="use it as a source only, or a store that does: AWS S3, MinIO, Cloudflare R2, Ceph",
                    )
            self.call("put_object", path, Body=b"3", IfMatch=first["ETag"])
        finally:
            with contextlib.suppress(SynqxError, FileNotFoundError):
                self.call("delete_object", path)
        self._checked = True

    # --- listing ----------------------------------------------------------------------------------------------------

    def list_files(self, directory: str, prefix: str = "", *, recursive: bool = False) -> list[StoredFile]:
        start = join(directory, prefix) if prefix else (f"{directory}/" if directory else "")
        found = []
        arguments = {} if recursive else {"Delimiter": "/"}
        for page in self._list(start, **arguments):
            for entry in page.get("Contents", ()):
                path = self._path(entry["Key"])
                below = path[len(directory) + 1 :] if directory else path
                if path.endswith("/") or any(is_hidden(segment) for segment in below.split("/")):
                    continue
                found.append(StoredFile(path, Stamp(entry["Size"], entry["ETag"])))
        return sorted(found, key=lambda file: file.path)

    def list_directories(self, directory: str) -> list[str]:
        names = []
        for page in self._list(f"{directory}/" if directory else "", Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                name = self._path(entry["Prefix"]).rstrip("/").rpartition("/")[2]
                if name and not is_hidden(name):
                    names.append(name)
        return sorted(names)

    def find(self, path: str) -> StoredFile | None:
        try:
            found = self.call("head_object", path)
        except FileNotFoundError:
            return None
        return StoredFile(path, Stamp(found["ContentLength"], found["ETag"]))

    # --- reading ----------------------------------------------------------------------------------------------------

    def pin(self, file: StoredFile) -> Pinned:
        return self._object_files().pin(file)

    def _object_files(self) -> ObjectFiles:
        if self._files is None:
            self._files = ObjectFiles(self)
        return self._files

    def attach(self, connection: Any) -> list[str]:
        connection.register_filesystem(self._object_files().filesystem())
        return [f"{PROTOCOL}://"]

    def failure(self) -> BaseException | None:
        if self._files is None:
            return None
        failure, self._files.failure = self._files.failure, None
        return failure

    def fetch(self, file: StoredFile, start: int, end: int) -> bytes:
        """Bytes from `start` up to `end` of an object, if it still is the one that was found.

        Raises:
            RetryableError: It was changed, or the store cannot be reached.
        """
        if end <= start:
            return b""
        try:
            found = self.call("get_object", file.path, Range=f"bytes={start}-{end - 1}", IfMatch=file.stamp.mark)
            data: bytes = found["Body"].read()
        except (DocumentChangedError, FileNotFoundError) as exc:
            raise RetryableError(
                f"{self.describe(file.path)} was changed while it was read",
                hint="load when its writer is done",
            ) from exc
        except OSError as exc:
            raise RetryableError(f"{self.describe(file.path)}: the transfer broke off") from exc
        if len(data) != end - start:
            raise RetryableError(f"{self.describe(file.path)}: the transfer broke off")
        return data

    # --- commits ----------------------------------------------------------------------------------------------------

    def read_document(self, path: str) -> tuple[bytes, str] | None:
        try:
            found = self.call("get_object", path)
            return found["Body"].read(), found["ETag"]
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise RetryableError(f"{self.describe(path)}: the transfer broke off") from exc

    def write_document(self, path: str, data: bytes, expected: str | None) -> str:
        self.check_commits()
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            return str(self.call("put_object", path, Body=data, ContentType="application/json", **condition)["ETag"])
        except (DocumentChangedError, FileNotFoundError, RetryableError) as exc:
            # The client repeats a request whose answer was lost: then our own document is in the way.
            try:
                found = self.read_document(path)
            except RetryableError:
                raise CommitUnknownError(f"{self.describe(path)}: the connection broke during the commit") from exc
            if found is not None and found[0] == data:
                return found[1]
            if isinstance(exc, (DocumentChangedError, FileNotFoundError)):
                raise DocumentChangedError(f"{self.describe(path)} was changed by another process") from exc
            # It may still be on its way: whoever replaces the document next decides.
            raise CommitUnknownError(f"{self.describe(path)}: the connection broke during the commit") from exc

    @contextmanager
    def lock(self, directory: str) -> Iterator[None]:
        # There are none: `write_document` decides alone.
        yield

    def make_scratch(self, directory: str) -> Scratch | None:
        return None

    def sweep(self, directory: str) -> None:
        """Nothing: uploads that a killed process left are given up by the next commit of the same table."""

    def publish(self, local: Path, target: str) -> Mapping[str, Any]:
        size = local.stat().st_size
        part_bytes = max(_PART_BYTES, -(-size // _MAXIMUM_PARTS))
        upload = self.call("create_multipart_upload", target)["UploadId"]
        try:
            etags = self._upload_parts(local, target, upload, size, part_bytes)
        except BaseException:
            self.withdraw({"to": target, "upload": upload})
            raise
        return {"to": target, "upload": upload, "parts": etags, "size": size}

    def _upload_parts(self, local: Path, target: str, upload: str, size: int, part_bytes: int) -> list[str]:
        def send(number: int) -> str:
            with open(local, "rb") as file:
                file.seek(number * part_bytes)
                body = file.read(part_bytes)
            part = self.call("upload_part", target, UploadId=upload, PartNumber=number + 1, Body=body)
            return str(part["ETag"])

        with ThreadPoolExecutor(_UPLOAD_THREADS, "synqx-upload") as pool:
            return list(pool.map(send, range(max(1, -(-size // part_bytes)))))

    def relocate(self, file: StoredFile, target: str) -> Mapping[str, Any]:
        return {"copy": file.path, "to": target, "size": file.stamp.size, "mark": file.stamp.mark}

    def withdraw(self, publication: Mapping[str, Any]) -> None:
        if "upload" in publication:
            with contextlib.suppress(SynqxError, FileNotFoundError):
                self.call("abort_multipart_upload", publication["to"], UploadId=publication["upload"])

    def put(self, local: Path, target: str) -> StoredFile:
        publication = self.publish(local, target)
        self._complete(publication)
        found = self.find(target)
        if found is None:
            raise RetryableError(f"{self.describe(target)} is gone")
        return found

    def _complete(self, publication: Mapping[str, Any]) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(publication["parts"], start=1)]
        try:
            self.call(
                "complete_multipart_upload",
                publication["to"],
                UploadId=publication["upload"],
                MultipartUpload={"Parts": parts},
            )
        except DatabaseError as exc:
            # Somebody else has completed it; nobody gives up an upload of a journal.
            if exc.context.get("code") != "NoSuchUpload":
                raise

    def remove_own(self, directory: str, keep: Collection[str]) -> None:
        oldest = datetime.now(UTC) - _ORPHAN_AGE
        own = join(directory, f"{OWN_DIRECTORY}/")
        for page in self._list(own, Delimiter="/"):
            for entry in page.get("Contents", ()):
                path = self._path(entry["Key"])
                if path.endswith(".parquet") and path not in keep and entry["LastModified"] < oldest:
                    self.call("delete_object", path)

    def finish(self, journal: Journal) -> None:
        for publication in journal.publications:
            if "copy" in publication:
                self._copy(publication)
            else:
                self._complete(publication)
                self._give_up_others(publication)
        for file in journal.deletions:
            self._delete(file)

    def _copy(self, publication: Mapping[str, Any]) -> None:
        stamp = Stamp(publication["size"], publication["mark"])
        source = self.find(publication["copy"])
        if source is None or source.stamp != stamp:
            # Done by somebody else.
            return
        from botocore.exceptions import BotoCoreError, ClientError

        bucket = self._settings.bucket
        try:
            # In parts on the side of the store, so that size does not matter.
            self.client.copy(
                {"Bucket": bucket, "Key": self._key(publication["copy"])}, bucket, self._key(publication["to"])
            )
        except (ClientError, BotoCoreError) as exc:
            raise wrap_client_error(exc, self.describe(publication["to"])) from exc
        self._delete(source)

    def _delete(self, file: StoredFile) -> None:
        found = self.find(file.path)
        if found is not None and found.stamp == file.stamp:
            self.call("delete_object", file.path)

    def _give_up_others(self, publication: Mapping[str, Any]) -> None:
        """Give up uploads of the same table that did not commit: their attempts are dead or fenced off."""
        table = publication["to"].rpartition("/")[0] if "/part-" in publication["to"] else publication["to"]
        for page in self._list(table, "list_multipart_uploads"):
            for entry in page.get("Uploads", ()):
                if entry["UploadId"] != publication["upload"]:
                    self.withdraw({"to": self._path(entry["Key"]), "upload": entry["UploadId"]})

    def settle(self, journal: Journal) -> Journal | None:
        # An upload cannot be read before it is completed; whoever may not do that sees the old files.
        with contextlib.suppress(DatabaseError):
            self.finish(journal)
        return None

    def close(self) -> None:
        with self._mutex:
            if self._client is not None:
                self._client.close()
                self._client = None
