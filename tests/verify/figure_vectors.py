"""Small parks whose packs, intervals and figures are test vectors: docs/vectors/figures.

Everything from the ring on is what the agent runs (packer, store, intervals, figures); readings, times and keys are
made up and the same every time. Nothing of it depends on the version, the defaults of the configuration or shipped
profiles, so that the files change only where packs, intervals or figures do.
"""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import tempfile
import tomllib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import agent.indicators
from agent.config import Config, load_config
from agent.indicators.declared import Declaration
from agent.intervals.calendar import Calendar
from agent.intervals.query import query
from agent.intervals.tracked_points import Rule
from agent.pack import BirthTable, Packer
from agent.service.births import DeviceCatalog
from agent.service.control.export import COLUMNS, Archive, cells_of
from agent.service.results.interval_builder import IntervalBuilder
from agent.service.results.publisher import LATE_MS, LATE_PACKS
from agent.service.results.site import BalanceResults, IndicatorResults, KnownPacks
from agent.service.seal_jobs import SealedSegment
from agent.store import Store
from drivers.model import Reason
from ext.ring import Ring
from tests.kits.signed import Key, b64, keys

ZONE = "Asia/Shanghai"
BOOT = "3f2a9c41d07be815"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DIGEST = b64(bytes(range(32)))  # in place of the hash of the configuration

_PROFILES = {
    "electric": """
  { name = "ac.energy.import", address = 0, type = "u32", scale = 0.01, unit = "kWh", ratio = "apply" },
  { name = "ac.energy.export", address = 2, type = "u32", scale = 0.01, unit = "kWh", ratio = "apply" },
  { name = "ac.frequency", address = 4, type = "u16", scale = 0.01, unit = "Hz" },
""",
    "inverter": '  { name = "ac.energy.generation", address = 0, type = "f32", unit = "kWh" },\n',
    "media": """
  { name = "gas.volume.norm", address = 0, type = "u32", scale = 0.1, unit = "Nm3" },
  { name = "heat.energy", address = 2, type = "u32", scale = 0.01, unit = "GJ" },
  { name = "water.volume", address = 4, type = "u32", scale = 0.1, unit = "m3" },
""",
}
_PROFILE = """schema = 1
vendor = "Site"
models = ["made up"]
kind = "meter"
protocol = "modbus"
source = "made up for test vectors"
evidence = "derived"
defaults = {{ function = 3, order = "ABCD" }}
point = [{points}]
"""
_SITE = """[site]
id = "park7"
gateway = "gw01"
timezone = "{zone}"
label = "Riverside industrial park"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"

[pack]
every = "{every} s"

[interval]
length = "{length} s"
{plan}
[[line]]
name = "meters"
url = "modbus-tcp://192.0.2.7"
"""

Count = Callable[[int], Decimal | None]  # what a point shows at a tick (ms since the park began); None: no answer


@dataclass(frozen=True)
class Meter:
    """A device: its profile, its roles, and what its points show."""

    name: str
    profile: str
    roles: Mapping[str, str]
    points: Mapping[str, Count]
    ct: int = 1
    seal_s: int = (
        0  # how often it is sealed, where that is less often than the others: a silent device's packs are long
    )


@dataclass(frozen=True)
class Park:
    """What a vector is made of. Times are local; a meter answers ``late_ms(number, tick)`` after a tick."""

    about: str
    begins: datetime
    ends: datetime
    meters: Sequence[Meter]
    every_s: int = 60
    seal_s: int = 300
    length_s: int = 900
    plan: str = ""
    entries: Sequence[Mapping[str, Any]] = ()


def steady(start: str, per_tick: Sequence[str], every_s: int = 60) -> Count:
    """A counter that grows by these amounts, one a tick, over and over."""
    first, steps = Decimal(start), [Decimal(step) for step in per_tick]
    whole = sum(steps, Decimal(0))

    def at(ms: int) -> Decimal:
        rounds, rest = divmod(ms // (every_s * 1000), len(steps))
        return first + rounds * whole + sum(steps[:rest], Decimal(0))

    return at


def silent(count: Count, from_ms: int, to_ms: int) -> Count:
    """The same, but nobody hears it in ``[from_ms, to_ms)``."""
    return lambda ms: None if from_ms <= ms < to_ms else count(ms)


def restarted(count: Count, at_ms: int, start: str = "0") -> Count:
    """The same until ``at_ms``; from there on it counts from ``start``."""

    def at(ms: int) -> Decimal | None:
        now, then = count(ms), count(at_ms)
        return now if ms < at_ms or now is None or then is None else Decimal(start) + now - then

    return at


def late_ms(number: int, tick_ms: int) -> int:
    """How long after its tick a meter is read: another time for each, and no round one."""
    return 137 + 211 * number + tick_ms // 1000 * 7919 % 613


@dataclass
class _Unit:
    meter: Meter
    table: BirthTable
    packer: Packer
    positions: array[int] = field(default_factory=lambda: array("Q"))
    events: list[dict[str, Any]] = field(default_factory=list)


class Play:
    """A park from its first tick to its last figure, in ``folder``."""

    def __init__(self, folder: Path, park: Park) -> None:
        self.park, self.key = park, Key(1)
        self.config = self._configure(folder)
        self.start_ms, self.end_ms = (
            round(at.replace(tzinfo=ZoneInfo(ZONE)).timestamp()) * 1000 for at in (park.begins, park.ends)
        )
        self.now_ms = self.start_ms
        self.store = Store.open(self.config.store_path)
        self.store.keys.add(1, keys(self.key))
        for one in park.entries:
            made = Declaration(**one)
            self.store.documents.declare(made.id, made.at_ms, made.as_dict())
        self.ring = Ring.create(str(folder / "ring"), 1 << 20, 1, int(BOOT, 16), bytes(32))
        entry = self.config.interval
        self.calendar = Calendar(self.config.timezone, entry.length_ms)
        rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        self.builder = IntervalBuilder(self.calendar, rule, self.config.store.keep_intervals_s * 1000, self._note)
        catalog = DeviceCatalog(self.config, {}, self.start_ms)
        self.units: list[_Unit] = []
        for device, meter in zip(self.config.devices, park.meters, strict=True):
            spec = catalog.spec(device)
            assert {point.name for point in spec.points} == set(meter.points)
            unit = _Unit(meter, catalog.table(device, spec), self._packer(spec.stream))
            unit.packer.use(unit.table)
            self.units.append(unit)
        results = f"{self.config.base}/_indicators"
        self.results = self._packer(results)
        self.results.use(catalog.results_table(results, "vectors"))
        self.producers = IndicatorResults(self.config), KnownPacks(self.config), BalanceResults(self.config)

    def _packer(self, stream: str) -> Packer:
        return Packer(
            stream, BOOT, None, self.key.jws, self.calendar.floor(self.start_ms), self.config.pack.max_size_bytes
        )

    def _configure(self, folder: Path) -> Config:
        park = self.park
        (folder / "profiles" / "site").mkdir(parents=True)
        for name, points in _PROFILES.items():
            text = _PROFILE.format(points=points)
            (folder / "profiles" / "site" / f"{name}.toml").write_text(text, encoding="utf-8")
        plan = '\n[indicators]\nplan = "plan.toml"\n' if park.plan else ""
        (folder / "plan.toml").write_text(park.plan, encoding="utf-8")
        text = _SITE.format(zone=ZONE, every=min(park.seal_s, 900), length=park.length_s, plan=plan)
        pace = ", ".join(f'{pace} = "{park.every_s} s"' for pace in ("fast", "normal", "slow"))
        for number, meter in enumerate(park.meters, 1):
            text += f'\n[[device]]\nname = "{meter.name}"\nline = "meters"\naddress = "{number}"\n'
            text += f'profile = "site/{meter.profile}"\npoints = {json.dumps(list(meter.points))}\n'
            text += f"roles = {_table(meter.roles)}\nevery = {{ {pace} }}\n"
            text += f"ratio = {{ ct = {meter.ct}, pt = 1 }}\n" if meter.ct != 1 else ""
        (folder / "agent.toml").write_text(text, encoding="utf-8")
        (folder / "state").mkdir()
        return replace(load_config(folder / "agent.toml", environ={}), digest=DIGEST)

    def _note(self, stream: str, event: dict[str, Any]) -> None:
        next(unit for unit in self.units if unit.packer.stream == stream).events.append(event)

    # --- time

    def run(self) -> None:
        while self.now_ms < self.end_ms:
            pack_end = (self.now_ms // (self.park.seal_s * 1000) + 1) * self.park.seal_s * 1000
            while self.now_ms < pack_end:
                self._read(self.now_ms)
                self.now_ms += self.park.every_s * 1000
            self._seal(pack_end)

    def _read(self, tick_ms: int) -> None:
        for number, unit in enumerate(self.units):
            shown = [count(tick_ms - self.start_ms) for count in unit.meter.points.values()]
            if any(value is None for value in shown):
                continue
            at_ns = (tick_ms + late_ms(number, tick_ms)) * 1_000_000
            values = [(n, *_exact(value), 0) for n, value in enumerate(shown) if value is not None]
            unit.positions.append(self.ring.append_values(0, tick_ms, at_ns, at_ns, values))

    def _seal(self, to_ms: int) -> None:
        clock = {"error_ms": 1.2, "kernel_boot": None, "mono_ms": to_ms - self.start_ms, "synced": True}
        works, packs = [], []
        for unit in self.units:
            if unit.meter.seal_s and (to_ms - self.start_ms) % (unit.meter.seal_s * 1000):
                continue
            held, events = unit.positions[:], unit.events
            unit.events = []
            made = unit.packer.seal(self.ring, unit.positions, to_ms, clock, events, Reason.TIMEOUT)
            works.append(
                SealedSegment(unit.packer.stream, self.ring, unit.table, held[: len(held) - len(unit.positions)], made)
            )
            packs += made
        self.store.packs.commit(packs)
        self.builder.committed(self.store, works)
        while self.builder.catch_up(self.store):
            pass
        self._close(clock)

    def _close(self, clock: Mapping[str, Any]) -> None:
        """Seal the results of intervals that are closed, as ``agent.service.results.publisher`` does."""
        while self.producers[0].prepare(self.store, self.results.from_ms):
            pass
        settled = self.builder.closed_ms([unit.packer.stream for unit in self.units])
        settled = max(settled, self.now_ms - LATE_MS - LATE_PACKS * self.config.pack.every_ms)
        made, start = [], self.results.from_ms
        while (end := self.calendar.stretch("interval", start)[1]) <= settled:
            made.append((end, [result for one in self.producers for result in one(self.store, start, end)]))
            start = end
        self.store.packs.commit(self.results.results(self.ring, clock, made))

    # --- files

    def files(self, name: str) -> dict[str, bytes]:
        """NAME/ and NAME.csv: what `meterhouse export` writes, without and with `--intervals-flat`; NAME.plan.json."""
        out: dict[str, bytes] = {}
        for piece in Archive(self.store, 0, 1 << 50).pieces():
            file = f"{name}/{piece.file}"
            out[file] = out.get(file, b"") + b"".join(line + b"\n" for line in piece.lines)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS[:-1])  # a row does not know its gaps
        for row in query(self.store.intervals, 0, 1 << 50):
            writer.writerow(cells_of(row, self.calendar, self.config.site, self.config.gateway))
        out[f"{name}.csv"] = table.getvalue().encode()
        if self.park.plan:
            out[f"{name}.plan.json"] = _json(tomllib.loads(self.park.plan, parse_float=str))
        return out

    def close(self) -> None:
        self.store.close()
        self.ring.close()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _table(said: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f'"{name}" = "{value}"' for name, value in said.items()) + " }"


def _exact(value: Decimal) -> tuple[int, int]:
    """(mantissa, exponent)."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int) and not sign
    return int("".join(map(str, digits))), exponent


def float32(count: Count) -> Count:
    """What a register of four bytes shows of it: the shortest decimal that is the same float."""

    def at(ms: int) -> Decimal | None:
        value = count(ms)
        if value is None:
            return None
        raw = struct.pack(">f", float(value))
        texts = (f"{struct.unpack('>f', raw)[0]:.{digits}g}" for digits in range(1, 10))
        return Decimal(next(text for text in texts if struct.pack(">f", float(text)) == raw))

    return at


# --- the parks

VECTORS: dict[str, Callable[[], Park]] = {}


def vector(make: Callable[[], Park]) -> Callable[[], Park]:
    VECTORS[make.__name__] = make
    return make


def gate(count: Count | None = None, back: Count | None = None, ct: int = 1) -> Meter:
    points = {
        "ac.energy.import": count or steady("1204.50", ["0.37", "0.41", "0.35", "0.62", "0.11"]),
        "ac.energy.export": back or steady("88.10", ["0", "0.02", "0", "0", "0.05"]),
    }
    return Meter("gate", "electric", {"ac": "grid"}, points, ct)


YIELD = steady("7321.0625", ["0.0417", "0.0391", "0.0405", "0.0388"])


def roof(count: Count = YIELD) -> Meter:
    return Meter("roof", "inverter", {"ac": "generation.pv"}, {"ac.energy.generation": float32(count)})


@vector
def growth() -> Park:
    """Plain growth: a counter behind transformers, and one that is a float, kept in three decimals."""
    about = "plain growth, read between the boundaries; a current transformer of 80; a float counter; set plain"
    behind = steady("96360.0", ["29.6", "32.8", "28.0", "49.6", "8.8"])
    back = steady("7048.0", ["0", "1.6", "0", "0", "4.0"])
    beside = {"ac.frequency": steady("50.01", ["0"])}
    meter = gate(behind, back, 80)
    sun = steady(
        "7321.0625", ["3.3125", "3.1875", "3.0625", "3.4375", "3.2001"]
    )  # halves of the third decimal among it
    meters = replace(meter, points={**meter.points, **beside}), roof(sun)
    return Park(about, datetime(2025, 6, 30, 11), datetime(2025, 6, 30, 12, 20), meters)


@vector
def outage() -> Park:
    """A meter is silent for twenty minutes over a boundary, and counts on; then the day ends."""
    about = (
        "the gate's meter is silent from 23:20 to 23:40; its growth is known in total and spread; figures of the day"
    )
    silence = 20 * MINUTE_MS, 40 * MINUTE_MS
    normal = gate()
    points = {name: silent(count, *silence) for name, count in normal.points.items()}
    meters = replace(normal, points=points), roof()
    return Park(about, datetime(2025, 6, 30, 23), datetime(2025, 7, 1, 0, 20), meters)


@vector
def reset() -> Park:
    """The inverter's counter falls to zero and goes on from there."""
    about = "the inverter's counter begins again at 11:20: an event, a flag, and a stretch that is not counted"
    count = restarted(YIELD, 20 * MINUTE_MS)
    return Park(about, datetime(2025, 6, 30, 11), datetime(2025, 6, 30, 12), (gate(), roof(count)))


@vector
def demand() -> Park:
    """A load that moves, so that a sliding window is above the one that stands."""
    about = "windows of 15 minutes that slide by one minute, and those that stand; the day's plain/peak_demand"
    rises = ["0.20"] * 10 + ["0.90"] * 15 + ["0.30"] * 20
    meter = gate(steady("1204.50", rises))
    return Park(about, datetime(2025, 6, 30, 23), datetime(2025, 7, 1, 0, 20), (meter, roof()))


_PLAN = """schema = 1
sets = ["national-2025", "plain"]

[absent]
"generation.wind" = "no wind turbine of its own"
"generation.hydro" = "no water power"

[exclude]
"national-2025/product_energy" = "no product of the park has an energy limit standard"
"""


@vector
def day() -> Park:
    """A whole day of a park that is judged by the national set: all media, declarations, a month and a year so far."""
    about = "a day in intervals of three hours, read every hour; sets plain and national-2025, with declarations"
    noon = _ms(datetime(2025, 6, 30, 12))
    period = {"from_ms": _ms(datetime(2025, 6, 30)), "to_ms": _ms(datetime(2025, 7, 1))}
    entries = [
        {
            "id": f"{n:016x}",
            "name": f"declared.{name}",
            "value": value,
            "unit": unit,
            "who": "Li Wei",
            "at_ms": noon,
            **period,
        }
        for n, (name, value, unit) in enumerate(
            (
                ("certificates", "310.5", "MWh"),
                ("residual_available", "41", "GJ"),
                ("waste_generated", "12.5", "t"),
                ("waste_used", "10.9", "t"),
            ),
            1,
        )
    ]
    # an amount of which only a share of time falls into the day
    entries.append(
        {
            "id": f"{5:016x}", "name": "declared.other_fuel_co2", "value": "7", "unit": "tCO2", "who": "Zhang Min",
            "at_ms": noon, "from_ms": _ms(datetime(2025, 6, 30)), "to_ms": _ms(datetime(2025, 7, 3)),
            "document": "ticket 4711",
        }
    )  # fmt: skip
    hourly = _hourly
    meters = (
        gate(hourly("1978812.16", ["18372.12", "19593.36", "17127.41", "9887.57"]),
             hourly("45678.00", ["0", "0", "310.22", "2210.18"])),
        Meter("line", "electric", {"ac": "direct"}, {"ac.energy.import": hourly("5120.40", ["62597.36", "58918.78"])}),
        roof(hourly("7321.5", ["512.25", "1024.125", "2048.0625", "17.5"])),
        Meter("boiler", "media", {"gas": "gas"}, {"gas.volume.norm": hourly("1000.0", ["391.7", "384.6", "388.5"])}),
        Meter("steam-main", "media", {"heat": "heat.supplied"}, {"heat.energy": hourly("70.00", ["2.80", "2.75"])}),
        Meter("recovery", "media", {"heat": "heat.recovered"}, {"heat.energy": hourly("9.50", ["0.9", "1.2"])}),
        Meter("intake", "media", {"water": "water.fresh"}, {"water.volume": hourly("500.0", ["41.6", "40.9"])}),
        Meter("reuse", "media", {"water": "water.reused"}, {"water.volume": hourly("900.0", ["200.6", "196.9"])}),
    )  # fmt: skip
    begins, ends = datetime(2025, 6, 30), datetime(2025, 7, 1, 3)
    return Park(about, begins, ends, meters, 3600, 3600, 3 * 3600, _PLAN, entries)


@vector
def missing() -> Park:
    """A direct line is configured, and its meter never answers.

    The first figures are made before anything is written of it, as its packs are of 15 minutes.
    """
    about = "the meter of the direct line never answers: figures that need it have no value"
    line = Meter("line", "electric", {"ac": "direct"}, {"ac.energy.import": lambda ms: None}, seal_s=900)
    return Park(about, datetime(2025, 6, 30, 11), datetime(2025, 6, 30, 12, 20), (gate(), roof(), line))


def _hourly(start: str, steps: Sequence[str]) -> Count:
    return steady(start, steps, 3600)


def _ms(at: datetime) -> int:
    return round(at.replace(tzinfo=ZoneInfo(ZONE)).timestamp()) * 1000


def files_of(name: str, park: Park) -> dict[str, bytes]:
    """The files of one vector, by path below docs/vectors/figures."""
    with tempfile.TemporaryDirectory() as folder:
        play = Play(Path(folder), park)
        try:
            play.run()
            return play.files(name)
        finally:
            play.close()


def definitions() -> bytes:
    """The shipped sets, and the factors that they use, as JSON: for a program without a TOML reader."""
    folder = Path(agent.indicators.__file__).parent

    def read(path: Path) -> Any:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=str)

    sets = {path.stem: read(path) for path in (folder / "sets").glob("*.toml")}
    factors = read(folder / "tables" / "china.toml")["factor"]
    return _json({"factors": factors, "sets": sets})


def all_files() -> dict[str, bytes]:
    """Path below docs/vectors/figures and content."""
    out = {"definitions.json": definitions()}
    for name, make in VECTORS.items():
        out |= files_of(name, make())
    return out


def random_park(seed: int) -> Park:
    """Counters that are even, bursty, rare or huge, silences, a restart; another one for each seed."""
    rng = random.Random(seed)
    every_s = rng.choice([20, 60, 60, 120])

    def counter(scale: str) -> Count:
        kind = rng.choice(["even", "bursty", "rare", "huge"])
        draws: dict[str, Callable[[], int]] = {
            "even": lambda: rng.randint(20, 60),
            "bursty": lambda: rng.choice([0, 0, 0, rng.randint(1, 200)]),
            "rare": lambda: rng.choice([0] * 8 + [rng.randint(1, 5000)]),
            "huge": lambda: rng.randint(100_000, 3_000_000),
        }
        steps = [str(draws[kind]() * Decimal(scale)) for _ in range(rng.randint(3, 40))]
        made = steady(str(rng.randint(1000, 10**7) * Decimal(scale)), steps, every_s)
        if rng.random() < 0.4:
            from_ms = rng.randint(5, 60) * MINUTE_MS
            made = silent(made, from_ms, from_ms + rng.randint(1, 45) * MINUTE_MS)
        return made

    taken, given, sun = counter("0.01"), counter("0.01"), counter("0.001")
    if rng.random() < 0.35:
        at_ms = rng.randint(20, 50) * MINUTE_MS // (every_s * 1000) * every_s * 1000
        taken = restarted(taken, at_ms, rng.choice(["0", "0.05", "3.20"]))
    begins = datetime(2025, 6, 30, 22, rng.choice([0, 7, 30]))
    seal_s, length_s = rng.choice([60, 300, 900]), rng.choice([300, 900, 1800])
    meters = gate(taken, given), roof(sun)
    return Park(f"seed {seed}", begins, datetime(2025, 7, 1, 0, 30), meters, every_s, seal_s, length_s)
