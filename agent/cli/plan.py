"""What the configured polls cost, by device and pace, and whether each line bears its share. Nothing is opened."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import Config, Note, device_spec, line_config
from agent.config.values import show_ms
from drivers.model import PACES, ConfigError, DeviceSpec, PlanSummary, ProfileError
from drivers.profile import Profile

ONCE = PACES.index("once")
FULL = 1.0
TIGHT = 0.8  # from here on a lost answer or two make it late
DEAD_SHARE = 0.1  # what the poller gives to all dead devices of a line


@dataclass(frozen=True, slots=True)
class PaceCost:
    """One device at one pace."""

    device: str
    line: str
    pace: str
    period_ms: int
    cost: PlanSummary

    @property
    def share(self) -> float:
        """Of the line's time; what is read once a day does not count."""
        return 0.0 if self.pace == "once" else self.cost.line_time_s * 1000 / self.period_ms

    def __str__(self) -> str:
        cost = self.cost
        return (
            f"{cost.requests} {_many('request', cost.requests)}, {cost.registers} {_many('register', cost.registers)} "
            f"for {cost.points} {_many('point', cost.points)}, {show_time(cost.line_time_s)} of line time"
        )


def _many(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def show_time(seconds: float) -> str:
    """Line time as a person reads it."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def plan_costs(config: Config, profiles: Mapping[str, Profile]) -> list[PaceCost]:
    """The cost of every pace that a device has points for, in the order of the configuration.

    Raises ConfigError or ProfileError where a driver cannot serve a device.
    """
    from drivers.line import open_line
    from drivers.registry import driver_class
    from ext.ring import Ring

    lines = {entry.name: open_line(line_config(entry)) for entry in config.lines}  # opens nothing before a request
    costs: list[PaceCost] = []
    with tempfile.TemporaryDirectory(prefix="meterhouse-check-") as folder:
        ring = Ring.create(str(Path(folder) / "ring"), 1 << 16, 0, 0, bytes(32))
        for device in config.devices:
            spec = device_spec(config, device, profiles[device.profile])
            if not spec.points:
                continue
            try:
                driver: Any = driver_class(spec.protocol)(spec, lines[device.line], ring, 0)
            except (ConfigError, ProfileError) as error:
                raise type(error)(error.what, where=f"device {device.name}: {error.where}", hint=error.hint) from error
            costs += [
                PaceCost(spec.name, device.line, pace, spec.periods_ms[n], driver.plan_summary(1 << n))
                for n, pace in enumerate(PACES)
                if spec.periods_ms[n] and has_pace(spec, pace)
            ]
        ring.close()
    return costs


def has_pace(spec: DeviceSpec, pace: str) -> bool:
    return any(point.pace == pace for point in spec.points)


def line_shares(costs: Sequence[PaceCost]) -> dict[str, float]:
    """How much of each line's time its polls need, if every answer comes at once."""
    shares: dict[str, float] = {}
    for cost in costs:
        shares[cost.line] = shares.get(cost.line, 0.0) + cost.share
    return shares


def plan_notes(costs: Sequence[PaceCost]) -> list[Note]:
    """Lines that cannot keep their paces, and single visits that are longer than their period."""
    notes: list[Note] = []
    for line, share in line_shares(costs).items():
        heaviest = max((cost for cost in costs if cost.line == line), key=lambda cost: cost.share)
        hint = f"Most of it is {heaviest.device} at the pace {heaviest.pace}, every {show_ms(heaviest.period_ms)}"
        if share > FULL:
            what = f"cannot keep its paces: they need {share:.0%} of its time; some ticks will be gaps (overload)"
            notes.append(Note(f"line {line}", what, f"{hint}. Read less often, fewer points, or at a higher baud rate"))
        elif share > TIGHT:
            notes.append(
                Note(f"line {line}", f"is busy for {share:.0%} of its time; a silent device makes it late", hint)
            )
    return notes
