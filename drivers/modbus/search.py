"""How a scan finds Modbus devices: it reads one register of each unit. A late answer counts for the unit that sent it.

Three cases need care:

- Over Modbus TCP, one device may answer for all units. The scan detects this.
- On a bus, another master may be active. Unsolicited frames show this.
- A serial server may answer an exception for units that do not exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from drivers.framing import crc_ok
from drivers.line import Answer
from drivers.modbus.requests import read_identification, read_request
from drivers.model import DeviceException, Limits, LineDown, LineError, LineLent, LineTimeout, ProgressCallback
from drivers.profile import Profile
from drivers.protocol import Protocol
from drivers.scan.device_search import DeviceSearch
from drivers.scan.fit import profiles_of
from drivers.scan.notes import note
from drivers.scan.plan import FoundDevice
from drivers.scan.probes import Probe
from drivers.scan.search import Scan
from drivers.scan.traffic import TrafficTrace

# One device may answer for all units. This is checked before a scan of more than this many units, and after any other
# scan.
MOST_UNITS = 16
UNLIKELY_UNITS = (247, 201, 139)  # seldom used unit numbers; if all of them answer, one device answers for every unit
AGAIN_S = 0.5  # timeout when units are asked again after a broken answer, which may be two overlapping answers
GATEWAY_CODES: Final = (10, 11)  # exceptions that only gateways send: path unavailable, target failed to respond
MOST_SILENCES = 3  # if this many reads of a unit time out, no server answers for the unit
MOST_WAITS = 20  # the scan waits at most this many times until late answers have ended
SUNSPEC: Final = ((3, 40000, 2), (3, 0, 2), (3, 50000, 2))

Registers = tuple[int, int, int]  # function, address, count


class ModbusSearch(DeviceSearch):
    def __init__(self, protocol: Protocol, scan: Scan) -> None:
        super().__init__(protocol, scan)
        self._asked: set[int] = set()
        self._one_unit = False  # whether one device answers for all units
        self._doubtful: list[Probe] = []  # probes whose answers were broken
        # (setting, exception, timeout) for which improbable units were read, to check whether they send the same
        # exception
        self._judged: set[tuple[str, int, float]] = set()
        # (setting, timeout) at which an improbable unit was silent, so no server answers for missing units
        self._no_server: set[tuple[str, float]] = set()
        # (setting, exception): a server sends this exception for missing units
        self._absent: set[tuple[str, int]] = set()
        self._refused_late: list[tuple[int, str, int]] = []  # late refusals: (unit, setting, exception)
        # (setting, unit, exception): the unit answers every read with this exception
        self._says_no_more: set[tuple[str, int, int]] = set()
        self._telling: list[Registers] = []
        self._from_gateway = 0  # number of answers in which a gateway reports that it reaches no device

    def _units(self) -> list[int]:
        is_bus = self.scan.carries_bytes
        units = [unit for unit in self.options.addresses or range(1, 248) if 1 <= unit <= 247 or not is_bus]
        return units[:1] if self._one_unit else units

    def probes(self, serial: str) -> list[Probe]:
        return [unit_probe(unit, serial, self.options.timeout_s) for unit in self._units()]

    def slow_probes(self, serial: str) -> list[Probe]:
        silent = [unit for unit in self._units() if not self.scan.is_known(self.name, str(unit), serial)]
        return [unit_probe(unit, serial, self.options.slow_s, code) for code in (3, 4) for unit in silent]

    def signs_of_life(self, device: FoundDevice) -> list[Probe]:
        if not device.address.isdecimal():
            return []
        return [unit_probe(int(device.address), device.serial, self.options.slow_s, code) for code in (3, 4)]

    def on_sent(self, probe: Probe) -> None:
        self._asked.add(int(probe.address))

    def on_broken(self, probe: Probe, error: LineError, is_last: bool = False) -> None:
        if not is_last:
            self._doubtful.append(probe)
        else:
            self.scan.remark(note("broken", protocol=self.name, what=probe.what, why=error.what))

    async def before(self, progress: ProgressCallback) -> None:
        if self.is_wanted and not self.scan.carries_bytes and len(self._units()) > MOST_UNITS:
            await self._is_it_one()

    async def ask_again(self) -> None:
        """Read again from each unit with a broken answer, and from the unit before it, whose late answer may have
        caused this.
        """
        doubtful, self._doubtful = self._doubtful, []
        for probe in doubtful:
            for unit in (int(probe.address) - 1, int(probe.address)):
                if unit in self._units() and not self.scan.is_known(self.name, str(unit), probe.serial):
                    await self.scan.ask(unit_probe(unit, probe.serial, AGAIN_S), is_last=True)

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        several = len(self.scan.found) > 1 and len(self._units()) <= MOST_UNITS
        if not slow and not self.scan.carries_bytes and several:
            await self._is_it_one(self.scan.found[:1])

    async def _is_it_one(self, kept: Sequence[FoundDevice] = ()) -> None:
        """Check whether one device answers for all units, as is common over Modbus TCP.

        If it does, all found devices except ``kept`` are removed.
        """
        before = list(self.scan.found)
        for unit in UNLIKELY_UNITS:
            if not await self.scan.ask(unit_probe(unit, "", self.options.slow_s), quiet=True):
                self.scan.found = before
                return
        self._one_unit = True
        self.scan.found = list(kept)
        self.scan.notes.append(note("every unit"))

    async def ask_deep(self, device: FoundDevice) -> None:
        line = self.scan.line
        options = line.request_options(Limits(timeout_s=self.options.slow_s), device.serial)
        try:
            objects = await read_identification(line, int(device.address), options, f"unit {device.address}")
        except (LineDown, LineLent):
            raise
        except (LineError, IndexError):  # most devices have no identification, and some answer with too few bytes
            return
        names = {0: "vendor", 1: "product", 2: "revision"}
        device.identity.update({names[n]: text for n, text in objects.items() if n in names and text})

    # --- refusals: from a device, or from a server on behalf of a missing one

    async def is_own(self, probe: Probe, code: int) -> bool:
        """Whether the unit itself sent the exception, not a server in place of a missing unit.

        For each exception, the improbable units are read once. If they answer with the same exception, it may come from
        a server. Then a unit counts as existing only if it answers some other read with something else.
        """
        serial, wait_s = probe.serial, probe.timeout_s
        is_judged = (serial, code, wait_s) in self._judged or (serial, wait_s) in self._no_server
        if (serial, code) not in self._absent and not is_judged:
            self._judged.add((serial, code, wait_s))
            await self._ask_unlikely(serial, code, wait_s)
        return (serial, code) not in self._absent or await self._says_more(probe, code)

    async def _ask_unlikely(self, serial: str, code: int, wait_s: float) -> None:
        for unit in UNLIKELY_UNITS:
            result = await self.scan.put(unit_probe(unit, serial, wait_s))
            if isinstance(result, LineTimeout):
                # a silent unit proves that no server answers, whatever the exception is
                self._no_server.add((serial, wait_s))
            if not isinstance(result, DeviceException) or result.code != code:
                return
        if await self._says_more(unit_probe(UNLIKELY_UNITS[0], serial, wait_s), code):
            return  # no server is involved: one device answers for every unit number
        self._absent.add((serial, code))
        self.scan.remark(note("absent", code=f"{code:02X}"))

    async def _says_more(self, probe: Probe, code: int) -> bool:
        """Whether the unit answers any read with a value, or with another exception than ``code``.

        Silence counts as True, because a server would have answered.
        """
        unit, silences = int(probe.address), 0
        if (probe.serial, unit, code) in self._says_no_more:
            return False
        if not self._telling:
            self._telling = telling_reads(profiles_of((self.name,), "", self.options.profile_dirs))
        for function, address, count in self._telling:
            request = read_request(unit, function, address, count, f"unit {unit}")
            before = self._from_gateway
            result = await self.scan.put(replace(probe, request=request))
            self.scan.overhear(probe)
            if isinstance(result, Answer) or (isinstance(result, DeviceException) and result.code != code):
                return True
            if isinstance(result, LineTimeout) and self._from_gateway == before:
                silences += 1
                if silences >= MOST_SILENCES:
                    # A gateway that answers in place of its units would have answered here too. So the unit itself sent
                    # the exception.
                    return True
        self._says_no_more.add((probe.serial, unit, code))
        return False

    async def settle(self) -> None:
        """Decide whether late refusals came from a server or from slow devices, and add the slow devices."""
        while self._refused_late:
            unit, serial, code = self._refused_late.pop()
            if (serial, code) in self._absent:  # skip the unit: if it is a slow device, the slow pass finds it
                continue
            probe = unit_probe(unit, serial, self.options.slow_s)
            await self._wait_for_silence(probe)
            known = self.scan.is_known(self.name, probe.address, serial)
            if not known and await self.is_own(probe, code):
                self._add_late(unit, serial)

    async def _wait_for_silence(self, probe: Probe) -> None:
        """Wait until no more answers to earlier requests arrive."""
        for _ in range(MOST_WAITS):
            before = self.scan.traffic.total
            await self.scan.line.listen(self.options.slow_s)
            self.scan.overhear(probe)
            if self.scan.traffic.total == before:
                return

    def _add_late(self, unit: int, serial: str) -> None:
        device = self.scan.add(self.name, str(unit), serial, "late")
        device.is_slow = True
        device.notes.append(note("slow"))

    # --- received bytes

    def describe(self, received: bytes) -> list[str]:
        words = []
        for _, frame in _rtu(received):
            if frame.is_request:
                words.append(f"a request to Modbus unit {frame.unit}, function {frame.function}")
            else:
                words.append(f"an answer from Modbus unit {frame.unit}, function {frame.function}")
        return words

    def overhear(self, probe: Probe | None) -> bool:
        """Assign received frames to the units that sent them (field pains 15, 19). Returns True if a frame was a late
        answer.
        """
        late, is_bus = False, self.scan.carries_bytes
        current = int(probe.address) if probe is not None and probe.protocol == self.name else -1
        for frame in take_frames(self.scan.traffic, is_bus):
            if frame.code in GATEWAY_CODES:
                self._from_gateway += 1
                self.scan.remark(note("absent", code=f"{frame.code:02X}"))
                continue
            if frame.unit == current:
                continue
            if not frame.is_request and frame.unit in self._asked and frame.function in (3, 4):
                late = True
                serial = probe.serial if probe is not None else self.scan.plan.settings(self.name)[-1]
                if not self.scan.is_known(self.name, str(frame.unit), serial) and not self._one_unit:
                    if frame.code:
                        self._refused_late.append((frame.unit, serial, frame.code))
                    else:
                        self._add_late(frame.unit, serial)
            elif is_bus:
                self.scan.foreign.append(frame.raw)
        return late


def unit_probe(unit: int, serial: str, timeout_s: float, function: int = 3) -> Probe:
    """A probe that reads one register of one unit. A refusal counts as an answer, too."""
    request = read_request(unit, function, 0, 1, f"unit {unit}")
    return Probe("modbus", str(unit), serial, request, timeout_s, f"unit {unit}")


def telling_reads(profiles: Iterable[Profile]) -> list[Registers]:
    """A small set of reads. Every device for which there is a profile answers at least one of them, and so does every
    SunSpec device.
    """
    left = [
        {(point.function, point.address, point.count) for point in profile.points if not point.optional}
        for profile in profiles
    ]
    chosen = list[Registers](SUNSPEC)
    while left := [reads for reads in left if reads and reads.isdisjoint(chosen)]:
        counts = Counter(read for reads in left for read in reads)
        chosen.append(max(counts, key=lambda read: (counts[read], -read[1], read)))
    return chosen


class BusFrame(NamedTuple):
    """A valid Modbus frame on the line."""

    unit: int
    function: int  # function code without the exception bit
    is_request: bool
    code: int  # exception code; 0: no exception
    raw: bytes


def take_frames(traffic: TrafficTrace, is_bus: bool) -> list[BusFrame]:
    """The valid frames since the last call, except those that we sent. The bytes of an incomplete frame are kept for
    the next call.
    """
    if not is_bus:
        found, traffic.received = list(_mbap(traffic.received)), b""
        return found
    found, end = [], 0
    for at, frame in _rtu(traffic.received):
        end = at + len(frame.raw)
        if frame.raw not in traffic.sent:
            found.append(frame)
    traffic.received = traffic.received[max(end, len(traffic.received) - 260) :]
    return found


def _mbap(data: bytes) -> Iterator[BusFrame]:
    """Yield the complete frames in ``data``, which a line with MBAP framing passes on one after the other."""
    while len(data) >= 9:
        size = 6 + int.from_bytes(data[4:6], "big")
        frame, data = data[:size], data[size:]
        if size < 9:  # no answer is so short
            continue
        yield BusFrame(frame[6], frame[7] & 0x7F, False, frame[8] if frame[7] & 0x80 else 0, frame)


def _rtu(data: bytes) -> Iterator[tuple[int, BusFrame]]:
    at = 0
    while at + 5 <= len(data):
        unit, function = data[at], data[at + 1]
        sizes: list[tuple[int, bool]] = []
        if 1 <= unit <= 247 and function & 0x80 and function & 0x7F in (1, 2, 3, 4, 5, 6, 15, 16, 43):
            sizes = [(5, False)]
        elif 1 <= unit <= 247 and function in (1, 2, 3, 4):
            sizes = [(5 + data[at + 2], False), (8, True)]
        elif unit <= 247 and function in (5, 6, 15, 16):
            sizes = [(8, True)]
        for size, is_request in sizes:
            raw = data[at : at + size]
            if len(raw) == size and crc_ok(raw):
                yield at, BusFrame(unit, function & 0x7F, is_request, raw[2] if function & 0x80 else 0, raw)
                at += size
                break
        else:
            at += 1
