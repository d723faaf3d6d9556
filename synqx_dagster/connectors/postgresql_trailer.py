"""The end of a binary COPY stream: a stream that lacks it was cut short, though the server would take it."""

from __future__ import annotations

from typing import BinaryIO

from synqx_dagster.errors import FatalError

_TRAILER_BYTES = 2
_TRAILER = b"\xff\xff"


class WithoutTrailer:
    """Passes a binary COPY stream on, all but its trailer.

    The server takes an end between two rows for the end of the data, trailer or not, so a stream that was cut there
    would pass for a short table. What is held back is compared with the trailer; if rows happen to end in the same two
    bytes and the trailer is missing, the server finds the last row incomplete.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._held = b""
        #: What ended the stream before its time.
        self.failure: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        """The next bytes; empty at the end."""
        try:
            return self._read(size)
        except BaseException as error:
            self.failure = error
            raise

    def _read(self, size: int) -> bytes:
        while True:
            chunk = self._source.read(size)
            if not chunk:
                if self._held != _TRAILER:
                    raise FatalError("the COPY stream was cut short: it ends without its trailer")
                return b""
            if len(chunk) < _TRAILER_BYTES:
                chunk = self._held + chunk
                held = b""
            else:
                held = self._held
            self._held = chunk[-_TRAILER_BYTES:]
            if held or len(chunk) > _TRAILER_BYTES:
                # One copy of the megabyte, where slicing and adding would make two.
                return b"".join((held, memoryview(chunk)[:-_TRAILER_BYTES]))
