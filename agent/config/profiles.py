"""Checks configured devices against their profiles, and combines both into the ``DeviceSpec`` that drivers need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.devices import DeviceRead, same_address
from agent.config.lines import place_of
from agent.config.tree import Config, ConfigWarning, DerivedConfig, DeviceConfig, LineEntry
from drivers.model import PACES, ConfigError, DeviceSpec, Limits, PlanSummary, Point, ProfileError
from drivers.night import Night
from drivers.profile import Profile, Resolved, concerned, find_profile, load_profile, select, shipped_dir
from drivers.registry import check_address, driver_class, has_registers, protocol_of
from drivers.toml import TomlTable
from drivers.toml import parsers as p

if TYPE_CHECKING:
    from drivers.line import Line, LineConfig
    from drivers.protocol import Driver
    from ext.ring import Ring

METERED_KINDS = frozenset((
    "meter", "inverter", "hybrid", "storage", "bms", "pcs", "heat", "cool", "water", "gas", "steam", "air", "charger",
))  # fmt: skip
ProfileSource = Callable[[str], Profile]  # returns the profile with an id; raises ProfileError


def site_profiles(site_dir: Path) -> ProfileSource:
    """Return a function that finds a profile by id: first in ``site_dir``, then in the shipped profiles.

    It reads each file only once.
    """
    dirs = (site_dir, shipped_dir())

    @cache
    def find(profile_id: str) -> Profile:
        return load_profile(find_profile(profile_id, dirs), dirs)

    return find


def line_config(entry: LineEntry) -> LineConfig:
    """Return the configuration of a line as drivers use it.

    If the line is a serial server (tcp or udp) without its own bus speed, the speed in the line's serial setting is
    used.
    """
    from drivers.line import LineConfig

    bus_baud = entry.bus_baud
    if bus_baud is None and entry.scheme in {"tcp", "udp"}:
        bus_baud = int(entry.serial.split()[0])
    return LineConfig(entry.name, entry.url, entry.serial, bus_baud, entry.limits, entry.echo, entry.rs485)


def check_profiles(
    devices: Sequence[DeviceRead],
    lines: Mapping[str, LineEntry],
    profiles: ProfileSource,
    notes: list[ConfigWarning],
    place: Night | None,
) -> tuple[DeviceConfig, ...]:
    """Check all devices against their profiles. Each mismatch becomes a complaint.

    Returns the devices with their final periods and accuracy classes, which depend on the profiles.
    """
    found: dict[str, Profile | None] = {}
    out: list[DeviceConfig] = []
    for device in devices:
        name = device.entry.profile
        if name and name not in found:
            found[name] = _find(device.table, name, profiles)
        profile = found.get(name)
        out.append(_check(device, lines.get(device.entry.line), profile, notes) if profile else device.entry)
    _note_spellings(devices, lines, found, notes)
    asleep = [entry.name for entry in out if (profile := found.get(entry.profile)) and sleeps(entry, profile)]
    if asleep and place is None:
        _note_sleepers(asleep, notes)
    return tuple(out)


def _note_spellings(
    devices: Sequence[DeviceRead],
    lines: Mapping[str, LineEntry],
    found: Mapping[str, Profile | None],
    notes: list[ConfigWarning],
) -> None:
    """Add a note for each device whose address is that of another device in another spelling, such as "7" and "07".

    ``read_devices`` notes equal spellings.
    """
    seen: dict[tuple[str, str, str], dict[str, TomlTable]] = {}  # (line, protocol on the wire, address) -> spellings
    for device in devices:
        entry, profile = device.entry, found.get(device.entry.profile)
        if profile is None or entry.line not in lines or not entry.address:
            continue
        protocol = protocol_of(profile.protocol)
        spellings = seen.setdefault((entry.line, protocol.wire_name, protocol.normal_address(entry.address)), {})
        if spellings and entry.address not in spellings:
            notes.append(same_address(device.table, next(iter(spellings.values()))))
        spellings.setdefault(entry.address, device.table)


def sleeps(device: DeviceConfig, profile: Profile) -> bool:
    """True if a device may sleep in the dark: its profile has ``sleeps``, and it has the role ``generation.pv``."""
    return profile.sleeps and "generation.pv" in device.roles.values()


def _note_sleepers(names: Sequence[str], notes: list[ConfigWarning]) -> None:
    """Add a note: the site's location is unknown, so the sleep of these devices at night will look like a fault."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    what = f"the site location is unknown, so a missing answer at night counts as a timeout for these devices: {shown}"
    hint = (
        "Add latitude and longitude to [site], in degrees; a device that does not answer at night then counts as asleep"
    )
    notes.append(ConfigWarning("site", what, hint))


def roleless(
    devices: Sequence[DeviceConfig], derived: Sequence[DerivedConfig], profiles: ProfileSource
) -> tuple[str, ...]:
    """Return the devices that measure energy or amounts, but that no figure includes.

    These devices have no role, and no derived point uses them.
    """
    used = {device for one in derived for device in (one.device, *(term[1] for term in one.terms))}
    out: list[str] = []
    for entry in devices:
        if entry.roles or entry.name in used:
            continue
        try:
            if profiles(entry.profile).kind in METERED_KINDS:
                out.append(entry.name)
        except ProfileError:  # another check reports this error
            continue
    return tuple(out)


def role_note(names: Sequence[str]) -> ConfigWarning:
    """Return a note that no figure includes these devices, because they have no role."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    hint = (
        'Write for example roles = { ac = "grid" }; other roles are load, generation.pv and storage; to '
        'leave a device out on purpose, give it a custom role "x.NAME"'
    )
    return ConfigWarning("roles", f"devices without a role are not included in any figure: {shown}", hint)


def _find(table: TomlTable, name: str, profiles: ProfileSource) -> Profile | None:
    try:
        return profiles(name)
    except ProfileError as error:
        for one in error.complaints:
            what = one.what if one.where == "profile" else f"{one.where}: {one.what}"
            table.complain(None, "profile", what, one.hint)
        return None


def _check(device: DeviceRead, line: LineEntry | None, profile: Profile, notes: list[ConfigWarning]) -> DeviceConfig:
    entry, table = device.entry, device.table
    scheme = line.scheme if line else ""
    if entry.address and (wrong := check_address(profile.protocol, entry.address, scheme)) is not None:
        table.complain(None, wrong.key, wrong.what, wrong.hint)
    try:
        resolved = profile.resolve(entry.params, reversed=entry.reversed)
    except ProfileError as error:
        for one in error.complaints:
            table.complain(None, "params", one.what, one.hint)
        return entry
    try:
        points = select(resolved.points, _patterns(entry))
    except ProfileError as error:
        table.complain(None, "points", f"{error.what} in profile {profile.id}", error.hint)
        points = resolved.points
    _prefixes(table, entry, resolved)
    _ratio(table, resolved, profile, notes)
    _serial_note(table, entry, line, profile, notes)
    _max_words(table, entry, profile, points, notes)
    accuracy = entry.accuracy or ({"": profile.accuracy} if profile.accuracy else {})
    return replace(entry, periods_ms=_periods(device, resolved.limits, points, profile, notes), accuracy=accuracy)


def _ratio(table: TomlTable, resolved: Resolved, profile: Profile, notes: list[ConfigWarning]) -> None:
    """Complain about a configured ratio that no point uses. If the device applies the ratio itself, only add a note."""
    ratios = {point.ratio for point in resolved.points}
    if not table.has("ratio") or "apply" in ratios:
        return
    hint = (
        "If `meterhouse read` shows the same values as the display, leave ratio out; if the device reports secondary "
        'values, write ratio = "apply" under [defaults] of the profile'
    )
    if "done" in ratios:
        what = f"has no effect: profile {profile.id} states that the device applies the ratio itself"
        notes.append(ConfigWarning(place_of(table, "ratio"), what, hint))
    else:
        what = (
            f"has no effect: profile {profile.id} states that the device applies the ratio itself, or that the meter "
            "measures directly and needs no ratio"
        )
        table.complain(None, "ratio", what, hint)


def _patterns(entry: DeviceConfig) -> tuple[str, ...]:
    return () if entry.points == ("*",) else entry.points


def _max_words(
    table: TomlTable, entry: DeviceConfig, profile: Profile, points: Sequence[Point], notes: list[ConfigWarning]
) -> None:
    """Check that one read of ``max_words`` can hold the longest value. A value is never split over two reads.

    If only a variant of the profile has a longer value, add a note, because the device may be of another variant.
    """
    most = entry.limits.max_words
    if not most or not has_registers(profile.protocol):
        return
    longest = max(points, key=lambda point: point.count, default=None)
    if longest and longest.count > most:
        what = f"{most} is less than the {longest.count} registers of the point {longest.name}"
        table.complain(None, "limits.max_words", what, "Raise max_words, or exclude the point with points = [...]")
        return
    for name, resolved in profile.each_variant(entry.params, entry.reversed):
        longest = max(_selected(resolved.points, entry), key=lambda point: point.count, default=None)
        if longest and longest.count > most:
            what = (
                f"{most} is less than the {longest.count} registers of the point {longest.name} of the variant {name}"
            )
            hint = (
                "Raise max_words, or exclude the point with points = [...]. Otherwise, a device that reports this "
                "variant is not read"
            )
            notes.append(ConfigWarning(f"{place_of(table, 'limits')}.max_words", what, hint))
            return


def _selected(points: Sequence[Point], entry: DeviceConfig) -> Sequence[Point]:
    """Return the configured points of a variant. Patterns that match none of its points are ignored."""
    try:
        return select(points, _patterns(entry))
    except ProfileError:
        patterns = [glob for glob in _patterns(entry) if _matches(points, glob)]
        return select(points, patterns) if patterns else ()


def _prefixes(table: TomlTable, entry: DeviceConfig, resolved: Resolved) -> None:
    """Check that the profile of the device has the parts that the device's configuration names."""
    spoken: list[tuple[str, str]] = [("reversed", part) for part in sorted(entry.reversed)]
    spoken += [(f"roles.{part}", part) for part in entry.roles] + [(f"parent.{part}", part) for part in entry.parent]
    spoken += [(f"class.{part}", part) for part in entry.accuracy]
    if not any(part for _, part in spoken):
        return
    names = [point.name for point in resolved.points]
    fronts = {name.rpartition(".")[0] for name in names} | {name.partition(".")[0] for name in names}
    for key, part in spoken:
        if part and not any(concerned(name, frozenset({part})) for name in names):
            where = key.partition(".")[0]
            what = f"the profile {entry.profile} has no points with the prefix {p.show(part)}"
            table.complain(
                None, where, what, p.did_you_mean(part, fronts, "The profile has points with these prefixes")
            )


def _periods(
    device: DeviceRead, limits: Limits, points: Sequence[Point], profile: Profile, notes: list[ConfigWarning]
) -> tuple[int, ...]:
    """Return the periods of a device in ms, by pace. A default period is raised to the minimum of the profile.

    A configured period below that minimum gets a complaint.
    """
    periods = list(device.entry.periods_ms)
    floor_ms = round((limits.min_every_s or 0) * 1000)
    used = {point.pace for point in points}
    for number, pace in enumerate(PACES):
        single = "every" if not isinstance(device.table.layers[0].raw.get("every"), dict) else f"every.{pace}"
        if pace in device.given_paces and pace not in used:
            notes.append(
                ConfigWarning(
                    place_of(device.table, single),
                    f"no point has the pace {pace}, so the polling period of this pace has no effect",
                )
            )
        if periods[number] >= floor_ms:
            continue
        if pace in device.given_paces:
            what = f"{p.show_ms(periods[number])} is faster than profile {profile.id} allows"
            device.table.complain(None, single, what, f'Write at least "{p.show_ms(floor_ms)}"')
        periods[number] = floor_ms
    return tuple(periods)


def _serial_note(
    table: TomlTable, entry: DeviceConfig, line: LineEntry | None, profile: Profile, notes: list[ConfigWarning]
) -> None:
    if not line or line.scheme != "serial" or not profile.serial:
        return
    own = entry.serial or line.serial
    if own != profile.serial:
        what = f"{own} is not the factory setting of {profile.id} ({profile.serial})"
        notes.append(
            ConfigWarning(
                place_of(table, "serial" if entry.serial else "line"),
                what,
                "The configured serial setting is right only if the serial setting in the device was changed",
            )
        )


def load_profiles(config: Config) -> dict[str, Profile]:
    """Load the profiles of all configured devices. Returns profiles by id. Raises ProfileError."""
    source = site_profiles(config.profiles_dir)
    return {device.profile: source(device.profile) for device in config.devices}


def device_spec(
    config: Config,
    device: DeviceConfig,
    profile: Profile,
    firmware: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> DeviceSpec:
    """Combine a device with its profile.

    Limits of the device take precedence over limits of the line, and these over limits of the profile.

    Args:
        firmware, identity: the values read from the device, which select variants of the profile; None if unknown.
    """
    resolved = profile.resolve(device.params, firmware, identity, device.reversed)
    points = tuple(_selected(resolved.points, device))
    # this point shows whether the other values are fresh, so it is read even if the device's patterns do not match it
    if profile.fresh and all(point.name != profile.fresh.point for point in points):
        points = (*points, *(point for point in resolved.points if point.name == profile.fresh.point))
    # these points show whether the zeros of other points are readings
    names = {point.name for point in points}
    globs = [glob for rule in profile.impossible for glob in rule.zeros_together]
    more = [point for point in resolved.points if any(fnmatchcase(point.name, glob) for glob in globs)]
    points = (*points, *(point for point in more if point.name not in names))
    line = config.line(device.line)
    return DeviceSpec(
        name=device.name,
        stream=f"{config.base}/{device.name}",
        address=device.address,
        protocol=profile.protocol,
        profile=profile.id,
        points=points,
        periods_ms=device.periods_ms,
        limits=device.limits.over(line.limits).over(resolved.limits.on_line(line.scheme)),
        label=device.label,
        phase_ms=device.phase_ms,
        reversed=device.reversed,
        own_port=line.scheme == "serial",
        ratio_ct=device.ratio_ct,
        ratio_pt=device.ratio_pt,
        probe=profile.probe,
        variant=resolved.variant,
        serial=device.serial,
        zone=config.timezone,
        night=config.place if sleeps(device, profile) else None,
        impossible=profile.impossible,
        caching=profile.caching or profile.fresh is not None,
        fresh=profile.fresh if profile.fresh and any(x.name == profile.fresh.point for x in points) else None,
    )


def make_driver(config: Config, spec: DeviceSpec, line: Line, ring: Ring, number: int) -> Driver:
    """Make the driver of a device. Raises ConfigError with the device's place in the configuration."""
    try:
        return driver_class(spec.protocol)(spec, line, ring, number)
    except (ConfigError, ProfileError) as error:
        own = error.where == f"device {spec.name}"
        what = error.what if own else f"{error.where}: {error.what}"
        raise ConfigError(what, where=config.at(f"device.{spec.name}"), hint=error.hint) from error


def visit_costs(driver: Driver) -> list[tuple[str, int, PlanSummary]]:
    """Return (pace, period in ms, cost of one visit) for each pace that points of the device have."""
    spec = driver.spec
    used = {point.pace for point in spec.points}
    return [
        (pace, spec.periods_ms[n], driver.plan_summary(1 << n))
        for n, pace in enumerate(PACES)
        if pace in used and spec.periods_ms[n]
    ]


def _matches(points: Sequence[Point], glob: str) -> bool:
    try:
        return bool(select(points, [glob]))
    except ProfileError:
        return False
