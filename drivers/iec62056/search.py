"""How a scan finds IEC 62056-21 meters: the only meter on a line answers a sign-on without an address."""

from __future__ import annotations

from drivers.iec62056.frames import ANY, SIGN_ON, Parser, find_identification
from drivers.iec62056.requests import LEAST_S, SignOn, speed_rule
from drivers.line import SerialSetting
from drivers.model import ProgressCallback
from drivers.scan.device_search import DeviceSearch
from drivers.scan.notes import note
from drivers.scan.probes import Probe


class Iec62056Search(DeviceSearch):
    def probes(self, serial: str) -> list[Probe]:
        """Requests for a whole readout. A sign-on alone would not be cheaper: without a select, the meter sends its
        data at the slow speed.
        """
        return [self._sign_on(serial)]

    def sender(self, probe: Probe, payload: bytes) -> str:
        """Return ``*``: a readout does not contain the meter's device address, and the only meter on a line needs no
        address.
        """
        return ANY

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        if self.crowded:
            self.scan.remark(note("no search", protocol=self.name))

    def describe(self, received: bytes) -> list[str]:
        words = [f"{self.protocol.title} readout of {found.identification.model}" for found in Parser().feed(received)]
        if not words and (found := find_identification(received)) is not None:
            words.append(f"{self.protocol.title} identification of {found.model}")
        if SIGN_ON.search(received):
            words.append(f"{self.protocol.title} sign-on")
        return words

    def _sign_on(self, serial: str) -> Probe:
        setting = SerialSetting.parse(serial, self.options.url) if serial else None
        server = self.options.settings[0] if self.options.settings else ""
        request = SignOn(ANY, self.protocol.title, speed_rule(setting, server))
        return Probe(self.name, "", serial, request, max(self.options.timeout_s, LEAST_S), "any address")
