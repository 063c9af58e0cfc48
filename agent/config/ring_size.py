"""The size of the ring: it holds all readings until they are sealed, even while the store stalls."""

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
MAX_RING_BYTES = 4 << 30  # for a configured size
AUTO_BYTES = 16 << 20  # minimum for "auto": with it a full disk costs a small site nothing for minutes or hours
SLOT_BYTES = 16  # a value takes one slot,
HEAD_SLOTS = 2  # the head of an answer takes two
AGENT_BYTES = 64 << 20  # memory of an agent without devices, ...
DEVICE_BYTES = 96 << 10  # ... and of each device of 100 points: bench/RESULTS.md
MEMORY_SHARE = 0.6  # share of the machine's memory that the unit allows (MemoryHigh=)
STALL_MS = 10_000  # the store may stall for this long
MARGIN = 1.25
SHARE = 4  # a computed size is at most this fraction of the runtime directory's file system


@dataclass(frozen=True, slots=True)
class ReadingRate:
    """Readings and ring slots per second when all devices answer."""

    readings: float = 0.0
    slots: float = 0.0


@dataclass(frozen=True, slots=True)
class RingPlan:
    """The size of a ring, and why. Sizes are powers of two, in bytes."""

    size_bytes: int
    need_bytes: int  # for one interval and a stalled store
    limit_bytes: int  # for a computed size
    by_file_system: bool  # ``limit_bytes`` is a fraction of the file system, else ``[ring] max``
    rate: ReadingRate
    every_ms: int  # the pack interval

    @property
    def full_s(self) -> float:
        """How long it can hold readings; infinite if there are none."""
        return self.size_bytes / SLOT_BYTES / self.rate.slots if self.rate.slots else float("inf")

    @property
    def early_s(self) -> float | None:
        """When it is half full, so that sealing begins early; None: the pack interval is shorter."""
        return self.full_s / 2 if self.full_s / 2 < self.every_ms / 1000 else None

    def __str__(self) -> str:
        """For ``check --plan``."""
        return (
            f"{self.rate.readings:,.0f} readings a second need {show_bytes(self.need_bytes)} for packs every "
            f"{show_ms(self.every_ms)} and a store that stalls for {show_ms(STALL_MS)}; it has "
            f"{show_bytes(self.size_bytes)}"
        )


def rate_of(visits: Iterable[tuple[PlanSummary, int]]) -> ReadingRate:
    """The rate of visits, each with its period in ms."""
    readings = slots = 0.0
    for cost, period_ms in visits:
        readings += cost.points * 1000 / period_ms
        slots += (cost.points + HEAD_SLOTS * cost.requests) * 1000 / period_ms
    return ReadingRate(readings, slots)


def reading_rate(
    config: Config, devices: Iterable[tuple[DeviceConfig, DeviceSpec]], lines: Mapping[str, Line], ring: Ring
) -> ReadingRate:
    """The rate of these devices. A device that its driver cannot serve counts as zero.

    Devices that share their points and differ only in name and address are planned once.

    Args:
        ring: drivers need one; nothing is written into it.
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
    except (ConfigError, ProfileError):  # reported when the device is made
        return []


def file_system_bytes(folder: Path) -> int:
    """The size of the file system of a directory, which may not exist yet."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


def plan_ring(config: RingConfig, rate: ReadingRate, every_ms: int, file_system: int) -> RingPlan:
    """The size of the ring for a rate of readings.

    It holds one pack interval and a stall of the store, with a margin, or two intervals if that is longer. In that case
    half of it holds an interval, and sealing begins early only if the store stalls.

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
    """Approximate memory of the agent, including the ring in its runtime directory."""
    return AGENT_BYTES + DEVICE_BYTES * devices + plan.size_bytes


def _at_least(size: float) -> int:
    """The smallest valid ring size that is at least this."""
    return max(MIN_RING_BYTES, 1 << max(0, int(-(-size // 1)) - 1).bit_length())


def _at_most(size: int) -> int:
    """The largest valid ring size that is at most this."""
    return max(MIN_RING_BYTES, 1 << max(0, size.bit_length() - 1))


def ring_notes(config: Config, plan: RingPlan) -> list[ConfigWarning]:
    """Notes on a size that differs from the configured one or is less than needed."""
    notes: list[ConfigWarning] = []
    written = config.ring.size_bytes
    if written is not None and written < min(plan.need_bytes, plan.size_bytes):
        what = f"{show_bytes(written)} is less than the {show_bytes(plan.need_bytes)} that the devices need; "
        notes.append(
            ConfigWarning(
                config.at("ring.size"),
                f"{what}raised to {show_bytes(plan.size_bytes)}",
                'Write size = "auto", or leave it out',
            )
        )
    elif written is not None and _at_most(written) != written:
        what = f"{show_bytes(written)} becomes {show_bytes(_at_most(written))}"
        notes.append(ConfigWarning(config.at("ring.size"), what, "A ring's size is a power of two"))
    if plan.size_bytes < plan.need_bytes:
        limit = f"a quarter of the file system of {config.runtime_dir}" if plan.by_file_system else "ring.max"
        what = (
            f"the devices need {show_bytes(plan.need_bytes)}, but {limit} allows {show_bytes(plan.limit_bytes)}; the "
            f"ring is full {plan.full_s:.1f} s after the store stalls, then readings become gaps (ring)"
        )
        if plan.early_s is not None:
            what += f"; packs are sealed after {plan.early_s:.1f} s already, when the ring is half full"
        remedy = "Enlarge that file system" if plan.by_file_system else f'Raise it to "{show_bytes(plan.need_bytes)}"'
        notes.append(ConfigWarning("ring", what, f"{remedy}, seal more often ([pack] every), or read less often"))
    return notes


def memory_notes(config: Config, plan: RingPlan, machine: int) -> list[ConfigWarning]:
    """A note if the machine's memory is not enough. ``machine``: its memory in bytes."""
    need, share = memory_bytes(len(config.devices), plan), int(machine * MEMORY_SHARE)
    if need <= share:
        return []
    what = f"the agent needs about {need >> 20} MiB, and its unit allows {share >> 20} MiB of {machine >> 20} MiB"
    return [ConfigWarning("memory", what, "Use a larger machine, fewer devices, or a smaller [ring] max")]
