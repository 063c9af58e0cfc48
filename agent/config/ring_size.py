"""Computes the size of the ring. The ring must hold all readings until they are sealed, even while the store stalls."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.parsers import show_bytes
from agent.config.profiles import make_driver, visit_costs
from agent.config.tree import Config, ConfigWarning, DeviceConfig, RingConfig
from drivers.model import ConfigError, DeviceSpec, PlanSummary, ProfileError
from drivers.toml.parsers import show_ms

if TYPE_CHECKING:
    from drivers.line import Line
    from ext.ring import Ring

MIN_RING_BYTES = 64 << 10
MAX_RING_BYTES = 4 << 30  # largest size that may be configured
# Minimum for size = "auto". While the disk is full, 58 readings a second fill such a ring in 3.6 hours, and 1,000 in
# 17 minutes.
AUTO_BYTES = 16 << 20
SLOT_BYTES = 16  # each value in the ring takes one slot
HEAD_SLOTS = 2  # the head of each answer in the ring takes two slots
AGENT_BYTES = 64 << 20  # memory of an agent without devices, as measured in bench/RESULTS.md
DEVICE_BYTES = 96 << 10  # memory for one device with 100 points, as measured in bench/RESULTS.md
MEMORY_SHARE = 0.6  # the systemd unit allows this share of the machine's memory (MemoryHigh=)
STALL_MS = 10_000  # if the store stalls for this long, the ring still holds all readings
MARGIN = 1.25
SHARE = 4  # a computed size is at most 1/4 of the runtime directory's file system


@dataclass(frozen=True, slots=True)
class ReadingRate:
    """Readings and ring slots per second when all devices answer."""

    readings: float = 0.0
    slots: float = 0.0


@dataclass(frozen=True, slots=True)
class RingPlan:
    """The size of a ring, and the values from which it was computed. Sizes are powers of two, in bytes."""

    size_bytes: int
    need_bytes: int  # size that the readings of the devices need; see ``plan_ring``
    limit_bytes: int  # the computed size never exceeds this
    by_file_system: bool  # True: the file system sets ``limit_bytes``; False: ``[ring] max`` does
    rate: ReadingRate
    every_ms: int  # the pack interval

    @property
    def full_s(self) -> float:
        """Seconds until unsealed readings fill the ring; infinite if there are no readings."""
        return self.size_bytes / SLOT_BYTES / self.rate.slots if self.rate.slots else float("inf")

    @property
    def early_s(self) -> float | None:
        """Seconds until the ring is half full and sealing begins early. None: the pack interval ends before that."""
        return self.full_s / 2 if self.full_s / 2 < self.every_ms / 1000 else None

    def __str__(self) -> str:
        """The text that ``check --plan`` prints."""
        return (
            f"{self.rate.readings:,.0f} readings per second need a ring buffer of {show_bytes(self.need_bytes)} if "
            "packs are sealed "
            f"every {show_ms(self.every_ms)} and the store stalls for {show_ms(STALL_MS)}; the ring buffer has "
            f"{show_bytes(self.size_bytes)}"
        )


def rate_of(visits: Iterable[tuple[PlanSummary, int]]) -> ReadingRate:
    """Return the total rate of ``visits``, which are pairs of a visit and its period in ms."""
    readings = slots = 0.0
    for cost, period_ms in visits:
        readings += cost.points * 1000 / period_ms
        slots += (cost.points + HEAD_SLOTS * cost.requests) * 1000 / period_ms
    return ReadingRate(readings, slots)


def reading_rate(
    config: Config, devices: Iterable[tuple[DeviceConfig, DeviceSpec]], lines: Mapping[str, Line], ring: Ring
) -> ReadingRate:
    """Return the total rate of these devices. A device counts as zero if its driver cannot be made.

    The function plans the requests only once for devices that differ only in name and address.

    Args:
        ring: a ring for the drivers; nothing is written into it.
    """
    visits: list[tuple[PlanSummary, int]] = []
    known: dict[tuple[object, ...], list[tuple[PlanSummary, int]]] = {}
    for device, spec in devices:
        line = lines[device.line].config
        kind = (
            *(spec.profile, spec.variant, id(spec.points), spec.periods_ms, spec.limits, spec.serial),
            *(line.url.partition(":")[0], line.serial, line.bus_baud, line.limits),
        )
        if kind not in known:
            known[kind] = _visits(config, spec, lines[device.line], ring)
        visits += known[kind]
    return rate_of(visits)


def _visits(config: Config, spec: DeviceSpec, line: Line, ring: Ring) -> list[tuple[PlanSummary, int]]:
    try:
        return [(cost, period_ms) for _, period_ms, cost in visit_costs(make_driver(config, spec, line, ring, 0))]
    except (ConfigError, ProfileError):  # the agent reports this error when it makes the device
        return []


def file_system_bytes(folder: Path) -> int:
    """Return the size in bytes of the file system that holds, or will hold, ``folder``."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


def plan_ring(config: RingConfig, rate: ReadingRate, every_ms: int, file_system: int) -> RingPlan:
    """Return the size of the ring for a rate of readings.

    The ring has space for the readings of one pack interval and of a stall of the store, plus a margin. It has space
    for at least two intervals. One interval then fits into half of the ring, so sealing begins early only if the store
    stalls.

    Args:
        file_system: size in bytes of the runtime directory's file system.
    """
    hold_ms = max(every_ms + STALL_MS, 2 * every_ms)
    need = _at_least(rate.slots * SLOT_BYTES * hold_ms / 1000 * MARGIN)
    by_file_system = file_system // SHARE < config.max_bytes
    limit = _at_most(min(config.max_bytes, file_system // SHARE))
    if config.size_bytes is None:
        size = min(max(need, AUTO_BYTES), limit)
    else:
        size = max(_at_most(config.size_bytes), min(need, limit))
    return RingPlan(size, need, limit, by_file_system, rate, every_ms)


def memory_bytes(devices: int, plan: RingPlan) -> int:
    """Return the approximate memory of the agent in bytes, including the ring in its runtime directory."""
    return AGENT_BYTES + DEVICE_BYTES * devices + plan.size_bytes


def _at_least(size: float) -> int:
    """Return the smallest valid ring size that is not smaller than ``size``."""
    return max(MIN_RING_BYTES, 1 << max(0, int(-(-size // 1)) - 1).bit_length())


def _at_most(size: int) -> int:
    """Return the largest valid ring size that is not larger than ``size``; at least ``MIN_RING_BYTES``."""
    return max(MIN_RING_BYTES, 1 << max(0, size.bit_length() - 1))


def ring_notes(config: Config, plan: RingPlan) -> list[ConfigWarning]:
    """Return notes if the ring's size differs from the configured size, or is smaller than the devices need."""
    notes: list[ConfigWarning] = []
    written = config.ring.size_bytes
    if written is not None and written < min(plan.need_bytes, plan.size_bytes):
        what = (
            f"{show_bytes(written)} is less than the {show_bytes(plan.need_bytes)} that the devices need; "
            f"the agent raises the size to {show_bytes(plan.size_bytes)}"
        )
        notes.append(
            ConfigWarning(
                config.at("ring.size"),
                what,
                'Write size = "auto", or leave size out',
            )
        )
    elif written is not None and _at_most(written) != written:
        what = f"the agent changes the size {show_bytes(written)} to {show_bytes(_at_most(written))}"
        notes.append(
            ConfigWarning(
                config.at("ring.size"),
                what,
                "The size of the ring buffer must be a power of two, so the agent rounds it down",
            )
        )
    if plan.size_bytes < plan.need_bytes:
        limit = f"a quarter of the file system of {config.runtime_dir}" if plan.by_file_system else "ring.max"
        what = (
            f"the devices need a ring buffer of {show_bytes(plan.need_bytes)}, but at most "
            f"{show_bytes(plan.limit_bytes)} are allowed ({limit}); if the store stalls, the ring buffer is full after "
            f'{plan.full_s:.1f} s, and later readings are lost (gap reason "ring")'
        )
        if plan.early_s is not None:
            what += f"; the ring buffer is already half full after {plan.early_s:.1f} s, so packs are sealed early"
        remedy = (
            "Enlarge the file system" if plan.by_file_system else f'Raise ring.max to "{show_bytes(plan.need_bytes)}"'
        )
        notes.append(
            ConfigWarning(
                "ring",
                what,
                f'{remedy}, seal packs more often (the key "every" in [pack]), or read the devices less often',
            )
        )
    return notes


def memory_notes(config: Config, plan: RingPlan, machine: int) -> list[ConfigWarning]:
    """Return a note if the agent needs more memory than its unit allows. ``machine``: the machine's memory in bytes."""
    need, share = memory_bytes(len(config.devices), plan), int(machine * MEMORY_SHARE)
    if need <= share:
        return []
    what = (
        f"the agent needs about {need >> 20} MiB of memory, but its systemd unit allows only {share >> 20} MiB of the "
        f"{machine >> 20} MiB of this machine"
    )
    return [ConfigWarning("memory", what, "Use a machine with more memory, fewer devices, or a smaller [ring] max")]
