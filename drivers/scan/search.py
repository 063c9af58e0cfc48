"""A scan. It listens, sends a quick pass to all addresses and a slow pass to the silent ones, then identifies the
devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from drivers.line import Answer, LineConfig, LineFactory, SerialSetting, open_line, target
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
from drivers.registry import all_protocols, protocol_of
from drivers.scan.device_search import Asker, DeviceSearch
from drivers.scan.doubles import find_doubles
from drivers.scan.fit import Effort, Identity, identify, profiles_of
from drivers.scan.framing import other_framings
from drivers.scan.notes import Note, note
from drivers.scan.plan import FoundDevice, ScanOptions, ScanPlan, baud_of, effort
from drivers.scan.probes import Probe
from drivers.scan.traffic import AnotherMaster, TrafficTrace

FOREIGN_FRAMES = 2  # after this many unsolicited frames the scan stops; a single frame may be noise
MIN_SERIAL = 4  # a serial number that is shorter, or whose characters are all equal, was not set by the maker
NOISE_BYTES = 3  # if fewer bytes than this are received without a valid frame, they may be a spike on the wire
MOST_SAID = 8  # a message lists at most this many frames of another master
# Limits of ``identify_one`` while its device has not answered anything: the wait for one answer, and the time of all
# requests.
DEAF_S, DEAF_MOST_S = 0.2, 1.6
# a device that needs longer than this for an answer counts as slow, and gets more time to find its profile
SLOW_S = 0.4
_LATE_S = 0.5


# Called with (what is announced, such as "found"; the number of devices or settings; the longest extra time in
# seconds).
Announce = Callable[[str, int, float], None]


def unannounced(what: str, count: int, most_s: float) -> None:
    """An ``Announce`` function that does nothing."""


class Scan:
    """One scan of one line. ``found`` and ``notes`` hold the results so far, even after ``run`` was interrupted.

    Raises:
        UsageError: the protocols or addresses are impossible on this line, or --listen 0 is given without
        --bus-is-mine.
        ConfigError: the address of the line or a serial setting is invalid.
    """

    def __init__(self, options: ScanOptions, line_factory: LineFactory = open_line) -> None:
        first = (options.settings or protocol_of(options.protocols[0]).serial_settings)[0]
        config = LineConfig("", options.url, serial=first, echo=options.echo)
        scheme = target(config).scheme
        self.options = options
        self.carries_bytes = target(config).carries_bytes
        self.is_serial = scheme == "serial"
        self.plan = ScanPlan(options, self.is_serial, self.carries_bytes)
        for name in options.protocols:
            if scheme not in (protocol := protocol_of(name)).schemes:
                what = f"{protocol.title} cannot be used over {scheme}"
                raise UsageError(what, where=options.url, hint="Use a tcp:// line for a serial server")
        if options.listen_s <= 0 and not options.bus_is_mine and self.carries_bytes:
            raise UsageError("without listening first, a scan may disturb another master", where="--listen 0",
                             hint="Add --bus-is-mine if no other master is on this bus")  # fmt: skip
        self.found: list[FoundDevice] = []
        self.notes: list[Note] = []
        self.traffic = TrafficTrace()
        self.foreign: list[bytes] = []  # unsolicited frames that were received during the scan
        self.announce: Announce = unannounced
        self.other_url = ""  # the url with the scheme that the port really uses; "" if the given scheme is right
        self._others = tuple(other_framings(options)) if options.tries_framing else ()
        self._line_factory, self._config = line_factory, config
        self.line = line_factory(config, trace=self.traffic)
        self._done_s = 0.0
        self._total_s = 0.0
        every = ((protocol.name, protocol.search_class(), protocol) for protocol in all_protocols())
        self._searches = {name: search(protocol, self) for name, search, protocol in every if search is not None}

    # --- the plan

    def first_pass(self) -> list[Probe]:
        """The probes of the first pass: all addresses once, with short timeouts, in the order of the protocols."""
        return [probe for search, serial in self._asked() for probe in search.probes(serial)]

    def slow_pass(self) -> list[Probe]:
        """The probes of the slow pass: they ask the silent addresses again, with longer timeouts. Searches in groups
        are not included.
        """
        return [probe for search, serial in self._asked() for probe in search.slow_probes(serial)]

    def _asked(self) -> list[tuple[DeviceSearch, str]]:
        """The searches of this scan, each combined with each of its serial settings."""
        return [(one, serial) for one in self._wanted() for serial in self.plan.settings(one.name)]

    def _wanted(self) -> list[DeviceSearch]:
        return [self._searches[name] for name in self.options.protocols if name in self._searches]

    def estimate_s(self) -> float:
        """The time that the scan takes if nothing answers, in seconds."""
        passes = self.first_pass() + (self.slow_pass() if self.options.slow else [])
        groups_s = sum(search.groups_s() for search in self._wanted()) if self.options.slow else 0.0
        return self.plan.listen_s + sum(self.plan.cost_s(p) for p in passes) + groups_s

    # --- the run

    def device_s(self) -> tuple[float, float]:
        """The longest extra time for each found device in seconds, as (time for a quick device, time for a slow
        device).
        """
        return self._device_s(), self._device_s(is_slow=True)

    def _device_s(self, is_slow: bool = False) -> float:
        return self.plan.identify_s(is_slow) + max((search.device_s() for search in self._wanted()), default=0.0)

    async def run(
        self, progress: ProgressCallback = no_progress, announce: Announce = unannounced
    ) -> list[FoundDevice]:
        """Run the scan. Raises AnotherMaster, LineDown or LineLent; then ``found`` still has the earlier results."""
        self._total_s, self.announce = self.estimate_s(), announce
        wanted = self._wanted()
        try:
            await self._listen(progress)
            for search in wanted:
                await search.before(progress)
            if not await self._pass_quickly(progress):
                return self.found
            if self.options.slow:
                quick = list(self.found)
                await self._pass(self.slow_pass(), progress)
                for device in self.found:
                    device.is_slow |= device not in quick
                for search in wanted:
                    await search.in_groups(progress, slow=True)
            else:
                await self._wait_for_late_ones()
            if self.options.identify:
                if self.found:
                    left_s = sum(self._device_s(device.is_slow) for device in self.found)
                    announce("found", len(self.found), left_s)
                await self.identify(progress)
        finally:
            await self.line.close()
        return self.found

    async def _pass_quickly(self, progress: ProgressCallback) -> bool:
        """Run the first pass. Returns False if the port uses another scheme than the url, so that no device can be
        found.
        """
        try:
            await self._pass(self.first_pass(), progress)
            for search in self._wanted():
                await search.in_groups(progress)
        except LineDown:  # some devices close the connection after bytes that they do not understand
            if not self._others or not self.line.stats.opened or not await self._speaks_another(progress):
                raise
            return False
        self._tell_nameless()
        if self._others and not self.found:
            await self._wait_for_late_ones()
            return bool(self.found) or not await self._speaks_another(progress)
        return True

    async def _wait_for_late_ones(self) -> None:
        await self.line.listen(_LATE_S)
        self.overhear(None)
        await self._settle()

    async def _speaks_another(self, progress: ProgressCallback) -> bool:
        """Called if nothing answered. Checks whether the port uses another scheme. If so, sets ``other_url`` and
        returns True.
        """
        await self.line.close()  # close this connection first, because many servers accept only one
        for other in self._others:
            short = Scan(other.options, self._line_factory)
            self.announce(f"try {'raw' if other.is_raw else 'framed'}", 0, short.estimate_s())
            is_spoken = False
            try:
                await short.run(progress)
            except AnotherMaster:
                is_spoken = other.is_raw
            except LineLent:
                raise
            except LineError:
                continue
            if is_spoken or other.is_spoken(short.found, short.traffic.answers):
                self.other_url = other.options.url
                self.remark(note("raw" if other.is_raw else "framed", title=other.title, url=self.other_url))
                return True
        self.line = self._line_factory(self._config, trace=self.traffic)
        return False

    async def identify(self, progress: ProgressCallback = no_progress) -> None:
        """Identify the devices that were found, and find the profiles that fit. Does not close the line.

        Slow devices come last, because by then other devices on the same bus have often shown which families are
        likely.
        """
        waiting = sorted(self.found, key=lambda device: device.is_slow)
        for number, device in enumerate(waiting):
            left_s = sum(self._device_s(other.is_slow) for other in waiting[number:])
            progress(self._done_s, self._done_s + left_s, f"identifying {device.protocol} {device.address}")
            await self._identify(device, effort(self.options, device.is_slow))
            self._done_s += self._device_s(device.is_slow)
        self._note_twins()
        await self._drop_doubles()

    async def _identify(self, device: FoundDevice, how: Effort) -> Identity:
        search = self._searches.get(device.protocol)
        if search is not None and self.options.deep:
            await search.ask_deep(device)
        profiles = self._likeliest_first(device.protocol)
        if search is not None:
            profiles = [profile for profile in profiles if search.may_fit(profile, device.identity)]
        protocol = protocol_of(device.protocol)
        make_request = protocol.make_register_request() if protocol.has_registers else None
        known = await identify(self.line, device.address, profiles, device.serial, device.identity, how, make_request)
        device.block = str(known.block or "")
        device.identity, device.fits, device.tried, device.cut_short = known.facts, known.fits, True, known.cut_short
        device.answer_s = known.answer_s
        if known.cut_short:
            device.notes.append(note("cut short"))
        if known.reordered is not None:
            profile, order = known.reordered
            device.notes.append(note("other order", profile=profile, order=order))
        if known.is_garbled and not known.fits:
            device.notes.append(note("garbled"))
        return known

    def _likeliest_first(self, name: str) -> list[Profile]:
        """The profiles of a protocol in the order of trial: first those whose devices report their model, then those
        that fit other devices of this scan, then all others.
        """
        best = Counter(device.fits[0].profile for device in self.found if device.fits)
        spoken = {protocol.name: protocol for protocol in all_protocols() if name in (protocol.name, protocol.wire)}
        return sorted(
            profiles_of(spoken, "", self.options.profile_dirs),
            key=lambda one: (not spoken[one.protocol].tells_its_model, -best[one.id]),
        )

    def _note_twins(self) -> None:
        """Add a note if devices at several addresses have the same serial number.

        On a line with its own framing, these are one device, which answers for all unit numbers. Only its first address
        is kept. On other lines, all addresses are kept.
        """
        groups: dict[tuple[str, str], list[FoundDevice]] = {}
        for device in self.found:
            if len(set(number := device.identity.get("device.serial", ""))) > 1 and len(number) >= MIN_SERIAL:
                groups.setdefault((device.protocol, number), []).append(device)
        for (protocol, number), twins in groups.items():
            if len(twins) < 2:
                continue
            others = ", ".join(device.address for device in twins[1:])
            if not self.carries_bytes:
                twins[0].notes.append(note("listed once", others=others))
                self.found = [device for device in self.found if device not in twins[1:]]
            else:
                names = {"protocol": protocol, "address": twins[0].address, "others": others, "number": number}
                self.remark(note("twins", **names))

    async def _drop_doubles(self) -> None:
        """List a device once if it answers at several addresses and reports no serial number."""
        groups: dict[tuple[str, str, str, str], list[FoundDevice]] = {}
        for device in self.found:
            known = len(device.identity.get("device.serial", "")) >= MIN_SERIAL
            if device.fits and not known and protocol_of(device.protocol).has_registers:
                key = (device.protocol, device.serial, device.fits[0].profile, str(sorted(device.identity.items())))
                groups.setdefault(key, []).append(device)
        for (protocol, _, name, _), devices in groups.items():
            profile = next((one for one in self._likeliest_first(protocol) if one.id == name), None)
            if len(devices) < 2 or profile is None:
                continue
            for device, doubles in await find_doubles(self.line, profile, devices):
                others = ", ".join(one.address for one in doubles)
                device.notes.append(note("one device", address=device.address, others=others))
                self.found = [one for one in self.found if one not in doubles]

    async def identify_one(self) -> None:
        """``identify`` for a scan with one known device (``one_device``).

        Sets ``seen`` of the device to "answer", to "silent" if it did not answer at all, or to "garbled" if no answer
        was valid.
        """
        device = self.found[0]
        try:
            search = self._searches.get(device.protocol)
            asked = search.signs_of_life(device) if search is not None else []
            answers, begin_ns = False, self.line.clock()[1]
            for probe in asked:
                answers = answers or await self.ask(probe, quiet=True)
            took_s = (self.line.clock()[1] - begin_ns) / 1e9
            how = effort(self.options, took_s > SLOW_S)
            # the device did not answer these probes. But some devices answer only reads of registers that they have,
            # and answer these quickly
            if asked and not answers:
                how = Effort(DEAF_S, DEAF_MOST_S)
            known = await self._identify(device, how)
            answers = answers or known.has_answered
            device.seen = "answer" if answers else "garbled" if known.is_garbled else "silent"
        finally:
            await self.line.close()

    async def _listen(self, progress: ProgressCallback) -> None:
        if not self.carries_bytes or self.options.listen_s <= 0:
            return
        steps = max(int(self.options.listen_s * 4), 1)
        for _ in range(steps):
            progress(self._done_s, self._total_s, "listening for another master")
            await self.line.listen(self.options.listen_s / steps)
            self._done_s += self.options.listen_s / steps
            description = self.describe(self.traffic.received)
            if description and not self.options.bus_is_mine:
                raise AnotherMaster(f"another master is active: {description}", where=self.options.url, hint=_MINE)
        for search in self._searches.values():
            search.overhear(None)
        self.foreign.clear()

    async def _pass(self, probes: Iterable[Probe], progress: ProgressCallback) -> None:
        for probe in probes:
            self._tell(probe, progress)
            if not probe.address or not self.is_known(probe.protocol, probe.address, probe.serial):
                await self.ask(probe)
            self._done_s += self.plan.cost_s(probe)
        for search in self._wanted():
            await search.ask_again()

    def _tell(self, probe: Probe, progress: ProgressCallback) -> None:
        serial = f" at {probe.serial}" if probe.serial else ""
        progress(self._done_s, max(self._total_s, self._done_s), f"{probe.protocol} {probe.what}{serial}")

    def _tell_nameless(self) -> None:
        """Add a note about meters that repeat the wildcard address of the request instead of their own address."""
        for probe in (probe for search in self._wanted() for probe in search.nameless):
            if not any((d.protocol, d.serial) == (probe.protocol, probe.serial) for d in self.found):
                self.remark(note("nameless", protocol=probe.protocol, serial=probe.serial or self.options.url))

    def asker(self, progress: ProgressCallback) -> Asker:
        """Return a function that sends one probe of a group search. It adds the cost of the probe, which the estimate
        does not include.
        """

        async def ask(probe: Probe) -> Answer | LineError:
            self._tell(probe, progress)
            result = await self.put(probe)
            self._done_s += self.plan.cost_s(probe)
            return result

        return ask

    def remark(self, found: Note) -> None:
        """Add a note about the line, unless it is already there."""
        if found not in self.notes:
            self.notes.append(found)

    # --- one question

    async def put(self, probe: Probe) -> Answer | LineError:
        """Send one probe. Returns its answer or error. Raises LineDown or LineLent."""
        request = probe.request
        self._searches[probe.protocol].on_sent(probe)
        char_s = SerialSetting.parse(probe.serial, self.options.url).char_s if probe.serial else 0.0
        # The line adds the transmission time of a whole answer to the timeout, but this timeout must end when an answer
        # would start. (An answer that has begun is still received.)
        timeout_s = max(probe.timeout_s - request.expect * char_s, probe.timeout_s / 2)
        options = self.line.request_options(Limits(timeout_s=timeout_s, late_s=0.0), probe.serial)
        (result,) = await self.line.burst((request,), options)
        if isinstance(result, LineDown | LineLent):
            raise result
        return result

    async def ask(self, probe: Probe, quiet: bool = False, is_last: bool = False) -> bool:
        """Send one probe. Returns True if the device with this address answered. Raises LineDown, LineLent or
        AnotherMaster.

        ``is_last``: a broken answer is noted now, and the probe is not repeated later.
        """
        search = self._searches[probe.protocol]
        result = await self.put(probe)
        if isinstance(result, Answer):
            await search.on_answer(probe, result.payload)
        alive = isinstance(result, Answer)
        late = self.overhear(probe)
        if isinstance(result, DeviceException) and await search.is_own(probe, result.code):
            self.add(probe.protocol, probe.address, probe.serial, "refusal")
            alive = True
        await self._settle()
        if isinstance(result, FrameError | MismatchError) and not quiet and not late:
            search.on_broken(probe, result, is_last)
        return alive

    async def _settle(self) -> None:
        for search in self._searches.values():
            await search.settle()

    def overhear(self, probe: Probe | None) -> bool:
        """Check other bytes that were received with the answer to ``probe``. Returns True if a late answer is among
        them.

        Raises AnotherMaster.
        """
        late = [search.overhear(probe) for search in self._searches.values()]
        if len(self.foreign) >= FOREIGN_FRAMES and not self.options.bus_is_mine:
            description = self.describe(b"".join(self.foreign))
            raise AnotherMaster(f"another master became active: {description}", where=self.options.url, hint=_MINE)
        return any(late)

    def describe(self, received: bytes) -> str:
        """A guess at the origin of unsolicited bytes, for a person. "" if there are so few that they may be a spike."""
        words = [text for search in self._searches.values() for text in search.describe(received)]
        if words:
            texts = list(dict.fromkeys(words))
            return "; ".join(texts[:MOST_SAID]) + ("; ..." if len(texts) > MOST_SAID else "")
        if len(received) < NOISE_BYTES:
            return ""
        begin = received[:12].hex(" ").upper()
        return f"{len(received)} bytes were received, but they form no frame at this serial setting: {begin}"

    # --- results

    def add(self, protocol: str, address: str, serial: str, seen: str) -> FoundDevice:
        """Add a found device. If there is already a device at this address and speed, return it instead. ``seen``: see
        FoundDevice.
        """
        for device in self.found:
            if (device.protocol, device.address) == (protocol, address) and baud_of(device.serial) == baud_of(serial):
                return device
        device = FoundDevice(protocol, address, serial, seen, self.options.url)
        self.found.append(device)
        return device

    def is_known(self, protocol: str, address: str, serial: str) -> bool:
        """Whether a device was already found at this address, at the speed of ``serial``."""
        return any(
            (d.protocol, d.address) == (protocol, address) and baud_of(d.serial) == baud_of(serial) for d in self.found
        )


_MINE = "Stop the other master, or scan at another time; use --bus-is-mine only if you may disturb its traffic"


def one_device(
    options: ScanOptions, protocol: str, address: str, serial: str, line_factory: LineFactory = open_line
) -> Scan:
    """A scan with a single device that is already known, for ``identify_one``."""
    scan = Scan(replace(options, bus_is_mine=True), line_factory)
    scan.found.append(FoundDevice(protocol, address, serial if scan.is_serial else "", "named", options.url))
    return scan
