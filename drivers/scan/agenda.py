"""The questions of a scan in their order, and how long they take without an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drivers.line import SerialSetting
from drivers.scan.hunt import Hunt
from drivers.scan.probes import (
    SETTINGS,
    Probe,
    cjt188_probes,
    dlt645_ending,
    dlt645_probes,
    mbus_probe,
    modbus_probe,
)

OVERHEAD_S = 0.001  # of the host, a question


def baud_of(serial: str) -> str:
    """The speed of a serial setting: two settings of one speed often find the same device."""
    return serial.split(maxsplit=1)[0] if serial else ""


@dataclass(frozen=True, slots=True)
class Agenda:
    """The questions of a hunt on a line of this kind."""

    hunt: Hunt
    is_serial: bool
    is_mbap: bool

    @property
    def listen_s(self) -> float:
        """Over Modbus TCP nothing can be heard."""
        return 0.0 if self.is_mbap else self.hunt.listen_s

    def settings(self, protocol: str) -> tuple[str, ...]:
        """Serial settings to try; "" if the line has none."""
        if not self.is_serial:
            return ("",)
        return self.hunt.settings or SETTINGS[protocol]

    def units(self) -> list[int]:
        """Modbus units to ask."""
        return [unit for unit in self.hunt.addresses or range(1, 248) if 1 <= unit <= 247 or self.is_mbap]

    def primaries(self) -> list[int]:
        """M-Bus primary addresses to ask."""
        if "primary" not in self.hunt.mbus_by:
            return []
        return [address for address in self.hunt.addresses or range(251) if 0 <= address <= 250]

    def first_pass(self, units: Sequence[int]) -> list[Probe]:
        """Everything once, quickly; Modbus first."""
        hunt, probes = self.hunt, list[Probe]()
        for protocol in hunt.protocols:
            for serial in self.settings(protocol):
                if protocol == "modbus":
                    probes += [modbus_probe(unit, serial, hunt.timeout_s) for unit in units]
                elif protocol == "dlt645":
                    probes += dlt645_probes(serial, hunt.timeout_s)
                elif protocol == "cjt188":
                    probes += cjt188_probes(serial, hunt.timeout_s)
                else:
                    probes += [mbus_probe(a, serial, hunt.timeout_s) for a in self.primaries()]
        return probes

    def slow_pass(self, units: Sequence[int], is_known: Callable[[str, str, str], bool]) -> list[Probe]:
        """The silent addresses again, with longer timeouts; ``is_known`` takes protocol, address and setting."""
        hunt, probes = self.hunt, list[Probe]()
        for protocol in hunt.protocols:
            for serial in self.settings(protocol):
                if protocol == "modbus":
                    silent = [unit for unit in units if not is_known("modbus", str(unit), serial)]
                    for function in (3, 4):
                        probes += [modbus_probe(unit, serial, hunt.slow_s, function) for unit in silent]
                elif protocol == "mbus":
                    silent = [a for a in self.primaries() if not is_known("mbus", str(a), serial)]
                    probes += [mbus_probe(a, serial, max(hunt.timeout_s * 2, 0.5)) for a in silent]
        return probes

    def search_s(self) -> float:
        """Of the slow pass's searches among meters, where none is found."""
        if not self.hunt.slow or "dlt645" not in self.hunt.protocols:
            return 0.0
        asked = [dlt645_ending("00", serial, self.hunt.timeout_s) for serial in self.settings("dlt645")]
        return 100 * sum(self.cost_s(probe) for probe in asked)

    def cost_s(self, probe: Probe) -> float:
        """One question without an answer."""
        if not probe.serial:
            return probe.timeout_s
        setting = SerialSetting.parse(probe.serial, self.hunt.url)
        return probe.timeout_s + len(probe.request.frame) * setting.char_s + setting.quiet_s + OVERHEAD_S
