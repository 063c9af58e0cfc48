"""A device of any shipped family that shows its part of a park."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.model import Kind
from drivers.profile import Profile
from drivers.sim.device import SimDevice
from drivers.sim.display import Display, ParkClock
from drivers.sim.facts import PART_OF_KIND, FactLookup
from drivers.sim.image import WORD_FUNCTIONS
from drivers.sim.sunspec_display import sunspec_display


def device_from_profile(
    profile: Profile,
    *,
    unit: int = 1,
    name: str = "",
    role: str = "",
    clock: ParkClock | None = None,
    params: Mapping[str, int | str] | None = None,
    seed: int = 1,
    texts: Mapping[str, str] | None = None,
    turnaround_s: float | None = None,
    sleeps: bool = False,
) -> tuple[SimDevice, Display]:
    """A device of this family that shows its part of a park (of its own where no ``clock`` is given).

    Identity texts pick the profile's variant here as they do for the reader. Registers between points exist only
    where the profile says that holes may be read. ``role`` "" follows the profile's kind. With ``sleeps`` a device
    with ``sleeps`` in its profile is silent in the dark.
    """
    clock = clock or ParkClock(seed, 0.0)
    role = role or PART_OF_KIND.get(profile.kind, "grid")
    texts = {"device.model": profile.models[0].replace("*", "") if profile.models else "SIM", **(texts or {})}
    points = profile.resolve(params).points
    known = {p.name for p in points if p.kind is Kind.TEXT}
    given = {n: t for n, t in texts.items() if n in known}
    found = profile.resolve(params, firmware=given.get("device.firmware"), identity=given)
    if profile.protocol == "sunspec":
        book = FactLookup(role, clock.physics)
        display = sunspec_display(
            profile, role=role, clock=clock, seed=seed, texts=given, knows=lambda name: book.get(name) is not None
        )
    else:
        display = Display(clock, tuple(p for p in found.points if not p.is_object), role, seed=seed, texts=given)
    limits = found.limits
    if limits.holes:
        for function in display.image.functions:
            if function in WORD_FUNCTIONS:
                display.image.fill_holes(limits.max_gap or 125, function=function)
    device = SimDevice(
        unit,
        display.image,
        name=name or profile.id,
        turnaround_s=(limits.turnaround_s or 0.0) if turnaround_s is None else turnaround_s,
        max_words=limits.max_words or 125,
        before=display.refresh,
        restart=display.restart,
        asleep=display.asleep if sleeps and profile.sleeps else None,
    )
    device.objects = {p.address: texts.get(p.name, "SIM").encode() for p in found.points if p.is_object}
    return device, display
