"""A protocol's part in a scan. It provides the probes that find the protocol's devices, and interprets their
answers.
"""

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
    """Finds the devices of one protocol. There is one object per scan and protocol. Only reads may be sent.

    For one protocol after the other, a scan sends the ``probes`` at each serial setting. Later it sends ``slow_probes``
    to the addresses that did not answer. A valid answer leads to ``scan.add``. If several devices of a protocol can
    answer one probe, the search also looks for them in groups.
    """

    def __init__(self, protocol: Protocol, scan: Scan) -> None:
        self.protocol, self.scan, self.options = protocol, scan, scan.options
        self.name = protocol.name
        # if False, no probes are sent to find devices of this protocol
        self.is_wanted = protocol.name in scan.options.protocols
        self.crowded: list[Probe] = []  # probes with broken answers, perhaps because several devices answered at once
        self.nameless: list[Probe] = []  # probes that were answered by a device that did not report its address

    # --- questions

    def probes(self, serial: str) -> list[Probe]:
        """The quick probes at a serial setting. The setting is "" on lines that have none."""
        raise NotImplementedError

    def slow_probes(self, serial: str) -> list[Probe]:
        """Probes that ask the silent addresses again, with longer timeouts."""
        return []

    def signs_of_life(self, device: FoundDevice) -> list[Probe]:
        """For `identify`: short probes that most devices answer or refuse.

        Empty if the profiles of the protocol send the same requests anyway.
        """
        return []

    def on_sent(self, probe: Probe) -> None:
        """Called before a probe of this protocol is sent."""

    # --- answers

    def sender(self, probe: Probe, payload: bytes) -> str:
        """The address of the device that answered. "" if the answer does not contain it."""
        return probe.address

    async def is_there(self, probe: Probe, payload: bytes) -> bool:
        """Whether a device exists at the sender's address.

        The check is needed because two overlapping answers can look like the answer of a third device.
        """
        return True

    async def is_own(self, probe: Probe, code: int) -> bool:
        """Whether the device itself sent a refusal with this exception code, not a server in front of the device."""
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
        """Called for received bytes that are not a valid answer. ``is_last``: the probe has already been repeated."""
        self.crowded.append(probe)
        self.scan.remark(note("crowd", protocol=self.name, what=probe.what))

    # --- steps of a scan

    async def before(self, progress: ProgressCallback) -> None:
        """Called before the first pass."""

    async def ask_again(self) -> None:
        """Called after a pass. Repeats the probes that got broken answers."""

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        """Called after a pass. Searches the groups in which several devices answered at once, or if ``slow`` all
        groups.
        """

    async def ask_deep(self, device: FoundDevice) -> None:
        """Called with --deep. Reads more facts about a device into ``device.identity``. Raises only LineDown or
        LineLent.
        """

    def groups_s(self) -> float:
        """Seconds that the group searches of the slow pass take if they find nothing."""
        return 0.0

    def device_s(self) -> float:
        """Extra seconds that the scan may need for each found device."""
        return 0.0

    # --- other traffic

    def describe(self, received: bytes) -> list[str]:
        """Describe the frames of this protocol in unsolicited bytes, which come from another master."""
        return []

    def overhear(self, probe: Probe | None) -> bool:
        """Check other bytes that were received with the answer to ``probe``. Returns True if a late answer to another
        probe is among them.
        """
        return False

    async def settle(self) -> None:
        """Called after a probe. Sends more probes to decide about frames that were overheard."""

    def may_fit(self, profile: Profile, facts: Mapping[str, str]) -> bool:
        """Whether a profile is worth trying on a device with the ``facts`` found by the search."""
        return True
