"""What a protocol gives to a scan: the questions that find its devices, and what their answers mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from drivers.line import Answer
from drivers.model import LineError, MismatchError, ProgressCallback
from drivers.profile import Profile
from drivers.protocol import Protocol
from drivers.scan.notes import Note, note
from drivers.scan.plan import FoundDevice
from drivers.scan.probes import Probe

if TYPE_CHECKING:
    from drivers.scan.search import Scan

Asker = Callable[[Probe], Awaitable[Answer | LineError]]  # sends one probe
Remark = Callable[[Note], None]


class DeviceSearch:
    """How the devices of one protocol are found; one object a scan, for each protocol. Only reads may be sent.

    A scan asks ``probes`` at each serial setting, in turn with the other protocols, then the silent ones again
    (``slow_probes``). An answer ends in ``scan.add``. Protocols in which several devices answer one question also
    search for them in groups.
    """

    def __init__(self, protocol: Protocol, scan: Scan) -> None:
        self.protocol, self.scan, self.options = protocol, scan, scan.options
        self.name = protocol.name
        self.is_wanted = protocol.name in scan.options.protocols  # else it only listens, and identifies
        self.crowded: list[Probe] = []  # questions whose answers were broken: several devices at once?
        self.nameless: list[Probe] = []  # answered by a device that did not say its own address

    # --- questions

    def probes(self, serial: str) -> list[Probe]:
        """Everything once, quickly, at a serial setting ("" on lines that have none)."""
        raise NotImplementedError

    def slow_probes(self, serial: str) -> list[Probe]:
        """Again what was silent, with more patience."""
        return []

    def signs_of_life(self, device: FoundDevice) -> list[Probe]:
        """For `identify`: short questions that most devices answer or refuse; none where profiles ask the same."""
        return []

    def on_sent(self, probe: Probe) -> None:
        """One of ours is about to be sent."""

    # --- answers

    def sender(self, probe: Probe, payload: bytes) -> str:
        """The address of the device that answered; "" if the answer does not tell."""
        return probe.address

    async def is_there(self, probe: Probe, payload: bytes) -> bool:
        """Whether the sender of an answer answers to its own address: two at once can sound like a third."""
        return True

    async def on_answer(self, probe: Probe, payload: bytes) -> None:
        """A sound answer to a probe."""
        if not (address := self.sender(probe, payload)):
            self.nameless.append(probe)
        elif not await self.is_there(probe, payload):
            self.on_broken(probe, MismatchError("nothing answers to this address", where=self.options.url))
        else:
            self.scan.add(self.name, address, probe.serial, "answer")

    def on_broken(self, probe: Probe, error: LineError, is_last: bool = False) -> None:
        """Bytes, but no sound answer. ``is_last``: it was asked again already."""
        self.crowded.append(probe)
        self.scan.remark(note("crowd", protocol=self.name, what=probe.what))

    # --- steps of a scan

    async def before(self, progress: ProgressCallback) -> None:
        """Before the first pass."""

    async def ask_again(self) -> None:
        """After a pass: once more what was broken."""

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        """After a pass: search among devices that answer at once; ``slow``: everywhere."""

    async def ask_deep(self, device: FoundDevice) -> None:
        """With --deep: more about a device, into ``device.identity``. Raises LineDown or LineLent only."""

    def groups_s(self) -> float:
        """Seconds of the slow pass's searches in groups, where none is found."""
        return 0.0

    def device_s(self) -> float:
        """Seconds in addition that one found device may take."""
        return 0.0

    # --- what else is heard

    def describe(self, received: bytes) -> list[str]:
        """The frames of this protocol in bytes that we did not ask for, in words: another master's."""
        return []

    def overhear(self, probe: Probe | None) -> bool:
        """Look at what came beside the answer of ``probe``. Whether an answer to an earlier question was late."""
        return False

    def may_fit(self, profile: Profile, facts: Mapping[str, str]) -> bool:
        """Whether a profile is worth trying on a device of which the search has learned ``facts``."""
        return True
