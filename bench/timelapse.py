"""Runs a simulated park through ring, packer, store, intervals and figures, in simulated time.

From the ring on, this is the code of the agent; only the polling of devices is replaced. The energies of all meters
agree exactly: generated, bought and discharged energy equals used, sold and charged energy.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import agent
from agent.config import Config, load_config
from agent.indicators.declared import Declaration, EnteredBy
from agent.intervals.calendar import Calendar
from agent.intervals.tracked_points import Rule
from agent.keys import create_key, key_records
from agent.pack import BirthTable, Packer
from agent.service.births import DeviceCatalog
from agent.service.results.interval_builder import IntervalBuilder
from agent.service.results.publisher import LATE_MS, LATE_PACKS
from agent.service.results.site import BalanceResults, IndicatorResults, KnownPacks
from agent.service.seal_jobs import SealedSegment
from agent.store import Store
from drivers.model import Reason
from drivers.sim.physics import Noise, Physics, Plant
from ext.ring import Ring

HOUR_MS = 3_600_000
SCALE = 1600  # factor that enlarges the simulator's park to the size of the zero-carbon parks in the official notice
PLANT = Plant(pv_w=(90_000.0, 25_000.0, 15_000.0), battery_w=20_000.0, battery_wh=80_000.0)
BOOT = "3f2a9c41d07be815"

PLAN = """schema = 1
sets = ["national-2025", "plain"]

[absent]
"generation.wind" = "no wind turbine of its own"
"generation.hydro" = "no water power"

[exclude]
"national-2025/product_energy" = "no product of the park has an energy limit standard"
"""

_SITE = """[site]
id = "park7"
gateway = "gw01"
timezone = "{timezone}"
label = "Riverside industrial park"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"

[pack]
every = "15 min"

[indicators]
plan = "plan.toml"

[[line]]
name = "meters"
url = "modbus-tcp://192.0.2.7"
"""

_MEDIA = """schema = 1
vendor = "Site"
models = ["flow computer"]
kind = "meter"
protocol = "modbus"
source = "made up for a simulated park"
evidence = "derived"
defaults = { function = 3, type = "u32", order = "ABCD" }
point = [
  { name = "gas.volume.norm", address = 0, scale = 0.1, unit = "Nm3" },
  { name = "heat.energy", address = 2, scale = 0.01, unit = "GJ" },
  { name = "water.volume", address = 4, scale = 0.1, unit = "m3" },
]

[[sample]]
name = "at rest"
holding = { 0 = 0, 1 = 10, 2 = 0, 3 = 100, 4 = 0, 5 = 10 }
expect = { "gas.volume.norm" = 1, "heat.energy" = 1, "water.volume" = 1 }
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A meter. ``points``: name of a point -> name of its counter in ``Truth.counts``."""

    name: str
    label: str
    profile: str
    roles: Mapping[str, str]
    points: Mapping[str, str]


def _electric(name: str, label: str, role: str, imported: str = "", exported: str = "") -> Slot:
    points = {f"ac.energy.{way}": count for way, count in (("import", imported), ("export", exported)) if count}
    return Slot(name, label, "abb/b23", {"ac": role}, points)


SLOTS: tuple[Slot, ...] = (
    _electric("gate", "110 kV connection", "grid", "taken", "given"),
    _electric("wind-line", "direct line from the wind farm", "direct", "direct"),
    _electric("pv-hall-1", "roof of hall 1", "generation.pv", "", "pv1"),
    _electric("pv-hall-2", "roof of hall 2", "generation.pv", "", "pv2"),
    _electric("pv-canteen", "roof of the canteen", "generation.pv", "", "pv3"),
    _electric("storage", "storage", "storage", "charge", "discharge"),
    _electric("machining", "machining", "load", "workshop"),
    _electric("compressors", "compressors", "load", "compressor"),
    _electric("buildings", "all other buildings", "load", "base"),
    Slot("boiler", "boiler house", "site/media", {"gas": "gas"}, {"gas.volume.norm": "gas"}),
    Slot("steam-main", "heat bought", "site/media", {"heat": "heat.supplied"}, {"heat.energy": "heat_bought"}),
    Slot("recovery", "compressor heat", "site/media", {"heat": "heat.recovered"}, {"heat.energy": "heat"}),
    Slot("intake", "fresh water", "site/media", {"water": "water.fresh"}, {"water.volume": "water"}),
    Slot("reuse", "reused water", "site/media", {"water": "water.reused"}, {"water.volume": "water_again"}),
)


class Truth:
    """The simulated counters of all meters, as whole numbers of steps: 0.01 kWh, 0.1 Nm3, 0.01 GJ or 0.1 m3."""

    def __init__(self, seed: int, step_s: float, day_of_year: int) -> None:
        plant = replace(PLANT, day_of_year=day_of_year)
        self._physics = Physics(seed, start_s=0.0, step_s=step_s, plant=plant)
        rng = Random(seed)
        self._wind, self._hours = Noise(rng, 7200, 400_000), step_s / 3600
        self._more = dict.fromkeys(("direct", "gas", "heat_bought", "water", "water_again"), 0.0)
        self._last = self._look()
        self.counts = {**self._last, "taken": 123_456_700, "given": 4_567_800}

    def _look(self) -> dict[str, int]:
        c = self._physics.counters
        energies = {"workshop": c.workshop, "compressor": c.compressor, "base": c.load - c.workshop - c.compressor}
        energies |= {"charge": c.charge, "discharge": c.discharge, "direct": self._more["direct"]}
        energies |= {f"pv{n}": wh for n, wh in enumerate(c.pv, 1)}
        found = {name: int(wh * SCALE / 10) for name, wh in energies.items()}
        found["heat"] = int(c.heat * SCALE * 3.6e-6 * 100)
        return found | {name: int(self._more[name] * 10) for name in ("gas", "water", "water_again")} | {
            "heat_bought": int(self._more["heat_bought"] * 100)
        }  # fmt: skip

    def step(self) -> None:
        """Advance by one step of time."""
        p = self._physics
        cold = 0.75 + 0.75 * _season(p.t_s)
        work = 0.3 + p.workshop_w / PLANT.workshop_w
        self._more["direct"] += 9_000 * max(0.0, 0.85 + 1.6 * self._wind(p.t_s)) * self._hours
        self._more["gas"] += 700 * cold * work * self._hours
        self._more["heat_bought"] += 5 * cold * work * self._hours
        self._more["water"] += 110 * work * self._hours
        self._more["water_again"] += 530 * work * self._hours
        p.step()
        new = self._look()
        grown = {name: new[name] - self._last[name] for name in new}
        used = grown["workshop"] + grown["compressor"] + grown["base"] + grown["charge"]
        net = used - grown["pv1"] - grown["pv2"] - grown["pv3"] - grown["direct"] - grown["discharge"]
        self._last = new
        self.counts.update(new)
        self.counts["taken" if net > 0 else "given"] += abs(net)


def _season(t_s: float) -> float:
    """A curve with a period of a year: 1 in the middle of January, -1 in the middle of July."""
    from math import cos, pi

    return cos(2 * pi * (t_s / 86_400 - 15) / 365)


@dataclass(frozen=True, slots=True)
class Silence:
    """A time range ``[from_ms, to_ms)`` in which a meter does not answer, but continues to count."""

    device: str
    from_ms: int
    to_ms: int


@dataclass(slots=True)
class _Meter:
    slot: Slot
    table: BirthTable
    packer: Packer
    exponents: tuple[int, ...]
    positions: array[int] = field(default_factory=lambda: array("Q"))


class Timelapse:
    """A simulated park. Its time begins at midnight of ``first``. Creates agent.toml, plan, key and database in
    ``folder``.

    Args:
        every_s: time between two readings of a meter.
        late_ms: delay of answers after the tick: the answer of meter n comes n times this time after the tick.
        silences: time ranges in which meters do not answer.
        sun_day: the first simulated day has the sun of this day of the year.
        silent_every_ms: time between two packs of a meter while it does not answer.
    """

    def __init__(
        self,
        folder: Path,
        first: date,
        *,
        timezone: str = "Asia/Shanghai",
        plan: str = PLAN,
        every_s: int = 300,
        seed: int = 1,
        late_ms: int = 0,
        silences: Sequence[Silence] = (),
        sun_day: int = PLANT.day_of_year,
        silent_every_ms: int = HOUR_MS,
    ) -> None:
        self._silent_every_ms = silent_every_ms
        self.folder, self._every_ms, self._late_ms, self.silences = folder, every_s * 1000, late_ms, list(silences)
        self.config = self._configure(timezone, plan, every_s)
        signer = create_key(folder / "state" / "signing.key", 0)
        self.kid = signer.kid
        self.store = Store.open(self.config.store_path)
        self.store.keys.add(1, key_records(signer, self.config.base))
        self.ring = Ring.create(str(folder / "ring"), 1 << 20, 1, int(BOOT, 16), bytes(32))
        entry = self.config.interval
        self.calendar = Calendar(self.config.timezone, entry.length_ms)
        self.now_ms = self.calendar.midnight(first)
        rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        self.events: list[dict[str, Any]] = []
        self._builder = IntervalBuilder(self.calendar, rule, self.config.store.keep_intervals_s * 1000, self._note)
        self._truth = Truth(seed, every_s, sun_day)
        catalog = DeviceCatalog(self.config, {}, self.now_ms)
        sign = signer.signer("mh-pack")

        def packer(stream: str) -> Packer:
            return Packer(stream, BOOT, None, sign, self.now_ms, self.config.pack.max_size_bytes)

        self._meters: list[_Meter] = []
        for device, slot in zip(self.config.devices, SLOTS, strict=True):
            spec = catalog.spec(device)
            made = _Meter(slot, catalog.table(device, spec), packer(spec.stream), _exponents(spec.points, slot))
            made.packer.use(made.table)
            self._meters.append(made)
        results = f"{self.config.base}/_indicators"
        self._results = packer(results)
        self._results.use(catalog.results_table(results, agent.__version__))
        self._figures = IndicatorResults(self.config)
        self._others = KnownPacks(self.config), BalanceResults(self.config)
        self.readings = self.packs = self.figures = 0

    def _configure(self, timezone: str, plan: str, every_s: int) -> Config:
        (self.folder / "profiles" / "site").mkdir(parents=True)
        (self.folder / "profiles" / "site" / "media.toml").write_text(_MEDIA, encoding="utf-8")
        (self.folder / "plan.toml").write_text(plan, encoding="utf-8")
        text = _SITE.format(timezone=timezone)
        for number, slot in enumerate(SLOTS, 1):
            points = ", ".join(f'"{name}"' for name in slot.points)
            roles = ", ".join(f'"{part}" = "{role}"' for part, role in slot.roles.items())
            text += f'\n[[device]]\nname = "{slot.name}"\nlabel = "{slot.label}"\nline = "meters"\n'
            text += f'address = "{number}"\nprofile = "{slot.profile}"\npoints = [{points}]\n'
            text += f'roles = {{ {roles} }}\nevery = {{ fast = "{every_s} s", normal = "{every_s} s", '
            text += f'slow = "{every_s} s" }}\n'
        (self.folder / "agent.toml").write_text(text, encoding="utf-8")
        (self.folder / "state").mkdir()
        return load_config(self.folder / "agent.toml", environ={})

    def _note(self, stream: str, event: dict[str, Any]) -> None:
        self.events.append({"stream": stream, **event})

    def declare(
        self,
        name: str,
        value: str,
        unit: str,
        first: date,
        after: date | None,
        who: str,
        at_ms: int,
        document: str = "",
        replaces: str = "",
        by: EnteredBy | None = None,
    ) -> str:
        """Declare a value at a simulated time, as ``meterhouse declare`` does. Returns the id of the entry."""
        number = f"{len(self.store.documents.declarations()) + 1:016x}"
        times = self.calendar.midnight(first), self.calendar.midnight(after) if after else None
        made = Declaration(number, f"declared.{name}", value, unit, *times, who, at_ms, document, replaces, by)
        self.store.documents.declare(made.id, made.at_ms, made.as_dict())
        return made.id

    def plan(self, text: str) -> None:
        """Change the plan of the figures. A reload of the agent does the same."""
        (self.folder / "plan.toml").write_text(text, encoding="utf-8")
        self.config = load_config(self.folder / "agent.toml", environ={})
        self._results.use(DeviceCatalog(self.config).results_table(self._results.stream, agent.__version__))
        self._figures = IndicatorResults(self.config)
        self._others = KnownPacks(self.config), BalanceResults(self.config)

    # --- time

    def until(self, last: date) -> Iterator[int]:
        """Simulate the time until an hour after midnight of ``last``. Yields the end of each simulated hour in UTC ms.

        The additional hour is needed because the last figures are made in it.
        """
        end_ms = self.calendar.midnight(last) + HOUR_MS
        while self.now_ms < end_ms:
            self._live(self.now_ms + HOUR_MS)
            yield self.now_ms

    def _live(self, to_ms: int) -> None:
        """Read the meters until ``to_ms``, seal packs, and make intervals and figures from them."""
        while self.now_ms < to_ms:
            self._read(self.now_ms)
            self._truth.step()
            self.now_ms += self._every_ms
        works, packs = [], []
        clock = {"error_ms": 1.2, "kernel_boot": None, "mono_ms": to_ms & 0xFFFFFFFF, "synced": True}
        for meter in self._meters:
            if meter.packer.quiet and not meter.positions and to_ms < meter.packer.from_ms + self._silent_every_ms:
                continue
            held = meter.positions[:]
            made = meter.packer.seal(self.ring, meter.positions, to_ms, clock, (), Reason.TIMEOUT)
            works.append(
                SealedSegment(
                    meter.packer.stream, self.ring, meter.table, held[: len(held) - len(meter.positions)], made
                )
            )
            packs += made
        self.store.packs.commit(packs)
        self.readings += sum(pack.records for pack in packs)
        self._builder.committed(self.store, works)
        while self._builder.catch_up(self.store):
            pass
        self._close(clock)
        self.packs += len(packs)
        self._builder.tidy(self.store, to_ms)

    def _read(self, tick_ms: int) -> None:
        counts = self._truth.counts
        for number, meter in enumerate(self._meters):
            if any(s.device == meter.slot.name and s.from_ms <= tick_ms < s.to_ms for s in self.silences):
                continue
            names, at = enumerate(meter.slot.points.values()), tick_ms + number * self._late_ms
            values = [(n, counts[name], meter.exponents[n], 0) for n, name in names]
            meter.positions.append(self.ring.append_values(0, tick_ms, at * 1_000_000, at * 1_000_000, values))

    def _close(self, clock: Mapping[str, Any]) -> None:
        """Seal the figures of closed intervals, as ``agent.service.results.publisher`` does."""
        while self._figures.prepare(self.store, self._results.from_ms):
            pass
        settled = self._builder.closed_ms([meter.packer.stream for meter in self._meters])
        # silent meters delay the figures at most this long
        settled = max(settled, self.now_ms - LATE_MS - LATE_PACKS * HOUR_MS)
        made, start = [], self._results.from_ms
        while (end := self.calendar.stretch("interval", start)[1]) <= settled:
            found = [*self._figures(self.store, start, end)]
            found += [result for one in self._others for result in one(self.store, start, end)]
            self.figures += sum(result["kind"] == "figure" for result in found)
            made.append((end, found))
            start = end
        packs = self._results.results(self.ring, clock, made)
        if packs:
            self.store.packs.commit(packs)
        self.packs += len(packs)

    def close(self) -> None:
        """Save the builder's state, and close the database and the ring."""
        self._builder.save(self.store)
        self.store.close()
        self.ring.close()


def _exponents(points: Sequence[Any], slot: Slot) -> tuple[int, ...]:
    """The exponent of each point's scale.

    Raises ValueError unless the points of the device are those of the slot, in the same order.
    """
    names = [point.name for point in points]
    if names != list(slot.points):
        raise ValueError(f"{slot.name} has {names}, not {list(slot.points)}")
    return tuple(int(point.scale.as_tuple().exponent) for point in points)
