"""The screen of the demo. It shows the newest values of each device, the park's figures, and the verifier's verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from drivers.texts import Catalogue

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

    from agent.cli.ring_follower import Follower, Latest
    from agent.verify import Report

SHOWN = (  # the row of a device shows the first point in this list that the device has
    "ac.power.generation", "battery.soc", "battery.power", "heat.power", "ac.power.active", "ac.energy.generation",
    "ac.energy.import", "heat.temperature.supply", "battery.voltage", "heat.energy", "ac.voltage.l1", "device.state",
)  # fmt: skip
MOST_SHOWN = 3
AROUND = 6  # number of lines on the screen that show neither devices nor figures
WIDE = 100  # width in columns; from this width on, the screen also shows the bus or connection of each device
RESULTS = "/_indicators/"
WORDS: Final = Catalogue(__package__, "demo")


@dataclass(frozen=True, slots=True)
class ShownFigure:
    """A figure of the last interval, with its title in both languages and its result from the pack."""

    title: Mapping[str, str]
    result: Mapping[str, Any]


class LatestFigures:
    """The newest figures from verified result packs. ``on_verified`` is called in the verifier's thread."""

    def __init__(self, plan_file: Path, timezone: str) -> None:
        from agent.indicators.definitions import read_plan
        from agent.indicators.plan import make_plan

        plan = make_plan(read_plan(plan_file), str(plan_file))
        self._titles = {one.name: one.title for one in plan.of_period("interval")}
        self._zone = ZoneInfo(timezone)
        self._began = time.time()
        self.size = len(self._titles)
        self.total = 0  # number of all figures so far, of all periods
        self.newest: tuple[ShownFigure, ...] = ()

    def on_verified(self, topic: str, payload: bytes) -> None:
        """Take the figures of a verified pack."""
        if RESULTS not in topic:
            return
        from agent.verify.strict import inflate

        found = [one for one in json.loads(inflate(payload)).get("results", ()) if one.get("kind") == "figure"]
        self.total += len(found)
        last = max((one["period"]["to"] for one in found if one["period"]["kind"] == "interval"), default=None)
        mine = {one["id"]: one for one in found if one["period"]["kind"] == "interval" and one["period"]["to"] == last}
        if mine:
            self.newest = tuple(ShownFigure(title, mine[name]) for name, title in self._titles.items() if name in mine)

    def hours(self) -> tuple[str, str]:
        """Begin and end of the newest interval, as local times of the park."""
        period = self.newest[0].result["period"]
        begin, end = (datetime.fromtimestamp(period[name], self._zone) for name in ("from", "to"))
        return f"{begin:%H:%M}", f"{end:%H:%M}"

    def next_at(self, grace_s: float) -> str:
        """Return the time at which the next figures will be available, in local time of this machine."""
        end = max(self._began, time.time() - grace_s) // 60 * 60 + 60
        return f"{datetime.fromtimestamp(end + grace_s):%H:%M:%S}"

    def line(self, language: str) -> str:
        """Return the newest figures as one line for a log."""
        from agent.cli.common import COLON, SEMICOLON

        start, end = self.hours()
        parts = [f"{title} {value} {unit}".rstrip() for title, value, unit, _ in self.rows(language)]
        return (
            WORDS[language]["figures"].format(start=start, end=end) + COLON[language] + SEMICOLON[language].join(parts)
        )

    def rows(self, language: str) -> list[tuple[str, str, str, str]]:
        """Return a row (title, value, unit, completeness) for each figure, as the screen shows it."""
        from agent.cli.report.labels import number, share, text_in, unit

        return [
            (
                text_in(one.title, language),
                number(one.result.get("v", "")),
                unit(one.result),
                share(one.result["completeness"]),
            )
            for one in self.newest
        ]


@dataclass(frozen=True, slots=True)
class DemoScreen:
    """Draws the screen. ``devices``: device name -> facts, as the simulator announced them."""

    devices: Mapping[str, Mapping[str, Any]]
    board: LatestFigures
    thumbprint: str
    folder: Path
    speed: float
    grace_s: float
    language: str

    def picture(self, follower: Follower, report: Report, console: Console) -> Group:
        """Return the content of the screen, as high and wide as the terminal allows."""
        from rich.console import Group
        from rich.text import Text

        words, room = WORDS[self.language], console.height - AROUND
        figures = max(0, min(self.board.size, room - len(self.devices)))
        most = max(1, min(MOST_SHOWN, (room - figures) // len(self.devices)))
        facts = {"packs": report.packs, "readings": report.readings, "failed": report.failed, "gaps": report.gaps}
        parts: list[Any] = [
            Text(words["title"].format(speed=self.speed), style="bold", no_wrap=True, overflow="ellipsis"),
            self._devices(follower, most, wide=console.width >= WIDE),
            self._figures(figures),
            Text(
                words["verifier"].format(**facts),
                style="bold red" if report.failed else "green",
                no_wrap=True,
                overflow="ellipsis",
            ),
            Text(words["key"].format(key=self.thumbprint), style="dim", no_wrap=True, overflow="ellipsis"),
        ]
        if room > figures + most * len(self.devices):
            parts.append(Text(words["files"].format(folder=self.folder), style="dim", no_wrap=True))
        return Group(*parts)

    def _devices(self, follower: Follower, most: int, wide: bool) -> Table:
        from rich.text import Text

        from agent.cli.common import measure

        words = WORDS[self.language]
        table = self._table(words["device"], words["profile"], *([words["line"]] if wide else []), words["values"])
        table.add_column(words["age"], justify="right", no_wrap=True)
        now = time.time_ns()
        for name, facts in self.devices.items():
            mine = {point: latest for (device, point), latest in follower.latest.items() if device == name}
            parts = self._values(mine)[:most]
            ages = [age for latest in mine.values() if (age := latest.age_s(now)) is not None]
            shown = Text("\n".join(parts)) if parts else Text(words["not yet"], style="dim")
            newest = measure(f"{min(ages):.0f} s", self.language) if ages else "-"
            table.add_row(name, facts["profile"], *([facts["line"]] if wide else []), shown, newest)
        return table

    def _values(self, mine: Mapping[str, Latest]) -> list[str]:
        from agent.cli.common import show_quality, show_unit
        from agent.cli.finding_words import reason_words
        from agent.cli.ring_follower import GAP_CODES, show_short

        parts = []
        for point in SHOWN:
            latest = mine.get(point)
            if latest is None:
                continue
            if latest.quality >= GAP_CODES:
                reason = show_quality(latest.quality)
                words = reason_words(reason)[1] if self.language == "zh" else reason
                parts.append(f"{self._name(point)} [{words}]")
            elif latest.value is not None:
                value = show_short(latest.value, latest.point.kind, latest.point.is_float)
                parts.append(f"{self._name(point)} {value} {show_unit(latest.point.unit)}".rstrip())
        return parts

    def _name(self, point: str) -> str:
        if self.language != "zh":
            return point
        from agent.cli.console_tables import point_title

        return point_title(point).partition("（")[0] or point

    def _figures(self, most: int) -> Table:
        words = WORDS[self.language]
        if not self.board.newest:
            table = self._table(words["no figures"])
            table.add_row(words["wait"].format(at=self.board.next_at(self.grace_s)))
            return table
        start, end = self.board.hours()
        table = self._table(words["figures"].format(start=start, end=end))
        table.add_column(words["value"], justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column(words["known"], justify="right", no_wrap=True)
        for row in self.board.rows(self.language)[:most]:
            table.add_row(*row)
        return table

    @staticmethod
    def _table(*columns: str) -> Table:
        from agent.cli.console_tables import plain_table

        table = plain_table("")
        table.title = None
        for column in columns:
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        return table


def end_text(facts: Mapping[str, Any], language: str) -> str:
    """Return the last line that the demo prints for people."""
    return WORDS[language]["end"].format(**facts)
