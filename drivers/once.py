"""Reads a device once, from Python: without configuration, without the agent, and without storing data."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePath
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from drivers.line import Line, LineConfig, open_line, target
from drivers.model import (
    DEFAULT_PERIODS_MS,
    PACES,
    ConfigError,
    DeviceSpec,
    Limits,
    Point,
    Reading,
    UsageError,
    clean_text,
)
from drivers.profile import Profile, default_dirs, find_profile, load_profile, select
from drivers.protocol import Driver
from drivers.registry import driver_class, line_urls
from drivers.serial_setting import DEFAULT_SERIAL, SerialSetting
from ext.ring import Ring

FIRMWARE = "device.firmware"
LONGEST_TIMEOUT_S = 600.0
_RING_BYTES = 1 << 16  # the smallest size of a ring; drivers need a ring, but nothing here reads from it
# The caller may have no log handler. Then warnings would go to stderr, although errors are raised anyway.
logging.getLogger("meterhouse").addHandler(logging.NullHandler())

Number = int | float | str | Decimal


def read_once(url: str, profile: str | Path, address: str | int, **options: Any) -> dict[str, Reading]:
    """Read the points of one device now. Arguments, result and errors are those of ``read_once_async``.

    Raises:
        RuntimeError: an event loop is running. Use ``await read_once_async(...)`` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(read_once_async(url, profile, address, **options))
    raise RuntimeError("read_once() was called where an event loop runs: use `await read_once_async(...)` there")


async def read_once_async(
    url: str,
    profile: str | Path,
    address: str | int,
    *,
    points: Iterable[str] = (),
    serial: str = "",
    params: Mapping[str, int | str] | None = None,
    ct: Number = 1,
    pt: Number = 1,
    timeout_s: float | None = None,
    zone: str = "",
    dirs: Iterable[Path] = (),
) -> dict[str, Reading]:
    """Read the points of one device now, in the variant selected by its own data. Nothing is written or stored.

    Args:
        url: the line as in agent.toml: ``serial:/dev/ttyUSB0``, ``tcp://HOST:PORT``, ``udp://HOST:PORT`` or a url with
            a protocol-specific scheme. The line is opened and closed again; no other program may use it meanwhile. A
            running agent keeps its serial ports locked.
        profile: an id (``eastron/sdm630``), or the path of a file that ends in ``.toml``.
        address: the device's address on its line: a unit number, or a meter's digits. As text it keeps leading zeros.
        points: names or patterns (``ac.power.*``); empty: all points of the profile.
        serial: the port's setting, such as ``9600 8N1``; "": the setting in the profile, else 9600 8N1. For ``tcp://``
            and ``udp://`` it gives the speed of the bus behind the converter.
        params: parameters of the profile.
        ct, pt: transformer ratios, for profiles whose points must be multiplied by them.
        timeout_s: time to the start of an answer, in seconds; None: as the profile says.
        zone: IANA name of the time zone of the meter's clock; "": the zone of this machine.
        dirs: folders of profiles that are searched before the usual ones.

    Returns:
        By point, in the profile's order. ``Reading.value`` is exact: a Decimal, an int or a str. It is None if there
        is no value; ``quality`` is then the Reason. A doubtful value has a Quality other than GOOD.

    Raises:
        UsageError: an argument has the wrong type or an impossible value.
        ConfigError: a url, an address, a serial setting or a ratio is wrong.
        ProfileError: the profile is unknown or wrong, or it has no such point or parameter.
        LineError: the line cannot be opened, or the device is silent (``LineTimeout``).
        All of them are GatewayError with ``where``, ``what`` and ``hint``; ``str`` combines all three.
    """
    _check_arguments(url, timeout_s, zone, dirs)
    found = _profile(profile, dirs)
    setting = serial or found.serial or DEFAULT_SERIAL
    baud = SerialSetting.parse(setting, "serial").baud
    scheme = url.partition(":")[0]
    config = LineConfig("", url, setting, baud if scheme in ("tcp", "udp") else None, Limits(timeout_s=timeout_s))
    target(config)
    place = str(address)
    ratios = _ratio(ct, "ct"), _ratio(pt, "pt")
    if any(ratio != 1 for ratio in ratios) and all(point.ratio != "apply" for point in found.points):
        what = f"has no effect: {found.id} states that the device applies the ratio itself, or measures directly"
        raise ConfigError(what, where="ct, pt", hint="Leave the ratio out, and check that the values are correct")
    patterns = [points] if isinstance(points, str) else list(points)

    def spec(firmware: str | None = None, identity: Mapping[str, str] | None = None) -> DeviceSpec:
        resolved = found.resolve(params, firmware, identity)
        return DeviceSpec(
            name=f"{place} at {url}",  # this name is shown in messages
            stream="local/read/device",
            address=place,
            protocol=found.protocol,
            profile=found.id,
            points=resolved.points,
            periods_ms=tuple(DEFAULT_PERIODS_MS[pace] for pace in PACES),
            limits=Limits(timeout_s=timeout_s).over(resolved.limits.on_line(scheme)),
            ratio_ct=ratios[0],
            ratio_pt=ratios[1],
            probe=found.probe,
            variant=resolved.variant,
            zone=zone,
            impossible=found.impossible,
            caching=found.caching or found.fresh is not None,
        )

    select(spec().points, patterns)  # raise an error for a wrong name before anything is sent
    line = open_line(config)
    try:
        readings = await read_variant(found, spec, line, lambda made: select(made.points, patterns))
    finally:
        await line.close()
    return {reading.name: reading for reading in readings}


async def read_variant(
    profile: Profile,
    make_spec: Callable[[str | None, Mapping[str, str] | None], DeviceSpec],
    line: Line,
    choose: Callable[[DeviceSpec], Iterable[Point]],
) -> list[Reading]:
    """Read a device once on an open line. The device's own data select the variant of the profile.

    Args:
        make_spec: returns the spec for the device's firmware and identity. Both are None as long as they are unknown.
        choose: returns the wanted points, in the order of the result.

    Raises LineError, ProfileError, ConfigError, and the errors of ``choose``.
    """
    with tempfile.TemporaryDirectory(prefix="meterhouse-read-") as folder:
        ring = Ring.create(f"{folder}/ring", _RING_BYTES, 0, 0, bytes(32))

        def driver(firmware: str | None = None, identity: Mapping[str, str] | None = None) -> Driver:
            spec = make_spec(firmware, identity)
            return driver_class(spec.protocol)(spec, line, ring, 0)

        try:
            device = driver()
            if profile.variants:
                names = {point.name for point in device.spec.points}
                wanted = [name for name in dict.fromkeys((*profile.identity_points, FIRMWARE)) if name in names]
                known = await device.read_points(wanted) if wanted else {}
                texts = {name: str(reading.value) for name, reading in known.items() if reading.value is not None}
                device = driver(texts.get(FIRMWARE), texts)
            found = await device.read_points([point.name for point in choose(device.spec)])
        finally:
            ring.close()
    return list(found.values())


def _profile(profile: str | Path, dirs: Iterable[Path]) -> Profile:
    folders = (*dirs, *default_dirs())
    if str(profile).endswith(".toml"):
        path = Path(profile)
        if not path.is_file():
            hint = "Or give an id, such as eastron/sdm630"
            raise ConfigError(f"file {str(profile)!r} does not exist", where="profile", hint=hint)
        return load_profile(path, (*path.resolve().parents[1:2], *folders))
    return load_profile(find_profile(str(profile), folders), folders)


def _check_arguments(url: object, timeout_s: object, zone: object, dirs: object) -> None:
    """Raise UsageError for invalid arguments, before anything is sent. A command line would have rejected them, too."""
    if not isinstance(url, str):
        raise UsageError(f"{url!r} is not the url of a line", where="url", hint=f"Write {line_urls()}")
    if timeout_s is not None:
        is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
        if not is_number or not 0 < timeout_s <= LONGEST_TIMEOUT_S:  # type: ignore[operator]
            hint = f"Seconds above 0, at most {LONGEST_TIMEOUT_S:g}, such as 1.5; None: as the profile says"
            raise UsageError(f"{timeout_s!r} is not a time-out", where="timeout_s", hint=hint)
    if isinstance(dirs, str | bytes | PurePath):
        hint = f'A list of folders, such as dirs=[Path("{clean_text(str(dirs))}")]'
        raise UsageError(f"{dirs!r} is one folder, not a list", where="dirs", hint=hint)
    try:
        if zone != "":
            ZoneInfo(zone)  # type: ignore[arg-type]
    except (ValueError, OSError, TypeError, AttributeError, ZoneInfoNotFoundError):
        hint = 'An IANA name, such as "Asia/Shanghai"; "": that of this machine'
        raise UsageError(f"{zone!r} is not a time zone", where="zone", hint=hint) from None


def _ratio(value: Number, name: str) -> Decimal:
    try:
        ratio = Decimal(str(value))
    except InvalidOperation:
        ratio = Decimal(0)
    if not ratio.is_finite() or ratio <= 0:
        hint = "A 400/5 A transformer has ct=80"
        raise ConfigError(f"{value!r} is not a ratio above 0", where=name, hint=hint)
    return ratio
