from drivers.scan.device_search import DeviceSearch
from drivers.scan.probes import Probe
from meterhouse_snail.device import request
from meterhouse_snail.frames import Frame, Parser


class SnailSearch(DeviceSearch):
    def probes(self, serial: str) -> list[Probe]:
        wait_s = 2.0 if self.options.choices.get("snail-pace") == "slower" else 0.5
        asked = request("AAAA", "any snail")
        return [Probe(self.name, "", serial, asked, max(wait_s, self.options.timeout_s), "any address")]

    def sender(self, probe: Probe, payload: bytes) -> str:
        return Frame(payload).address

    def describe(self, received: bytes) -> list[str]:
        return [f"a snail at {frame.address}" for frame in Parser().feed(received)]
