"""Finds the device of a command: a configured device by name, or any device by profile, line and address."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import available_timezones

from agent.cli.options import ConfigOptions, parse_params
from agent.config import Config, DeviceConfig, LineEntry, Secret, site_profiles
from agent.config import parsers as v
from agent.config.devices import address as parse_address
from agent.config.load import PROFILES_DIR
from drivers.model import ProfileError, UsageError, sentences
from drivers.registry import check_address, line_urls, named_on_lines
from drivers.serial_setting import DEFAULT_SERIAL
from drivers.toml import parsers as p

if TYPE_CHECKING:
    from drivers.profile import Profile

T = TypeVar("T")
Target = tuple[Config, DeviceConfig, "Profile"]


def configured_target(config: Config, name: str) -> Target:
    """Return the configured device with this name. Raises UsageError, which suggests existing names."""
    found = {device.name: device for device in config.devices}
    if name not in found:
        none = "The configuration has no [[device]] table yet"
        hint = p.did_you_mean(name, found, "Configured devices") if found else none
        raise UsageError(f"unknown device {p.show(name)}", where=str(config.path), hint=hint)
    device = found[name]
    return config, device, site_profiles(config.profiles_dir)(device.profile)


def named_line(options: ConfigOptions, line: str) -> LineEntry | None:
    """Return the configured line with this name; None if ``line`` is a url, or if there is no configuration.

    Raises UsageError or ConfigError.
    """
    if not v.NAME.match(line) or not os.path.exists(options.config_file):
        return None
    return line_by_name(options.load(), line)


def line_by_name(config: Config, line: str) -> LineEntry | None:
    """Return the configured line with this name; None if ``line`` is a url. Raises UsageError for an unknown name."""
    if not v.NAME.match(line):
        return None
    found = {one.name: one for one in config.lines}
    if line not in found:
        what = f"the line {p.show(line)} is not in the configuration {config.path}"
        near = (
            p.did_you_mean(line, found, "Configured lines") if found else "The configuration has no [[line]] table yet"
        )
        raise UsageError(what, where="--line", hint=sentences(near, f"Or give a url: {line_urls()}"))
    return found[line]


def adhoc_line(line: str, serial: str | None, usual: str, options: ConfigOptions) -> LineEntry:
    """Return a line by its url or its configured name. Raises UsageError, which names the option, or ConfigError.

    ``usual``: the serial setting for a url if ``--serial`` is not given; "" means the default setting.
    """
    if (named := named_line(options, line)) is not None:
        if serial and not named.carries_bytes:
            raise UsageError(
                f"has no effect on {named.scheme}",
                where="--serial",
                hint="The TCP gateway itself sets the serial parameters of its bus; leave this setting out",
            )
        return replace(named, serial=_value("--serial", v.serial, serial)) if serial else named
    setting = _value("--serial", v.serial, serial or usual or DEFAULT_SERIAL)
    entry = LineEntry(name="", url=_value("--line", v.line_url, line), serial=setting)
    if serial and not entry.carries_bytes:
        raise UsageError(
            f"has no effect on {entry.scheme}",
            where="--serial",
            hint="The TCP gateway itself sets the serial parameters of its bus; leave this setting out",
        )
    return entry


def adhoc_target(
    options: ConfigOptions,
    profile: str,
    line: str,
    address: str,
    serial: str | None = None,
    params: tuple[str, ...] = (),
    ratios: tuple[str, ...] = (),
    dirs: tuple[Path, ...] = (),
) -> Target:
    """Return a device that is not configured.

    Raises UsageError, which names the option, ConfigError or ProfileError.
    """
    found = load_profile_of(profile, dirs)
    entry = adhoc_line(line, serial, found.serial, options)
    ct, pt = _ratios(ratios, found)
    given = parse_params(params)
    for name in ("ct", "pt"):
        if name in given and name not in found.params:
            hint = f"Give a transformer ratio as --ratio {name}={given[name]}"
            raise UsageError(f"{found.id} has no parameter {p.show(name)}", where="--param", hint=hint)
    device = DeviceConfig(
        name="device",
        line=entry.name,
        address=_value("--address", parse_address, address),
        profile=found.id,
        params=given,
        ratio_ct=ct,
        ratio_pt=pt,
    )
    nowhere = Path("/nonexistent")
    config = Config(
        site="local",
        gateway="read",
        # meters keep local time, and the technician's computer is assumed to have the same time zone
        timezone=local_timezone(),
        key=Secret(file=nowhere),
        state_dir=nowhere,
        runtime_dir=nowhere,
        profiles_dir=PROFILES_DIR,
        files=(nowhere,),
        lines=(entry,),
        devices=(device,),
    )
    return config, device, found


def local_timezone(link: Path = Path("/etc/localtime")) -> str:
    """Return the name of this machine's time zone; "UTC" if it is not known."""
    own = os.environ.get("TZ", "").lstrip(":")
    name = own if own and own not in v.MACHINE_ZONES else os.path.realpath(link).partition("zoneinfo/")[2]
    return name if name in available_timezones() - v.MACHINE_ZONES else "UTC"


def demand_address(protocol: str, address: str, scheme: str, *, is_chosen: bool = True) -> None:
    """Raise UsageError if the address is invalid in this protocol.

    ``is_chosen``: True if the user can choose another protocol. The hint then names protocols that accept this address.
    """
    given_address = _value("--address", parse_address, address)
    wrong = check_address(protocol, given_address, scheme)
    if wrong is None or wrong.key != "address":
        return
    others = [name for name in named_on_lines() if name != protocol and not check_address(name, address, scheme)]
    # such an address is probably a typing error, so protocols that accept any text as an address are not suggested
    if not address.isdecimal():
        others = [name for name in others if check_address(name, "x", scheme)]
    more = f"For an address of another protocol, give --protocol {', '.join(others)}" if others and is_chosen else ""
    raise UsageError(wrong.what, where="--address", hint=sentences(wrong.hint, more))


def load_profile_of(profile: str, dirs: tuple[Path, ...] = (), option: str = "--profile") -> Profile:
    """Load a profile by the path of its file (which ends in .toml) or by its id. Raises UsageError or ProfileError."""
    from drivers.profile import default_dirs, find_profile, load_profile

    dirs = dirs or default_dirs()
    if profile.endswith(".toml"):
        path = Path(profile)
        if not path.is_file():
            raise UsageError(
                f"file {p.show(profile)} does not exist",
                where=option,
                hint="Give another path, or a profile id such as eastron/sdm630",
            )
        return load_profile(path, (*path.resolve().parents[1:2], *dirs))
    try:
        return load_profile(find_profile(_value(option, v.profile_id, profile), dirs), dirs)
    except ProfileError as error:
        if error.where != "profile":
            raise
        more = "For a profile of your own, give the path of its file, or its folder with --profiles DIR"
        raise ProfileError(error.what, where=error.where, hint=sentences(error.hint, more)) from None


def _ratios(texts: tuple[str, ...], profile: Profile) -> tuple[Decimal, Decimal]:
    """Return the ratios (ct, pt) from options such as ``--ratio ct=80``; 1 if a ratio is not given.

    Raises UsageError.
    """
    found = {"ct": Decimal(1), "pt": Decimal(1)}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in found:
            what = f"{p.show(text)} is not ct=NUMBER or pt=NUMBER"
            raise UsageError(what, where="--ratio", hint="Such as --ratio ct=80; a 400/5 A transformer has ct = 80")
        try:
            number: object = Decimal(value)
        except InvalidOperation:
            number = value
        found[name] = _value("--ratio", v.factor, number)
    if texts and all(point.ratio != "apply" for point in profile.points):
        what = f"has no effect: {profile.id} states that the device applies the ratio itself, or measures directly"
        raise UsageError(what, where="--ratio", hint="Leave the ratio out, and check that the values are correct")
    return found["ct"], found["pt"]


def _value(option: str, parse: Callable[[object], T], value: Any) -> T:
    try:
        return parse(value)
    except p.InvalidValue as wrong:
        raise UsageError(wrong.what, where=option, hint=wrong.hint) from None
