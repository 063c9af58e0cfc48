"""A realistic park: sun, load, storage, grid and heat. Its energy balance is exact at every step.

Powers are in W, energies in Wh, times in seconds of the park's own clock. Powers are constant within a step, so the
growth of a counter is exactly power times step. All values follow from the seed and the number of the step.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

DAY_S = 86_400.0
WATER_WH_PER_M3K = 1163.0  # heat capacity of water, Wh/(m3 K)


class Noise:
    """A smooth function of time with values from -1 to 1. It adds sines of several periods, whose phases come from the
    seed.
    """

    __slots__ = ("_terms",)

    def __init__(self, random_: random.Random, shortest_s: float, longest_s: float, count: int = 5) -> None:
        ratio = (longest_s / shortest_s) ** (1 / max(count - 1, 1))
        self._terms = [
            (2 * math.pi / (shortest_s * ratio**n * random_.uniform(0.9, 1.1)), random_.uniform(0, 2 * math.pi))
            for n in range(count)
        ]

    def __call__(self, t_s: float) -> float:
        return sum(math.sin(omega * t_s + phase) for omega, phase in self._terms) / len(self._terms)


@dataclass(frozen=True, slots=True)
class Plant:
    """The size of the park."""

    pv_w: tuple[float, ...] = (100_000.0, 20_000.0, 12_000.0)  # rated power of each inverter
    strings: tuple[int, ...] = (20, 2, 4)
    base_load_w: float = 42_000.0
    workshop_w: float = 28_000.0
    compressor_w: float = 18_000.0
    heat_share: float = 0.72  # share of the compressor's electric power that is recovered as heat in water
    battery_w: float = 10_000.0
    battery_wh: float = 24_800.0
    cells: int = 105
    charge_efficiency: float = 0.97
    latitude_deg: float = 31.2
    day_of_year: int = 172


@dataclass(slots=True)
class Counters:
    """Lifetime counters of the park: energies in Wh, volume in m3, time in s."""

    pv: list[float] = field(default_factory=list)
    pv_dc: list[float] = field(default_factory=list)
    grid_import: float = 0.0
    grid_export: float = 0.0
    load: float = 0.0
    workshop: float = 0.0
    compressor: float = 0.0
    charge: float = 0.0
    discharge: float = 0.0
    heat: float = 0.0
    water_m3: float = 0.0
    run_s: float = 0.0


class Physics:
    """The state of the park at the time ``t_s`` of its clock, in seconds. 0 is midnight of its first day."""

    def __init__(
        self, seed: int = 1, *, start_s: float = 10 * 3600.0, step_s: float = 1.0, plant: Plant | None = None
    ) -> None:
        self.plant = plant or Plant()
        self.seed, self.t_s, self.step_s = seed, start_s, step_s
        self.steps = 0
        rng = random.Random(seed)
        roofs = range(len(self.plant.pv_w))
        self._cloud = [Noise(rng, 40, 5400) for _ in roofs]
        self._flicker = [Noise(rng, 3, 60) for _ in roofs]
        self._load_noise = Noise(rng, 5, 3600)
        self._shop_noise = Noise(rng, 4, 900)
        self._compressor_noise = Noise(rng, 6, 600)
        self._voltage_noise = Noise(rng, 3, 1200)
        self._frequency_noise = Noise(rng, 3, 300)
        self._water_noise = Noise(rng, 8, 1800)
        self.wobble = Noise(rng, 5, 120)  # gives varying values for gauges whose quantity the park does not have
        self.string_share = [self._shares(rng, self.plant.strings[n]) for n in roofs]
        self.string_volts = [[rng.uniform(0.98, 1.02) for _ in range(self.plant.strings[n])] for n in roofs]
        self.cell_offset_v = [rng.gauss(0, 0.003) for _ in range(self.plant.cells)]
        self.cell_warmth = [rng.uniform(-1.2, 1.2) for _ in range(self.plant.cells)]
        self.phase_share = self._shares(rng, 3)
        self.soc = rng.uniform(0.4, 0.6)
        self.counters = self._odometers(rng)
        self.pv_w = [0.0 for _ in roofs]
        self.pv_dc_w = [0.0 for _ in roofs]
        self._look()

    def _odometers(self, rng: random.Random) -> Counters:
        """Initial counters of a park that has run for a while. Related counters start with values that agree."""
        made = [rng.uniform(1.0e7, 2.0e7) * rated / 1e5 for rated in self.plant.pv_w]
        compressor, charged = rng.uniform(2e6, 4e6), rng.uniform(2e6, 3e6)
        return Counters(
            pv=made,
            pv_dc=[one / 0.98 for one in made],
            grid_import=rng.uniform(2e7, 3e7),
            grid_export=rng.uniform(2e6, 4e6),
            load=rng.uniform(4e7, 5e7),
            workshop=rng.uniform(8e6, 9e6),
            compressor=compressor,
            charge=charged,
            discharge=charged * 0.93,
            heat=compressor * self.plant.heat_share,
            water_m3=rng.uniform(900, 1500),
            run_s=rng.uniform(1e7, 2e7),
        )

    @staticmethod
    def _shares(rng: random.Random, count: int) -> list[float]:
        """Nearly equal shares that add up to 1."""
        raw = [rng.uniform(0.95, 1.05) for _ in range(count)]
        return [share / sum(raw) for share in raw]

    @property
    def hour(self) -> float:
        """The local solar time in hours, from 0 to 24."""
        return self.t_s % DAY_S / 3600.0

    def sun(self) -> float:
        """The irradiance on a roof under a clear sky, from 0 to 1. It follows from the elevation of the sun."""
        decl = math.radians(23.45) * math.sin(2 * math.pi * (284 + self.plant.day_of_year + self.t_s // DAY_S) / 365)
        lat, angle = math.radians(self.plant.latitude_deg), math.radians(15 * (self.hour - 12))
        height = math.sin(lat) * math.sin(decl) + math.cos(lat) * math.cos(decl) * math.cos(angle)
        return float(max(0.0, height) ** 1.15)

    def _look(self) -> None:
        """Compute the powers at the present time. They are valid until the next step."""
        plant, t = self.plant, self.t_s
        sun = self.sun()
        for n, rated in enumerate(plant.pv_w):
            cloud = 0.72 + 0.38 * self._cloud[n](t) + 0.03 * self._flicker[n](t)
            self.pv_dc_w[n] = rated * sun * min(1.0, max(0.08, cloud))
            self.pv_w[n] = self.pv_dc_w[n] * (0.985 - 0.01 * (self.pv_dc_w[n] < 0.1 * rated))
        work = self._shift()
        self.compressor_w = plant.compressor_w * (0.35 + 0.6 * work) * (1 + 0.15 * self._compressor_noise(t))
        self.workshop_w = plant.workshop_w * (0.08 + 0.8 * work) * (1 + 0.25 * self._shop_noise(t))
        self.base_w = plant.base_load_w * (0.45 + 0.5 * work) * (1 + 0.1 * self._load_noise(t))
        self.load_w = self.base_w + self.workshop_w + self.compressor_w
        self.battery_w = self._battery(sum(self.pv_w) - self.load_w)
        self.grid_w = self.load_w + self.battery_w - sum(self.pv_w)  # the energy balance: the grid supplies the rest
        self.volts = 230.0 * (1 + 0.012 * self._voltage_noise(t) - 1.5e-8 * self.grid_w)
        self.frequency_hz = 50.0 + 0.03 * self._frequency_noise(t)
        self.heat_w = plant.heat_share * self.compressor_w
        self.return_c = 41.0 + 2.0 * self._water_noise(t)
        self.flow_m3h = 0.9 + 0.1 * self._water_noise(t + 777)
        self.supply_c = self.return_c + self.heat_w / (WATER_WH_PER_M3K * self.flow_m3h)

    def _shift(self) -> float:
        """The share of work that is done at this hour, from 0 to 1. It rises in the morning and falls in the
        evening.
        """
        hour = self.hour
        return 1 / (1 + math.exp(-(hour - 7.5) * 3)) * (1 / (1 + math.exp((hour - 18.5) * 2)))

    def _battery(self, surplus_w: float) -> float:
        """The power of the battery in W. Within its limits, the battery stores the surplus or supplies the deficit."""
        plant = self.plant
        wanted = max(-plant.battery_w, min(plant.battery_w, 0.9 * surplus_w))
        hours = self.step_s / 3600.0
        room = (0.95 - self.soc) * plant.battery_wh / plant.charge_efficiency / hours
        stock = (self.soc - 0.10) * plant.battery_wh * plant.charge_efficiency / hours
        return max(-max(0.0, stock), min(max(0.0, room), wanted)) + 0.0  # adding 0.0 turns -0.0 into 0.0

    @property
    def cell_volts(self) -> float:
        """The mean voltage of an LFP cell at the present state of charge and current."""
        open_v = (
            3.22 + 0.11 * self.soc + 0.05 * math.tanh((self.soc - 0.95) * 25) + 0.12 * math.tanh((self.soc - 0.05) * 20)
        )
        return open_v + 0.03 * self.battery_w / self.plant.battery_w

    def cell(self, n: int) -> float:
        """The voltage of cell ``n``, counted from 0."""
        return self.cell_volts + self.cell_offset_v[n % len(self.cell_offset_v)]

    def cell_celsius(self, n: int) -> float:
        """The temperature at cell ``n``, counted from 0."""
        return 27.0 + 5.0 * abs(self.battery_w) / self.plant.battery_w + self.cell_warmth[n % len(self.cell_warmth)]

    def step(self) -> None:
        """Advance the clock by one step: first add the energy of the present powers to the counters, then compute new
        powers.
        """
        hours, counters, plant = self.step_s / 3600.0, self.counters, self.plant
        for n, power in enumerate(self.pv_w):
            counters.pv[n] += power * hours
            counters.pv_dc[n] += self.pv_dc_w[n] * hours
        if self.grid_w >= 0:
            counters.grid_import += self.grid_w * hours
        else:
            counters.grid_export -= self.grid_w * hours
        counters.load += self.load_w * hours
        counters.workshop += self.workshop_w * hours
        counters.compressor += self.compressor_w * hours
        counters.heat += self.heat_w * hours
        counters.water_m3 += self.flow_m3h * hours
        counters.run_s += self.step_s
        if self.battery_w >= 0:
            counters.charge += self.battery_w * hours
            self.soc += self.battery_w * hours * plant.charge_efficiency / plant.battery_wh
        else:
            counters.discharge -= self.battery_w * hours
            self.soc += self.battery_w * hours / plant.charge_efficiency / plant.battery_wh
        self.steps += 1
        self.t_s += self.step_s
        self._look()
