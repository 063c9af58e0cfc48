"""The interface between a protocol and the simulator: a function that makes a simulated device with the points of a
profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from drivers.profile import Profile
    from drivers.sim.device import SimDevice
    from drivers.sim.display import Display, ParkClock
    from drivers.sim.meter_display import MeterDisplay
    from drivers.sim.meters import SimMeter


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """The requested device. Each protocol uses only the fields that it needs."""

    profile: Profile
    address: str
    name: str = ""
    role: str = ""  # the part of the park that the device shows; "": the usual part for the kind of the profile
    clock: ParkClock | None = None  # the clock of a park; None: the device gets a park of its own
    baud: int | None = None  # the device's own speed in baud; None: the speed of the line
    seed: int = 1
    turnaround_s: float | None = None  # time from request to answer; None: the time in the profile
    params: Mapping[str, int | str] | None = None
    texts: Mapping[str, str] | None = None  # identity texts by point name
    sleeps: bool = False  # whether the device is silent in the dark, if its profile has ``sleeps``

    @property
    def turnaround_of_device_s(self) -> float:
        """Time from a request to its answer, in seconds."""
        return (self.profile.limits.turnaround_s or 0.0) if self.turnaround_s is None else self.turnaround_s


class Simulate(Protocol):
    """Creates the requested device and its display.

    A protocol with registers makes a ``SimDevice`` with a ``Display``. Other protocols make a ``SimMeter``, which
    answers frames, with a ``MeterDisplay``. Raises UsageError for an impossible address or profile.
    """

    def __call__(self, wanted: SimulationRequest) -> tuple[SimDevice, Display] | tuple[SimMeter, MeterDisplay]: ...
