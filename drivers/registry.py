"""The drivers by protocol; third-party ones by entry point. A driver is imported when its protocol is first used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from drivers.model import ConfigError, DeviceSpec, PlanSummary, PollResult, Reading
from drivers.toml import did_you_mean, show

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from drivers.line import Line
    from ext.ring import Ring

GROUP = "meterhouse.drivers"
DRIVERS: Mapping[str, str] = {  # protocol -> "module:class"
    "modbus": "drivers.modbus.device:ModbusDevice",
    "sunspec": "drivers.sunspec.device:SunSpecDevice",
    "dlt645": "drivers.dlt645.device:Dlt645Device",
    "cjt188": "drivers.cjt188.device:Cjt188Device",
    "mbus": "drivers.mbus.device:MbusDevice",
}

_METHODS = ("poll", "probe", "read_points", "plan_summary", "use_ring")


class Driver(Protocol):
    """The interface of a driver, for third parties; ours derive from ``drivers.base.Device``, which implements it.

    It may have ``probe_within(timeout_s)`` as well: ``probe``, asked once and for this long at most. Without it a
    silent device costs its line a whole time-out whenever it is tried again.
    """

    protocol: ClassVar[str]
    FRAMES: ClassVar[Mapping[str, str]]  # every kind of frame it can send -> what that frame does
    spec: DeviceSpec
    table: int

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        """Raises ConfigError or ProfileError; touches no device."""

    def use_ring(self, ring: Ring, table: int) -> None:
        """Write into another ring from now on, under this table. Not while a poll is under way."""

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Read the due points; readings and gaps go into the ring."""

    async def probe(self) -> None:
        """One cheap request. Raises LineError if the device is silent."""

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Values for a person. Raises LineError if the device is silent."""

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit."""


def protocols() -> tuple[str, ...]:
    """All protocols with a driver, our own first."""
    return (*DRIVERS, *(point.name for point in _foreign() if point.name not in DRIVERS))


def driver_class(protocol: str) -> type[Driver]:
    """The driver of a protocol.

    Raises:
        ConfigError: it is unknown, its package is broken, or it does not state its frames.
    """
    if protocol in DRIVERS:
        module, _, name = DRIVERS[protocol].partition(":")
        return cast(type[Driver], getattr(import_module(module), name))
    for point in _foreign():
        if point.name == protocol:
            return _checked(point)
    what = f"no driver for protocol {show(protocol)}"
    raise ConfigError(what, where="protocol", hint=did_you_mean(protocol, protocols()))


def entry_points(group: str) -> Iterable[EntryPoint]:
    """Importing the metadata of packages takes a megabyte, so it is done for third-party drivers only."""
    from importlib.metadata import entry_points as found

    return found(group=group)


def _foreign() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _checked(point: EntryPoint) -> type[Driver]:
    """A third party's driver, if it is one and states what it sends."""
    where = f"driver {point.name} ({point.value})"
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot be loaded: {error}", where=where, hint="Is its package complete?") from error
    lacking = [name for name in _METHODS if not hasattr(found, name)]
    if lacking:
        hint = "Add what is missing: drivers/registry.py, Driver, describes it"
        raise ConfigError(f"has no {', '.join(lacking)}", where=where, hint=hint)
    frames = getattr(found, "FRAMES", None)
    if not isinstance(frames, Mapping) or not frames or not all(isinstance(k, str) for k in frames):
        raise ConfigError("does not state the frames it sends", where=where, hint="FRAMES = {frame: what it does}")
    if getattr(found, "protocol", None) != point.name:
        raise ConfigError(f"speaks {getattr(found, 'protocol', None)!r}, not {point.name!r}", where=where)
    return cast(type[Driver], found)
