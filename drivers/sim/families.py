"""Makes simulated devices of any family. Each device shows its part of a park."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from drivers.model import Kind, UsageError
from drivers.profile import Profile, Resolved
from drivers.registry import protocol_of
from drivers.sim.device import SimDevice
from drivers.sim.display import Display, ParkClock
from drivers.sim.facts import PART_OF_KIND
from drivers.sim.image import WORD_FUNCTIONS
from drivers.sim.meter_display import MeterDisplay
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import Simulate, SimulationRequest


def _simulation(profile: Profile) -> Simulate:
    if (found := protocol_of(profile.protocol).simulation()) is None:
        what = f"{profile.id}: the simulator does not support {profile.protocol}"
        raise UsageError(what, where="simulated device", hint="Use a profile with another protocol")
    return found


def device_from_profile(profile: Profile, *, unit: int = 1, **options: Any) -> tuple[SimDevice, Display]:
    """Make a device with registers and a unit number. For the options see ``SimulationRequest``.

    The identity texts select the variant of the profile, as they do for a reader. Registers between points exist only
    if the profile allows reading holes. With the option ``sleeps``, the device is silent in the dark if its profile has
    ``sleeps``.
    """
    device, display = _simulation(profile)(SimulationRequest(profile, str(unit), **options))
    assert isinstance(device, SimDevice) and isinstance(display, Display)
    return device, display


def meter_from_profile(profile: Profile, *, address: str, **options: Any) -> tuple[SimMeter, MeterDisplay]:
    """Make a meter with its own frames. For the options see ``SimulationRequest``. Raises UsageError for a wrong
    address.
    """
    if protocol_of(profile.protocol).has_registers:
        raise UsageError(f"{profile.id} uses {profile.protocol}", where="simulated meter", hint="Give a unit number")
    meter, display = _simulation(profile)(SimulationRequest(profile, address, **options))
    assert isinstance(meter, SimMeter) and isinstance(display, MeterDisplay)
    return meter, display


MakeDisplay = Callable[[Profile, Resolved, str, ParkClock, int, Mapping[str, str]], Display]


def register_device(wanted: SimulationRequest, make_display: MakeDisplay) -> tuple[SimDevice, Display]:
    """Make the requested device for a protocol with registers. ``make_display`` makes the registers of the resolved
    points.
    """
    profile, params = wanted.profile, wanted.params
    clock = wanted.clock or ParkClock(wanted.seed, 0.0)
    role = wanted.role or PART_OF_KIND.get(profile.kind, "grid")
    texts = {"device.model": profile.models[0].replace("*", "") if profile.models else "SIM", **(wanted.texts or {})}
    points = profile.resolve(params).points
    known = {p.name for p in points if p.kind is Kind.TEXT}
    given = {n: t for n, t in texts.items() if n in known}
    found = profile.resolve(params, firmware=given.get("device.firmware"), identity=given)
    display = make_display(profile, found, role, clock, wanted.seed, given)
    limits = found.limits
    if limits.holes:
        for function in display.image.functions:
            if function in WORD_FUNCTIONS:
                display.image.fill_holes(limits.max_gap or 125, function=function)
    device = SimDevice(
        int(wanted.address),
        display.image,
        name=wanted.name or profile.id,
        turnaround_s=wanted.turnaround_of_device_s,
        max_words=limits.max_words or 125,
        before=display.refresh,
        restart=display.restart,
        asleep=display.asleep if wanted.sleeps and profile.sleeps else None,
    )
    device.objects = {p.address: texts.get(p.name, "SIM").encode() for p in found.points if p.is_object}
    return device, display
