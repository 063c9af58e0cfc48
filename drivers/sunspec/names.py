"""The vocabulary names of points in SunSpec models. They do not depend on a profile.

The models do not fix the signs of powers and currents. Unless the device's ``reversed`` changes them, the following
signs are assumed:

- In models 10x and 701, a positive W means generation.
- In models 2xx, a positive W means import.
- In model 802, a positive A means charging.

Check the signs against the energy counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from drivers.model import Quality, Reading, Reason
from drivers.sunspec.models import Model, PointValue
from drivers.sunspec.walk import ModelChain

UNITS = {
    "C": "Cel",
    "Pct": "%",
    "%WHRtg": "%",
    "% AhrRtg": "%",
    "Var": "var",
    "Varh": "varh",
    "Degrees": "deg",
    "Secs": "s",
    "AH": "Ah",
    "WH": "Wh",
    "PF": "",
    "cos()": "",
}
_PHASES = {"A": "l1", "B": "l2", "C": "l3", "AB": "l12", "BC": "l23", "CA": "l31"}

_COMMON = {
    "Mn": "device.vendor",
    "Md": "device.model",
    "Vr": "device.firmware",
    "SN": "device.serial",
    "DA": "device.address",
}
_INVERTER = {
    "A": "ac.current.sum",
    **{f"Aph{p}": f"ac.current.{_PHASES[p]}" for p in "ABC"},
    **{f"PPVph{p}": f"ac.voltage.{_PHASES[p]}" for p in ("AB", "BC", "CA")},
    **{f"PhVph{p}": f"ac.voltage.{_PHASES[p]}" for p in "ABC"},
    "W": "ac.power.generation",
    "Hz": "ac.frequency",
    "VA": "ac.power.apparent",
    "VAr": "ac.power.reactive",
    "PF": "ac.power.factor",
    "WH": "ac.energy.generation",
    "DCA": "dc.current",
    "DCV": "dc.voltage",
    "DCW": "dc.power",
    "TmpCab": "device.temperature.cabinet",
    "TmpSnk": "device.temperature.heatsink",
    "St": "device.state",
    "Evt1": "device.fault.1",
    "Evt2": "device.fault.2",
}
_METER = {
    "A": "ac.current.sum",
    "PhV": "ac.voltage.ln",
    "PPV": "ac.voltage.ll",
    "Hz": "ac.frequency",
    "W": "ac.power.active",
    "VA": "ac.power.apparent",
    "VAR": "ac.power.reactive",
    "PF": "ac.power.factor",
    "TotWhExp": "ac.energy.export",
    "TotWhImp": "ac.energy.import",
    **{f"TotVArh{'Imp' if q < 3 else 'Exp'}Q{q}": f"ac.energy.reactive.quadrant.{q}" for q in range(1, 5)},
    **{f"Aph{p}": f"ac.current.{_PHASES[p]}" for p in "ABC"},
    **{f"PhVph{p}": f"ac.voltage.{_PHASES[p]}" for p in "ABC"},
    **{f"{k}ph{p}": f"ac.voltage.{_PHASES[p]}" for p in ("AB", "BC", "CA") for k in ("PhV", "PPV")},
    **{f"Wph{p}": f"ac.power.active.{_PHASES[p]}" for p in "ABC"},
    **{f"VAph{p}": f"ac.power.apparent.{_PHASES[p]}" for p in "ABC"},
    **{f"VARph{p}": f"ac.power.reactive.{_PHASES[p]}" for p in "ABC"},
    **{f"PFph{p}": f"ac.power.factor.{_PHASES[p]}" for p in "ABC"},
    **{f"TotWhExpPh{p}": f"ac.energy.export.{_PHASES[p]}" for p in "ABC"},
    **{f"TotWhImpPh{p}": f"ac.energy.import.{_PHASES[p]}" for p in "ABC"},
}
_DER = {  # in model 701, a positive W means generation
    "W": "ac.power.generation",
    "VA": "ac.power.apparent",
    "Var": "ac.power.reactive",
    "PF": "ac.power.factor",
    "A": "ac.current.sum",
    "LLV": "ac.voltage.ll",
    "LNV": "ac.voltage.ln",
    "Hz": "ac.frequency",
    "TotWhInj": "ac.energy.generation",
    "TotWhAbs": "ac.energy.consumption",
    "TmpAmb": "device.temperature.ambient",
    "TmpCab": "device.temperature.cabinet",
    "TmpSnk": "device.temperature.heatsink",
    "InvSt": "device.state",
    "Alrm": "device.alarm",
    **{f"WL{n}": f"ac.power.generation.l{n}" for n in (1, 2, 3)},
    **{f"VarL{n}": f"ac.power.reactive.l{n}" for n in (1, 2, 3)},
    **{f"AL{n}": f"ac.current.l{n}" for n in (1, 2, 3)},
    **{f"VL{n}": f"ac.voltage.l{n}" for n in (1, 2, 3)},
    "VL1L2": "ac.voltage.l12",
    "VL2L3": "ac.voltage.l23",
    "VL3L1": "ac.voltage.l31",
}
_BATTERY = {
    "AHRtg": "battery.charge.capacity",
    "WHRtg": "battery.energy.capacity",
    "WHAvail": "battery.energy.remaining",
    "SoC": "battery.soc",
    "SoH": "battery.soh",
    "NCyc": "battery.cycles",
    "V": "battery.voltage",
    "A": "battery.current",
    "W": "battery.power",
    "CellVMax": "battery.cell.voltage.max",
    "CellVMin": "battery.cell.voltage.min",
    "CellVAvg": "battery.cell.voltage.mean",
    "AChaMax": "battery.limit.charge.current",
    "ADisChaMax": "battery.limit.discharge.current",
    "State": "battery.state",
    "Evt1": "battery.fault.1",
    "Evt2": "battery.fault.2",
    "Hb": "device.heartbeat",
}
_STORAGE = {"ChaState": "battery.soc", "InBatV": "battery.voltage", "ChaSt": "battery.state"}
_BANK = {
    "NStr": "battery.racks",
    "ModTmpMax": "battery.temperature.max",
    "ModTmpMin": "battery.temperature.min",
    "ModTmpAvg": "battery.temperature.mean",
}
_DC = {"DCA": "dc.current", "DCW": "dc.power", "DCWhInj": "dc.energy"}

_BY_MODEL: dict[int, dict[str, str]] = {
    1: _COMMON,
    **{n: _INVERTER for n in (101, 102, 103, 111, 112, 113)},
    124: _STORAGE,
    **{n: _METER for n in (201, 202, 203, 204, 211, 212, 213, 214)},
    701: _DER,
    713: _BATTERY,
    714: _DC,
    802: _BATTERY,
    803: _BANK,
}
_METERS = frozenset(n for n in _BY_MODEL if 201 <= n <= 214)
_GENERATORS = frozenset((101, 102, 103, 111, 112, 113, 701))
# repeating groups: (model, group) -> (prefix of the name, with the number of the instance; {point: rest of the name})
_GROUPS: dict[tuple[int, str], tuple[str, dict[str, str]]] = {
    (160, "module"): (
        "dc.mppt.{}.",
        {"DCA": "current", "DCV": "voltage", "DCW": "power", "DCWH": "energy", "Tmp": "temperature", "DCSt": "state"},
    ),
    (714, "Prt"): (
        "dc.input.{}.",
        {"DCA": "current", "DCV": "voltage", "DCW": "power", "DCWhInj": "energy", "Tmp": "temperature"},
    ),
    (803, "string"): (
        "battery.rack.{}.",
        {
            "StrSoC": "soc",
            "StrSoH": "soh",
            "StrA": "current",
            "StrCellVMax": "cell.voltage.max",
            "StrCellVMin": "cell.voltage.min",
            "StrCellVAvg": "cell.voltage.mean",
            "StrModTmpMax": "temperature.max",
            "StrModTmpMin": "temperature.min",
        },
    ),
}
_INSTANCE = re.compile(r"(\w+)\[(\d+)\]\.(\w+)")


def name_of(model_id: int, point: str) -> str:
    """The vocabulary's name for a point of a model. "" if the vocabulary has no name for it."""
    found = _BY_MODEL.get(model_id, {}).get(point)
    if found is not None:
        return found
    inner = _INSTANCE.fullmatch(point)
    if inner is None:
        return ""
    group, number, rest = inner.groups()
    prefix, names = _GROUPS.get((model_id, group), ("", {}))
    return prefix.format(int(number) + 1) + names[rest] if rest in names else ""


def readings_of(device: ModelChain) -> tuple[Reading, ...]:
    """The readings of all points that the vocabulary names, in the order of the models. Each name occurs once.

    If a device generates and also has a meter, the meter's points get the prefix ``meter.``. With several meters, the
    prefixes are ``meter.1.`` and so on.
    """
    return tuple(_all(device))


def _all(device: ModelChain) -> Iterator[Reading]:
    meters = [m for m in device.models if m.id in _METERS]
    generates = any(m.id in _GENERATORS for m in device.models)
    seen: set[str] = set()
    for model in device.models:
        prefix = ""
        if model.id in _METERS and len(meters) > 1:
            prefix = f"meter.{meters.index(model) + 1}."
        elif model.id in _METERS and generates:
            prefix = "meter."
        for reading in _of_model(model, prefix):
            # keep the first one, because some devices repeat the common model before each meter
            if reading.name not in seen:
                seen.add(reading.name)
                yield reading


def _of_model(model: Model, prefix: str) -> Iterator[Reading]:
    for point, found in model.points.items():
        name = name_of(model.id, point)
        if name:
            value, unit = _shown(name, found)
            quality = Quality.GOOD if value is not None else Reason.SENTINEL
            label = found.definition.label if found.definition else ""
            yield Reading(prefix + name, value, unit, quality, label=label)


def _shown(name: str, found: PointValue) -> tuple[Decimal | int | str | None, str]:
    """Return (value, unit) in the unit of the vocabulary. Devices send power factors as shares of 1 or as
    percentages.
    """
    unit = UNITS.get(found.unit, found.unit)
    value = found.value
    if ".power.factor" in name:
        if isinstance(value, int | Decimal):
            share = Decimal(value)
            value = share / 100 if abs(share) > 1 else share
        return value, ""
    return value, unit
