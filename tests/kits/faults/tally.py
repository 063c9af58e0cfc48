"""A device whose answers can be traced: each answer differs from all others in every value, and is recorded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.kits.house import SITE, Meter

COUNT, POWER = "ac.energy.import", "ac.power.active"
LATE_S = 12.0  # longest time from an answer to its read time, because no visit waits longer
TICK_BACK_S = 12.0  # an answer belongs to a tick at most this long before it
EARLY_S = 0.002  # times in packs are whole milliseconds


class Tally(Meter):
    """A Meter whose power is the negative of its number, so that each value of an answer names that answer.

    ``scale``: the scale of the power register in the current profile. A test that changes the profile sets it.
    """

    def __init__(self, unit: int, first: int = 0, firmware: str = "2") -> None:
        self.scale = Decimal("0.1")
        self.scales: dict[int, Decimal] = {}  # number -> scale when it was served
        self.asked = threading.Event()  # set at each answer
        super().__init__(unit, first, firmware)

    def _count(self, function: int, address: int, count: int) -> None:
        super()._count(function, address, count)
        if address == 0:
            raw = -self.count & 0xFFFFFFFF
            self.image.put_words(2, [raw >> 16, raw & 0xFFFF])
            self.scales[self.count] = self.scale
            self.asked.set()


class Ledger:
    """Compares the values of one device that arrived with those that it served. Packs may be added bit by bit."""

    def __init__(self, device: str, meter: Tally, period_ms: int) -> None:
        self.device, self.meter, self._period = device, meter, period_ms
        self.came: Counter[int] = Counter()
        self.gap_ticks: dict[int, str] = {}  # ms -> reason
        self._lost: list[tuple[float, float]] = []  # signed loss events

    def take(self, packs: Iterable[Mapping[str, Any]]) -> None:
        """Check each value and time of some packs. Give each pack only once. Packs of other streams are ignored."""
        for pack in packs:
            if pack["stream"] != f"{SITE}/{self.device}":
                continue
            for at, values in by_time(pack):
                self._answer(at, values, pack["seq"])
            for gap in pack.get("gaps", ()):
                if gap["points"] == "*" or COUNT in gap["points"]:
                    first = -(-round(gap["from"] * 1000) // self._period) * self._period
                    for tick in range(first, round(gap["to"] * 1000), self._period):
                        self.gap_ticks[tick] = gap["reason"]
            self._lost += [(e["from"], e["to"]) for e in pack.get("events", ()) if e["event"] == "loss"]

    def _answer(self, at: float, values: Mapping[str, Any], seq: int) -> None:
        number = values.get(COUNT)
        if number is None:
            assert POWER not in values, f"{self.device} pack {seq}: a power without its number at {at}"
            return
        served = self.meter.served.get(number)
        assert served is not None, f"{self.device} pack {seq}: {number} was never served"
        late = at - served / 1e9
        assert -EARLY_S <= late <= LATE_S, f"{self.device} pack {seq}: {number} was served {late:.3f} s before {at}"
        wanted = -number * self.meter.scales[number]
        assert Decimal(str(values[POWER])) == wanted, f"{self.device} pack {seq}: {values}, not {wanted}"
        self.came[number] += 1

    @property
    def twice(self) -> list[int]:
        """Numbers that are in more than one pack."""
        return [number for number, count in self.came.items() if count > 1]

    @property
    def missing(self) -> list[int]:
        """Numbers that were served but did not arrive, in order."""
        return sorted(self.meter.served.keys() - self.came.keys())

    def unaccounted(self) -> list[int]:
        """The missing numbers for which neither their own gap tick nor a loss is stated. There must be none."""
        free = set(self.gap_ticks)
        found = []
        for number in self.missing:
            at = self.meter.served[number] / 1e9
            if any(low <= at < high + TICK_BACK_S for low, high in self._lost):
                continue
            newest = int(at * 1000 + EARLY_S * 1000) // self._period * self._period
            oldest = newest - int(TICK_BACK_S * 1000)
            tick = next((t for t in range(newest, oldest, -self._period) if t in free), None)
            if tick is None:
                found.append(number)
            else:
                free.remove(tick)
        return found


def by_time(pack: Mapping[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    """The answers in a pack: (read time in UTC seconds, values by name). Two answers may have the same time."""
    found: list[tuple[float, dict[str, Any]]] = []
    base = 0.0
    for record in pack.get("e", ()):
        base = record.get("bt", base)
        at = round(base + record.get("t", 0), 3)
        if not found or found[-1][0] != at or record["n"] in found[-1][1]:
            found.append((at, {}))
        found[-1][1][record["n"]] = record.get("v", record.get("vs", record.get("vb")))
    return found


def rescale(profile: Path, meters: Iterable[Tally], scale: Decimal) -> None:
    """Change the scale of the power register in the profile. It takes effect at the agent's next start."""
    text = profile.read_text()
    old = next(str(meter.scale) for meter in meters)
    head, name, tail = text.partition(f'name = "{POWER}"')
    assert name and f"scale = {old}" in tail
    profile.write_text(head + name + tail.replace(f"scale = {old}", f"scale = {scale}", 1))
    for meter in meters:
        meter.scale = scale


def wait_until_asked(meter: Tally, seconds: float) -> bool:
    """Wait for the next answer of a device."""
    meter.asked.clear()
    return meter.asked.wait(seconds)
