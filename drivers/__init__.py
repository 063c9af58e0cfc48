"""Everything that talks to devices. From Python, ``drivers.read_once`` reads one device; see docs/api.md.

The names below are imported when they are first used: the agent needs only parts of this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivers.model import ConfigError, GatewayError, LineError, ProfileError, Quality, Reading, Reason, UsageError
    from drivers.once import read_once, read_once_async

__all__ = [
    "ConfigError",
    "GatewayError",
    "LineError",
    "ProfileError",
    "Quality",
    "Reading",
    "Reason",
    "UsageError",
    "read_once",
    "read_once_async",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("drivers.once" if name.startswith("read_once") else "drivers.model"), name)
