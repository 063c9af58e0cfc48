"""The device of a command: a configured one by name, or any by profile, line and address."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import available_timezones

from agent.cli.options import parse_params
from agent.config import Config, DeviceConfig, LineEntry, Secret, site_profiles
from agent.config import parsers as v
from agent.config.devices import address as parse_address
from agent.config.load import PROFILES_DIR
from drivers.model import UsageError
from drivers.serial_setting import DEFAULT_SERIAL
from drivers.toml import parsers as p

if TYPE_CHECKING:
    from drivers.profile import Profile

T = TypeVar("T")
Target = tuple[Config, DeviceConfig, "Profile"]


def configured_target(config: Config, name: str) -> Target:
    """A device of the configuration. Raises UsageError with the nearest name."""
    found = {device.name: device for device in config.devices}
    if name not in found:
        hint = p.did_you_mean(name, found, "It has") if found else "It has none yet"
        raise UsageError(f"unknown device {p.show(name)}", where=str(config.path), hint=hint)
    device = found[name]
    return config, device, site_profiles(config.profiles_dir)(device.profile)


def adhoc_target(profile: str, line: str, address: str, serial: str | None, params: tuple[str, ...]) -> Target:
    """A device without configuration. Raises UsageError naming the option, or ProfileError."""
    found = _profile(profile)
    setting = _value("--serial", v.serial, serial or found.serial or DEFAULT_SERIAL)
    entry = LineEntry(name="", url=_value("--line", v.line_url, line), serial=setting)
    if serial and entry.scheme == "modbus-tcp":
        raise UsageError("has no effect on modbus-tcp", where="--serial", hint="The gateway sets its bus itself")
    device = DeviceConfig(
        name="device",
        line=entry.name,
        address=_value("--address", parse_address, address),
        profile=found.id,
        params=parse_params(params),
    )
    nowhere = Path("/nonexistent")
    config = Config(
        site="local",
        gateway="read",
        timezone=local_timezone(),  # meters keep local time, and a technician's clock is set to it
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
    """The name of this machine's time zone; UTC where it cannot be told."""
    name = os.environ.get("TZ", "").lstrip(":") or os.path.realpath(link).partition("zoneinfo/")[2]
    return name if name in available_timezones() else "UTC"


def _profile(profile: str) -> Profile:
    if profile.endswith(".toml"):
        from drivers.profile import load_profile

        path = Path(profile)
        if not path.is_file():
            raise UsageError(
                f"file {p.show(profile)} does not exist", where="--profile", hint="Or give an id: eastron/sdm630"
            )
        return load_profile(path)
    return site_profiles(PROFILES_DIR)(_value("--profile", v.profile_id, profile))


def _value(option: str, parse: Callable[[object], T], value: Any) -> T:
    try:
        return parse(value)
    except p.InvalidValue as wrong:
        raise UsageError(wrong.what, where=option, hint=wrong.hint) from None
