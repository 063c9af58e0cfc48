"""Waits for counters that the agent has not read yet. Counters of a slow pace are read once a minute or less often."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import click

from agent.cli.main_points import main_counter
from drivers.model import PACES, GatewayError, Reason

if TYPE_CHECKING:
    from agent.cli.ring_follower import Latest
    from agent.cli.watch.live_view import LiveView
    from agent.config import Config

LOOK_S: Final = 0.25  # pause between two reads of the ring
VISIT_S: Final = 30.0  # other devices on the line may delay a due reading for this long
USUAL_S: Final = 60.0  # the period that is assumed if the period of a counter is not known
LASTING: Final = frozenset({Reason.EXCEPTION, Reason.SENTINEL, Reason.ASLEEP, Reason.STALE_SOURCE})


@dataclass(slots=True)
class _Awaited:
    device: str
    latest: Latest
    heard_ns: int  # UTC time of the counter's last record before the wait; 0 if there was none
    most_s: float  # the counter's next reading is due within this time


def counter_of(view: LiveView, device: str, point: str = "") -> Latest | None:
    """Return the newest record of ``point`` or, if it is "", of the main counter.

    None: the device lacks the point.
    """
    rows = {key[1]: latest for key, latest in view.follower.latest.items() if key[0] == device}
    return rows.get(point or main_counter([(name, latest.point.kind) for name, latest in rows.items()]))


def wait_for_counters(view: LiveView, config: Config, wanted: Mapping[str, str], words: Mapping[str, str]) -> None:
    """Wait until each counter without a reading has been read, or its reading has failed.

    Does not wait for devices that do not answer. Prints each awaited counter, and the longest time until its next
    reading.

    Args:
        wanted: device -> name of the counter; "" means the main counter of the device.
        words: the texts in the language of the command.
    """
    waiting = list(_unread(view, config, wanted))
    for one in waiting:
        text = words["not yet"].format(device=one.device, point=one.latest.point.name, seconds=math.ceil(one.most_s))
        click.echo(text, err=True)
    give_up = time.monotonic() + max((one.most_s for one in waiting), default=0.0) + VISIT_S
    while waiting and time.monotonic() < give_up:
        time.sleep(LOOK_S)
        view.catch_up()
        waiting = [one for one in waiting if one.latest.time_ns == one.heard_ns and _may_answer(view, one.device)]


def _unread(view: LiveView, config: Config, wanted: Mapping[str, str]) -> Iterable[_Awaited]:
    for device, point in wanted.items():
        latest = counter_of(view, device, point)
        if latest is None or isinstance(latest.value, Decimal) or not _may_answer(view, device):
            continue
        if latest.time_ns and latest.quality in LASTING:
            continue
        yield _Awaited(device, latest, latest.time_ns, _until_next_s(config, device, latest.point.name))


def _may_answer(view: LiveView, device: str) -> bool:
    return view.snapshot.get("devices", {}).get(device, {}).get("life") in ("alive", "unknown")


def _until_next_s(config: Config, name: str, point: str) -> float:
    """Return the seconds until a point is due next."""
    from agent.config import site_profiles

    entry = next((device for device in config.devices if device.name == name), None)
    if entry is None:  # the configuration file has changed since the agent read it, and lacks this device
        return USUAL_S
    try:
        points = site_profiles(config.profiles_dir)(entry.profile).resolve(entry.params).points
    except GatewayError:
        return USUAL_S
    paces = {one.name: one.pace for one in points}
    period_ms = entry.periods_ms[PACES.index(paces[point])] if point in paces else 0
    return (period_ms - (time.time() * 1000 - entry.phase_ms) % period_ms) / 1000 if period_ms else USUAL_S
