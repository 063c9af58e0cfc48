"""What a scan looks for, its questions in their order, how long they take without an answer, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drivers.line import SerialSetting
from drivers.scan.fit import TIMEOUT_S, Effort, Fit
from drivers.scan.notes import Note
from drivers.scan.probes import (
    SETTINGS,
    Probe,
    cjt188_probes,
    dlt645_ending,
    dlt645_probes,
    mbus_probe,
    modbus_probe,
)

LISTEN_S = 10.0
QUICK_S, QUICK_PATIENT_S = 10.0, 8.0  # to find the profile of one device; of a slow one, in a quick scan
THOROUGH_S, PATIENT_S = 18.0, 60.0  # the same in a whole scan
SELECTION_S = 30.0  # to tell one M-Bus meter from the others by its digits
QUESTION_S = 3.0  # the last question may be asked again after a broken answer, as may the one that found the device
OVERHEAD_S = 0.001  # of the host, a question


def baud_of(serial: str) -> str:
    """The speed of a serial setting: two settings of one speed often find the same device."""
    return serial.split(maxsplit=1)[0] if serial else ""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What to look for. ``settings`` () means each protocol's usual ones; not used over TCP."""

    url: str
    protocols: tuple[str, ...] = ("modbus",)
    settings: tuple[str, ...] = ()
    addresses: tuple[int, ...] = ()  # Modbus and M-Bus; (): all
    timeout_s: float = 0.2
    slow_s: float = 1.0
    slow: bool = True
    listen_s: float = LISTEN_S
    bus_is_mine: bool = False
    deep: bool = False  # also Modbus 43/14
    mbus_by: tuple[str, ...] = ("secondary", "primary")  # how M-Bus meters are asked for
    identify: bool = True
    echo: bool = False
    profile_dirs: tuple[Path, ...] = ()  # where profiles are looked for; (): the shipped and the site's


@dataclass(slots=True)
class FoundDevice:
    """One device. ``seen``: answer, refusal, late (its answer came when another was asked)."""

    protocol: str
    address: str
    serial: str
    seen: str
    url: str = ""
    identity: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    tried: bool = False  # profiles were tried on it
    cut_short: bool = False  # but not all of them
    is_slow: bool = False  # it did not answer in the first pass
    answer_s: float = 0.0  # its usual time from request to answer; 0: not measured


def effort(options: ScanOptions, is_slow: bool) -> Effort:
    """How long one device is asked to find its profile."""
    patience_s = max(TIMEOUT_S, options.slow_s)
    if not options.slow:
        return Effort(patience_s, QUICK_PATIENT_S, True) if is_slow else Effort(TIMEOUT_S, QUICK_S, True)
    return Effort(patience_s, PATIENT_S if is_slow else THOROUGH_S)


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """The questions of a scan on a line of this kind."""

    options: ScanOptions
    is_serial: bool
    is_mbap: bool

    @property
    def listen_s(self) -> float:
        """Over Modbus TCP nothing can be heard."""
        return 0.0 if self.is_mbap else self.options.listen_s

    def settings(self, protocol: str) -> tuple[str, ...]:
        """Serial settings to try; "" if the line has none."""
        if not self.is_serial:
            return ("",)
        return self.options.settings or SETTINGS[protocol]

    def units(self) -> list[int]:
        """Modbus units to ask."""
        return [unit for unit in self.options.addresses or range(1, 248) if 1 <= unit <= 247 or self.is_mbap]

    def primaries(self) -> list[int]:
        """M-Bus primary addresses to ask."""
        if "primary" not in self.options.mbus_by:
            return []
        return [address for address in self.options.addresses or range(251) if 0 <= address <= 250]

    def first_pass(self, units: Sequence[int]) -> list[Probe]:
        """Everything once, quickly; Modbus first."""
        options, probes = self.options, list[Probe]()
        for protocol in options.protocols:
            for serial in self.settings(protocol):
                if protocol == "modbus":
                    probes += [modbus_probe(unit, serial, options.timeout_s) for unit in units]
                elif protocol == "dlt645":
                    probes += dlt645_probes(serial, options.timeout_s)
                elif protocol == "cjt188":
                    probes += cjt188_probes(serial, options.timeout_s)
                else:
                    probes += [mbus_probe(a, serial, options.timeout_s) for a in self.primaries()]
        return probes

    def slow_pass(self, units: Sequence[int], is_known: Callable[[str, str, str], bool]) -> list[Probe]:
        """The silent addresses again, with longer timeouts; ``is_known`` takes protocol, address and setting."""
        options, probes = self.options, list[Probe]()
        for protocol in options.protocols:
            for serial in self.settings(protocol):
                if protocol == "modbus":
                    silent = [unit for unit in units if not is_known("modbus", str(unit), serial)]
                    for function in (3, 4):
                        probes += [modbus_probe(unit, serial, options.slow_s, function) for unit in silent]
                elif protocol == "mbus":
                    silent = [a for a in self.primaries() if not is_known("mbus", str(a), serial)]
                    probes += [mbus_probe(a, serial, max(options.timeout_s * 2, 0.5)) for a in silent]
        return probes

    def search_s(self) -> float:
        """Of the slow pass's searches among meters, where none is found."""
        if not self.options.slow or "dlt645" not in self.options.protocols:
            return 0.0
        asked = [dlt645_ending("00", serial, self.options.timeout_s) for serial in self.settings("dlt645")]
        return 100 * sum(self.cost_s(probe) for probe in asked)

    def device_s(self, is_slow: bool = False) -> float:
        """The longest that one found device takes."""
        most_s = effort(self.options, is_slow).most_s if self.options.identify else 0.0
        is_selected = "mbus" in self.options.protocols and "secondary" in self.options.mbus_by
        return most_s + QUESTION_S + (SELECTION_S if is_selected else 0.0)

    def crowd_s(self, serials: Iterable[str]) -> float:
        """Of the search among DL/T 645 meters that answer at once at these settings; more where three and more do."""
        return sum(200 * self.cost_s(dlt645_ending("00", serial, self.options.timeout_s)) for serial in serials)

    def cost_s(self, probe: Probe) -> float:
        """One question without an answer."""
        if not probe.serial:
            return probe.timeout_s
        setting = SerialSetting.parse(probe.serial, self.options.url)
        return probe.timeout_s + len(probe.request.frame) * setting.char_s + setting.quiet_s + OVERHEAD_S
