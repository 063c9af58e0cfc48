"""A scan: listen, a quick pass over all addresses, a slow pass over the silent ones, then identification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from drivers.line import Answer, LineConfig, LineFactory, SerialSetting, open_line, target
from drivers.mbus import codec as mbus
from drivers.modbus.requests import read_identification
from drivers.model import (
    DeviceException,
    FrameError,
    Limits,
    LineDown,
    LineError,
    LineLent,
    MismatchError,
    ProgressCallback,
    UsageError,
    no_progress,
)
from drivers.profile import Profile
from drivers.scan.address_search import Asker, answers_to_its_name, dlt645_by_digits, identity_of, mbus_by_selection
from drivers.scan.fit import Effort, Identity, identify, profiles_of
from drivers.scan.notes import Note, note
from drivers.scan.plan import FoundDevice, ScanOptions, ScanPlan, baud_of, effort
from drivers.scan.probes import (
    SETTINGS,
    Probe,
    address_in,
    cjt188_named,
    dlt645_sender,
    mbus_ack_s,
    mbus_read,
    modbus_probe,
)
from drivers.scan.traffic import AnotherMaster, BusTraffic, TrafficTrace, describe

FOREIGN_FRAMES = 2  # unsolicited, before the scan stops: one may be noise
MOST_UNITS = 16  # up to so many are asked before it is seen whether they are one device
MIN_SERIAL = 4  # characters: a shorter serial number, or one of equal characters, was never set
DEAF_S, DEAF_MOST_S = 0.2, 1.6  # for one question and all, to a named device that answered none yet
UNLIKELY_UNITS = (247, 201, 139)  # a device that answers to all of these is not a bus behind a gateway
SLOW_S = 0.4  # who takes longer for one register is given more time for all
AGAIN_S = 0.5  # for the units around one whose answer was broken: it may have been late, or two at once
_LATE_S = 0.5


Announce = Callable[[str, int, float], None]  # "found" or "crowd", how many, how many more seconds at most


def unannounced(what: str, count: int, most_s: float) -> None:
    """Says nothing."""


class Scan:
    """One scan of one line. ``found`` and ``notes`` hold the results so far, also when ``run`` was interrupted.

    Raises:
        UsageError: protocols or addresses that cannot be on this line, or --listen 0 on a bus that is not ours.
        ConfigError: an invalid address of a line or serial setting.
    """

    def __init__(self, options: ScanOptions, line_factory: LineFactory = open_line) -> None:
        first = (options.settings or SETTINGS[options.protocols[0]])[0]
        config = LineConfig("", options.url, serial=first, echo=options.echo)
        self.options = options
        self.is_mbap = target(config).is_mbap
        self.is_serial = target(config).scheme == "serial"
        self._plan = ScanPlan(options, self.is_serial, self.is_mbap)
        if self.is_mbap and set(options.protocols) - {"modbus"}:
            raise UsageError("only Modbus is spoken here", where=options.url, hint="Serial servers have tcp:// lines")
        if options.listen_s <= 0 and not options.bus_is_mine and not self.is_mbap:
            raise UsageError("without listening, another master would be disturbed", where="--listen 0",
                             hint="Add --bus-is-mine if no other master is on this bus")  # fmt: skip
        self.found: list[FoundDevice] = []
        self.notes: list[Note] = []
        self._traffic = TrafficTrace(self.is_mbap)
        self._line = line_factory(config, trace=self._traffic)
        self._asked: set[int] = set()
        self._foreign: list[BusTraffic] = []
        self._done_s = 0.0
        self._total_s = 0.0
        self._announce: Announce = unannounced
        self._one_unit = False
        self._crowded: list[Probe] = []  # questions that several meters answered at once
        self._nameless: list[Probe] = []  # answered by a meter that did not say its own address
        self._doubtful: list[Probe] = []  # Modbus questions whose answers were broken
        self._mbus_seen: set[tuple[str, bytes]] = set()  # (baud, identity) of meters found by selection

    # --- the plan

    def first_pass(self) -> list[Probe]:
        """Everything once, quickly; Modbus first."""
        return self._plan.first_pass(self._units())

    def slow_pass(self) -> list[Probe]:
        """The silent addresses again, with longer timeouts. Meters are also searched for in groups: ``_part``."""
        return self._plan.slow_pass(self._units(), self._is_known)

    def estimate_s(self) -> float:
        """How long the scan takes without answers, in seconds."""
        passes = self.first_pass() + (self.slow_pass() if self.options.slow else [])
        return self._plan.listen_s + sum(self._plan.cost_s(p) for p in passes) + self._plan.search_s()

    # --- the run

    def device_s(self) -> tuple[float, float]:
        """The longest that each found device takes in addition: one that answers at once, and a slow one."""
        return self._plan.device_s(), self._plan.device_s(is_slow=True)

    async def run(
        self, progress: ProgressCallback = no_progress, announce: Announce = unannounced
    ) -> list[FoundDevice]:
        """Scan. Raises AnotherMaster, LineDown, LineLent; earlier results stay in ``found``."""
        self._total_s, self._announce = self.estimate_s(), announce
        try:
            await self._listen(progress)
            if self.is_mbap and len(self._units()) > MOST_UNITS:
                await self._is_it_one()
            await self._select(progress)
            await self._pass(self.first_pass(), progress)
            await self._again()
            if self.is_mbap and len(self.found) > 1 and len(self._units()) <= MOST_UNITS:
                await self._is_it_one(self.found[:1])
            await self._part(progress)
            self._tell_nameless()
            if self.options.slow:
                quick = list(self.found)
                await self._pass(self.slow_pass(), progress)
                await self._again()
                for device in self.found:
                    device.is_slow |= device not in quick
                await self._select(progress, slow=True)
                await self._part(progress, slow=True)
            else:
                await self._line.listen(_LATE_S)
                self._overhear(None)
            if self.options.identify:
                if self.found:
                    left_s = sum(self._plan.device_s(device.is_slow) for device in self.found)
                    announce("found", len(self.found), left_s)
                await self.identify(progress)
        finally:
            await self._line.close()
        return self.found

    async def identify(self, progress: ProgressCallback = no_progress) -> None:
        """Identify the devices that were found, and the profiles that fit. Closes nothing.

        The slow ones last: their bus has mostly more of the same families.
        """
        waiting = sorted(self.found, key=lambda device: device.is_slow)
        for number, device in enumerate(waiting):
            left_s = sum(self._plan.device_s(other.is_slow) for other in waiting[number:])
            progress(self._done_s, self._done_s + left_s, f"what is {device.protocol} {device.address}?")
            await self._identify(device, effort(self.options, device.is_slow))
            self._done_s += self._plan.device_s(device.is_slow)
        self._note_twins()

    async def _identify(self, device: FoundDevice, how: Effort) -> Identity:
        if device.protocol == "modbus" and self.options.deep:
            await self._ask_deep(device)
        profiles = self._likeliest_first(device.protocol)
        known = await identify(self._line, device.address, profiles, device.serial, device.identity, how)
        device.identity, device.fits, device.tried, device.cut_short = known.facts, known.fits, True, known.cut_short
        device.answer_s = known.answer_s
        if known.cut_short:
            device.notes.append(note("cut short"))
        return known

    def _likeliest_first(self, protocol: str) -> list[Profile]:
        """The profiles of a protocol, first SunSpec, which proves itself, and those that other devices have here."""
        best = Counter(device.fits[0].profile for device in self.found if device.fits)
        protocols = ("modbus", "sunspec") if protocol == "modbus" else (protocol,)
        return sorted(
            profiles_of(protocols, "", self.options.profile_dirs),
            key=lambda one: (one.protocol != "sunspec", -best[one.id]),
        )

    def _note_twins(self) -> None:
        """One serial number at several addresses: over Modbus TCP one device that answers whatever the unit number."""
        groups: dict[tuple[str, str], list[FoundDevice]] = {}
        for device in self.found:
            if len(set(number := device.identity.get("device.serial", ""))) > 1 and len(number) >= MIN_SERIAL:
                groups.setdefault((device.protocol, number), []).append(device)
        for (protocol, number), twins in groups.items():
            if len(twins) < 2:
                continue
            others = ", ".join(device.address for device in twins[1:])
            if self.is_mbap:
                twins[0].notes.append(note("listed once", others=others))
                self.found = [device for device in self.found if device not in twins[1:]]
            else:
                names = {"protocol": protocol, "address": twins[0].address, "others": others, "number": number}
                self.remark(note("twins", **names))

    async def identify_one(self) -> None:
        """As ``identify`` for the one device that is known.

        ``seen`` is then "silent" if it does not answer at all, "garbled" if no answer is a sound frame.
        """
        device = self.found[0]
        try:
            asked = self._signs_of_life(device)
            answers, begin_ns = False, self._line.clock()[1]
            for probe in asked:
                answers = answers or await self._ask(probe, quiet=True)
            took_s = (self._line.clock()[1] - begin_ns) / 1e9
            how = effort(self.options, took_s > SLOW_S)
            if asked and not answers:  # some answer only to registers that they have, and quickly
                how = Effort(DEAF_S, DEAF_MOST_S)
            known = await self._identify(device, how)
            answers = answers or known.has_answered
            device.seen = "answer" if answers else "garbled" if known.is_garbled else "silent"
        finally:
            await self._line.close()

    def _signs_of_life(self, device: FoundDevice) -> list[Probe]:
        """Short questions that most devices of its protocol answer or refuse; none where its profiles ask the same."""
        if device.protocol == "modbus" and device.address.isdecimal():
            wait_s = self.options.slow_s
            return [modbus_probe(int(device.address), device.serial, wait_s, function) for function in (3, 4)]
        return []

    async def _listen(self, progress: ProgressCallback) -> None:
        if self.is_mbap or self.options.listen_s <= 0:
            return
        steps = max(int(self.options.listen_s * 4), 1)
        for _ in range(steps):
            progress(self._done_s, self._total_s, "listening for another master")
            await self._line.listen(self.options.listen_s / steps)
            self._done_s += self.options.listen_s / steps
            description = describe(self._traffic.received)
            if description and not self.options.bus_is_mine:
                raise AnotherMaster(f"another master is active: {description}", where=self.options.url, hint=_MINE)
        self._traffic.take()

    async def _is_it_one(self, kept: Sequence[FoundDevice] = ()) -> None:
        """Many Modbus TCP devices answer whatever the unit number; then only ``kept`` are still found."""
        before = list(self.found)
        for unit in UNLIKELY_UNITS:
            if not await self._ask(modbus_probe(unit, "", self.options.slow_s), quiet=True):
                self.found = before
                return
        self._one_unit = True
        self.found = list(kept)
        self.notes.append(note("every unit"))

    async def _again(self) -> None:
        """Ask the units whose answers were broken once more, and those before them, which may have answered late."""
        doubtful, self._doubtful = self._doubtful, []
        for probe in doubtful:
            for unit in (int(probe.address) - 1, int(probe.address)):
                if unit in self._units() and not self._is_known("modbus", str(unit), probe.serial):
                    await self._ask(modbus_probe(unit, probe.serial, AGAIN_S), is_last=True)

    async def _pass(self, probes: Iterable[Probe], progress: ProgressCallback) -> None:
        for probe in probes:
            self._tell(probe, progress)
            if not probe.address or not self._is_known(probe.protocol, probe.address, probe.serial):
                await self._ask(probe)
            self._done_s += self._plan.cost_s(probe)

    def _tell(self, probe: Probe, progress: ProgressCallback) -> None:
        serial = f" at {probe.serial}" if probe.serial else ""
        progress(self._done_s, max(self._total_s, self._done_s), f"{probe.protocol} {probe.what}{serial}")

    # --- meters that answer all at once

    async def _select(self, progress: ProgressCallback, slow: bool = False) -> None:
        """M-Bus by secondary address: all that can be selected, whatever their primary address is."""
        if "mbus" not in self.options.protocols or "secondary" not in self.options.mbus_by:
            return
        for serial in self._plan.settings("mbus"):
            timeout_s = max(self.options.timeout_s, mbus_ack_s(serial)) * (1.5 if slow else 1.0)
            found: list[FoundDevice] = []
            async for frame in mbus_by_selection(self._searching(progress), serial, timeout_s, self.remark, slow):
                if self._is_new(serial, frame):
                    found.append(self._add_telegram(_secondary(frame), serial, frame))
            for device in found:  # a number that two makers gave: all sixteen digits tell them apart
                if sum(other.address[:8] == device.address[:8] for other in self.found) == 1:
                    device.address = device.address[:8]

    async def _part(self, progress: ProgressCallback, slow: bool = False) -> None:
        """DL/T 645 by the last digits: where several answered at once, and in the slow pass everywhere."""
        wanted = {probe.serial: probe.request.function for probe in self._crowded if probe.protocol == "dlt645"}
        if slow and "dlt645" in self.options.protocols:
            wanted = {serial: 0x11 for serial in self._plan.settings("dlt645")} | wanted
        if wanted and not slow:
            self._announce("crowd", len(wanted), self._plan.crowd_s(wanted))
        for serial, asked in wanted.items():
            function = 0x01 if asked == 0x01 else 0x11
            ask = self._searching(progress)
            async for frame in dlt645_by_digits(ask, serial, function, self.options.timeout_s, self.remark):
                self.add("dlt645", dlt645_sender(frame), serial, "answer")
        if any(probe.protocol == "cjt188" for probe in self._crowded):
            self.remark(note("no search"))

    def _tell_nameless(self) -> None:
        """Meters that repeat the common address and do not tell theirs."""
        for probe in self._nameless:
            if not any((d.protocol, d.serial) == (probe.protocol, probe.serial) for d in self.found):
                self.remark(note("nameless", protocol=probe.protocol, serial=probe.serial or self.options.url))

    def _searching(self, progress: ProgressCallback) -> Asker:
        """Sends one probe of an address search and adds its cost, which the estimate did not include."""

        async def ask(probe: Probe) -> Answer | LineError:
            self._tell(probe, progress)
            result = await self._put(probe)
            self._done_s += self._plan.cost_s(probe)
            return result

        return ask

    def _is_new(self, serial: str, frame: bytes) -> bool:
        who = baud_of(serial), identity_of(frame)
        if who in self._mbus_seen:
            return False
        self._mbus_seen.add(who)
        return True

    def _add_telegram(self, address: str, serial: str, frame: bytes) -> FoundDevice:
        telegram, primary = mbus.decode_frame(mbus.Frame(frame)), mbus.Frame(frame).address
        device = self.add("mbus", address, serial, "answer")
        facts = {"number": telegram.identity, "maker": telegram.manufacturer, "medium": telegram.medium}
        device.identity.update({name: str(text) for name, text in facts.items() if text})
        if primary is not None and str(primary) != address and 1 <= primary <= 250:
            device.identity["primary"] = str(primary)
        return device

    def remark(self, found: Note) -> None:
        if found not in self.notes:
            self.notes.append(found)

    # --- one question

    async def _put(self, probe: Probe) -> Answer | LineError:
        """Ask, and take in what else was heard. Raises LineDown, LineLent, AnotherMaster."""
        request = probe.request
        if probe.protocol == "modbus":
            self._asked.add(int(probe.address))
        char_s = SerialSetting.parse(probe.serial, self.options.url).char_s if probe.serial else 0.0
        # the link adds the time of a whole answer; ours is counted to its begin, and the link lets it end
        timeout_s = max(probe.timeout_s - request.expect * char_s, probe.timeout_s / 2)
        options = self._line.request_options(Limits(timeout_s=timeout_s, late_s=0.0), probe.serial)
        (result,) = await self._line.burst((request,), options)
        if isinstance(result, LineDown | LineLent):
            raise result
        return result

    async def _ask(self, probe: Probe, quiet: bool = False, is_last: bool = False) -> bool:
        """One question; whether its own device answered. Raises LineDown, LineLent, AnotherMaster.

        ``is_last``: what is broken is noted now, and not asked for again later.
        """
        result = await self._put(probe)
        if isinstance(result, Answer):
            if probe.protocol == "mbus":
                await self._confirm(probe)
            elif not address_in(probe, result.payload):
                self._nameless.append(probe)
            elif not await self._is_there(probe, result.payload):
                self._broken(probe, MismatchError("nothing answers to this address", where=self.options.url))
            else:
                self.add(probe.protocol, address_in(probe, result.payload), probe.serial, "answer")
        elif isinstance(result, DeviceException):
            self.add(probe.protocol, probe.address, probe.serial, "refusal")
        alive = isinstance(result, Answer | DeviceException)
        late = self._overhear(probe)
        if isinstance(result, FrameError | MismatchError) and not quiet and not late:
            if probe.protocol == "modbus" and not is_last:
                self._doubtful.append(probe)
            else:
                self._broken(probe, result)
        return alive

    def _broken(self, probe: Probe, error: LineError) -> None:
        if probe.protocol == "modbus":
            self.remark(note("broken", protocol=probe.protocol, what=probe.what, why=error.what))
            return
        self._crowded.append(probe)
        self.remark(note("crowd", protocol=probe.protocol, what=probe.what))

    async def _is_there(self, probe: Probe, frame: bytes) -> bool:
        """A meter that answered to the common address must answer to its own."""
        if probe.protocol == "dlt645":
            address, function = dlt645_sender(frame), probe.request.function
            return await answers_to_its_name(self._put, address, probe.serial, self.options.timeout_s, function)
        if probe.protocol == "cjt188":
            for named in cjt188_named(frame, probe.serial, self.options.timeout_s):
                if isinstance(await self._put(named), Answer):
                    return True
            return False
        return True

    async def _confirm(self, probe: Probe) -> None:
        """An acknowledgement has no address, the data have (late answers, field pain 22)."""
        for address in (int(probe.address), int(probe.address) - 1):
            if address < 0 or self._is_known("mbus", str(address), probe.serial):
                continue
            result = await self._put(mbus_read(address, str(address), probe.serial, probe.timeout_s))
            if isinstance(result, Answer):
                if (baud_of(probe.serial), identity_of(result.payload)) not in self._mbus_seen:
                    self._add_telegram(str(mbus.Frame(result.payload).address), probe.serial, result.payload)
                return
            if isinstance(result, FrameError | MismatchError):
                self._broken(probe, result)
                return
        self.add("mbus", probe.address, probe.serial, "answer").notes.append(note("no data"))

    async def _ask_deep(self, device: FoundDevice) -> None:
        options = self._line.request_options(Limits(timeout_s=self.options.slow_s), device.serial)
        try:
            objects = await read_identification(self._line, int(device.address), options, f"unit {device.address}")
        except (LineDown, LineLent):
            raise
        except (LineError, IndexError):  # most devices have it not; some answer it with too few bytes
            return
        names = {0: "vendor", 1: "product", 2: "revision"}
        device.identity.update({names[n]: text for n, text in objects.items() if n in names and text})

    # --- received bytes

    def _overhear(self, probe: Probe | None) -> bool:
        """Attribute what came by its address (late answers, field pains 15, 19). Whether something was late."""
        late = False
        current = int(probe.address) if probe is not None and probe.protocol == "modbus" else -1
        for frame in self._traffic.take():
            if frame.unit == current or (self.is_mbap and frame.code in (10, 11)):
                continue
            if not frame.is_request and frame.unit in self._asked and frame.function in (3, 4):
                late = True
                serial = probe.serial if probe is not None else self._plan.settings("modbus")[-1]
                if not self._is_known("modbus", str(frame.unit), serial) and not self._one_unit:
                    device = self.add("modbus", str(frame.unit), serial, "late")
                    device.is_slow = True
                    device.notes.append(note("slow"))
            elif not self.is_mbap:
                self._foreign.append(frame)
        if len(self._foreign) >= FOREIGN_FRAMES and not self.options.bus_is_mine:
            description = describe(b"".join(frame.raw for frame in self._foreign))
            raise AnotherMaster(f"another master became active: {description}", where=self.options.url, hint=_MINE)
        return late

    def add(self, protocol: str, address: str, serial: str, seen: str) -> FoundDevice:
        for device in self.found:
            if (device.protocol, device.address) == (protocol, address) and baud_of(device.serial) == baud_of(serial):
                return device
        device = FoundDevice(protocol, address, serial, seen, self.options.url)
        self.found.append(device)
        return device

    def _is_known(self, protocol: str, address: str, serial: str) -> bool:
        return any(
            (d.protocol, d.address) == (protocol, address) and baud_of(d.serial) == baud_of(serial) for d in self.found
        )

    def _units(self) -> list[int]:
        units = self._plan.units()
        return units[:1] if self._one_unit else units


_MINE = "Stop it, or lend the line; use --bus-is-mine only if its traffic may suffer"


def _secondary(frame: bytes) -> str:
    """The address for agent.toml of the sender of a telegram: sixteen digits, or the eight of its number alone."""
    who = identity_of(frame)
    return (who[3::-1] + who[4:]).hex().upper()


def one_device(
    options: ScanOptions, protocol: str, address: str, serial: str, line_factory: LineFactory = open_line
) -> Scan:
    """A scan that has found one device already, for ``identify``."""
    scan = Scan(replace(options, bus_is_mine=True), line_factory)
    scan.found.append(FoundDevice(protocol, address, serial if scan.is_serial else "", "named", options.url))
    return scan
