"""What `synqx wal` shows: a server's log, its slots and its readers, on one screen."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from synqx_dagster.cli.figures import format_age, format_bytes, format_count, format_seconds, format_time, plural
from synqx_dagster.cli.output import new_table, printable
from synqx_dagster.errors import SynqxError
from synqx_dagster.model.connection import WalThresholds
from synqx_dagster.monitor.wal import WalLook, WalSlot
from synqx_dagster.monitor.wal_breaches import WalBreach, find_breaches, track_inactive
from synqx_dagster.monitor.wal_change import WalChange, WalMark, compare

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_STATUS_STYLES = {"reserved": "green", "extended": "yellow", "unreserved": "bold red", "lost": "bold red"}
_WIDTH_OF_BARS = 40


class WalScreen:
    """The last look, and as much of those before as is drawn."""

    def __init__(self, name: str, thresholds: WalThresholds) -> None:
        self.name = name
        self._thresholds = thresholds
        self._look: WalLook | None = None
        self._mark: WalMark | None = None
        self._change = WalChange()
        self._breaches: tuple[WalBreach, ...] = ()
        self._inactive_since: dict[str, float] = {}
        self._rates: deque[float] = deque(maxlen=_WIDTH_OF_BARS)
        self._failure: SynqxError | None = None

    def add(self, look: WalLook, before: WalMark | None = None) -> None:
        """A further look.

        Args:
            before: What it is compared with; left out: the look before.
        """
        mark = WalMark.of(look)
        self._change = compare(before or self._mark, mark)
        self._inactive_since = track_inactive(look, self._inactive_since)
        keys = {breach.key for breach in self._breaches}
        self._breaches = find_breaches(look, self._thresholds, keys, self._inactive_since)
        self._look, self._mark, self._failure = look, mark, None
        if (rate := self._change.wal_bytes_per_second) is not None:
            self._rates.append(rate)

    def fail(self, error: SynqxError) -> None:
        """A look that failed; what was seen before stays."""
        self._failure = error

    def to_dict(self) -> dict[str, Any]:
        """The last look as plain values."""
        failure = None if self._failure is None else str(self._failure)
        if self._look is None:
            return {"connection": self.name, "error": failure}
        return {
            "connection": self.name,
            **self._look.to_dict(),
            "wal_bytes_per_second": self._change.wal_bytes_per_second,
            "restarted": self._change.restarted,
            "breaches": [asdict(breach) for breach in self._breaches],
            "error": failure,
        }

    # --- drawing ----------------------------------------------------------------------------------------------

    def draw(self, height: int | None = None) -> RenderableType:
        """The screen.

        Args:
            height: Lines that there are; what does not fit is counted.
        """
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [self._heading()]
        if self._failure is not None:
            parts.append(Text(f"  {printable(str(self._failure))}", style="bold red"))
        look = self._look
        if look is None:
            return Group(*parts)
        parts += [Text(), self._facts(look)]
        room = None if height is None else max(3, height - 20 - len(self._breaches) - len(look.missing))
        if look.slots is not None:
            parts += [Text(), self._slots(look, look.slots, room), Text()]
        if look.clients:
            parts += [self._clients(look, room), Text()]
        parts += [
            Text("  ! " + printable(breach.message), style="bold red" if breach.is_severe else "yellow")
            for breach in self._breaches
        ]
        for item in look.missing:
            parts.append(Text(f"  {item.figure}: {printable(item.reason)}", style="dim"))
            if item.grant is not None:
                parts.append(Text(f"    {printable(item.grant)}", style="dim cyan"))
        return Group(*parts)

    def _heading(self) -> Text:
        from rich.text import Text

        look = self._look
        text = Text(printable(self.name), style="bold")
        if look is None:
            return text
        role = "standby" if look.is_standby else "primary"
        text.append(f"  PostgreSQL {printable(look.server_version)}, {role}", style="not bold dim")
        text.append(f", started {format_age(look.started_at)}", style="not bold dim")
        text.append("  ")
        if any(breach.is_severe for breach in self._breaches):
            text.append("in danger", style="bold red")
        elif self._breaches:
            text.append("look at it", style="bold yellow")
        else:
            text.append("in order", style="green")
        text.append(f"  {format_time(look.looked_at)}", style="not bold dim")
        return text

    def _facts(self, look: WalLook) -> Table:
        from rich.table import Table
        from rich.text import Text

        facts = Table.grid(padding=(0, 2, 0, 0))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        settings = look.settings
        size = format_bytes(look.directory_bytes)
        if look.directory_files is not None:
            size += f" in {plural(look.directory_files, 'file')}"
        if settings is not None:
            size += f"; max_wal_size {format_bytes(settings.max_wal_bytes)}"
        facts.add_row("  directory", size)
        rate = self._change.wal_bytes_per_second
        written = Text("not known yet" if rate is None else f"{format_bytes(round(rate))}/s ")
        if len(self._rates) > 1:
            written.append(draw_bars(list(self._rates)), style="cyan")
        facts.add_row("  replayed" if look.is_standby else "  written", written)
        if look.replay_age_seconds is not None:
            facts.add_row("  replayed up to", f"{format_seconds(look.replay_age_seconds)} ago")
        if settings is not None:
            keep = settings.max_slot_wal_keep_bytes
            bound = (
                "no bound: a slot without a reader can fill the disk" if keep is None else f"up to {format_bytes(keep)}"
            )
            facts.add_row("  slots may keep", bound)
        if look.checkpoints is not None:
            counted = look.checkpoints
            facts.add_row(
                "  checkpoints", f"{format_count(counted.timed)} timed, {format_count(counted.requested)} requested"
            )
        if look.archiver is not None:
            facts.add_row("  archiver", self._archiver(look))
        return facts

    def _archiver(self, look: WalLook) -> Text:
        from rich.text import Text

        archiver, settings = look.archiver, look.settings
        assert archiver is not None
        if settings is not None and settings.archive_mode == "off":
            return Text("off", style="dim")
        text = f"{format_count(archiver.archived)} archived, {format_count(archiver.failed)} failed"
        if archiver.is_failing:
            return Text(f"{text}; the last one failed {format_age(archiver.last_failed_at)}", style="bold red")
        return Text(text)

    def _slots(self, look: WalLook, slots: tuple[WalSlot, ...], room: int | None) -> RenderableType:
        from rich.text import Text

        if not slots:
            return Text("  no replication slots", style="dim")
        broken = {breach.key.split(":")[1] for breach in self._breaches if breach.key.startswith("slot:")}
        # Those that want a look first, then what keeps most.
        ordered = sorted(slots, key=lambda slot: (slot.name not in broken, -(slot.lag_bytes or 0), slot.name))
        spills = any(slot.spilled_bytes for slot in slots)
        columns = ["slot", "kind", "database", "reader", "keeps", "unconfirmed", "status", "safe"]
        table = _table([*columns, *(["spilled"] if spills else [])])
        for slot in ordered[:room]:
            style = "bold" if slot.name in broken else ""
            table.add_row(
                Text(printable(slot.name), style=style),
                printable(slot.plugin or slot.slot_type),
                printable(slot.database or "-"),
                self._reader(slot, look),
                format_bytes(slot.restart_lag_bytes),
                format_bytes(slot.confirmed_lag_bytes),
                Text(slot.wal_status or "-", style=_STATUS_STYLES.get(slot.wal_status or "", "")),
                format_bytes(None if slot.safe_wal_bytes is None else max(0, slot.safe_wal_bytes)),
                *([format_bytes(slot.spilled_bytes)] if spills else []),
            )
        return _with_rest(table, len(ordered), room, "slot")

    def _reader(self, slot: WalSlot, look: WalLook) -> Text:
        from rich.text import Text

        if slot.active:
            return Text("active", style="green")
        since = self._inactive_since.get(slot.name)
        if slot.inactive_since is None or since is None:
            return Text("none", style="yellow")
        now = datetime.fromtimestamp(look.server_seconds, UTC)
        return Text(f"none, {format_age(since, now).removesuffix(' ago')}", style="yellow")

    def _clients(self, look: WalLook, room: int | None) -> RenderableType:
        clients = look.clients or ()
        table = _table(["client", "user", "address", "state", "sync", "sent", "flushed", "replayed", "late"])
        for client in clients[:room]:
            table.add_row(
                printable(client.application_name or "-"),
                printable(client.user_name or "-"),
                printable(client.address or "local"),
                printable(client.state or "-"),
                printable(client.sync_state or "-"),
                format_bytes(client.sent_lag_bytes),
                format_bytes(client.flush_lag_bytes),
                format_bytes(client.replay_lag_bytes),
                format_seconds(client.replay_lag_seconds),
            )
        return _with_rest(table, len(clients), room, "client")


def draw_bars(values: list[float]) -> str:
    """A small plot, from nothing to the largest value."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * (len(_BARS) - 1) + 0.5))] for value in values)


_RIGHT = frozenset({"keeps", "unconfirmed", "safe", "spilled", "sent", "flushed", "replayed", "late"})
#: What is cut first where the terminal is narrow.
_NAMES = frozenset({"slot", "database", "client", "user", "address"})


def _table(columns: list[str]) -> Table:
    table = new_table()
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in _RIGHT else "left",
            overflow="ellipsis",
            no_wrap=name not in _NAMES,
        )
    return table


def _with_rest(table: Table, count: int, room: int | None, noun: str) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if room is None or count <= room:
        return table
    return Group(table, Text(f"  and {plural(count - room, noun)} more", style="dim"))
