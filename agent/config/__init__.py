"""The configuration: agent.toml and conf.d as one frozen object, with all complaints at once."""

from agent.config.load import load_config
from agent.config.profiles import (
    device_spec,
    line_config,
    load_profiles,
    make_driver,
    site_profiles,
)
from agent.config.tree import (
    Config,
    ControlConfig,
    DerivedConfig,
    DeviceConfig,
    LineEntry,
    Note,
    gathered,
)
from agent.settings import Secret, UplinkConfig

__all__ = [
    "Config",
    "ControlConfig",
    "DerivedConfig",
    "DeviceConfig",
    "LineEntry",
    "Note",
    "Secret",
    "UplinkConfig",
    "device_spec",
    "gathered",
    "line_config",
    "load_config",
    "load_profiles",
    "make_driver",
    "site_profiles",
]
