"""Prints the output of `meterhouse status` for 80 columns, in English or Chinese. Tables come first, findings last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from rich.markup import escape

from agent.cli.common import COLON, learned_maps, show_age
from agent.cli.console_tables import cell, open_console, plain_table, point_table
from agent.cli.finding_words import LANGUAGES, device_reason
from agent.cli.findings import DOUBTFUL, EARLY, EXCUSED, Finding, show_size
from agent.cli.reading_words import CONFIRM_WORDS, borrower, line_trouble, word_in
from agent.cli.report.labels import share
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from agent.cli.ring_follower import Latest

STYLES: Final = {"alive": "green", "dead": "red", "swapped": "red", "unknown": "yellow"}
WIDE: Final = 110  # urls are shown if the terminal has at least this many columns
WORDS: Final = Catalogue(__package__, "status")


class StatusScreen:
    """Shows a snapshot with its findings.

    Args:
        now: current time in UTC seconds.
    """

    def __init__(self, snapshot: Mapping[str, Any], language: str, now: float) -> None:
        self._snapshot, self._now = snapshot, now
        self._language, self._at = language, LANGUAGES.index(language)

    def _word(self, key: str, **values: object) -> str:
        return WORDS.text(key, self._language, **values)

    def _table(self, title: str, *columns: str, right: Iterable[str] = ()) -> Table:
        numbers = [self._word(column) for column in right]
        return plain_table(self._word(title), *(self._word(column) for column in columns), right=numbers)

    def show(self, latest: Iterable[Latest], notes: Iterable[str]) -> None:
        """Print the head, the tables and ``notes``."""
        console, snapshot = open_console(), self._snapshot
        for text in self.head():
            console.print(cell(text, 400))
        tables = (
            self.device_table(),
            self.line_table(console),
            self.uplink_table(),
            point_table(latest, int(self._now * 1e9)),
        )
        for table in tables:
            if table.row_count:
                console.print()
                console.print(table)
        console.print()
        for name, learned in learned_maps(snapshot, self._language).items():
            console.print(cell(self._word("learned", name=name, what=learned), 400))
        for text in notes:
            console.print(cell(text, 400))

    def head(self) -> list[str]:
        """Return the lines above the tables: name, clock, store and key of the gateway."""
        facts, store, clock = self._snapshot, self._snapshot.get("store", {}), self._snapshot.get("clock", {})
        running_s = facts.get("running_for")
        since = f", {self._word('running', age=show_age(running_s, self._language))}" if running_s is not None else ""
        who = f"{facts.get('site', '?')}/{facts.get('gateway', '?')}"
        head = f"{who}  meterhouse {facts.get('version', '?')}, boot {facts.get('boot', '?')}{since}"
        synced = {True: "synchronised", False: "not synchronised"}.get(clock.get("synced"), "no clock")
        parts = [self._word(synced, error=round(clock.get("error_ms") or 0))]
        if store.get("size_bytes") is not None:
            sizes = {"size": "size_bytes", "limit": "limit_bytes", "free": "disk_free_bytes"}
            parts.append(self._word("store", **{name: show_size(store.get(key) or 0) for name, key in sizes.items()}))
        kid = facts.get("key", {}).get("thumbprint")
        return [head, ("；" if self._at else "; ").join(parts), *([self._word("key", kid=kid)] if kid else [])]

    def device_table(self) -> Table:
        """Return a table with one row per device."""
        columns = ("device", "state", "complete", "missing by", "doubtful", "last answer", "line")
        table = self._table("devices", *columns, right=("complete", "doubtful", "last answer"))
        for name, device in self._snapshot.get("devices", {}).items():
            recent = device.get("recent") or {}
            state = "swapped" if device.get("swapped") else str(device.get("life", "?"))
            complete = recent.get("complete")
            missing = {r: count for r, count in (recent.get("missing") or {}).items() if r not in EXCUSED}
            worst = max(missing, key=missing.__getitem__, default="")
            words = device_reason(worst, device)[self._at] if worst and self._at else worst
            last = device.get("last_answer")
            table.add_row(
                cell(name),
                f"[{STYLES.get(state, 'white')}]{cell(self._word(state) if state in WORDS else state)}[/]",
                "-" if complete is None else share(complete),
                cell(f"{words} ({missing[worst]})" if worst else ""),
                str(sum((recent.get("marked") or {}).get(quality, 0) for quality in DOUBTFUL) or ""),
                show_age(self._now - last if last is not None else None, self._language),
                cell(device.get("line", "?")),
            )
        return table

    def line_table(self, console: Console) -> Table:
        """Return a table with one row per line (bus or connection). A row has the counters of the line."""
        columns = ["line", "state", "busy", "asked", "answers", "trouble"]
        if wide := console.width >= WIDE:
            columns.append("url")
        table = self._table("lines", *columns, right=("busy", "asked", "answers"))
        for name, line in self._snapshot.get("lines", {}).items():
            busy, lent = line.get("busy_share"), line.get("lent")
            state = self._word("open" if line.get("open") else "closed")
            if lent:
                state = self._word("lent", who=borrower(str(lent), self._language))
            row = [
                cell(name),
                cell(state),
                f"{busy * 100:.0f} %" if busy is not None else "-",
                cell(sum((line.get("sent") or {}).values())),
                cell(line.get("answers", "-")),
                cell(line_trouble(line, self._language), 160),
            ]
            table.add_row(*row, *([cell(line.get("url", "?"), 200)] if wide else []))
        return table

    def uplink_table(self) -> Table:
        """Return a table with one row per destination."""
        columns = ("destination", "state", "subscriber", "waiting", "confirmed", "refused", "confirm")
        table = self._table("destinations", *columns, right=("waiting", "confirmed", "refused"))
        for name, uplink in self._snapshot.get("uplinks", {}).items():
            connected = uplink.get("connected", True)
            state = f"[green]{self._word('connected')}[/]" if connected else f"[red]{self._word('not reached')}[/]"
            if uplink.get("backfilling"):
                state += f", {self._word('catching up')}"
            subscribed = {True: "yes", False: "no"}.get(uplink.get("subscriber"), "not known")
            confirm = word_in(CONFIRM_WORDS, str(uplink.get("confirm") or "-"), self._language)
            counts = [cell(uplink.get(key, "-")) for key in ("waiting", "confirmed", "refused")]
            table.add_row(cell(name), state, self._word(subscribed), *counts, cell(confirm))
        return table

    # --- the verdict

    @staticmethod
    def say(text: str, err: bool = False) -> None:
        """Print one line of text. On a terminal, it is wrapped between words."""
        from rich.console import Console

        console = Console(highlight=False, stderr=err)
        if console.is_terminal:
            console.print(escape(text))
        else:
            click.echo(text, err=err)

    def lines_of(self, findings: Sequence[Finding]) -> list[str]:
        """Return a line of text for each finding. If it has advice, a line with the advice follows."""
        found = []
        for one in findings:
            found.append(f"{self._word(one.level)}{COLON[self._language]}{one.text(self._language)}")
            if advice := one.advice(self._language):
                found.append(f"  {self._word('do')}{COLON[self._language]}{advice}")
        return found

    def verdict(self, findings: Sequence[Finding], exit_code: int) -> str:
        """Return the last line of the output, which has the overall result and names the checked parts."""
        devices = self._snapshot.get("devices", {})
        begins = [recent["from"] for device in devices.values() if "from" in (recent := device.get("recent") or {})]
        started = self._snapshot.get("started") or self._now
        begin = min(begins, default=started)
        if begin - started < 120:
            span = self._word("since start", age=show_age(self._now - started, self._language))
        else:
            span = self._word("window", age=show_age(self._now - begin, self._language))
        looked = self._word("looked", count=len(devices), span=span)
        if count := sum(one.exit_code > 0 for one in findings):
            text = self._word("faults", count=count, code=exit_code)
        elif count := sum(one.level == "warning" for one in findings):
            text = self._word("warnings", count=count)
        else:
            text = self._word("early" if any(one.code in EARLY for one in findings) else "well")
        return f"{text}{'' if text.endswith('。') else ' '}{looked}"
