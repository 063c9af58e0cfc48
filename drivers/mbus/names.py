"""Vocabulary names for M-Bus quantities such as energy and volume. The medium determines the first word of a name."""

from __future__ import annotations

MEDIA: dict[int, str] = {
    0x00: "Other",
    0x01: "Oil",
    0x02: "Electricity",
    0x03: "Gas",
    0x04: "Heat: Outlet",
    0x05: "Steam",
    0x06: "Warm water (30-90°C)",
    0x07: "Water",
    0x08: "Heat Cost Allocator",
    0x09: "Compressed Air",
    0x0A: "Cooling load meter: Outlet",
    0x0B: "Cooling load meter: Inlet",
    0x0C: "Heat: Inlet",
    0x0D: "Heat / Cooling load meter",
    0x0E: "Bus/System",
    0x0F: "Unknown Medium",
    0x14: "Calorific value",
    0x15: "Hot water (>=90°C)",
    0x16: "Cold water",
    0x17: "Dual water",
    0x18: "Pressure",
    0x19: "A/D Converter",
    0x1A: "Smoke detector",
    0x1B: "Room sensor",
    0x1C: "Gas detector",
    0x20: "Breaker (electricity)",
    0x21: "Valve (gas or water)",
    0x25: "Customer unit (display)",
    0x28: "Waste water",
    0x29: "Garbage",
    0x30: "Service tool",
    0x31: "Gateway",
    0x32: "Unidirectional repeater",
    0x33: "Bidirectional repeater",
    0x36: "Radio converter (system side)",
    0x37: "Radio converter (meter side)",
}
_SCOPES = {
    0x01: "oil", 0x02: "ac", 0x03: "gas", 0x04: "heat", 0x05: "steam", 0x06: "water", 0x07: "water", 0x09: "air",
    0x0A: "cool", 0x0B: "cool", 0x0C: "heat", 0x0D: "heat", 0x15: "water", 0x16: "water", 0x17: "water", 0x28: "water",
}  # fmt: skip
_FIXED_MEDIA = {0x1: 0x01, 0xA: 0x03, 0xB: 0x04, 0xC: 0x06, 0xD: 0x07, 0xE: 0x08}

_HYDRAULIC = {"volume": "volume", "flow": "flow", "mass": "mass", "mass_flow": "flow.mass", "pressure": "pressure"}
_IN_OUT = {
    "temperature": "temperature",
    "temperature.supply": "temperature.in",
    "temperature.return": "temperature.out",
}
_THERMAL = {"energy": "energy", "power": "power"}
_GASEOUS = {"volume": "volume", "flow": "flow", "pressure": "pressure"}
_HEAT = _HYDRAULIC | _THERMAL | {f"temperature.{k}": f"temperature.{k}" for k in ("supply", "return", "difference")}
_BY_SCOPE: dict[str, dict[str, str]] = {  # first word of the name -> quantity -> rest of the name
    "heat": _HEAT,
    "cool": _HEAT,
    "water": _HYDRAULIC | _IN_OUT,
    "oil": _HYDRAULIC | _IN_OUT,
    "gas": _GASEOUS | {"energy": "energy", "temperature.supply": "temperature"},
    "steam": _HYDRAULIC | _THERMAL | {"temperature.supply": "temperature"},
    "air": _GASEOUS | {"temperature.supply": "temperature"},
    "ac": {"energy": "energy.import", "power": "power.active"},
}
_FOREIGN = frozenset(
    ("cal", "degF", "ft3", "gal", "gal/min", "gal/h", "ml", "ml/h")
)  # units that the vocabulary does not have
_OF_ITS_OWN = {
    "voltage": "ac.voltage",
    "current": "ac.current",
    "frequency": "ac.frequency",
    "angle": "ac.angle",
    "power.reactive": "ac.power.reactive",
    "power.apparent": "ac.power.apparent",
    "energy.reactive": "ac.energy.reactive.import",
    "energy.apparent": "ac.energy.apparent",
    "temperature.external": "ambient.temperature",
    "humidity": "ambient.humidity",
    "operating_time": "device.runtime",
    "fabrication": "device.serial",
    "identification": "device.serial",
    "bus_address": "device.address",
    "model": "device.model",
    "hardware": "device.hardware",
    "firmware": "device.firmware",
    "error_flags": "device.fault",
    "rf_level": "device.signal",
    "datetime": "device.time",
}


def fixed_medium(code: int) -> int:
    """Convert the medium code of a fixed structure (four bits) to the medium code that the variable structure uses."""
    return _FIXED_MEDIA.get(code, code)


def name_of(key: str, medium: int, unit: str = "") -> str:
    """The point name of a quantity that a device of this medium measures. If the vocabulary has none, the name begins
    with ``x.``.
    """
    scope = _SCOPES.get(medium, "")
    name = _OF_ITS_OWN.get(key, "")
    if not name and key in _BY_SCOPE.get(scope, {}):
        name = f"{scope}.{_BY_SCOPE[scope][key]}"
    if not name:
        return f"x.mbus.{key}"
    foreign = unit in _FOREIGN or unit.endswith("J/h") or (scope == "ac" and unit.endswith("J"))
    return f"x.{name}" if foreign else name


def manufacturer(code: int) -> str:
    """The three letters of the manufacturer, from the two-byte code in the header."""
    return "".join(chr((code >> shift & 0x1F) + 64) for shift in (10, 5, 0))
