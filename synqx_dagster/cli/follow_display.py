"""What `synqx replications run` shows while it follows, and how Ctrl-C ends it in an orderly way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from synqx_dagster.cli.figures import format_bytes, format_count, format_seconds
from synqx_dagster.cli.output import Output, printable

if TYPE_CHECKING:
    from rich.live import Live

    from synqx_dagster.replication.progress import FollowProgress

#: Where nobody can watch a line change, one is written so often.
_LINE_SECONDS = 10.0


class FollowDisplay:
    """Shows progress, from any thread; and knows whether somebody pressed Ctrl-C."""

    def __init__(self, output: Output, live: Live | None) -> None:
        self._output = output
        self._live = live
        self._lock = threading.Lock()
        self._copies: dict[str, FollowProgress] = {}
        self._next = time.monotonic() + _LINE_SECONDS
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """Let the run finish its batch and end."""
        if not self._interrupted.is_set():
            self._interrupted.set()
            self._output.note("finishing the batch; Ctrl-C once more breaks it off")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C within the block: the first one ends the run after its batch, the second one at once."""
        previous = signal.getsignal(signal.SIGINT)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.is_interrupted() and callable(previous):
                previous(number, frame)
            self.interrupt()

        signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def is_interrupted(self) -> bool:
        """Whether it was."""
        return self._interrupted.is_set()

    def show(self, progress: FollowProgress) -> None:
        """Show how far the run is."""
        with self._lock:
            if progress.phase == "copy":
                self._copies[str(progress.table)] = progress
            else:
                self._copies.clear()
            text = self._describe(progress)
            if self._live is not None:
                self._live.update(text, refresh=True)
            elif time.monotonic() >= self._next:
                self._next = time.monotonic() + _LINE_SECONDS
                self._output.note(text.replace("\n", "; "))

    def _describe(self, progress: FollowProgress) -> str:
        if self._copies:
            return "\n".join(
                f"copying {printable(name)}: {format_count(item.rows)}"
                + (f" of about {format_count(item.total_rows)}" if item.total_rows else "")
                + " rows"
                for name, item in self._copies.items()
            )
        lag = ""
        if progress.lag_seconds is not None:
            lag = f", behind by {format_seconds(progress.lag_seconds)}"
            if progress.lag_bytes:
                lag += f", {format_bytes(progress.lag_bytes)}"
        return f"following: {format_count(progress.changes)} rows changed{lag}"


@contextmanager
def follow_display(output: Output) -> Iterator[FollowDisplay]:
    """Show progress on standard error."""
    import sys

    if not sys.stderr.isatty() or output.as_json:
        yield FollowDisplay(output, None)
        return
    from rich.live import Live

    with Live("preparing ...", console=output.error_console(), auto_refresh=False, transient=True) as live:
        yield FollowDisplay(output, live)
