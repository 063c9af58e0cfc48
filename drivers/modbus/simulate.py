"""Simulates Modbus devices that have the points of a profile. Their values come from the simulated park."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from drivers.profile import Profile, Resolved
from drivers.sim.display import Display, ParkClock
from drivers.sim.families import register_device


def _display(
    profile: Profile, found: Resolved, role: str, clock: ParkClock, seed: int, texts: Mapping[str, str]
) -> Display:
    return Display(clock, tuple(p for p in found.points if not p.is_object), role, seed=seed, texts=texts)


simulate = partial(register_device, make_display=_display)
