"""The options of a scan, the time that its probes take if nothing answers, and the devices that it has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drivers.line import SerialSetting
from drivers.registry import DEFAULT, protocol_of
from drivers.scan.fit import TIMEOUT_S, Effort, Fit
from drivers.scan.notes import Note
from drivers.scan.probes import Probe

LISTEN_S = 10.0
# In a quick scan: the longest time for finding the profile of one device. The first value is for a usual device, the
# second for a slow one.
QUICK_S, QUICK_PATIENT_S = 10.0, 8.0
THOROUGH_S, PATIENT_S = 18.0, 60.0  # the same two values for a full scan, which has a slow pass
# added in estimates, because the last request and the probe that found the device may each be repeated once
QUESTION_S = 3.0
OVERHEAD_S = 0.001  # time that the host needs for one request


def baud_of(serial: str) -> str:
    """The speed in a serial setting. Two settings with the same speed often find the same device."""
    return serial.split(maxsplit=1)[0] if serial else ""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan looks for. ``settings``: serial settings; if empty, the usual ones of each protocol. Not used over
    TCP.
    """

    url: str
    protocols: tuple[str, ...] = (DEFAULT,)
    settings: tuple[str, ...] = ()
    # the addresses to read, if the addresses of the protocol are numbers; empty: all addresses
    addresses: tuple[int, ...] = ()
    timeout_s: float = 0.2
    slow_s: float = 1.0
    slow: bool = True
    listen_s: float = LISTEN_S
    bus_is_mine: bool = False
    deep: bool = False  # whether to also read identifications that only some devices have, such as function 43/14
    choices: Mapping[str, str] = field(default_factory=dict)  # name of a ``SearchOption`` -> the value that was chosen
    identify: bool = True
    echo: bool = False
    profile_dirs: tuple[Path, ...] = ()  # folders of profiles; if empty, the site's folder and the shipped folder
    tries_framing: bool = False  # whether to check for another scheme on a TCP port if nothing answers


@dataclass(slots=True)
class FoundDevice:
    """One device. ``seen`` tells how it was found: "answer", "refusal", or "late" (its answer came while another device
    was read).
    """

    protocol: str
    address: str
    serial: str
    seen: str
    url: str = ""
    identity: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    tried: bool = False  # whether profiles were tried on the device
    cut_short: bool = False  # whether profiles were left untried, after too many timeouts or for lack of time
    is_slow: bool = False  # whether the device did not answer in the first pass
    answer_s: float = 0.0  # the device's usual time from request to answer; 0: not measured
    block: str = ""  # if no profile fits: registers that the device answers, such as 3:0+40


def effort(options: ScanOptions, is_slow: bool) -> Effort:
    """The time limits for finding the profile of one device."""
    patience_s = max(TIMEOUT_S, options.slow_s)
    if not options.slow:
        return Effort(patience_s, QUICK_PATIENT_S, True) if is_slow else Effort(TIMEOUT_S, QUICK_S, True)
    return Effort(patience_s, PATIENT_S if is_slow else THOROUGH_S)


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """The serial settings of a scan on one line, and the time that its probes take."""

    options: ScanOptions
    is_serial: bool
    carries_bytes: bool

    @property
    def listen_s(self) -> float:
        """Seconds to listen before the first probe. 0 on lines with their own framing, where other traffic is not
        received.
        """
        return self.options.listen_s if self.carries_bytes else 0.0

    def settings(self, protocol: str) -> tuple[str, ...]:
        """The serial settings to try for a protocol. The only one is "" if the line has no setting."""
        if not self.is_serial:
            return ("",)
        return self.options.settings or protocol_of(protocol).serial_settings

    def identify_s(self, is_slow: bool = False) -> float:
        """The longest time to find the profile of one device, in seconds."""
        most_s = effort(self.options, is_slow).most_s if self.options.identify else 0.0
        return most_s + QUESTION_S

    def cost_s(self, probe: Probe) -> float:
        """Seconds that a probe takes if nothing answers."""
        if not probe.serial:
            return probe.timeout_s
        setting = SerialSetting.parse(probe.serial, self.options.url)
        return probe.timeout_s + len(probe.request.frame) * setting.char_s + setting.quiet_s + OVERHEAD_S
