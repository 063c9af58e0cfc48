"""Calculates how much time the configured polls take for each device and pace, and the load of each line.

Opens no port.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config import (
    Config,
    ConfigWarning,
    RingPlan,
    device_spec,
    file_system_bytes,
    gathered,
    line_config,
    make_driver,
    plan_ring,
    rate_of,
    visit_costs,
)
from drivers.model import ConfigError, PlanSummary
from drivers.profile import Profile
from drivers.toml.parsers import show_ms

FULL = 1.0
TIGHT = 0.8  # if a larger share of a line's time is used, one or two lost answers make the line late


@dataclass(frozen=True, slots=True)
class PaceCost:
    """The cost of polling one device at one pace."""

    device: str
    line: str
    pace: str
    period_ms: int
    cost: PlanSummary

    @property
    def share(self) -> float:
        """The share of the line's time that these polls use. Points that are read once a day are not included."""
        return 0.0 if self.pace == "once" else self.cost.line_time_s * 1000 / self.period_ms

    def __str__(self) -> str:
        cost = self.cost
        return (
            f"{cost.requests} {_many('request', cost.requests)}, {cost.registers} {_many('register', cost.registers)} "
            f"for {cost.points} {_many('point', cost.points)}; line busy for {show_time(cost.line_time_s)}"
        )


def _many(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def show_time(seconds: float) -> str:
    """Return a time on the line as text."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def plan_costs(config: Config, profiles: Mapping[str, Profile]) -> list[PaceCost]:
    """Return the cost of each device at each pace of its points, in the order of the configuration.

    Raises ConfigError with one complaint for each device that its driver rejects.
    """
    from drivers.line import open_line
    from ext.ring import Ring

    lines = {entry.name: open_line(line_config(entry)) for entry in config.lines}  # this opens no port yet
    costs: list[PaceCost] = []
    wrong: list[ConfigError] = []
    with tempfile.TemporaryDirectory(prefix="meterhouse-check-") as folder:
        ring = Ring.create(str(Path(folder) / "ring"), 1 << 16, 0, 0, bytes(32))
        for device in config.devices:
            spec = device_spec(config, device, profiles[device.profile])
            if not spec.points:
                continue
            try:
                driver = make_driver(config, spec, lines[device.line], ring, 0)
            except ConfigError as error:
                wrong.append(error)
                continue
            costs += [
                PaceCost(spec.name, device.line, pace, period_ms, cost) for pace, period_ms, cost in visit_costs(driver)
            ]
        ring.close()
    if wrong:
        raise gathered(wrong, str(config.path))
    return costs


def line_shares(costs: Sequence[PaceCost]) -> dict[str, float]:
    """Return line -> share of the line's time that its polls need if every answer comes without delay."""
    shares: dict[str, float] = {}
    for cost in costs:
        shares[cost.line] = shares.get(cost.line, 0.0) + cost.share
    return shares


def ring_of(config: Config, costs: Sequence[PaceCost]) -> RingPlan:
    """Return the size that the ring will have on this machine, with the values from which it is computed."""
    rate = rate_of((cost.cost, cost.period_ms) for cost in costs)
    return plan_ring(config.ring, rate, config.pack.every_ms, file_system_bytes(config.runtime_dir))


def plan_notes(costs: Sequence[PaceCost]) -> list[ConfigWarning]:
    """Return warnings about overloaded lines, and about long visits during which other devices miss ticks."""
    notes: list[ConfigWarning] = []
    for line, share in line_shares(costs).items():
        heaviest = max((cost for cost in costs if cost.line == line), key=lambda cost: cost.share)
        hint = (
            f"Device {heaviest.device} needs the largest share of the line's time: its points at pace {heaviest.pace} "
            f"are read every {show_ms(heaviest.period_ms)}"
        )
        if share > FULL:
            what = (
                f"cannot keep up: its devices need {share:.0%} of the line's time; some readings will be "
                "missing (overload)"
            )
            notes.append(
                ConfigWarning(
                    f"line {line}", what, f"{hint}. Read fewer points, read them less often, or raise the baud rate"
                )
            )
        elif share > TIGHT:
            notes.append(
                ConfigWarning(
                    f"line {line}",
                    f"is busy for {share:.0%} of the time; a device that does not respond would delay the others",
                    hint,
                )
            )
        if share <= FULL and (long := _long_visit([cost for cost in costs if cost.line == line])):
            notes.append(ConfigWarning(f"line {line}", *long))
    return notes


def _long_visit(costs: Sequence[PaceCost]) -> tuple[str, str] | None:
    """Return a warning (what, hint) if other devices on this line miss a tick while one device is read; else None."""
    visits: dict[str, float] = {}
    for cost in costs:
        if cost.pace != "once":
            visits[cost.device] = visits.get(cost.device, 0.0) + cost.cost.line_time_s
    for cost in sorted(costs, key=lambda cost: cost.period_ms):
        others = [(seconds, device) for device, seconds in visits.items() if device != cost.device]
        seconds, device = max(others, default=(0.0, ""))
        if seconds * 1000 > 2 * cost.period_ms:
            what = f"reading all points of {device} takes {show_time(seconds)}"
            missed = (
                f"during this time, {cost.device} cannot be read every {show_ms(cost.period_ms)}, so some of its "
                "readings will be missing (overload)"
            )
            hint = f"Read fewer points of {device}, or read {cost.device} less often"
            return f"{what}; {missed}", hint
    return None
