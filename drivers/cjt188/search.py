"""How a scan finds CJ/T 188 meters: the only meter on a line answers a read to the wildcard address."""

from __future__ import annotations

from drivers.cjt188.frames import ANY, READ, Parser, broken, build_read
from drivers.line import Answer
from drivers.meter_device import MeterRequest
from drivers.model import ProgressCallback
from drivers.scan.device_search import DeviceSearch
from drivers.scan.notes import note
from drivers.scan.probes import Probe

_METER_S = 0.5  # a meter answers within 500 ms


class Cjt188Search(DeviceSearch):
    def probes(self, serial: str) -> list[Probe]:
        """Reads to the address AA..AA, which means any meter. One read for each byte order of the identifier."""
        return [self._read(ANY, "A" * 14, low_first, serial, "any address") for low_first in (False, True)]

    def sender(self, probe: Probe, payload: bytes) -> str:
        return Parser().feed(payload)[0].address

    async def is_there(self, probe: Probe, payload: bytes) -> bool:
        """Whether the meter that answered also answers a read to its own address.

        Tries the byte order of the meter's first answer first, then the other one.
        """
        found = Parser().feed(payload)[0]
        for order in (found.low_first, not found.low_first):
            named = self._read(found.meter_type, found.address, order, probe.serial, f"address {found.address}")
            if isinstance(await self.scan.put(named), Answer):
                return True
        return False

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        if self.crowded:
            self.scan.remark(note("no search", protocol=self.name))

    def _read(self, meter_type: int, address: str, low_first: bool, serial: str, what: str) -> Probe:
        request = MeterRequest(
            build_read(meter_type, address, low_first=low_first),
            READ,
            address,
            self.protocol.title,
            64,
            Parser,
            lambda found: found.raw if found.is_reply else None,
            broken,
        )
        return Probe(self.name, "", serial, request, max(self.options.timeout_s, _METER_S), what)
