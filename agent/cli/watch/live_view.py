"""Reads snapshot and ring of a running agent continuously. Continues after restarts and reloads of the agent."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from agent.cli.common import read_snapshot
from agent.cli.ring_follower import Follower, Latest, last_answer, tables_of
from drivers.model import UsageError

SNAPSHOT_EVERY_S = 2.0
SAMPLES = 32  # this many numbers are kept for each point, for its sparkline


def check_devices(snapshot: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise UsageError for the first name that the agent does not have.

    ``where``: source of the names, for the error.
    """
    known = snapshot.get("devices", {})
    for name in names:
        if name not in known:
            from drivers.toml.parsers import did_you_mean

            hint = did_you_mean(name, known, "Devices that the agent polls") if known else "The agent has no device"
            raise UsageError(f'the running agent has no device "{name[:40]}"', where=where, hint=hint)


class LiveView:
    """Snapshot and ring of the agent. The ring is reopened when the agent restarts or changes to another ring.

    Args:
        devices: names of the selected devices; an empty sequence selects all.
        patterns: globs; only points that match one of them are selected. An empty sequence selects all.
        keeps_history: True to collect the last numbers of each point in ``history``.
        snapshot_every_s: seconds between two reads of the snapshot. The ring is read at each call of ``news``.

    Raises:
        GatewayError: no agent runs in ``folder``, or its files cannot be read.
        UsageError: the agent does not have one of the devices, or no point matches.
    """

    def __init__(
        self,
        folder: Path,
        devices: Sequence[str],
        patterns: Sequence[str],
        keeps_history: bool = False,
        snapshot_every_s: float = SNAPSHOT_EVERY_S,
    ) -> None:
        self.folder, self._devices, self._patterns = folder, devices, patterns
        self._snapshot_every_s = snapshot_every_s
        self.snapshot = read_snapshot(folder)
        check_devices(self.snapshot, devices, "watch")
        self.history: dict[tuple[str, str], array[float]] | None = {} if keeps_history else None
        self.reads = 0  # number of times that the snapshot was read again
        self.follower = self._open()
        self._shown: list[Latest] = []
        self._of_device: dict[str, list[Latest]] = {}
        self._arrange()
        if patterns and not self._shown:
            self.close()
            hint = "`meterhouse status --points` lists the points"
            raise UsageError(f'no point matches "{patterns[0][:40]}"', where="watch", hint=hint)
        self._look_at = time.monotonic() + self._snapshot_every_s

    def _open(self) -> Follower:
        return Follower.open(self.folder, self.snapshot)

    def news(self) -> Iterator[Latest]:
        """Yield the point of each new record, if it is selected. Raises GatewayError if the agent has ended."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._snapshot_every_s
            self._look(read_snapshot(self.folder))
        for latest in self.follower.follow():
            if self.wanted(latest):
                if self.history is not None:
                    self._remember(latest)
                yield latest

    def _look(self, snapshot: Mapping[str, Any]) -> None:
        before, self.snapshot = self.snapshot, dict(snapshot)
        self.reads += 1
        if self.snapshot.get("ring") != before.get("ring"):
            old = self.follower
            self.follower = self._open()
            old.ring.close()
            # this was a reload and not a restart, so keep the newest records of the old ring
            if self.snapshot.get("boot") == before.get("boot"):
                for key, fresh in self.follower.latest.items():
                    if (known := old.latest.get(key)) is not None and known.time_ns:
                        known.point = fresh.point
                        self.follower.latest[key] = known
            elif self.history is not None:
                self.history.clear()
        elif self.snapshot.get("tables", {}).keys() != before.get("tables", {}).keys():
            self.follower.learn(self.snapshot)
        self._arrange()

    def _remember(self, latest: Latest) -> None:
        if latest.quality >= 128 or not isinstance(latest.value, Decimal):
            return
        assert self.history is not None
        key = latest.point.device, latest.point.name
        kept = self.history.get(key)
        if kept is None:
            kept = self.history[key] = array("f")
        elif len(kept) == SAMPLES:
            del kept[0]
        try:
            kept.append(float(latest.value))
        except OverflowError:  # the number is too large for a float of four bytes, so it is not drawn
            kept.append(float("inf"))

    def _arrange(self) -> None:
        """Sort the selected points in the order of the configuration file and of the profile."""
        newest = {device: points for _, device, points in tables_of(self.snapshot)}
        latest = self.follower.latest
        keys = [
            (device, str(point["n"])) for device in self.snapshot.get("devices", {}) for point in newest.get(device, ())
        ]
        found = [one for key in keys if (one := latest.get(key)) is not None]
        self._shown = [one for one in found if self.wanted(one)]
        self._of_device = {}
        for one in found:
            self._of_device.setdefault(one.point.device, []).append(one)

    def catch_up(self) -> None:
        """Read all new records, so that ``shown`` returns the newest values."""
        for _ in self.news():
            pass

    def wanted(self, latest: Latest) -> bool:
        """True if the point is selected by ``devices`` and ``patterns``."""
        point = latest.point
        if self._devices and point.device not in self._devices:
            return False
        return not self._patterns or any(fnmatchcase(point.name, glob) for glob in self._patterns)

    def last_answer(self, device: str) -> float | None:
        """Return the time of a device's last answer in UTC seconds; None if there was none."""
        return last_answer(self.snapshot.get("devices", {}).get(device, {}), self._of_device.get(device, ()))

    def shown(self) -> Sequence[Latest]:
        """Return all selected points with their newest records. Points that were never read are included."""
        return self._shown

    def close(self) -> None:
        """Close the ring."""
        self.follower.ring.close()
