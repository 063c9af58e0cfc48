"""Makes the specs of devices, and the point tables for their births.

A birth is a signed statement of how readings are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.config import Config, DerivedConfig, DeviceConfig, device_spec, site_profiles
from agent.pack import BirthPoints, BirthTable, Facts, changes, seconds
from agent.poll import DevicePoll
from agent.service.recent_readings import Stillness
from agent.service.seal_jobs import Stream
from drivers.encoding import exact_text
from drivers.line import Line
from drivers.model import PACES, DeviceSpec, FreshnessRule, Point
from drivers.night import DARK_BELOW_DEG
from drivers.plan import range_of
from drivers.profile import Profile, vocabulary

MAX_PLAN_BYTES = 48 << 10  # if the text of the plan has more bytes, the birth contains only the hash of this text
Kind = tuple[object, ...]  # devices that differ only in their address have the same kind, and share points and tables


@dataclass(slots=True)
class RunningDevice:
    """One device in the running agent."""

    config: DeviceConfig
    catalog: DeviceCatalog  # the catalog of the configuration that ``config`` belongs to
    line: Line
    stream: Stream
    poll: DevicePoll
    identity: dict[str, str | None] | None = None  # item -> value; None: the device is not identified yet
    stillness: Stillness = field(default_factory=Stillness)
    swapped: dict[str, Any] | None = None  # if another device answers: since when, and how it differs; otherwise None

    @property
    def profile(self) -> Profile:
        """The profile of the device."""
        return self.catalog.profile(self.config)


def known_devices(rows: Mapping[str, tuple[bytes | None, bytes | None]]) -> dict[str, Facts]:
    """Return the stored facts about devices, by stream. ``rows``: (facts, quirks) of each stream, as in the store."""
    found = {stream: Facts.decode(facts) for stream, (facts, _) in rows.items() if facts is not None}
    return {stream: facts for stream, facts in found.items() if facts is not None}


class DeviceCatalog:
    """The specs and point tables of all devices of a configuration. Devices of the same kind share their points.

    Raises ProfileError if a profile was removed after the check of the configuration.

    Args:
        known: the known facts about devices, by stream. The agent updates this dict and passes it to the next catalog.
        start_ms: the start of the first counter epoch of a device without known facts.
    """

    def __init__(self, config: Config, known: dict[str, Facts] | None = None, start_ms: int = 0) -> None:
        self._config = config
        self.known: dict[str, Facts] = {} if known is None else known
        self._first_epoch = start_ms // 1000
        find = site_profiles(config.profiles_dir)
        self._profiles = {device.profile: find(device.profile) for device in config.devices}
        self._points: dict[Kind, tuple[Point, ...]] = {}
        self._tables: dict[Kind, BirthPoints] = {}
        # Specs and tables of devices that are not identified yet are cached, because a start needs most of them twice
        # within a second.
        self._plain_specs: dict[str, DeviceSpec] = {}
        self._plain_tables: dict[str, BirthTable] = {}

    def profile(self, device: DeviceConfig) -> Profile:
        """Return the profile of a device."""
        return self._profiles[device.profile]

    def spec(self, device: DeviceConfig, identity: Mapping[str, str | None] | None = None) -> DeviceSpec:
        """Return the spec that the driver of a device needs. ``identity``: the known items of the device's identity."""
        known = {name: text for name, text in (identity or {}).items() if text is not None}
        if not known and device.name in self._plain_specs:
            return self._plain_specs[device.name]
        profile = self.profile(device)
        spec = device_spec(self._config, device, profile, known.get("device.firmware"), known)
        points = self._points.setdefault(self._kind(device, spec), spec.points)
        if points is not spec.points:
            spec = replace(spec, points=points)
        if not known:
            self._plain_specs[device.name] = spec
        return spec

    def table(
        self,
        device: DeviceConfig,
        spec: DeviceSpec,
        identity: Mapping[str, str | None] | None = None,
        epoch: int | None = None,
    ) -> BirthTable:
        """Return the point table for a birth of this device.

        ``epoch``: its counter epoch; None: the epoch does not change.
        """
        if epoch is None:
            epoch = self.known[spec.stream].epoch if spec.stream in self.known else self._first_epoch
        is_plain = not any(text is not None for text in (identity or {}).values())
        plain = self._plain_tables.get(device.name) if is_plain else None
        if plain is not None and plain.facts.epoch == epoch:
            return plain
        kind = (*self._kind(device, spec), spec.periods_ms, spec.phase_ms)
        if kind not in self._tables:
            self._tables[kind] = BirthPoints([point_row(point, spec, vocabulary().senml) for point in spec.points])
        front = device_front(self._config, device, spec, self.profile(device), identity) | {"epoch": epoch}
        table = BirthTable(spec.stream, front, self._tables[kind])
        before = self.known.get(spec.stream)
        if before is not None and before.epoch == epoch and changes(before, table.facts):
            # the device has changed: the store must keep the old facts until the event about the change is stored
            table.met = False
        if is_plain:
            self._plain_tables[device.name] = table
        return table

    def gateway_table(self, stream: str, version: str) -> BirthTable:
        """Return the point table of the gateway's own stream."""
        return BirthTable(stream, gateway_table(self._config, version))

    def results_table(self, stream: str, version: str) -> BirthTable:
        """Return the point table of the stream ``_indicators``."""
        return BirthTable(stream, results_table(self._config, version))

    @staticmethod
    def _kind(device: DeviceConfig, spec: DeviceSpec) -> Kind:
        params = tuple(sorted(device.params.items()))
        return (device.profile, params, device.points, spec.variant, spec.reversed)


def gateway_table(config: Config, version: str) -> dict[str, Any]:
    """Make the table of the stream ``_gateway``. It describes the gateway and has no points."""
    return {
        "config": config.hash(),
        "device": {
            "address": None,
            "evidence": None,
            "firmware": version,
            "identity": None,
            "label": config.site_label,
            "parent": {},
            "profile": None,
            "profile_hash": None,
            "protocol": None,
            "ratio": None,
            "reversed": [],
            "roles": {},
            "variant": None,
        },
        "points": [],
    }


def results_table(config: Config, version: str) -> dict[str, Any]:
    """Make the table of the stream ``_indicators``, with the interval settings and the text of the site's plan.

    A verifier recomputes the figures from this table, the shipped sets of indicators, and the packs. If the plan is
    larger than 48 KiB, the table contains only its hash.
    """
    entry = config.interval
    cut = {
        "demand": [entry.demand_period_ms / 1000, entry.demand_slip_ms / 1000],
        "length": entry.length_ms / 1000,
        "max_gap": entry.max_gap_ms / 1000,
        "timezone": config.timezone,
    }
    plan: dict[str, Any] | None = None
    if config.indicators.plan is not None:
        plan = {"hash": config.indicators.plan_hash}
        raw = config.indicators.plan_text
        if len(raw) <= MAX_PLAN_BYTES:
            plan["text"] = raw.decode()
    table = {**gateway_table(config, version), "interval": cut, "plan": plan}
    if config.derived:
        table["derived"] = [derived_row(one) for one in config.derived]
    return table


def derived_row(one: DerivedConfig) -> dict[str, Any]:
    """Return a derived point as births describe it.

    The birth of the results describes all derived points. The birth of a device describes only the derived heat
    that is computed from the points of this device.
    """
    if one.terms:
        return {
            "n": one.name,
            "sum": [f"{'-' if sign < 0 else ''}{device}/{point}" for sign, device, point in one.terms],
        }
    heat = {"device": one.device, "flow": one.flow, "supply": one.supply, "return": one.back}
    return {"n": one.name, "heat": heat} | ({"role": one.role} if one.role else {})


def derived_rows(config: Config, device: str) -> list[dict[str, Any]]:
    """Return the derived heat that the birth of a device describes."""
    return [derived_row(one) for one in config.derived if one.device == device]


def device_front(
    config: Config,
    device: DeviceConfig,
    spec: DeviceSpec,
    profile: Profile,
    identity: Mapping[str, str | None] | None,
) -> dict[str, Any]:
    """Make the table of one device, without its points.

    Args:
        identity: the items that the device reports, such as ``device.serial``. None: it is not identified yet.
    """
    reported = {name.removeprefix("device."): text for name, text in (identity or {}).items()}
    firmware = reported.pop("firmware", None)
    more: dict[str, Any] = {"caching": True, "fresh": _fresh(spec.fresh)} if spec.caching else {}
    if spec.night is not None:
        place = {"latitude": exact_text(spec.night.latitude), "longitude": exact_text(spec.night.longitude)}
        more["sleeps"] = {**place, "sun_below": f"{DARK_BELOW_DEG:g}"}
    if device.accuracy:
        more["class"] = dict(device.accuracy)
    if derived := derived_rows(config, device.name):
        more["derived"] = derived
    return {
        "config": config.hash(),
        "device": {
            "address": spec.address,
            "evidence": profile.evidence,
            "firmware": firmware,
            "identity": reported or None,
            "label": device.label,
            "parent": dict(device.parent),
            "profile": profile.id,
            "profile_hash": profile.hash,
            "protocol": spec.protocol,
            "ratio": {"ct": exact_text(spec.ratio_ct), "pt": exact_text(spec.ratio_pt)},
            "reversed": sorted(spec.reversed),
            "roles": dict(device.roles),
            "variant": spec.variant or None,
            **more,
        },
    }


def _fresh(rule: FreshnessRule | None) -> dict[str, Any] | None:
    """Return the rule by which a caching master proves that its source is alive, as births state it.

    None: there is no proof, so the master may repeat old values.
    """
    if rule is None:
        return None
    how = {"equals": rule.equals, "changes_within": rule.changes_within_s}
    return {"point": rule.point, **{name: value for name, value in how.items() if value is not None}}


def point_row(point: Point, spec: DeviceSpec, senml_units: frozenset[str]) -> dict[str, Any]:
    """Return one element of a table's ``points``.

    ``senml_units``: the units of SenML. One of these is in the member ``u``, any other unit in the member ``du``.
    """
    period = spec.periods_ms[PACES.index(point.pace)] if point.pace != "once" else 0
    out: dict[str, Any] = {
        "n": point.name,
        "kind": point.kind.value,
        "pace": point.pace,
        "period": seconds(period) if period else None,
        "phase": seconds(spec.phase_ms),
    }
    if point.unit:
        out["u" if point.unit in senml_units else "du"] = point.unit
    out["source"] = _source(point)
    low, high = range_of(point, spec)
    for name, value in (
        ("range", [exact_text(low), exact_text(high)] if low is not None and high is not None else []),
        ("bits", point.bits),
        ("digits", point.digits),
        ("ratio", point.ratio),
        ("labels", {str(raw): label for raw, label in point.labels.items()}),
        ("bit_labels", {str(bit): label for bit, label in point.bit_labels.items()}),
        ("states", {str(raw): state for raw, state in point.states.items()}),
    ):
        if value:
            out[name] = value
    return out


def _source(point: Point) -> dict[str, Any]:
    """Describe where the bytes of a value are, and how to decode them."""
    source: dict[str, Any] = {"type": point.type} if point.type else {}
    if point.key:
        source["key"] = point.key
    else:
        source |= {"function": point.function, "address": point.address, "count": point.count}
    if point.clock:
        source["clock"] = point.clock
    if point.order:
        source["order"] = point.order
    if point.bit is not None:
        source["bit"] = point.bit
    if point.mask is not None:
        source["mask"] = point.mask
    if point.scale != 1:
        source["scale"] = exact_text(point.scale)
    if point.offset:
        source["offset"] = exact_text(point.offset)
    if point.parts:
        source["parts"] = [
            {"address": part.address, "type": part.type, "scale": exact_text(part.scale)} for part in point.parts
        ]
    return source
