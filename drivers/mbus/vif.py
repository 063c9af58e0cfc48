"""The meaning of VIFs: quantity, unit and factor. Source: EN 13757-3:2018 tables 10 to 15 (2013: 10 to 16)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a VIF: ``value = raw * factor`` in ``unit``. ``kind``: number, flags (unsigned), date, datetime,
    rssi.
    """

    key: str  # the quantity; see ``drivers.mbus.names``
    label: str
    unit: str = ""
    factor: Decimal = Decimal(1)
    kind: str = "number"


Table = dict[int, Meaning]
_TIME_UNITS = {"s": "s", "m": "min", "h": "h", "d": "d", "M": "month", "Y": "year"}


def _power(table: Table, first: int, count: int, exponent: int, key: str, label: str, unit: str) -> None:
    """Add ``count`` codes from ``first`` on. The first code has the factor 10**``exponent``; each next factor is ten
    times larger.
    """
    for n in range(count):
        table[first + n] = Meaning(key, label, unit, Decimal(10) ** (exponent + n))


def _duration(table: Table, first: int, key: str, label: str, scales: str = "smhd") -> None:
    """Add the codes of a duration. Each keeps its unit: hours in seconds could not be converted back to hours with an
    exact factor.
    """
    for n, letter in enumerate(scales):
        table[first + n] = Meaning(key, label, _TIME_UNITS[letter])


def _plain(table: Table, entries: dict[int, tuple[str, str]], kind: str = "number") -> None:
    for code, (key, label) in entries.items():
        table[code] = Meaning(key, label, kind=kind)


def _primary() -> Table:
    t: Table = {}
    _power(t, 0x00, 8, -3, "energy", "Energy", "Wh")
    _power(t, 0x08, 8, 0, "energy", "Energy", "J")
    _power(t, 0x10, 8, -6, "volume", "Volume", "m3")
    _power(t, 0x18, 8, -3, "mass", "Mass", "kg")
    _duration(t, 0x20, "on_time", "On time")
    _duration(t, 0x24, "operating_time", "Operating time")
    _power(t, 0x28, 8, -3, "power", "Power", "W")
    _power(t, 0x30, 8, 0, "power", "Power", "J/h")
    _power(t, 0x38, 8, -6, "flow", "Volume flow", "m3/h")
    _power(t, 0x40, 8, -7, "flow", "Volume flow", "m3/min")
    _power(t, 0x48, 8, -9, "flow", "Volume flow", "m3/s")
    _power(t, 0x50, 8, -3, "mass_flow", "Mass flow", "kg/h")
    _power(t, 0x58, 4, -3, "temperature.supply", "Flow temperature", "Cel")
    _power(t, 0x5C, 4, -3, "temperature.return", "Return temperature", "Cel")
    _power(t, 0x60, 4, -3, "temperature.difference", "Temperature difference", "K")
    _power(t, 0x64, 4, -3, "temperature.external", "External temperature", "Cel")
    _power(t, 0x68, 4, -3, "pressure", "Pressure", "bar")
    t[0x6C] = Meaning("date", "Time point (date)", kind="date")
    t[0x6D] = Meaning("datetime", "Time point (date & time)", kind="datetime")
    t[0x6E] = Meaning("hca", "H.C.A.", "HCA")
    _duration(t, 0x70, "averaging", "Averaging duration")
    _duration(t, 0x74, "actuality", "Actuality duration")
    _plain(t, {0x78: ("fabrication", "Fabrication No"), 0x79: ("identification", "(Enhanced) identification")})
    _plain(t, {0x7A: ("bus_address", "Bus address"), 0x7E: ("any", "Any VIF")})
    t[0x7F] = Meaning("manufacturer", "Manufacturer specific")
    return t


def _extension_fd() -> Table:
    t: Table = {}
    _power(t, 0x00, 4, -3, "credit", "Credit", "currency")
    _power(t, 0x04, 4, -3, "debit", "Debit", "currency")
    _plain(
        t,
        {
            0x08: ("access_number", "Access number (transmission count)"),
            0x09: ("medium", "Medium"),
            0x0A: ("maker", "Manufacturer"),
            0x0B: ("parameter_set", "Parameter set identification"),
            0x0C: ("model", "Model / Version"),
            0x0D: ("hardware", "Hardware version"),
            0x0E: ("firmware", "Firmware version"),
            0x0F: ("software", "Software version"),
            0x10: ("location", "Customer location"),
            0x11: ("customer", "Customer"),
            0x12: ("code.user", "Access code user"),
            0x13: ("code.operator", "Access code operator"),
            0x14: ("code.system", "Access code system operator"),
            0x15: ("code.developer", "Access code developer"),
            0x16: ("password", "Password"),
            0x19: ("security_key", "Security key"),
            0x1E: ("retry", "Retry"),
            0x1F: ("remote_control", "Remote control"),
            0x20: ("storage.first", "First storage number for cyclic storage"),
            0x21: ("storage.last", "Last storage number for cyclic storage"),
            0x22: ("storage.size", "Size of storage block"),
            0x23: ("tariff_descriptor", "Descriptor for tariff and subunit"),
            0x2A: ("operator_data", "Operator specific data"),
            0x2B: ("second", "Time point second"),
            0x3A: ("number", "Dimensionless"),
            0x3B: ("container.wireless", "Data container for wireless M-Bus"),
            0x60: ("reset_counter", "Reset counter"),
            0x61: ("cumulation_counter", "Cumulation counter"),
            0x62: ("control_signal", "Control signal"),
            0x63: ("weekday", "Day of week"),
            0x64: ("week", "Week number"),
            0x65: ("day_change", "Time point of day change"),
            0x66: ("activation", "State of parameter activation"),
            0x67: ("supplier", "Special supplier information"),
            0x72: ("daylight_saving", "Daylight saving"),
            0x73: ("listening_window", "Listening window management"),
            0x75: ("stops", "Number of times the meter was stopped"),
            0x76: ("container.maker", "Data container for manufacturer specific protocol"),
        },
    )
    _plain(t, {0x17: ("error_flags", "Error flags"), 0x18: ("error_mask", "Error mask")}, "flags")
    _plain(t, {0x1A: ("outputs", "Digital output"), 0x1B: ("inputs", "Digital input")}, "flags")
    t[0x1C] = Meaning("baud", "Baudrate", "Bd")
    t[0x1D] = Meaning("response_delay", "Response delay time", "bit times")
    _duration(t, 0x24, "storage.interval", "Storage interval", "smhdMY")
    _duration(t, 0x2C, "since_readout", "Duration since last readout")
    t[0x30] = Meaning("tariff.start", "Start of tariff", kind="datetime")
    _duration(t, 0x31, "tariff.duration", "Duration of tariff", "mhd")
    _duration(t, 0x34, "tariff.period", "Period of tariff", "smhdMY")
    _duration(t, 0x3C, "transmission.period", "Period of nominal data transmissions")
    _power(t, 0x40, 16, -9, "voltage", "Voltage", "V")
    _power(t, 0x50, 16, -12, "current", "Current", "A")
    _duration(t, 0x68, "since_cumulation", "Duration since last cumulation", "hdMY")
    _duration(t, 0x6C, "battery.runtime", "Operating time battery", "hdMY")
    t[0x70] = Meaning("battery.changed", "Date and time of battery change", kind="datetime")
    t[0x71] = Meaning("rf_level", "RF level", "dBm", kind="rssi")
    t[0x74] = Meaning("battery.remaining", "Remaining battery lifetime", "d")
    return t


def _extension_fb() -> Table:
    t: Table = {}
    _power(t, 0x00, 2, 5, "energy", "Energy", "Wh")
    _power(t, 0x02, 2, 0, "energy.reactive", "Reactive energy", "kvarh")
    _power(t, 0x04, 2, 0, "energy.apparent", "Apparent energy", "kVAh")
    _power(t, 0x08, 2, 8, "energy", "Energy", "J")
    _power(t, 0x0C, 4, 5, "energy", "Energy", "cal")
    _power(t, 0x10, 2, 2, "volume", "Volume", "m3")
    _power(t, 0x14, 4, -3, "power.reactive", "Reactive power", "kvar")
    _power(t, 0x18, 2, 5, "mass", "Mass", "kg")
    _power(t, 0x1A, 2, -1, "humidity", "Relative humidity", "%")
    t[0x20] = Meaning("volume", "Volume", "ft3")
    t[0x21] = Meaning("volume", "Volume", "ft3", Decimal("0.1"))
    _power(t, 0x22, 2, -1, "volume", "Volume", "gal")
    t[0x24] = Meaning("flow", "Volume flow", "gal/min", Decimal("0.001"))
    t[0x25] = Meaning("flow", "Volume flow", "gal/min")
    t[0x26] = Meaning("flow", "Volume flow", "gal/h")
    _power(t, 0x28, 2, 5, "power", "Power", "W")
    t[0x2A] = Meaning("angle.voltage", "Phase angle between voltages", "deg", Decimal("0.1"))
    t[0x2B] = Meaning("angle", "Phase angle between voltage and current", "deg", Decimal("0.1"))
    _power(t, 0x2C, 4, -3, "frequency", "Frequency", "Hz")
    _power(t, 0x30, 2, 8, "power", "Power", "J/h")
    _power(t, 0x34, 4, -3, "power.apparent", "Apparent power", "kVA")
    _power(t, 0x58, 4, -3, "temperature.supply", "Flow temperature", "degF")
    _power(t, 0x5C, 4, -3, "temperature.return", "Return temperature", "degF")
    _power(t, 0x60, 4, -3, "temperature.difference", "Temperature difference", "degF")
    _power(t, 0x64, 4, -3, "temperature.external", "External temperature", "degF")
    _power(t, 0x70, 4, -3, "temperature.limit", "Cold / warm temperature limit", "degF")
    _power(t, 0x74, 4, -3, "temperature.limit", "Cold / warm temperature limit", "Cel")
    _power(t, 0x78, 8, -3, "power.cumulated", "Cumulation of maximum power", "W")
    return t


PRIMARY, FD, FB = _primary(), _extension_fd(), _extension_fb()

# codes of the fixed structure (EN 1434-3, table of physical units) -> quantity and unit. Each listed code is followed
# by two codes that mean 10 and 100 times its unit.
_FIXED_FIRSTS: tuple[tuple[int, str, str], ...] = (
    (0x02, "energy", "Wh"), (0x05, "energy", "kWh"), (0x08, "energy", "MWh"), (0x0B, "energy", "kJ"),
    (0x0E, "energy", "MJ"), (0x11, "energy", "GJ"), (0x14, "power", "W"), (0x17, "power", "kW"),
    (0x1A, "power", "MW"), (0x1D, "power", "kJ/h"), (0x20, "power", "MJ/h"), (0x23, "power", "GJ/h"),
    (0x26, "volume", "ml"), (0x29, "volume", "l"), (0x2C, "volume", "m3"), (0x2F, "flow", "ml/h"),
    (0x32, "flow", "l/h"), (0x35, "flow", "m3/h"),
)  # fmt: skip
_LABELS = {"energy": "Energy", "power": "Power", "volume": "Volume", "flow": "Volume flow"}
FIXED_UNITS: Table = {
    first + n: Meaning(key, _LABELS[key], unit, Decimal(10) ** n)
    for first, key, unit in _FIXED_FIRSTS
    for n in range(3)
}
FIXED_UNITS[0x00] = Meaning("time_of_day", "h, m, s")
FIXED_UNITS[0x01] = Meaning("date", "D, M, Y")
FIXED_UNITS[0x38] = Meaning("temperature", "Temperature", "Cel", Decimal("0.001"))
FIXED_UNITS[0x39] = Meaning("hca", "H.C.A.", "HCA")
FIXED_UNITS[0x3F] = Meaning("number", "without unit")
# this code means "same but historic": the counter is a stored value, and its unit is that of the meter's other counter
FIXED_HISTORIC = 0x3E

# combinable VIFE that only describe a value -> description. VIFE that change the value or its type are in ``records``.
ANNOTATIONS: dict[int, str] = {
    0x12: "average value",
    0x13: "inverse compact profile",
    0x14: "relative deviation",
    0x1D: "standard conform data content",
    0x1E: "compact profile with register numbers",
    0x1F: "compact profile",
    0x20: "per second",
    0x21: "per minute",
    0x22: "per hour",
    0x23: "per day",
    0x24: "per week",
    0x25: "per month",
    0x26: "per year",
    0x27: "per revolution or measurement",
    0x28: "increment per input pulse on channel 0",
    0x29: "increment per input pulse on channel 1",
    0x2A: "increment per output pulse on channel 0",
    0x2B: "increment per output pulse on channel 1",
    0x2C: "per l",
    0x2D: "per m3",
    0x2E: "per kg",
    0x2F: "per K",
    0x30: "per kWh",
    0x31: "per GJ",
    0x32: "per kW",
    0x33: "per K l",
    0x34: "per V",
    0x35: "per A",
    0x36: "multiplied by s",
    0x37: "multiplied by s/V",
    0x38: "multiplied by s/A",
    0x3A: "uncorrected unit",
    0x3B: "accumulation of positive contributions only",
    0x3C: "accumulation of negative contributions only",
    0x3D: "non-metric unit",
    0x3E: "value at base conditions",
    0x3F: "OBIS declaration",
    0x40: "lower limit",
    0x48: "upper limit",
    0x41: "number of exceeds of lower limit",
    0x49: "number of exceeds of upper limit",
    0x68: "value during lower limit exceed",
    0x6C: "value during upper limit exceed",
    0x69: "leakage",
    0x6D: "overflow",
    0x7E: "future value",
}
# VIFE with which a device reports an error in a record
ERRORS: dict[int, str] = {
    0x01: "too many DIFE",
    0x02: "storage number not implemented",
    0x03: "unit number not implemented",
    0x04: "tariff number not implemented",
    0x05: "function not implemented",
    0x06: "data class not implemented",
    0x07: "data size not implemented",
    0x0B: "too many VIFE",
    0x0C: "illegal VIF group",
    0x0D: "illegal VIF exponent",
    0x0E: "VIF and DIF do not match",
    0x0F: "action not implemented",
    0x15: "no data available",
    0x16: "data overflow",
    0x17: "data underflow",
    0x18: "data error",
    0x1C: "premature end of record",
}
# second table of combinable VIFE, which follow FCh
PHASES: dict[int, str] = {
    0x01: "l1",
    0x02: "l2",
    0x03: "l3",
    0x04: "n",
    0x05: "l12",
    0x06: "l23",
    0x07: "l31",
}
SECOND_ANNOTATIONS: dict[int, str] = {
    0x08: "quadrant 1",
    0x09: "quadrant 2",
    0x0A: "quadrant 3",
    0x0B: "quadrant 4",
    0x0C: "difference of import and export",
    0x0F: "non-metric unit",
    0x10: "accumulation of absolute values",
    0x11: "as type C",
    0x12: "as type D",
    0x13: "end date (and time) of",
    0x14: "direction from partner to meter",
    0x15: "direction from meter to partner",
}
