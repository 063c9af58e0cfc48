"""A scan: listen, a quick pass over all addresses, a slow pass over the silent ones, then who they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from drivers import mbus
from drivers.line import Answer, LineConfig, SerialSetting, open_line, target
from drivers.metering import MeterRequest
from drivers.modbus import read_identification
from drivers.model import DeviceException, FrameError, Limits, LineDown, LineError, LineLent, MismatchError, UsageError
from drivers.scan.ear import AnotherMaster, Ear, Heard, describe
from drivers.scan.fit import Fit, identify, profiles_of
from drivers.scan.probes import (
    SETTINGS,
    Probe,
    address_in,
    cjt188_probes,
    dlt645_ending,
    dlt645_probes,
    mbus_probe,
    modbus_probe,
)

LISTEN_S = 10.0
FOREIGN_FRAMES = 2  # that nobody here asked for, before the scan stops: once may be noise
UNLIKELY_UNITS = (247, 201, 139)  # who answers to all of these is no bus behind a gateway
IDENTIFY_S = 3.0  # guess, for the estimate
_OVERHEAD_S = 0.001
_LATE_S = 0.5

Progress = Callable[[float, float, str], None]  # seconds of line time done, of all, what is asked


@dataclass(frozen=True, slots=True)
class Hunt:
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
    identify: bool = True
    echo: bool = False


@dataclass(slots=True)
class Found:
    """One device. ``seen``: answer, refusal, late (its answer came when another was asked)."""

    protocol: str
    address: str
    serial: str
    seen: str
    url: str = ""
    identity: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Scan:
    """One scan of one line. ``found`` and ``notes`` hold what is known so far, also when ``run`` was interrupted.

    Raises:
        UsageError: protocols or addresses that cannot be on this line, or no listening on a bus that is not ours.
        ConfigError: an address of a line or serial setting that cannot be.
    """

    def __init__(self, hunt: Hunt) -> None:
        config = LineConfig("scan", hunt.url, serial=_first_setting(hunt), echo=hunt.echo)
        self.hunt = hunt
        self.is_mbap = target(config).is_mbap
        self.is_serial = target(config).scheme == "serial"
        if self.is_mbap and set(hunt.protocols) - {"modbus"}:
            raise UsageError("only Modbus is spoken here", where=hunt.url, hint="Serial servers have tcp:// lines")
        if hunt.listen_s <= 0 and not hunt.bus_is_mine and not self.is_mbap:
            raise UsageError("without listening, another master would be disturbed", where="--listen 0",
                             hint="Say --bus-is-mine, too, if no other master is on this bus")  # fmt: skip
        self.found: list[Found] = []
        self.notes: list[str] = []
        self._ear = Ear(self.is_mbap)
        self._line = open_line(config, trace=self._ear)
        self._asked: set[int] = set()
        self._foreign: list[Heard] = []
        self._done_s = 0.0
        self._total_s = 0.0
        self._one_unit = False

    # --- the plan

    def settings(self, protocol: str) -> tuple[str, ...]:
        """Serial settings to try; "" where the line has none of its own to say."""
        if not self.is_serial:
            return ("",)
        return self.hunt.settings or SETTINGS[protocol]

    def first_pass(self) -> list[Probe]:
        """Everything once, quickly; Modbus first."""
        hunt, probes = self.hunt, list[Probe]()
        for protocol in hunt.protocols:
            for serial in self.settings(protocol):
                if protocol == "modbus":
                    probes += [modbus_probe(unit, serial, hunt.timeout_s) for unit in self._units()]
                elif protocol == "dlt645":
                    probes += dlt645_probes(serial, hunt.timeout_s)
                elif protocol == "cjt188":
                    probes += cjt188_probes(serial, hunt.timeout_s)
                else:
                    probes += [mbus_probe(a, serial, hunt.timeout_s) for a in self._primaries()]
        return probes

    def slow_pass(self) -> list[Probe]:
        """The addresses that were silent, with patience; meters of one line one by one."""
        hunt, probes = self.hunt, list[Probe]()
        for protocol in hunt.protocols:
            for serial in self.settings(protocol):
                if protocol == "modbus":
                    units = [unit for unit in self._units() if not self._is_known("modbus", str(unit), serial)]
                    for function in (3, 4):
                        probes += [modbus_probe(unit, serial, hunt.slow_s, function) for unit in units]
                elif protocol == "dlt645":
                    probes += [dlt645_ending(f"{n:02d}", serial, hunt.timeout_s) for n in range(100)]
                elif protocol == "mbus":
                    silent = [a for a in self._primaries() if not self._is_known("mbus", str(a), serial)]
                    probes += [mbus_probe(a, serial, max(hunt.timeout_s * 2, 0.5)) for a in silent]
        return probes

    def estimate_s(self) -> float:
        """How long the scan takes if nobody answers, in seconds."""
        listening = self.hunt.listen_s if not self.is_mbap else 0.0
        passes = self.first_pass() + (self.slow_pass() if self.hunt.slow else [])
        return listening + sum(self._cost_s(probe) for probe in passes)

    # --- the run

    async def run(self, progress: Progress = lambda done, total, what: None) -> list[Found]:
        """Scan. Raises AnotherMaster, LineDown, LineLent; what was found until then stays in ``found``."""
        self._total_s = self.estimate_s()
        try:
            await self._listen(progress)
            if self.is_mbap and len(self._units()) > 16:
                await self._is_it_one()
            await self._pass(self.first_pass(), progress)
            if self.hunt.slow:
                await self._pass(self.slow_pass(), progress)
            else:
                await self._line.listen(_LATE_S)
                self._overhear(None)
            if self.hunt.identify:
                await self.identify(progress)
        finally:
            await self._line.close()
        return self.found

    async def identify(self, progress: Progress = lambda done, total, what: None) -> None:
        """What those found say they are, and which profiles fit. Closes nothing."""
        for number, device in enumerate(self.found):
            progress(self._done_s + number * IDENTIFY_S, self._total_s + len(self.found) * IDENTIFY_S,
                     f"what is {device.protocol} {device.address}?")  # fmt: skip
            if device.protocol == "modbus" and self.hunt.deep:
                await self._ask_deep(device)
            protocols = ("modbus", "sunspec") if device.protocol == "modbus" else (device.protocol,)
            known = await identify(self._line, device.address, profiles_of(protocols), device.serial, device.identity)
            device.identity, device.fits = known.said, known.fits
            if known.cut_short:
                device.notes.append("was too silent or slow to try all profiles")

    async def identify_one(self) -> None:
        """As ``identify`` for the one device that is known; ``seen`` is then "silent" if it says nothing at all."""
        device = self.found[0]
        try:
            await self.identify()
            if not device.fits and not device.identity:
                device.seen = "answer" if await self._lives(device) else "silent"
        finally:
            await self._line.close()

    async def _lives(self, device: Found) -> bool:
        if device.protocol not in ("modbus", "mbus"):
            return False
        asked = modbus_probe if device.protocol == "modbus" else mbus_probe
        if not device.address.isdecimal():
            return False
        return await self._ask(asked(int(device.address), device.serial, self.hunt.slow_s), quiet=True)

    async def _listen(self, progress: Progress) -> None:
        if self.is_mbap or self.hunt.listen_s <= 0:
            return
        steps = max(int(self.hunt.listen_s * 4), 1)
        for _ in range(steps):
            progress(self._done_s, self._total_s, "listening for another master")
            await self._line.listen(self.hunt.listen_s / steps)
            self._done_s += self.hunt.listen_s / steps
            said = describe(self._ear.heard)
            if said and not self.hunt.bus_is_mine:
                raise AnotherMaster(f"another master talks here: {said}", where=self.hunt.url, hint=_MINE)
        self._ear.take()

    async def _is_it_one(self) -> None:
        """Many Modbus TCP devices answer whatever the unit number."""
        for unit in UNLIKELY_UNITS:
            if not await self._ask(modbus_probe(unit, "", self.hunt.slow_s), quiet=True):
                return
        self._one_unit = True
        self.found.clear()
        self.notes.append("answers to every unit number: one device, reported as the first")

    async def _pass(self, probes: Iterable[Probe], progress: Progress) -> None:
        waiting = list(probes)[::-1]
        while waiting:
            probe = waiting.pop()
            serial = f" at {probe.serial}" if probe.serial else ""
            progress(self._done_s, self._total_s, f"{probe.protocol} {probe.what}{serial}")
            if probe.address and self._is_known(probe.protocol, probe.address, probe.serial):
                self._done_s += self._cost_s(probe)
                continue
            await self._ask(probe)
            self._done_s += self._cost_s(probe)
            if probe.protocol == "dlt645" and self.notes and self.notes[-1].startswith(f"dlt645 {probe.what}: several"):
                digits = probe.what.rpartition(" ")[2] if probe.what.startswith("addresses") else ""
                if digits and len(digits) < 6:  # several answered at once: two digits more
                    waiting += [dlt645_ending(f"{n:02d}{digits}", probe.serial, 0.5) for n in range(99, -1, -1)]

    async def _ask(self, probe: Probe, quiet: bool = False) -> bool:
        """One question; whether its own device answered. Raises LineDown, LineLent, AnotherMaster."""
        request = probe.request
        if probe.protocol == "modbus":
            self._asked.add(int(probe.address))
        char_s = SerialSetting.parse(probe.serial, self.hunt.url).char_s if probe.serial else 0.0
        # the link adds the time of a whole answer; ours is counted to its begin, and the link lets it end
        timeout_s = max(probe.timeout_s - request.expect * char_s, probe.timeout_s / 2)
        how = self._line.manners(Limits(timeout_s=timeout_s, late_s=0.0), probe.serial)
        (result,) = await self._line.burst((request,), how)
        if isinstance(result, LineDown | LineLent):
            raise result
        if isinstance(result, Answer):
            if probe.protocol == "mbus":
                await self._confirm(probe)
            else:
                self._add(probe.protocol, address_in(probe, result.payload), probe.serial, "answer")
        elif isinstance(result, DeviceException):
            self._add(probe.protocol, probe.address, probe.serial, "refusal")
        alive = isinstance(result, Answer | DeviceException)
        late = self._overhear(probe)
        if isinstance(result, FrameError | MismatchError) and not quiet and not late:
            self._broken(probe, result)
        return alive

    def _broken(self, probe: Probe, error: LineError) -> None:
        if probe.protocol == "modbus":
            text = f"modbus {probe.what}: bytes, but no sound frame ({error.what})"
            text += ". Two devices of one address, or another serial setting?"
        else:
            text = f"{probe.protocol} {probe.what}: several meters answer at once, or at another setting"
        if text not in self.notes:
            self.notes.append(text)

    async def _confirm(self, probe: Probe) -> None:
        """An acknowledgement bears no address: the data do (late answers, field pain 22)."""
        for address in (int(probe.address), int(probe.address) - 1):
            if address < 0 or self._is_known("mbus", str(address), probe.serial):
                continue
            ask = MeterRequest(
                mbus.build_req_ud2(address, fcb=True), 0x7B, str(address), f"M-Bus {address}", 261, mbus.Parser,
                lambda found: found.raw if found.kind == "long" and found.from_device else None,
                lambda heard: mbus.broken(heard)[2],
            )  # fmt: skip
            how = self._line.manners(Limits(timeout_s=probe.timeout_s, late_s=0.0), probe.serial)
            (result,) = await self._line.burst((ask,), how)
            if isinstance(result, Answer):
                telegram = mbus.decode_frame(mbus.Frame(result.payload))
                device = self._add("mbus", str(mbus.Frame(result.payload).address), probe.serial, "answer")
                said = {"number": telegram.identity, "maker": telegram.manufacturer, "medium": telegram.medium}
                device.identity.update({name: str(text) for name, text in said.items() if text})
                return
            if isinstance(result, FrameError | MismatchError):
                self._broken(probe, result)
                return
        self._add("mbus", probe.address, probe.serial, "answer").notes.append("acknowledges, but gives no data")

    async def _ask_deep(self, device: Found) -> None:
        how = self._line.manners(Limits(timeout_s=self.hunt.slow_s), device.serial)
        try:
            objects = await read_identification(self._line, int(device.address), how, f"unit {device.address}")
        except (LineDown, LineLent):
            raise
        except (LineError, IndexError):  # most devices have it not; some answer it with too few bytes
            return
        names = {0: "vendor", 1: "product", 2: "revision"}
        device.identity.update({names[n]: text for n, text in objects.items() if n in names and text})

    # --- what is heard

    def _overhear(self, probe: Probe | None) -> bool:
        """Attribute what came by its address (late answers, field pains 15, 19). Whether something was late."""
        late = False
        current = int(probe.address) if probe is not None and probe.protocol == "modbus" else -1
        for heard in self._ear.take():
            if heard.unit == current or (self.is_mbap and heard.code in (10, 11)):
                continue
            if not heard.is_request and heard.unit in self._asked and heard.function in (3, 4):
                late = True
                serial = probe.serial if probe is not None else self.settings("modbus")[-1]
                if not self._is_known("modbus", str(heard.unit), serial) and not self._one_unit:
                    self._add("modbus", str(heard.unit), serial, "late").notes.append("answers slowly")
            elif not self.is_mbap:
                self._foreign.append(heard)
        if len(self._foreign) >= FOREIGN_FRAMES and not self.hunt.bus_is_mine:
            said = describe(b"".join(heard.raw for heard in self._foreign))
            raise AnotherMaster(f"another master began to talk: {said}", where=self.hunt.url, hint=_MINE)
        return late

    def _add(self, protocol: str, address: str, serial: str, seen: str) -> Found:
        for device in self.found:
            if (device.protocol, device.address) == (protocol, address) and _baud(device.serial) == _baud(serial):
                return device
        device = Found(protocol, address, serial, seen, self.hunt.url)
        self.found.append(device)
        return device

    def _is_known(self, protocol: str, address: str, serial: str) -> bool:
        return any(
            (d.protocol, d.address) == (protocol, address) and _baud(d.serial) == _baud(serial) for d in self.found
        )

    def _units(self) -> list[int]:
        units = [unit for unit in self.hunt.addresses or range(1, 248) if 1 <= unit <= 247 or self.is_mbap]
        return units[:1] if self._one_unit else units

    def _primaries(self) -> list[int]:
        return [address for address in self.hunt.addresses or range(251) if 0 <= address <= 250]

    def _cost_s(self, probe: Probe) -> float:
        if not probe.serial:
            return probe.timeout_s
        setting = SerialSetting.parse(probe.serial, self.hunt.url)
        return probe.timeout_s + len(probe.request.frame) * setting.char_s + setting.quiet_s + _OVERHEAD_S


_MINE = "Stop it, or lend the line; say --bus-is-mine only if its traffic may suffer"


def _baud(serial: str) -> str:
    return serial.split(maxsplit=1)[0] if serial else ""


def _first_setting(hunt: Hunt) -> str:
    settings = hunt.settings or SETTINGS[hunt.protocols[0]]
    return settings[0]


def one_device(hunt: Hunt, protocol: str, address: str, serial: str) -> Scan:
    """A scan that has found one device already, for ``identify``."""
    scan = Scan(replace(hunt, bus_is_mine=True))
    scan.found.append(Found(protocol, address, serial if scan.is_serial else "", "named", hunt.url))
    return scan
