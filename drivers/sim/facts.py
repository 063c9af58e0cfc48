"""The quantities that each device of the park measures: the state of the physics, under the names of the vocabulary.

These facts are in base units (W, Wh, var, varh, V, A, Hz, Cel, %, m3, m3/h, s). ``in_unit`` converts them.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping

from drivers.model import Kind, Point
from drivers.sim.encode import text_width
from drivers.sim.physics import DAY_S, Physics

# first word of a point's name -> role in the park. Such a word names a part of the device; the role has the facts of
# this part.
PREFIXES = {"meter": "grid", "load": "load", "pv": "pv", "grid": "grid"}
_POWERS = {"u": 1e-6, "m": 1e-3, "h": 1e2, "k": 1e3, "M": 1e6, "G": 1e9}
_TENS = ("W", "VA", "var", "Wh", "VAh", "varh", "A", "Ah", "V", "Ohm", "Hz", "Pa")
_FACTORS: dict[str, float] = {  # unit -> number of base units in it; a unit that is not listed here is a base unit
    **{prefix + unit: factor for unit in _TENS for prefix, factor in _POWERS.items()},
    "J": 1 / 3600,
    "kJ": 1 / 3.6,
    "MJ": 1e3 / 3.6,
    "GJ": 1e6 / 3.6,
    "ms": 1e-3,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "l": 1e-3,
    "l/h": 1e-3,
    "l/min": 0.06,
    "m3/min": 60.0,
    "l/s": 3.6,
    "m3/s": 3600.0,
    "t/h": 1e3,
    "kg/s": 3600.0,
    "t": 1e3,
    "bar": 1e5,
    "mbar": 1e2,
}
Facts = Mapping[str, float]


def in_unit(base: float, unit: str) -> float:
    """Convert a fact from base units to the unit of a point."""
    return base / _FACTORS.get(unit, 1.0)


def _line(p: Physics, power_w: float, imported_wh: float, exported_wh: float) -> dict[str, float]:
    """All values that a three-phase meter reports, from one active power (import is positive) and its two counters."""
    factor = 0.97 if power_w >= 0 else 0.99
    reactive = abs(power_w) * math.tan(math.acos(factor))
    kvarh = math.tan(math.acos(0.97))
    apparent = math.hypot(power_w, reactive)
    total = imported_wh + exported_wh
    facts = {
        "ac.power.active": power_w,
        "ac.power.reactive": reactive,
        "ac.power.apparent": apparent,
        "ac.power.factor": factor,
        "ac.power.consumption": max(0.0, power_w),
        "ac.frequency": p.frequency_hz,
        "ac.energy.import": imported_wh,
        "ac.energy.export": exported_wh,
        "ac.energy.total": total,
        "ac.energy.net": imported_wh - exported_wh,
        "ac.energy.consumption": imported_wh,
        "ac.energy.reactive.import": imported_wh * kvarh,
        "ac.energy.reactive.export": exported_wh * kvarh,
        "ac.energy.reactive.total": total * kvarh,
        "ac.energy.apparent": total * math.hypot(1, kvarh),
        "ac.charge": total / 230.0,
        "ac.demand.active": power_w,
        "ac.demand.import": max(0.0, power_w),
        "ac.demand.export": max(0.0, -power_w),
        "ac.demand.apparent": apparent,
        "ac.demand.reactive": reactive,
        "ac.angle": math.degrees(math.acos(factor)),
        "ac.voltage": p.volts,
        "ac.voltage.ln": p.volts,
        "ac.voltage.ll": p.volts * math.sqrt(3),
        "ac.thd.voltage": 1.8,
        "ac.thd.current": 4.5,
        "ac.thd.voltage.ll": 1.7,
    }
    currents = 0.0
    for n, phase in enumerate(("l1", "l2", "l3")):
        share, volts = p.phase_share[n], p.volts * (1 + 0.002 * (n - 1))
        current = apparent * share / volts
        currents += current
        for name in ("power.active", "power.reactive", "power.apparent", "power.consumption", "demand.active",
                     "energy.import", "energy.export", "energy.total", "energy.net", "energy.reactive.import",
                     "energy.reactive.export", "energy.reactive.total"):  # fmt: skip
            facts[f"ac.{name}.{phase}"] = facts[f"ac.{name}"] * share
        for name in ("power.factor", "frequency", "angle", "thd.voltage", "thd.current"):
            facts[f"ac.{name}.{phase}"] = facts[f"ac.{name}"]
        facts[f"ac.voltage.{phase}"] = volts
        facts[f"ac.voltage.{('l12', 'l23', 'l31')[n]}"] = p.volts * math.sqrt(3) * (1 + 0.0015 * (1 - n))
        facts[f"ac.thd.voltage.{('l12', 'l23', 'l31')[n]}"] = 1.7
        facts[f"ac.current.{phase}"] = current
        facts[f"ac.demand.current.{phase}"] = current
    facts |= {"ac.current": currents, "ac.current.sum": currents, "ac.current.mean": currents / 3}
    facts |= {"ac.current.n": currents * 0.03, "ac.voltage.n": 1.2}
    return facts


def _grid(p: Physics) -> dict[str, float]:
    return _line(p, p.grid_w, p.counters.grid_import, p.counters.grid_export)


def _load(p: Physics) -> dict[str, float]:
    return _line(p, p.load_w, p.counters.load, 0.0)


def _workshop(p: Physics) -> dict[str, float]:
    return _line(p, p.workshop_w, p.counters.workshop, 0.0)


def _pv(p: Physics, n: int) -> dict[str, float]:
    """The facts of an inverter. Its output counts as generation. Its DC side is the sum of its strings."""
    power, made = p.pv_w[n], p.counters.pv[n]
    facts = _line(p, -power, 0.0, made)
    for phase in ("", ".l1", ".l2", ".l3"):
        facts["ac.power.generation" + phase] = -facts["ac.power.active" + phase]
        facts["ac.energy.generation" + phase] = facts["ac.energy.export" + phase]
    facts["ac.power.generation.max"] = p.plant.pv_w[n] * 0.9
    dc, dc_made = p.pv_dc_w[n], p.counters.pv_dc[n]
    lit = dc > 0
    strings = p.plant.strings[n]
    facts |= {"dc.power": dc, "dc.energy": dc_made, "dc.strings": strings, "dc.mppts": (strings + 1) // 2}
    facts["dc.voltage"] = facts["dc.bus.voltage"] = 640.0 if lit else 0.0
    facts["dc.current"] = dc / 640.0
    for half in ("half", "positive", "negative"):
        facts[f"dc.bus.voltage.{half}"] = facts["dc.bus.voltage"] / 2
    facts |= {"device.status.1": 6 if lit else 1, "device.status.2": 7 if lit else 5}
    for s, share in enumerate(p.string_share[n]):
        volts = 610.0 * p.string_volts[n][s] if lit else 0.0
        current = dc * share / volts if lit else 0.0
        for kind, number in (("string", s + 1), ("input", s + 1), ("mppt", s // 2 + 1)):  # two strings share a tracker
            place = f"dc.{kind}.{number}"
            facts[f"{place}.voltage"] = volts
            for name, value in (("current", current), ("power", volts * current), ("energy", dc_made * share)):
                facts[f"{place}.{name}"] = facts.get(f"{place}.{name}", 0.0) + value
    rated = p.plant.pv_w[n]
    facts |= {"device.power.rated": rated, "device.power.max": rated, "device.power.apparent.max": rated}
    facts |= {"device.power.reactive.max": 0.6 * rated, "device.power.reactive.min": -0.6 * rated}
    facts["device.efficiency"] = 100.0 * power / dc if dc > 0 else 0.0
    facts["device.temperature"] = 31.0 + 25.0 * power / p.plant.pv_w[n]
    facts["device.temperature.heatsink"] = facts["device.temperature"] + 3
    facts["device.temperature.cabinet"] = facts["device.temperature"] - 4
    facts["dc.insulation.resistance"] = 3.0e6
    return facts


def _storage(p: Physics) -> dict[str, float]:
    """The facts of a battery. Its voltage is the sum of the cell voltages; its current is power divided by voltage."""
    plant, counters = p.plant, p.counters
    cells = [p.cell(n) for n in range(plant.cells)]
    warm = [p.cell_celsius(n) for n in range(plant.cells)]
    volts = sum(cells)
    ah = plant.battery_wh / (3.2 * plant.cells)
    facts = {
        "soc": 100.0 * p.soc,
        "soh": 98.0,
        "power": p.battery_w,
        "voltage": volts,
        "current": p.battery_w / volts,
        "temperature": sum(warm) / len(warm),
        "temperature.mean": sum(warm) / len(warm),
        "temperature.max": max(warm),
        "temperature.min": min(warm),
        "temperature.bms": 30.5,
        "temperature.ambient": 25.0,
        "energy.charge": counters.charge,
        "energy.discharge": counters.discharge,
        "energy.remaining": p.soc * plant.battery_wh,
        "energy.capacity": plant.battery_wh,
        "charge.remaining": p.soc * ah,
        "charge.capacity": ah,
        # these counters use a fixed voltage, because with the present voltage they could fall
        "charge.total": counters.charge / (3.2 * plant.cells),
        "discharge.total": counters.discharge / (3.2 * plant.cells),
        "cycles": 210.0 + counters.discharge / plant.battery_wh,
        "cell.voltage.max": max(cells),
        "cell.voltage.min": min(cells),
        "cell.voltage.mean": volts / len(cells),
        "cell.voltage.difference": max(cells) - min(cells),
        "cell.voltage.max.index": float(cells.index(max(cells)) + 1),
        "cell.voltage.min.index": float(cells.index(min(cells)) + 1),
        "cell.temperature.max": max(warm),
        "cell.temperature.min": min(warm),
        "cell.temperature.mean": sum(warm) / len(warm),
        "cell.temperature.max.index": float(warm.index(max(warm)) + 1),
        "cell.temperature.min.index": float(warm.index(min(warm)) + 1),
        "limit.charge.power": plant.battery_w,
        "limit.discharge.power": plant.battery_w,
        "limit.charge.current": plant.battery_w / volts,
        "limit.discharge.current": plant.battery_w / volts,
        "limit.charge.voltage": 3.6 * plant.cells,
        "limit.discharge.voltage": 2.9 * plant.cells,
        "insulation.resistance": 2.0e6,
        "cells": float(plant.cells),
        "modules": float(plant.cells // 15),
        "runtime": counters.run_s,
    }
    modules = [sum(cells[n : n + 15]) for n in range(0, plant.cells, 15)]
    warmth = [sum(warm[n : n + 15]) / len(warm[n : n + 15]) for n in range(0, plant.cells, 15)]
    for name, each in (("voltage", modules), ("temperature", warmth)):
        for word, pick in (("max", max(each)), ("min", min(each))):
            facts[f"module.{name}.{word}"] = pick
            facts[f"module.{name}.{word}.index"] = each.index(pick) + 1
    return {f"battery.{name}": value for name, value in facts.items()}


def _heat(p: Physics) -> dict[str, float]:
    """The facts of a heat recovery at a compressor. Power and energy follow from flow and temperature difference."""
    facts = {
        "power": p.heat_w,
        "energy": p.counters.heat,
        "flow": p.flow_m3h,
        "flow.mass": p.flow_m3h * 992.0,
        "volume": p.counters.water_m3,
        "mass": p.counters.water_m3 * 992.0,
        "temperature.supply": p.supply_c,
        "temperature.return": p.return_c,
        "temperature.difference": p.supply_c - p.return_c,
        "temperature.setpoint": 60.0,
        "pressure": 3.1e5,
        "pressure.supply": 3.1e5,
        "pressure.return": 2.6e5,
        "pressure.difference": 0.5e5,
        "runtime": p.counters.run_s,
    }
    whole = {
        f"{scope}.{name}": value
        for scope in ("heat", "heat.circuit.1", "heat.source", "heat.sink")
        for name, value in facts.items()
    }
    whole |= _line(p, p.compressor_w, p.counters.compressor, 0.0)
    whole |= {"economiser.flue.temperature.in": p.supply_c + 130, "economiser.flue.temperature.out": p.return_c + 55}
    for n in range(1, 9):
        whole |= {f"pump.{n}.frequency": 42.0 + 0.3 * n, f"pump.{n}.current": 11.0 + 0.2 * n, f"pump.{n}.state": 1}
        whole[f"pump.{n}.runtime"] = p.counters.run_s / n
    for scope in ("compressor", "compressor.1"):
        whole |= {
            f"{scope}.power": p.compressor_w,
            f"{scope}.energy": p.counters.compressor,
            f"{scope}.load": 100 * p.compressor_w / p.plant.compressor_w,
            f"{scope}.runtime": p.counters.run_s,
            f"{scope}.current": p.compressor_w / (3 * p.volts),
            f"{scope}.temperature.out": p.supply_c + 18,
        }
    whole |= {"tank.temperature": p.supply_c - 3, "tank.temperature.top": p.supply_c - 2, "tank.level.percent": 78.0}
    whole |= {"water.temperature": p.return_c, "water.temperature.in": p.return_c, "water.temperature.out": p.supply_c}
    whole |= {"pump.frequency": 42.0, "pump.speed": 1260.0, "valve.position": 64.0}
    for name in ("exchanger", "exchanger.1", "heatpump"):
        whole |= {
            f"{name}.water.temperature.in": p.return_c,
            f"{name}.water.temperature.out": p.supply_c,
            f"{name}.oil.temperature.in": p.supply_c + 18,
            f"{name}.oil.temperature.out": p.return_c + 9,
            f"{name}.power.heat": p.heat_w,
            f"{name}.energy.heat": p.counters.heat,
            f"{name}.power.electric": 700.0,
            f"{name}.energy.electric": 700.0 * p.counters.run_s / 3600,
        }
    return whole


_PARTS: Mapping[str, Callable[[Physics], dict[str, float]]] = {
    "grid": _grid,
    "load": _load,
    "workshop": _workshop,
    "storage": _storage,
    "heat": _heat,
}
PARK_PARTS = (*_PARTS, "pv1", "pv2", "pv3")
PART_OF_KIND: Mapping[str, str] = {  # kind of a profile -> part of the park that is used if no role is given
    "inverter": "pv1",
    "pv": "pv1",
    "meter": "grid",
    "battery": "storage",
    "bms": "storage",
    "storage": "storage",
    "heat": "heat",
    "plc": "heat",
}


def facts_of(role: str, physics: Physics) -> dict[str, float]:
    """All present facts of a role. ``pv1`` is the first inverter."""
    facts = _pv(physics, int(role[2:] or 1) - 1) if role.startswith("pv") else _PARTS[role](physics)
    facts |= {"device.heartbeat": int(physics.t_s) % 65536, "device.link": 1, "device.wiring": 1}
    facts |= {"device.runtime": physics.counters.run_s, "device.uptime": physics.steps * physics.step_s}
    return facts


_CELL = re.compile(r"battery\.(?:rack\.\d+\.|pack\.\d+\.)?(?:module\.(\d+)\.)?cell\.(\d+)\.(voltage|temperature|soc)")
_SENSOR = re.compile(r"battery\.temperature\.(\d+)")
_GROUP = re.compile(r"battery\.(?:rack|pack|module)\.(\d+)\.(.+)")


class FactLookup:
    """Looks up present facts by point name. The parts of a device may show the facts of other roles (``PREFIXES``)."""

    def __init__(self, role: str, physics: Physics, cells_a_module: int = 15) -> None:
        self.role, self.physics, self.cells_a_module = role, physics, cells_a_module
        self._step = -1
        self._facts: dict[str, dict[str, float]] = {}
        # counter -> (day, value of the counter when it was first read on this day)
        self._midnight: dict[str, tuple[int, float]] = {}

    def get(self, name: str) -> float | None:
        """The present value in base units. None if the park does not have the quantity."""
        if self.physics.steps != self._step:
            self._facts, self._step = {}, self.physics.steps
        for period in (".today", ".month", ".year"):
            if name.endswith(period):
                return self._since_midnight(name.removesuffix(period))
        found = self._of(self.role).get(name)
        if found is not None:
            return found
        head, _, rest = name.partition(".")
        if head in PREFIXES and rest:
            role = self.role if head == "pv" else PREFIXES[head]
            return self._of(role).get(re.sub(r"^\d+\.", "", rest))
        if head == "circuit":
            number, _, rest = rest.partition(".")
            found = self._of("workshop").get(rest)
            extensive = rest.startswith(("ac.power", "ac.energy", "ac.current")) and "factor" not in rest
            return None if found is None else found / (1 + int(number)) if extensive else found
        return self._battery(name) if head == "battery" else None

    def _since_midnight(self, name: str) -> float | None:
        """The growth of a counter since its first read of the day. Points for a month or a year show the same value."""
        now, day = self.get(name), int(self.physics.t_s // DAY_S)
        if now is None:
            return None
        if self._midnight.get(name, (-1, 0.0))[0] != day:
            self._midnight[name] = (day, now)
        return now - self._midnight[name][1]

    def _of(self, role: str) -> dict[str, float]:
        if role not in self._facts:
            self._facts[role] = facts_of(role, self.physics)
        return self._facts[role]

    def _battery(self, name: str) -> float | None:
        """The value of a cell, module, rack or sensor inside the battery. None if ``name`` is none of these."""
        physics, size = self.physics, self.cells_a_module
        if cell := _CELL.fullmatch(name):
            index = (int(cell[1] or 1) - 1) * size + int(cell[2]) - 1
            return {"voltage": physics.cell(index), "temperature": physics.cell_celsius(index)}.get(
                cell[3], 100 * physics.soc
            )
        if sensor := _SENSOR.fullmatch(name):
            return physics.cell_celsius(int(sensor[1]) * 7)
        group = _GROUP.fullmatch(name)
        if group is None:
            return None
        cells = range((int(group[1]) - 1) * size, int(group[1]) * size)
        if group[2] == "voltage":
            return sum(physics.cell(n) for n in cells)
        if group[2] == "temperature":
            return sum(physics.cell_celsius(n) for n in cells) / size
        return self._of("storage").get(f"battery.{group[2]}")


def default_number(point: Point, asleep: bool) -> int:
    """A raw value for a number that the park does not know: a sensible state, or 0."""
    if point.kind is not Kind.STATE or point.bit is not None:
        return 0
    for wanted in ("standby", "running") if asleep else ("running", "standby"):
        for raw, state in point.states.items():
            if state == wanted:
                return raw
    return min(point.labels, default=0)


def default_text(point: Point, random_: random.Random) -> str:
    """A text that fits the point's registers. A device's clock begins with the right time, but does not advance."""
    if point.text:
        numbers = [1] * (2 * point.count // text_width(point))
        if point.name == "device.time" and len(numbers) == 6:
            numbers = [int(part) for part in time.strftime("%y %m %d %H %M %S").split()]
        return point.text.format(*numbers)
    digits = "".join(random_.choice("0123456789") for _ in range(8))
    if point.type != "str":
        return digits[:4] if point.type in ("u16", "i16") and digits[0] != "9" else "1"
    last = point.name.rpartition(".")[2]
    text = {"serial": f"SIM{digits}", "model": "SIM", "firmware": "V1.0", "vendor": "SIM"}.get(last, "SIM")
    return text[: 2 * point.count]
