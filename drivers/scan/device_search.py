"""A protocol's part in a scan: the probes that find its devices, and the meaning of their answers."""

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
    """Finds the devices of one protocol; one object per scan and protocol. Only reads may be sent.

    A scan sends ``probes`` at each serial setting, in turn with other protocols, then retries the silent ones
    (``slow_probes``). A valid answer leads to ``scan.add``. Protocols in which several devices answer one probe also
    search for them in groups.
    """

    def __init__(self, protocol: Protocol, scan: Scan) -> None:
        self.protocol, self.scan, self.options = protocol, scan, scan.options
        self.name = protocol.name
        self.is_wanted = protocol.name in scan.options.protocols  # if False, it sends no probes to find devices
        self.crowded: list[Probe] = []  # probes with broken answers: perhaps several devices answered at once
        self.nameless: list[Probe] = []  # probes answered by a device that did not report its address

    # --- questions

    def probes(self, serial: str) -> list[Probe]:
        """The quick probes at a serial setting ("" on lines that have none)."""
        raise NotImplementedError

    def slow_probes(self, serial: str) -> list[Probe]:
        """Probes for the silent addresses again, with longer timeouts."""
        return []

    def signs_of_life(self, device: FoundDevice) -> list[Probe]:
        """For `identify`: short probes that most devices answer or refuse; empty if profiles send the same requests."""
        return []

    def on_sent(self, probe: Probe) -> None:
        """Called before one of our probes is sent."""

    # --- answers

    def sender(self, probe: Probe, payload: bytes) -> str:
        """The address of the device that answered; "" if the answer does not contain it."""
        return probe.address

    async def is_there(self, probe: Probe, payload: bytes) -> bool:
        """Whether a device exists at the sender's address: two answers at once can look like that of a third device."""
        return True

    async def is_own(self, probe: Probe, code: int) -> bool:
        """Whether a refusal, with its exception code, comes from the device, not from a server in front of it."""
        return True

    async def on_answer(self, probe: Probe, payload: bytes) -> None:
        """Called for a valid answer to a probe."""
        if not (address := self.sender(probe, payload)):
            self.nameless.append(probe)
        elif not await self.is_there(probe, payload):
            self.on_broken(probe, MismatchError("no device answers at this address", where=self.options.url))
        else:
            self.scan.add(self.name, address, probe.serial, "answer")

    def on_broken(self, probe: Probe, error: LineError, is_last: bool = False) -> None:
        """Called for bytes that are not a valid answer. ``is_last``: the probe was already repeated."""
        self.crowded.append(probe)
        self.scan.remark(note("crowd", protocol=self.name, what=probe.what))

    # --- steps of a scan

    async def before(self, progress: ProgressCallback) -> None:
        """Before the first pass."""

    async def ask_again(self) -> None:
        """After a pass: repeat the probes with broken answers."""

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        """After a pass: search in groups where several devices answered at once; if ``slow``, in all groups."""

    async def ask_deep(self, device: FoundDevice) -> None:
        """With --deep: read more about a device into ``device.identity``. Raises only LineDown or LineLent."""

    def groups_s(self) -> float:
        """Seconds that the slow pass's group searches take if nothing is found."""
        return 0.0

    def device_s(self) -> float:
        """Extra seconds that one found device may take."""
        return 0.0

    # --- other traffic

    def describe(self, received: bytes) -> list[str]:
        """A description of this protocol's frames in unsolicited bytes, which come from another master."""
        return []

    def overhear(self, probe: Probe | None) -> bool:
        """Check other bytes received with the answer to ``probe``. True: there was a late answer to another probe."""
        return False

    async def settle(self) -> None:
        """After a probe: send more probes about overheard frames."""

    def may_fit(self, profile: Profile, facts: Mapping[str, str]) -> bool:
        """Whether a profile is worth trying on a device with the ``facts`` found by the search."""
        return True
