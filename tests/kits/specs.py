"""The specs of all devices of a configuration, as their drivers get them."""

from __future__ import annotations

from agent.config import Config, device_spec, load_profiles
from drivers.model import DeviceSpec


def device_specs(config: Config) -> list[DeviceSpec]:
    """In the order of the configuration, for unknown firmware."""
    profiles = load_profiles(config)
    return [device_spec(config, device, profiles[device.profile]) for device in config.devices]
