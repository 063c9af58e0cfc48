"""What a protocol gives to the simulator: a device of a profile that shows its part of a park."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from drivers.profile import Profile
from drivers.sim.device import SimDevice
from drivers.sim.display import Display, ParkClock
from drivers.sim.meter_display import MeterDisplay
from drivers.sim.meters import SimMeter


class Simulate(Protocol):
    """A device of ``profile`` at ``address``, and what it shows.

    A protocol with registers makes a ``SimDevice`` with a ``Display``; others a ``SimMeter``, which answers frames,
    with a ``MeterDisplay``. Raises UsageError for an address or profile that it cannot be.
    """

    def __call__(
        self,
        profile: Profile,
        *,
        address: str,
        name: str = "",
        role: str = "",  # the part of the park that it shows; "": as the profile's kind
        clock: ParkClock | None = None,  # None: a park of its own
        baud: int | None = None,  # None: that of the line
        seed: int = 1,
        turnaround_s: float | None = None,  # None: the profile's
        params: Mapping[str, int | str] | None = None,
        texts: Mapping[str, str] | None = None,  # identity, by point
        sleeps: bool = False,  # silent in the dark, where the profile says so
    ) -> tuple[SimDevice, Display] | tuple[SimMeter, MeterDisplay]: ...
