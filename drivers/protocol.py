"""The descriptor of a protocol. It contains everything that the other code needs to know about the protocol.

The package of each protocol has a descriptor with the name ``PROTOCOL``; ``drivers/registry.py`` lists the packages. A
descriptor is quick to import. An object whose import is slow is given as the text ``"package.module:name"``, and
imported when it is first used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from typing import Protocol as Interface

from drivers.model import BYTE_SCHEMES, DeviceSpec, PlanSummary, PollResult, Reading, clean_text

if TYPE_CHECKING:
    from drivers.explain import Explainer
    from drivers.framing import FrameScanner
    from drivers.line import Line, Request
    from drivers.line.owner import Link
    from drivers.scan.device_search import DeviceSearch
    from drivers.sim.simulation import Simulate
    from drivers.sim.slots import ParkSlot
    from ext.ring import Ring


class Driver(Interface):
    """The interface of a driver. The drivers of this project derive from ``drivers.base.Device``, which implements most
    of it.

    A driver may also have ``probe_within(timeout_s)``, which is ``probe`` without retries and with this timeout.
    Without this method, each attempt to reach a silent device blocks the line for the device's whole timeout.
    """

    protocol: ClassVar[str]
    spec: DeviceSpec
    table: int

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        """Does not send anything to the device. Raises ConfigError or ProfileError."""

    def use_ring(self, ring: Ring, table: int) -> None:
        """Write into another ring from now on. ``table`` is the number of the point table there. Never called during a
        poll.
        """

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Read the due points. Readings and gaps go into the ring."""

    async def probe(self) -> None:
        """Send one cheap request. Raises LineError if the device is silent."""

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Read some points now, for a person. Raises LineError if the device is silent."""

    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        """The readings in recorded answers. Sends nothing. See ``drivers.samples.read_sample``."""

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit."""


DRIVER_METHODS = ("poll", "probe", "read_points", "read_sample", "plan_summary", "use_ring")


@dataclass(frozen=True, slots=True)
class InvalidAddress:
    """Why a device cannot be read. ``key`` is the setting of the device to change: its address, line or profile."""

    key: str
    what: str
    hint: str


def invalid_address(address: str, name: str, hint: str) -> InvalidAddress:
    """The error for an invalid address. ``name`` is the name of the protocol with its article, such as "a Snail"."""
    return InvalidAddress("address", f'"{clean_text(address, 40)}" is not {name} address', hint)


@dataclass(frozen=True, slots=True)
class SearchOption:
    """An option ``--NAME`` of `scan` that only one protocol has. Its value is one of ``choices``, or "" if it is not
    given.
    """

    name: str
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class LineScheme:
    """A url scheme of lines that have their own framing. These lines carry only such frames, not arbitrary bytes.

    Args:
        name: the scheme.
        title: name of the frames in messages.
        port: TCP port that is used if the url has none.
        link: the class that implements ``drivers.line.owner.Link``.
        recognizes: returns whether bytes received on a line without framing are such a frame.
        hint: what to do if a line without framing should have this scheme.
        other_hint: what to do if a line of this scheme should have no framing.
        aliases: wrong names that people use for the scheme.
    """

    name: str
    title: str
    port: int
    link: str
    recognizes: Callable[[bytes], bool]
    hint: str
    other_hint: str
    aliases: tuple[str, ...] = ()

    def link_class(self) -> Callable[..., Link]:
        """The imported class ``link``. It creates a link over a port."""
        return cast("Callable[..., Link]", _imported(self.link))


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol. Fields with a default may be left out.

    Args:
        name: name in profiles, births and `--protocol`, such as "snail".
        title: name in messages, such as "Snail".
        device: the driver's class, see ``Driver``.
        frames: kind of frame -> its purpose, for every kind that the driver and the scan send. None of them writes.
        check_address: takes an address and the line's url scheme ("": unknown); returns the error, or None.
        normal_address: the one spelling of an address that a device may have under several, such as "5" for "005".
        serial_settings: the usual serial settings, such as "2400 8E1", the most common first.
        schemes: url schemes of the lines that it can use.
        line_schemes: url schemes defined by this protocol.
        maps_registers: whether points of its profiles have function, address and type. Otherwise they have a ``key``
        whose form is specific to the protocol.
        has_registers: whether its devices have registers. Then they can be dumped, and the samples of profiles are
        registers.
        register_request: makes a ``drivers.line.Request`` that reads registers, from (unit, function, address, count,
        where).
        any_address: an address that any device answers. It is used for a device that is alone on its line, and to
        decode samples.
        resolution: resolution of counters that have no scale in the profile, in the point's unit.
        one_answer: whether all points come in one answer, so that reading fewer points saves nothing.
        tells_its_model: whether any valid answer proves that the profile fits, whatever the manufacturer is.
        parser: its ``FrameScanner``, if it has its own frames on lines without framing.
        request_parser: the ``FrameScanner`` of its requests, for simulators. Needed only if requests look different
        from answers.
        search: its ``DeviceSearch``. Without it, `scan` does not find the protocol's devices, but `identify` and
        `adopt` work.
        wire: name of another protocol whose frames this protocol uses, if any. The search of that protocol finds the
        devices.
        searched_by_default: whether `scan` searches for it on lines without framing if no protocol is given.
        search_options: options of `scan` for this protocol only.
        explainers: a tuple of ``Explainer``, the subcommands of `decode`.
        example_address: address of a simulated device if none is given.
        simulate: a ``Simulate`` function, which makes a device of a profile for `simulate`.
        demo: a ``drivers.sim.slots.ParkSlot``: the protocol's device on the line "meters" of the demo park.
        libraries: packages that it uses; a report contains their versions.
        profiles: folder of the profiles that come with the protocol, as VENDOR/FAMILY.toml. It is not set for protocols
        of this project, whose profiles are in firmware_profiles.
        chinese: file with the Chinese translations of its texts, in the format of agent/cli/chinese.
    """

    name: str
    title: str
    device: str
    frames: Mapping[str, str]
    check_address: Callable[[str, str], InvalidAddress | None]
    normal_address: Callable[[str], str] = str
    serial_settings: tuple[str, ...] = ("9600 8N1",)
    schemes: tuple[str, ...] = BYTE_SCHEMES
    line_schemes: tuple[LineScheme, ...] = ()
    maps_registers: bool = False
    has_registers: bool = False
    register_request: str = ""
    any_address: str = ""
    resolution: Decimal | None = None
    one_answer: bool = False
    tells_its_model: bool = False
    parser: str = ""
    request_parser: str = ""
    search: str = ""
    wire: str = ""
    searched_by_default: bool = False
    search_options: tuple[SearchOption, ...] = field(default=())
    explainers: str = ""
    example_address: str = "1"
    simulate: str = ""
    demo: str = ""
    libraries: tuple[str, ...] = ()
    profiles: Path | None = None
    chinese: Path | None = None

    @property
    def wire_name(self) -> str:
        """The name of the protocol whose frames are used and whose search finds the devices. Usually this protocol's
        own name.
        """
        return self.wire or self.name

    def driver(self) -> type[Driver]:
        """The class of the protocol's driver. Raises ImportError or AttributeError."""
        return cast("type[Driver]", _imported(self.device))

    def new_parser(self) -> FrameScanner[Any] | None:
        """A parser of the protocol's frames. None if the protocol has no frames of its own."""
        return cast("FrameScanner[Any]", _imported(self.parser)()) if self.parser else None

    def new_request_parser(self) -> FrameScanner[Any] | None:
        """A parser of the requests to the protocol's devices. None if the protocol has no frames of its own."""
        return cast("FrameScanner[Any]", _imported(self.request_parser)()) if self.request_parser else self.new_parser()

    def make_register_request(self) -> Callable[[int, int, int, int, str], Request]:
        """The function that makes requests for registers. Only for a protocol with ``has_registers``."""
        return cast("Callable[[int, int, int, int, str], Request]", _imported(self.register_request))

    def search_class(self) -> type[DeviceSearch] | None:
        """The class that finds the protocol's devices on a line. None if `scan` cannot search for them."""
        return cast("type[DeviceSearch]", _imported(self.search)) if self.search else None

    def all_explainers(self) -> tuple[Explainer, ...]:
        """The explainers of `decode` for this protocol."""
        return cast("tuple[Explainer, ...]", _imported(self.explainers)) if self.explainers else ()

    def simulation(self) -> Simulate | None:
        """The function that makes a simulated device of a profile. None if the protocol has no simulator."""
        return cast("Simulate", _imported(self.simulate)) if self.simulate else None

    def demo_slot(self) -> ParkSlot | None:
        """The protocol's device in the demo park. None if it has none there."""
        return cast("ParkSlot", _imported(self.demo)) if self.demo else None


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def plate_digits(most: int, name: str, hint: str) -> Callable[[str, str], InvalidAddress | None]:
    """Make a ``check_address`` for meters whose address is printed on the nameplate. The digit A stands for any
    digit.
    """

    def check(address: str, scheme: str) -> InvalidAddress | None:
        return None if re.fullmatch(f"[0-9Aa]{{1,{most}}}", address) else invalid_address(address, name, hint)

    return check


def without_zeros(address: str) -> str:
    """The ``normal_address`` of a protocol that ignores leading zeros."""
    return address.lstrip("0") or "0"


def plain_digits(address: str) -> str:
    """The ``normal_address`` of meters with ``plate_digits``."""
    return without_zeros(address.upper())
