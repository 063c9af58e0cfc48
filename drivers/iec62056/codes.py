"""The codes of data sets (OBIS and EDIS), the abbreviations that many makers use, and the usual meanings.

``1-0:1.8.0*255``, ``1-1:1.8.0``, ``1.8.0`` and ``1.8`` are the same quantity. The parts of a code are:

- ``A-B:`` is medium and channel;
- ``C.D.E`` is the quantity;
- ``*F`` is the billing period, a number that counts up at each reset. 255 or no ``*F`` means the present period.

Source: IEC 62056-61 tables 1 to 12 and VDEW specification 2.1.2, as public sources give them. The codes of DSMR P1
meters come from the DSMR P1 specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_CODE = re.compile(
    r"(?:([0-9]{1,3})-([0-9A-Za-z]{1,3}):)?([0-9A-Z]{1,3})\.([0-9A-Z]{1,3})(?:\.([0-9A-Z]{1,3}))?(?:[*&]([0-9]{1,3}))?",
    re.IGNORECASE,
)
PRESENT = 255


@dataclass(frozen=True, slots=True)
class Code:
    """A parsed code. ``quantity`` is C.D.E without leading zeros. ``period`` is None if the code names no billing
    period.
    """

    medium: str  # "" if the code does not contain it
    channel: str
    quantity: str
    period: int | None = None

    @property
    def is_present(self) -> bool:
        """Whether the code means the present value, not that of a past billing period."""
        return self.period in (None, PRESENT)

    def __str__(self) -> str:
        head = f"{self.medium}-{self.channel}:" if self.medium else ""
        return f"{head}{self.quantity}" + ("" if self.period is None else f"*{self.period:02d}")


@lru_cache(maxsize=4096)
def parse_code(text: str) -> Code | None:
    """Parse the code of a data set or of a profile's key. None if the text is a manufacturer's own name instead of a
    code.
    """
    found = _CODE.fullmatch(text.strip())
    if found is None:
        return None
    medium, channel, c, d, e, period = found.groups()
    parts = [part.upper() if not part.isdecimal() else str(int(part)) for part in (c, d, e or "0")]
    return Code(str(int(medium)) if medium else "", channel or "", ".".join(parts), int(period) if period else None)


def _phases(first: int, name: str) -> dict[str, str]:
    """Code -> name for the three phases. The code of each phase is 20 above that of the phase before it."""
    return {f"{first + 20 * n}.7.0": f"{name}.l{n + 1}" for n in range(3)}


_ELECTRICITY: dict[str, str] = {
    "1.8.0": "ac.energy.import",
    "2.8.0": "ac.energy.export",
    "3.8.0": "ac.energy.reactive.import",
    "4.8.0": "ac.energy.reactive.export",
    **{f"{4 + n}.8.0": f"ac.energy.reactive.quadrant.{n}" for n in range(1, 5)},
    "9.8.0": "ac.energy.apparent",
    "15.8.0": "ac.energy.total",
    "16.8.0": "ac.energy.net",
    **{f"{1 + 20 * n}.8.0": f"ac.energy.import.l{n}" for n in range(1, 4)},
    **{f"{2 + 20 * n}.8.0": f"ac.energy.export.l{n}" for n in range(1, 4)},
    "16.7.0": "ac.power.active",
    **_phases(36, "ac.power.active"),
    "9.7.0": "ac.power.apparent",
    **_phases(29, "ac.power.apparent"),
    "13.7.0": "ac.power.factor",
    **_phases(33, "ac.power.factor"),
    "14.7.0": "ac.frequency",
    **_phases(32, "ac.voltage"),
    **_phases(31, "ac.current"),
    "91.7.0": "ac.current.n",
    "1.4.0": "ac.demand.import",
    "2.4.0": "ac.demand.export",
    "1.6.0": "ac.demand.import.max",
    "2.6.0": "ac.demand.export.max",
}
_TARIFFS = {"1.8": "ac.energy.import", "2.8": "ac.energy.export", "15.8": "ac.energy.total"}
_DEVICE = {
    "0.0.0": "device.address.text",
    "C.1.0": "device.serial",
    "96.1.0": "device.serial",
    "0.2.0": "device.firmware",
    "F.F.0": "device.status",
    "0.9.1": "device.clock.time",
    "0.9.2": "device.clock.date",
}
_MEDIA = {  # medium -> quantity -> name
    "0": {"96.1.1": "device.serial", "1.0.0": "device.time"},
    "6": {"1.0.0": "heat.energy", "2.0.0": "heat.volume"},
    "7": {"3.0.0": "gas.volume"},
    "8": {"1.0.0": "water.volume"},
}


def name_of(code: Code) -> str:
    """The vocabulary's name for a quantity. A quantity that the vocabulary lacks gets a name of this project, beginning
    with x.
    """
    quantity = code.quantity
    known = _MEDIA.get(code.medium, {}).get(quantity)
    if known is None and code.medium in ("", "0", "1"):
        known = _DEVICE.get(quantity)
    if known is None and code.medium in ("", "1"):
        known = _ELECTRICITY.get(quantity)
        head, _, tariff = quantity.rpartition(".")
        if known is None and head in _TARIFFS and tariff.isdecimal() and tariff != "0":
            known = f"{_TARIFFS[head]}.tariff.{tariff}"
    return known or f"x.obis.{quantity.lower()}"


def tariff_of(code: Code) -> int:
    """The number of the tariff, which is E in codes of electrical energy and demand.

    0 means the total of all tariffs, or a code without tariff.
    """
    quantity, kind, tariff = code.quantity.split(".")
    is_summed = code.medium in ("", "1") and quantity.isdecimal() and quantity != "0" and kind in ("2", "4", "6", "8")
    return int(tariff) if is_summed and tariff.isdecimal() else 0


UNITS = {  # unit in capitals -> our spelling. Units whose meaning depends on m or M are in ``_EXACT``.
    "WH": "Wh", "KWH": "kWh", "GWH": "GWh", "VARH": "varh", "KVARH": "kvarh", "VAH": "VAh", "KVAH": "kVAh",
    "W": "W", "KW": "kW", "GW": "GW", "VAR": "var", "KVAR": "kvar", "VA": "VA", "KVA": "kVA",
    "V": "V", "KV": "kV", "A": "A", "KA": "kA", "HZ": "Hz", "J": "J", "KJ": "kJ", "GJ": "GJ",
    "M3": "m3", "M³": "m3", "L": "l", "LTR": "l", "M3/H": "m3/h", "L/H": "l/h",
    "C": "Cel", "°C": "Cel", "GRD": "Cel", "K": "K", "%": "%", "S": "s", "MIN": "min", "H": "h", "D": "d",
}  # fmt: skip
_EXACT = {"MWh": "MWh", "MW": "MW", "Mvar": "Mvar", "Mvarh": "Mvarh", "MVA": "MVA", "MVAh": "MVAh", "MJ": "MJ",
          "MWH": "MWh", "MVAr": "Mvar", "MVAR": "Mvar", "MVArh": "Mvarh", "MVARH": "Mvarh", "MVAH": "MVAh",
          "mA": "mA", "mV": "mV", "ms": "ms"}  # fmt: skip


def unit_of(text: str) -> str:
    """A meter's unit in our spelling. An unknown unit is kept, but its unprintable characters are removed."""
    text = "".join(c for c in text.strip() if c.isprintable())[:16]
    return _EXACT.get(text) or UNITS.get(text.upper(), text)
