"""Random streams for tests that interrupt a ledger. Tables, paces and faults of all kinds are made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agent.intervals.calendar import Calendar
from agent.intervals.tracked_points import Rule
from tests.kits.ledger import START, STREAM, point, table

HOUR_MS = 3_600_000


@dataclass
class Pack:
    """Has the members of ``agent.pack.SealedPack``."""

    stream: str
    boot: str
    seq: int
    from_ms: int
    to_ms: int
    is_birth: bool
    data: bytes
    hash: bytes = bytes(32)
    ring_id: int = 1
    ring_pos: int = 0


@dataclass
class _Counter:
    """A meter's counter. ``clean``: all its readings show growth."""

    name: str
    every: int  # number of packs from one reading to the next
    scale: Decimal
    bits: int
    step: int  # largest growth per pack, in counts
    value: int
    offset: int  # ms after the tick
    silent_until: int = 0
    clean: bool = True
    readings: list[tuple[int, Decimal]] = field(default_factory=list)


@dataclass
class Park:
    """The packs of one stream, and how it is divided into intervals. ``clean``: readings of counters that only grew."""

    calendar: Calendar
    rule: Rule
    packs: list[Pack]
    clean: dict[str, list[tuple[int, Decimal]]]
    counts: dict[str, Decimal]  # counter -> value of one count


_COUNTERS = (
    ("ac.energy.import", "kWh"), ("ac.energy.export", "kWh"), ("circuit.1.energy.import", "kWh"),
    ("circuit.2.energy.import", "kWh"), ("water.volume", "m3"), ("heat.energy", "GJ"), ("x.stray", "kWh"),
)  # fmt: skip
_GAUGES = (("ac.power.active", "kW"), ("circuit.2.power.active", "W"), ("battery.soc", "%"), ("x.level", "V"))
_ROLES = {
    "ac": ("grid", "load", "direct", "generation.pv"), "circuit.1": ("load", "transformer"),
    "circuit.2": ("load", "check"), "water": ("water.fresh",), "heat": ("heat.recovered",), "battery": ("storage",),
}  # fmt: skip
FAULTS = (
    "silence", "silence", "device silence", "zero", "ones", "spike", "back step", "reset", "swap", "suspect",
    "estimated", "restart", "restart", "ahead", "back", "epoch", "roles", "parts",
)  # fmt: skip
HARMLESS = ("silence", "device silence", "restart", "roles", "parts")  # with these, counters only grow


class Maker:
    """Makes a park. ``faults``: the faults that may occur."""

    def __init__(self, seed: int, packs: int = 90, faults: Sequence[str] = FAULTS, hours: float = 0) -> None:
        self.rng = rng = random.Random(seed)
        self.gap_rng = random.Random(f"{seed} gaps")  # separate, so that gaps do not change other random choices
        self.calendar = Calendar(rng.choice(("Asia/Shanghai", "Europe/Berlin")), rng.choice((60_000, 300_000, 900_000)))
        self.rule = Rule(rng.choice((60_000, 300_000)), 900_000, rng.choice((60_000, 300_000)))
        self.every = rng.choice((10_000, 60_000, 300_000))
        if hours:
            self.every = int(hours * HOUR_MS / packs) // 1000 * 1000
            self.calendar = Calendar(self.calendar.timezone, 900_000)
        self.to_ms = START + rng.randrange(0, 86_400) * 1000
        self.boot, self.seq, self.epoch = rng.getrandbits(62), 0, 1
        self.packs: list[Pack] = []
        self.counters = [
            self._counter(*entry) for entry in rng.sample(_COUNTERS, rng.randint(1, len(_COUNTERS)))
        ]  # fmt: skip
        self.gauges = rng.sample(_GAUGES, rng.randint(0, len(_GAUGES)))
        self.heat = rng.random() < 0.2 and all(c.name != "heat.energy" for c in self.counters)
        self.units = dict(_COUNTERS + _GAUGES)
        self._roles()
        self._birth()
        self.wild = faults is FAULTS  # False: counters grow steadily, and their pace is known before the first fault
        at = set(rng.sample(range(5 if self.wild else 30, packs), rng.randint(1, 12)))
        for n in range(packs):
            if n in at:
                self._fault(rng.choice(faults))
            self._pack(n)

    def park(self) -> Park:
        found = {c.name: c.readings for c in self.counters if c.clean}
        return Park(self.calendar, self.rule, self.packs, found, {c.name: c.scale for c in self.counters})

    def _counter(self, name: str, unit: str) -> _Counter:
        rng = self.rng
        bits = rng.choice((16, 32, 32, 64))
        scale = rng.choice((Decimal(1), Decimal("0.1"), Decimal("0.001")))
        value = rng.choice((0, 5, (1 << bits) - 300 if bits < 64 else 10**12, rng.randrange(1000, 40_000)))
        step = rng.choice((0, 1, 3, 40, 500)) if bits > 16 else rng.choice((0, 1, 3, 40))
        made = _Counter(name, rng.choice((1, 1, 1, 2, 5)), scale, bits, step, value, rng.randrange(0, 900))
        made.clean = 1000 <= value < (1 << bits) - 30_000  # near the ends of the range, a first reading may be rejected
        return made

    def _roles(self) -> None:
        rng = self.rng
        self.roles = {part: rng.choice(names) for part, names in _ROLES.items() if rng.random() < 0.8}

    # --- packs

    def _table(self) -> dict[str, Any]:
        period = self.every / 1000
        points = []
        for c in self.counters:
            source = {"scale": f"{c.scale}", "type": f"u{c.bits}"}
            more = {} if c.bits == 64 else {"width": {"bits": c.bits}}
            points.append(point(c.name, "counter", self.units[c.name], period * c.every, source=source, **more))
        for name, unit in self.gauges:
            points.append(point(name, "gauge", unit, period, source={"scale": "0.001", "type": "f32"}))
        if self.heat:
            points += [
                point("heat.flow", "gauge", "m3/h", period, source={"scale": "0.001"}),
                point("heat.temperature.supply", "gauge", "Cel", period, source={"scale": "0.1"}),
                point("heat.temperature.return", "gauge", "Cel", period, source={"scale": "0.1"}),
            ]
        return table(*points, epoch=self.epoch, roles=self.roles)

    def _birth(self) -> None:
        self._add(self.to_ms, [], table=self._table())

    def _add(self, to_ms: int, e: Sequence[dict[str, Any]], **more: Any) -> None:
        self.seq += 1
        boot = f"{self.boot:016x}"
        if to_ms > self.to_ms and self.gap_rng.random() < 0.4:
            more["gaps"] = self._gaps(self.to_ms // 1000, to_ms // 1000, "part" not in more)
        body: dict[str, Any] = {"boot": boot, **({"e": list(e)} if e else {}), "from": self.to_ms / 1000, **more}
        body |= {"prev": None, "seq": self.seq, "sig": "none", "stream": STREAM, "to": to_ms / 1000, "v": 1}
        data = json.dumps(body, separators=(",", ":")).encode()
        self.packs.append(Pack(STREAM, boot, self.seq, self.to_ms, to_ms, "table" in more, data))
        self.to_ms = to_ms

    def _gaps(self, from_s: int, to_s: int, whole: bool) -> list[dict[str, Any]]:
        """Some gaps on whole seconds. They may overlap or touch."""
        out = []
        for _ in range(self.gap_rng.randint(1, 4)):
            start, end = sorted((self.gap_rng.randint(from_s, to_s), self.gap_rng.choice((from_s, to_s))))
            names = "*" if whole and self.gap_rng.random() < 0.4 else [self.gap_rng.choice(self.counters).name]
            if start < end:
                reason = self.gap_rng.choice(("timeout", "crc", "asleep"))
                out.append({"from": start, "points": names, "reason": reason, "to": end})
        return out

    def _pack(self, n: int) -> None:
        e, to_ms = [], self.to_ms + self.every
        for c in self.counters:
            c.value = (c.value + self.rng.randint(0 if self.wild else c.step, c.step)) % (1 << c.bits)
            if n % c.every == 0 and self.to_ms >= c.silent_until:
                e.append(self._reading(c, c.value))
        for name, _ in self.gauges:
            value = Decimal(self.rng.randint(-90_000, 90_000)).scaleb(-3)
            e.append({"bt": (self.to_ms + 120) / 1000, "n": name, "v": float(value)})
        if self.heat:
            flow = [("heat.temperature.supply", 700), ("heat.temperature.return", 500), ("heat.flow", 20)]
            for name, tenths in flow:
                value = (tenths + self.rng.randint(-5, 5)) / 10
                e.append({"bt": (self.to_ms + 150) / 1000, "n": name, "v": value})
        self._send(e, to_ms)

    def _send(self, e: list[dict[str, Any]], to_ms: int) -> None:
        if not self.split or len(e) < 2:
            self._add(to_ms, e)
            return
        self.split, from_ms, half = False, self.to_ms, len(e) // 2
        for k, some in enumerate((e[:half], e[half:]), 1):
            self.to_ms = from_ms
            self._add(to_ms, some, part=[k, 2])

    split = False  # True: the next pack comes in parts

    def _reading(self, c: _Counter, counts: int, quality: str = "") -> dict[str, Any]:
        value, at = counts * c.scale, self.to_ms + c.offset
        c.readings.append((at, value))
        record = {"bt": at / 1000, "n": c.name, "v": float(value), "x": f"{value}"}
        return record | ({"q": quality} if quality else {})

    # --- faults

    def _fault(self, kind: str) -> None:
        rng, c = self.rng, self.rng.choice(self.counters)
        if kind == "silence":
            c.silent_until = self.to_ms + rng.randint(1, 30) * self.every
        elif kind == "device silence":
            until = self.to_ms + rng.randint(1, 12) * max(self.every, 300_000)
            self._add(until, [])
        elif kind == "restart":
            self.boot += 1
            self._birth()
            self._add(self.to_ms + rng.choice((0, 1, 7, 200)) * 10_000, [])
        elif kind in ("ahead", "back"):
            self.to_ms += rng.randint(1, 40) * 60_000 * (1 if kind == "ahead" else -1)
            self._spoil()
        elif kind == "epoch":
            self.epoch += 1
            self._spoil()
            self._birth()
        elif kind == "roles":
            self._roles()
            self._birth()
        elif kind == "parts":
            self.split = True
        else:
            self._odd(c, kind)

    def _spoil(self) -> None:
        for c in self.counters:
            c.clean = False

    def _odd(self, c: _Counter, kind: str) -> None:
        c.clean = c.clean and kind in ("suspect", "estimated")
        if kind == "reset":
            c.value = self.rng.randint(0, 3)
        elif kind == "swap":
            c.value = self.rng.randrange(0, min(1 << c.bits, 10**6))
        odd = {
            "zero": 0,
            "ones": (1 << c.bits) - 1,
            "spike": min(c.value + 50_000_000, (1 << c.bits) - 2),
            "back step": max(c.value - self.rng.randint(1, 5), 0),
        }
        for _ in range(self.rng.randint(1, 4)):
            quality = kind if kind in ("suspect", "estimated") else ""
            self._send([self._reading(c, odd.get(kind, c.value), quality)], self.to_ms + self.every)


def make(seed: int, packs: int = 90, faults: Sequence[str] = FAULTS, hours: float = 0) -> Park:
    """Make the park of a seed. ``hours``: approximate time that all its packs span; 0: the seed determines it."""
    return Maker(seed, packs, faults, hours).park()
