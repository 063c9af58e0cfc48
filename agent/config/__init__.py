"""Loads agent.toml and the files of conf.d into one frozen ``Config``, and reports all errors at once."""

from agent.config.load import PageConfig, load_config, load_labels, load_page_config
from agent.config.profiles import (
    device_spec,
    line_config,
    load_profiles,
    make_driver,
    role_note,
    site_profiles,
    visit_costs,
)
from agent.config.ring_size import (
    ReadingRate,
    RingPlan,
    file_system_bytes,
    memory_bytes,
    memory_notes,
    plan_ring,
    rate_of,
    reading_rate,
    ring_notes,
)
from agent.config.tree import (
    Config,
    ConfigWarning,
    ControlConfig,
    DerivedConfig,
    DeviceConfig,
    LineEntry,
    RingConfig,
    WebConfig,
    gathered,
)
from agent.settings import Secret, UplinkConfig

__all__ = [
    "Config",
    "ConfigWarning",
    "ControlConfig",
    "DerivedConfig",
    "DeviceConfig",
    "LineEntry",
    "PageConfig",
    "ReadingRate",
    "RingConfig",
    "RingPlan",
    "Secret",
    "UplinkConfig",
    "WebConfig",
    "device_spec",
    "file_system_bytes",
    "gathered",
    "line_config",
    "load_config",
    "load_labels",
    "load_page_config",
    "load_profiles",
    "make_driver",
    "memory_bytes",
    "memory_notes",
    "plan_ring",
    "rate_of",
    "reading_rate",
    "ring_notes",
    "role_note",
    "site_profiles",
    "visit_costs",
]
