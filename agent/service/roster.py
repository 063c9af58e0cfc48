"""The devices of a configuration with their drivers, and the point tables that births carry.

A hundred inverters of one family share their points: specs and tables are made once for each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.config import Config, DeviceConfig, device_spec, site_profiles
from agent.pack import Facts, PointTable, StreamTable, changes
from agent.poll import DevicePoll
from agent.service.births import ProfileSource, device_front, gateway_table, point_rows, results_table
from agent.service.seal_jobs import Stream
from drivers.line import Line
from drivers.model import DeviceSpec, Point
from drivers.profile import Profile, vocabulary

Kind = tuple[object, ...]  # what makes two devices the same but for their address


@dataclass(slots=True)
class Device:
    """One device in the running agent."""

    config: DeviceConfig
    roster: DeviceCatalog  # of the configuration that it was made of
    line: Line
    stream: Stream
    poll: DevicePoll
    identity: dict[str, str | None] | None = None  # None: not met yet

    @property
    def profile(self) -> Profile:
        """The family that it belongs to."""
        return self.roster.profile(self.config)


def known_devices(rows: Mapping[str, tuple[bytes | None, bytes | None]]) -> dict[str, Facts]:
    """What the store knows of the devices behind streams."""
    found = {stream: Facts.decode(facts) for stream, (facts, _) in rows.items() if facts is not None}
    return {stream: facts for stream, facts in found.items() if facts is not None}


class DeviceCatalog:
    """Specs and tables of all devices. Raises ProfileError where a profile is gone since the check.

    Args:
        known: by stream, what is known of devices from before; kept up to date here, and handed on to the next roster.
        start_ms: the counter epoch of a device that nothing is known of begins here.
    """

    def __init__(self, config: Config, known: dict[str, Facts] | None = None, start_ms: int = 0) -> None:
        self._config = config
        self.known: dict[str, Facts] = {} if known is None else known
        self._first_epoch = start_ms // 1000
        find = site_profiles(config.profiles_dir)
        self._profiles = {device.profile: find(device.profile) for device in config.devices}
        self._points: dict[Kind, tuple[Point, ...]] = {}
        self._tables: dict[Kind, PointTable] = {}

    def profile(self, device: DeviceConfig) -> Profile:
        """The family of a device."""
        return self._profiles[device.profile]

    def spec(self, device: DeviceConfig, identity: Mapping[str, str | None] | None = None) -> DeviceSpec:
        """What the driver needs, for an identity as far as it is known."""
        known = {name: text for name, text in (identity or {}).items() if text is not None}
        profile = self.profile(device)
        spec = device_spec(self._config, device, profile, known.get("device.firmware"), known)
        points = self._points.setdefault(self._kind(device, spec), spec.points)
        return spec if points is spec.points else replace(spec, points=points)

    def table(
        self,
        device: DeviceConfig,
        spec: DeviceSpec,
        identity: Mapping[str, str | None] | None = None,
        epoch: int | None = None,
    ) -> StreamTable:
        """The table of a birth of this device; ``epoch`` None: the one that is known."""
        if epoch is None:
            epoch = self.known[spec.stream].epoch if spec.stream in self.known else self._first_epoch
        kind = (*self._kind(device, spec), spec.periods_ms, spec.phase_ms)
        if kind not in self._tables:
            self._tables[kind] = PointTable(point_rows(spec, vocabulary().senml))
        profile = self.profile(device)
        source = ProfileSource(profile.id, profile.hash, profile.evidence)
        front = device_front(self._config, device, spec, source, identity) | {"epoch": epoch}
        table = StreamTable(spec.stream, front, self._tables[kind])
        before = self.known.get(spec.stream)
        if before is not None and before.epoch == epoch and changes(before, table.facts):
            table.met = False  # a change that is not told yet, which a restart must find again
        return table

    def gateway_table(self, stream: str, version: str) -> StreamTable:
        """The table of the gateway's own stream."""
        return StreamTable(stream, gateway_table(self._config, version))

    def results_table(self, stream: str, version: str) -> StreamTable:
        """The table of the stream of results."""
        return StreamTable(stream, results_table(self._config, version))

    @staticmethod
    def _kind(device: DeviceConfig, spec: DeviceSpec) -> Kind:
        params = tuple(sorted(device.params.items()))
        return (device.profile, params, device.points, spec.variant, spec.reversed)
